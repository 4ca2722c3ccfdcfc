import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from denseface import cli
from denseface.data.align import REFERENCE_POINTS
from denseface.data.cropping import Cropper
from denseface.data.landmarks import LandmarkFile
from denseface.datasets import folder
from denseface.datasets.faces import Encoding
from support.picture_folders import contents, save_people

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_people(tmp_path / "people", [4] * 6 + [1])
    return tmp_path


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    code = cli.main(["dataset", *map(str, arguments)])
    return (code, *capsys.readouterr())


def test_folder_says_what_it_made(here, capsys):
    (here / "people" / "p00" / "01.png").write_bytes(b"broken")
    (here / "people" / "notes.txt").write_text("text")
    command = ("folder", "people", "out", "--size", "16", "--min-pictures", "2", "--holdout", "2", "--processes", "1")
    code, out, err = run(capsys, *command, "--pairs", "7", "--seed", "1")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "out: 15 pictures of 4 people to train on",
        "out/holdout.bin: 7 genuine and 7 impostor pairs of the 2 people held out",
        "out/holdout.bin: too few pairs for the 10 folds of verification; raise --pairs",
        "1 person left out, with fewer than 2 usable pictures: p06; --min-pictures 1 keeps 1 picture",
        "out/bad.csv: 2 files left out, with the reasons",
        "1 file: not a picture",
        "1 file: cannot be read",
    ]
    split = folder.Split(min_pictures=2, holdout=2, max_pairs=7, seed=1)
    folder.build_from_folder("people", "same", split, Encoding(16))
    assert contents(here / "out") == contents(here / "same")


def test_folder_says_that_pairs_are_too_few(here, capsys):
    code, out, _ = run(capsys, "folder", "people", "out", "--size", "16", "--holdout", "2", "--processes", "1")
    assert code == 0
    assert "out/holdout.bin: 12 genuine and 16 impostor pairs of the 2 people held out\n" in out
    assert "too few" not in out
    save_people(here / "few", [2] * 4)
    _, out, _ = run(capsys, "folder", "few", "other", "--size", "16", "--holdout", "3", "--processes", "1")
    assert "other/holdout.bin: too few pairs for the 10 folds of verification; hold out more people\n" in out


def test_folder_takes_fractions_all_pairs_and_landmarks(here, capsys):
    lines = [
        " ".join([f"p0{person}/0{number}.png", *map(str, (REFERENCE_POINTS / 7).ravel())])
        for person in range(7)
        for number in range(1, 5)
    ]
    (here / "landmarks.txt").write_text("\n".join(lines))
    options = ("--landmarks", "landmarks.txt", "--min-size", "8", "--quality", "80", "--processes", "1")
    code, out, _ = run(capsys, "folder", "people", "out", "--holdout", "0.5", "--pairs", "all", *options)
    assert code == 0
    assert "18 genuine and 48 impostor pairs of the 3 people held out" in out
    crop = Cropper(landmarks=LandmarkFile("landmarks.txt"), min_size=8)
    split = folder.Split(holdout=0.5, max_pairs=None)
    folder.build_from_folder("people", "same", split, Encoding(crop=crop, quality=80))
    assert contents(here / "out") == contents(here / "same")


@pytest.mark.parametrize(
    "options",
    [
        ("--holdout", "-1"),
        ("--holdout", "1.5"),
        ("--holdout", "many"),
        ("--pairs", "0"),
        ("--pairs", "some"),
        ("--size", "0"),
        ("--processes", "0"),
    ],
)
def test_bad_options_are_exit_code_2(options, capsys):
    with pytest.raises(SystemExit) as caught:
        run(capsys, "folder", "people", "out", *options)
    assert caught.value.code == 2
    assert f"argument {options[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("folder", "absent", "out"), "absent: not a folder"),
        (("folder", "people", "people/out"), "people/out: lies inside people"),
        (("folder", "people", "out", "--landmarks", "absent.txt"), "absent.txt: it cannot be read"),
        (("folder", "people", "out", "--quality", "99"), "--quality: must be from 1 to 95"),
        (("pairs", "absent.txt", "out.bin"), "absent.txt: it cannot be read"),
        (("pairs", "absent.txt", "out"), "out: the name of a verification set must end in .bin"),
        (("info", "people"), "people/property: it cannot be read"),
        (("info", "absent.bin"), "absent.bin: it cannot be read"),
        (("unpack", "people", "out"), "people/property: it cannot be read"),
    ],
)
def test_bad_input_is_one_line(here, capsys, command, message):
    code, out, err = run(capsys, *command)
    assert (code, out) == (1, "")
    assert err.startswith("denseface: error: ") and err.count("\n") == 1
    assert message in err
    assert os.listdir(here) == ["people"]


