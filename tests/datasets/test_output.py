import contextlib
import csv
import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from denseface.core.errors import InputError
from denseface.core.signals import Interrupted, raise_on_signals
from denseface.datasets.output import fresh_folder, replacing_csv
from support.refusals import refused


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
    with refused("already exists", path=out), fresh_folder(out):
        pass
    assert os.listdir(tmp_path) == ["out"]


def test_two_runs_do_not_share_a_folder(tmp_path):
    with fresh_folder(tmp_path / "out") as aside:
        with refused("another run", path=aside), fresh_folder(tmp_path / "out"):
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
    with refused("written", os.strerror(errno.ENOSPC), path=tmp_path / "set"), fresh_folder(tmp_path / "set") as folder:
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


KILLED = """
import os, shutil, sys
from denseface.datasets.output import fresh_folder
with fresh_folder(sys.argv[1]) as folder:
    (folder / "more").mkdir()
    (folder / "more" / "file").write_text("a")
    os._exit(1)
"""


def test_an_interrupt_right_after_the_folder_was_renamed_leaves_it_whole(tmp_path, monkeypatch):
    """The mark of unfinished folders goes with it."""
    rename = os.rename

    def interrupted(*paths):
        rename(*paths)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(Interrupted), raise_on_signals(), fresh_folder(tmp_path / "out") as aside:
        (aside / "file").write_text("a")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["file"]


def fill(out):
    with fresh_folder(out) as folder:
        (folder / "file").write_text("whole")


def test_what_a_killed_run_has_left_is_removed_by_the_next(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    assert (tmp_path / "out.partial" / "more" / "file").exists()
    fill(tmp_path / "out")
    assert sorted(map(str, tmp_path.rglob("*"))) == [str(tmp_path / "out"), str(tmp_path / "out" / "file")]


KILLED_AT = """
import itertools, os, sys
from pathlib import Path
from denseface.datasets.output import fresh_folder
out, moment, fails = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "fails"
calls = itertools.count()
def dying(function):
    def call(*args, **options):
        if next(calls) == moment:
            os._exit(9)
        return function(*args, **options)
    return call
for name in ("mkdir", "unlink", "rmdir"):
    setattr(Path, name, dying(getattr(Path, name)))
os.rename = dying(os.rename)
with fresh_folder(out) as folder:
    (folder / "file").write_text("whole")
    if fails:
        raise KeyboardInterrupt
"""


@pytest.mark.parametrize("ending", ["well", "fails"])
def test_wherever_it_is_killed_the_same_command_needs_no_help(tmp_path, ending):
    """Before and after each change of the folder, also while what failed is removed."""
    for moment in range(20):
        place = tmp_path / str(moment)
        place.mkdir()
        command = [sys.executable, "-c", KILLED_AT, str(place / "out"), str(moment), ending]
        code = subprocess.run(command, stderr=subprocess.DEVNULL).returncode
        with contextlib.suppress(InputError):  # it was complete
            fill(place / "out")
        assert os.listdir(place) == ["out"] and os.listdir(place / "out") == ["file"], moment
        if code != 9:
            break
    assert moment > 3


def test_what_is_not_known_to_be_ours_is_not_removed(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "precious").write_text("kept")
    with refused("in the way", path=tmp_path / "out.partial"):
        fill(tmp_path / "out")
    assert (tmp_path / "out.partial" / "precious").read_text() == "kept"


def test_a_link_to_an_empty_folder_leads_to_the_folder_that_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    fill(tmp_path / "out")
    assert (tmp_path / "disk" / "file").read_text() == "whole" and (tmp_path / "out").is_symlink()


def test_a_folder_that_cannot_be_replaced_is_refused_before_the_work(tmp_path, monkeypatch):
    def busy(path):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "rmdir", busy)
    with refused("replaced", os.strerror(errno.EBUSY), path=tmp_path / "out"), fresh_folder(tmp_path / "out"):
        pytest.fail("the work has begun")
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_system_without_locks_is_written(tmp_path, monkeypatch):
    def none(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    fill(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["file"]
