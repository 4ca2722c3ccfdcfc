"""Every command of docs/data.md is run, and prints what stands below it."""

import itertools
import re
import shlex
from pathlib import Path

import pytest

from denseface import cli
from denseface.data.align import REFERENCE_POINTS
from support.picture_folders import save_face, save_people

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", PAGE, re.MULTILINE | re.DOTALL)
PREFIX = "python -m denseface "


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """What the page takes for granted, in the current folder."""
    monkeypatch.chdir(tmp_path)
    save_people(Path("photos"), [5] * 12, size=112)
    points = " ".join(map(str, REFERENCE_POINTS.ravel()))
    files = [f"p{person:02}/{number:02}.png" for person in range(12) for number in range(1, 6)]
    Path("landmarks.txt").write_text("".join(f"{file} {points}\n" for file in files))
    pairs = [f"p00/01.png p{person:02}/02.png {int(not person)}\n" for person in (0, 0, 0, 0, 0, 1, 2, 3, 4, 5)]
    Path("pairs.txt").write_text("".join(pairs))
    for person, name in enumerate(("Anna_Lee", "Boris_Ivanov")):
        for number in range(1, 5):
            save_face(Path(f"lfw/{name}/{name}_{number:04}.jpg"), person, number, 112)
    numbers = [(i, j) for i in range(1, 5) for j in range(i + 1, 5)]
    same = [f"{name}\t{i}\t{j}\n" for name in ("Anna_Lee", "Boris_Ivanov") for i, j in numbers][:10]
    other = [f"Anna_Lee\t{i}\tBoris_Ivanov\t{j}\n" for i in range(1, 5) for j in range(1, 4)][:10]
    Path("lfw/pairs.txt").write_text("10\t1\n" + "".join(itertools.chain.from_iterable(zip(same, other))))


def test_every_command_of_the_page_does_what_it_says(photos, capsys):
    for commands, expected in BLOCKS:
        for command in commands.splitlines():
            assert command.startswith(PREFIX)
            arguments = shlex.split(command[len(PREFIX) :])
            one_process = [] if arguments[1] in ("info", "unpack") else ["--processes", "1"]
            assert cli.main([*arguments, *one_process]) == 0, command
        out, err = capsys.readouterr()
        assert err == ""
        if expected:
            assert out == expected
    assert Path("mine.png").exists() and Path("lfw.png").exists()


def test_no_command_of_the_page_stands_elsewhere():
    assert len(BLOCKS) == 9
    assert PAGE.count(PREFIX) == sum(commands.count("\n") for commands, _ in BLOCKS)