def test_an_interrupt_leaves_nothing(here):
    save_people(here / "many", [50] * 4)
    command = [sys.executable, "-m", "denseface", "dataset", "folder", here / "many", here / "out"]
    options = ["--processes", "2", "--size", "400", "--holdout", "2"]
    process = subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (here / "out.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "denseface: interrupted by SIGINT\n")
    assert sorted(os.listdir(here)) == ["many", "people"]


def test_pairs_then_info(here, capsys):
    pictures = [(person, f"p0{person}/0{number}.png") for person in range(3) for number in (1, 2, 3)]
    lines = [f"{a} {b} {int(i == j)}" for i, a in pictures for j, b in pictures if a != b]
    (here / "people" / "pairs.txt").write_text("\n".join(lines))
    code, out, err = run(capsys, "pairs", "people/pairs.txt", "out.bin", "--size", "16", "--processes", "1")
    assert (code, out, err) == (0, "out.bin: 18 genuine and 54 impostor pairs\n", "")
    code, out, err = run(capsys, "info", "out.bin", "--sheet", "sheet.png")
    assert (code, err) == (0, "")
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        "genuine pairs", "impostor pairs", "different pictures", "sizes", "formats", "problem",
    ]  # fmt: skip
    assert out.endswith("none\n")
    with Image.open(here / "sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_pairs_from_a_folder_elsewhere(here, capsys):
    save_people(here / "lists", [0])
    (here / "list.txt").write_text("p00/01 p00/02 1\np00/01 p01/01 0\n")
    code, out, _ = run(capsys, "pairs", "list.txt", "out.bin", "--images", "people", "--size", "16", "--processes", "1")
    assert (code, out) == (0, "out.bin: 1 genuine and 1 impostor pairs\n")


def test_info_of_a_training_set(here, capsys):
    folder.build_from_folder("people", "out", encoding=Encoding(16))
    code, out, err = run(capsys, "info", "out", "--sheet", "sheet.png")
    assert (code, err) == (0, "")
    assert [line.split(maxsplit=0)[0].split("  ", 1)[-1].strip() for line in out.splitlines()] == [
        "25 (insightface layout)", "7", "min 1, median 4, max 4", "1: 1, 4-7: 6", "7 classes, 16x16", "16x16: 25",
        "JPEG: 25", "none",
    ]  # fmt: skip
    assert (here / "sheet.png").exists()
    code, out, err = run(capsys, "info", "out", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["num_people"], report["pictures"]["count"], report["problems"]) == (7, 25, [])


def test_info_fails_when_something_is_wrong(here, capsys):
    folder.build_from_folder("people", "out", encoding=Encoding(16))
    (here / "out" / "property").write_text("8,16,16\n")
    with open(here / "out" / "train.rec", "r+b") as file:
        file.write(b"\0\0\0\0")
    code, out, err = run(capsys, "info", "out")
    assert (code, err) == (1, "")
    assert out.splitlines()[-3:] == [
        "problem              1 picture cannot be read: out/train.rec: key 1 at byte 0:",
        "                     no record starts here",
        "problem              1 of the 8 classes in property without a picture: 7",
    ]


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_info_fits_the_terminal(here, capsys, monkeypatch, columns):
    """Names with control characters, and many equal pictures."""
    for number in range(2, 5):
        shutil.copy(here / "people" / "p00" / "01.png", here / "people" / "p00" / f"\x1b[2J{number}.png")
    folder.build_from_folder("people", "out", encoding=Encoding(16))
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = run(capsys, "info", "out")
    assert code == 1
    assert max(map(len, out.splitlines())) <= int(columns)
    assert " ".join(out.split()).endswith(
        "problem 1 picture repeated: key 1 (p00/\\x1b[2J2.png) = key 2 (p00/\\x1b[2J3.png) = "
        "key 3 (p00/\\x1b[2J4.png) = key 4 (p00/01.png)"
    )


def test_unpack_then_folder_is_the_same_set(here, capsys):
    folder.build_from_folder("people", "set", encoding=Encoding(16))
    assert run(capsys, "unpack", "set", "pictures") == (0, "pictures: 25 pictures\n", "")
    run(capsys, "folder", "pictures", "again", "--size", "16", "--processes", "1")
    assert (here / "set" / "train.rec").read_bytes() == (here / "again" / "train.rec").read_bytes()


def test_unpack_fails_when_records_are_broken(here, capsys):
    folder.build_from_folder("people", "set", encoding=Encoding(16))
    with open(here / "set" / "train.rec", "r+b") as file:
        file.write(b"\0\0\0\0")
    code, out, _ = run(capsys, "unpack", "set", "pictures")
    assert (code, out) == (1, "pictures: 24 pictures\npictures/bad.csv: 1 record could not be read\n")


def test_pairs_counts_the_pictures_that_cannot_be_cut_and_says_what_helps(here, capsys):
    save_people(here / "photos", [2, 2], size=300)  # no faces are in them
    for number in (1, 2):
        shutil.copy(here / "people" / "p00" / f"0{number}.png", here / "photos" / "p00" / f"0{number + 2}.png")
    (here / "list.txt").write_text("p00/03 p00/04 1\np00/03 p00/04 0\np00/01 p00/02 1\np00/01 p01/01 0\n")
    command = ("pairs", "list.txt", "out.bin", "--images", "photos", "--size", "16", "--processes", "1")
    code, out, err = run(capsys, *command)
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        "out.bin: 1 genuine and 1 impostor pairs",
        "out.bad.csv: 3 pictures without a face that can be cut out, 2 pairs left out; --unfound keeps them",
        "3 files: no face found; --landmarks takes what you or another detector found",
    ]
    for choice in ("center", "fail"):
        code, out, _ = run(capsys, *command, "--unfound", choice)
        assert code == 0
        assert out.startswith("out.bin: 2 genuine and 2 impostor pairs\nout.bad.csv: 3 pictures")
