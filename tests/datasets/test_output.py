import csv
import os
import signal
from pathlib import Path

import pytest

from denseface.core.errors import InputError
from denseface.core.signals import Interrupted, raise_on_signals
from denseface.datasets.output import fresh_folder, replacing_csv


def test_a_folder_is_there_when_it_is_whole(tmp_path):
    out = tmp_path / "new" / "out"
    with fresh_folder(out) as aside:
        (aside / "file").write_text("a")
        assert not out.exists()
        assert aside.parent == out.parent
    assert (out / "file").read_text() == "a"
    assert os.listdir(out.parent) == ["out"]


def test_an_empty_folder_is_filled(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    with fresh_folder("out") as aside:
        (aside / "file").write_text("a")
    assert (tmp_path / "out" / "file").read_text() == "a"


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_nothing_is_left_when_it_fails(tmp_path, error):
    def fail():
        with fresh_folder(tmp_path / "out") as aside:
            (aside / "file").write_text("a")
            raise error("no")

    with pytest.raises(error):
        fail()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_there_stays(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("kept")
    elif kind == "folder":
        out.mkdir()
        (out / "file").write_text("kept")
    else:
        out.symlink_to("nowhere")
    with pytest.raises(InputError, match="out: already exists"), fresh_folder(out):
        pass
    assert os.listdir(tmp_path) == ["out"]


def test_two_runs_do_not_share_a_folder(tmp_path):
    with fresh_folder(tmp_path / "out") as aside:
        with pytest.raises(InputError, match=r"out\.partial: in use by another run"), fresh_folder(tmp_path / "out"):
            pass
        assert aside.exists()


def test_a_table_keeps_every_name(tmp_path):
    names = ["plain", 'with "quotes", and\nmore', "\u00e4\u4eba", "\udcff"]
    with replacing_csv(tmp_path / "a.csv", ("name", "number")) as table:
        table.writerows((name, place) for place, name in enumerate(names))
        assert not (tmp_path / "a.csv").exists()
    with open(tmp_path / "a.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert list(csv.reader(file)) == [["name", "number"], *([name, str(i)] for i, name in enumerate(names))]
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()


def test_half_a_table_is_not_kept(tmp_path):
    def fail():
        with replacing_csv(tmp_path / "a.csv", ("name",)) as table:
            table.writerow(("a",))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    message = r"set: it cannot be written \(No space left on device\); make room"
    with pytest.raises(InputError, match=message), fresh_folder(tmp_path / "set") as folder:
        (folder / "1.jpg").symlink_to("/dev/full")
        (folder / "1.jpg").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_right_after_the_folder_was_made_leaves_nothing(tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def interrupted(path, *args, **options):
        mkdir(path, *args, **options)
        if path.name == "out.partial":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(Interrupted), raise_on_signals(), fresh_folder(tmp_path / "out"):
        pytest.fail("the block has begun")
    assert list(tmp_path.iterdir()) == []
