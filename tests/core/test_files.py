import contextlib
import errno
import fcntl
import os
import signal
import stat
import time

import pytest

from denseface.core.errors import InputError
from denseface.core.files import open_input, open_own, read_input, read_lines, replacing, replacing_together
from denseface.core.signals import Interrupted, raise_on_signals
from support.refusals import refused


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_opened_is_named(tmp_path):
    missing = tmp_path / "none" / "a.bin"
    with refused("written", path=missing, cause=FileNotFoundError), replacing(missing):
        pass
    with refused("read", path=missing, cause=FileNotFoundError):
        open_input(missing)
    with refused("read", path=tmp_path, cause=IsADirectoryError):
        open_input(tmp_path)


def fails(number):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("number, advice", [(errno.ENOSPC, "; make room, then do the same again"), (errno.EIO, "")])
def test_a_failing_disk_is_one_line_that_names_the_file(tmp_path, monkeypatch, step, number, advice):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, fails(number))
    with pytest.raises(InputError) as caught, replacing(path) as file:
        file.write(b"new")
    assert str(caught.value) == f"{path}: it cannot be written ({os.strerror(number)}){advice}"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_not_replaced(tmp_path):
    with refused(os.strerror(errno.EISDIR), path=tmp_path), replacing(tmp_path) as file:
        file.write(b"new")
    assert list(tmp_path.iterdir()) == [] and not tmp_path.with_name(tmp_path.name + ".tmp").exists()


@pytest.mark.parametrize("last_completes", [True, False])
def test_an_interrupt_between_two_renames_waits_for_the_other(tmp_path, monkeypatch, last_completes):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(b"old")
    replace = os.replace

    def interrupted(*names):
        replace(*names)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(os, "replace", interrupted)
    together = replacing_together(*paths, last_completes=last_completes)
    with pytest.raises(Interrupted), raise_on_signals(), together as files:
        for file in files:
            file.write(b"new")
    assert [path.read_bytes() for path in paths] == [b"new", b"new"]
    assert sorted(tmp_path.iterdir()) == paths


def test_another_file_that_fails_in_the_block_is_not_blamed_on_this_one(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a.bin"):
        (tmp_path / "other").read_bytes()
    assert caught.value.filename == str(tmp_path / "other")


def test_what_may_never_end_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with refused("pipe", path=path):
            open_input(path)


def test_a_file_that_grows_is_read_as_it_was_when_it_was_opened(tmp_path):
    """Else a program that appends faster than it is read would keep the reader for ever."""
    path = tmp_path / "grows"
    path.write_bytes(b"one\ntwo")

    def grow():
        with path.open("ab") as file:
            file.write(b" and more\n" * 10_000)

    for read in (lambda file: [file.read()], list, lambda file: [*iter(lambda: file.read(3), b"")]):
        with open_input(path) as file:
            before = path.read_bytes()
            grow()
            assert b"".join(read(file)) == before
            file.seek(0)
            assert file.read() == before
    path.write_bytes(b"one\ntwo")
    lines = read_lines(path)
    assert next(lines) == (1, "one")
    grow()
    assert [*lines] == [(2, "two")]


def test_a_name_with_a_null_character_is_one_line():
    with refused("embedded null byte", path="a\0b") as caught:
        open_input("a\0b")
    assert str(caught.value).isprintable()


def open_and_write(path):
    with open_own(path) as file:
        file.write(b"more")


def replace(path):
    with replacing(path) as file:
        file.write(b"more")


# What each writes beside the path or at it.
WRITERS = {"replacing": (replace, "a.tmp"), "open_own": (open_and_write, "a")}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_nothing_is_written_through_a_link(tmp_path, name, link):
    """Somebody who may write to the folder has put a link there to a file that is not his."""
    write, written = WRITERS[name]
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    link(target, tmp_path / written)
    if (name, link) == ("replacing", os.link):
        write(tmp_path / "a")  # the name is removed, and the file stays
        assert (tmp_path / "a").read_bytes() == b"more"
    else:
        with refused("link", path=tmp_path / written):
            write(tmp_path / "a")
        assert os.path.samefile(tmp_path / written, target)
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: os.symlink("/dev/null", path), lambda path: os.symlink("x", path)]
)
def test_pipes_and_dangling_links_are_refused_without_waiting(tmp_path, name, make):
    write, written = WRITERS[name]
    make(tmp_path / written)
    with refused("in the way", path=tmp_path / written):
        write(tmp_path / "a")
    assert os.listdir(tmp_path) == [written]


def test_what_a_killed_run_has_left_is_replaced(tmp_path):
    (tmp_path / "a.tmp").write_bytes(b"half of")
    replace(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"more" and os.listdir(tmp_path) == ["a"]


def test_each_of_several_writers_has_its_own_unfinished_file(tmp_path):
    with replacing(tmp_path / "a") as file:
        file.write(b"first")
        with replacing(tmp_path / "a") as other:
            other.write(b"second")
            file.flush(), other.flush()
            assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"first", b"second"]
        assert (tmp_path / "a").read_bytes() == b"second"
    assert (tmp_path / "a").read_bytes() == b"first" and os.listdir(tmp_path) == ["a"]


def test_a_writer_removes_what_killed_writers_have_left_but_not_what_others_write(tmp_path):
    with replacing(tmp_path / "a") as file:
        for number in (2, 5, 8):
            (tmp_path / f"a.{number}.tmp").write_bytes(b"half of")
        replace(tmp_path / "a")
        assert sorted(os.listdir(tmp_path)) == ["a", "a.tmp"]
        file.write(b"less")
    assert (tmp_path / "a").read_bytes() == b"less" and os.listdir(tmp_path) == ["a"]


def test_files_that_belong_together_are_replaced_when_all_are_on_disk(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(b"old")
    fsync, calls = os.fsync, []

    def full_at_the_third(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_third)
    for expected in (b"old", b"new"):
        with contextlib.suppress(InputError), replacing_together(*paths, last_completes=True) as files:
            for file in files:
                file.write(b"new")
        assert [path.read_bytes() for path in paths] == [expected] * 3
        assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("target", path)])
def test_what_is_no_regular_file_is_never_replaced(tmp_path, make):
    (tmp_path / "target").write_bytes(b"kept")
    make(tmp_path / "a")
    before = os.lstat(tmp_path / "a")
    with refused("never replaced", path=tmp_path / "a"):
        replace(tmp_path / "a")
    assert os.path.samestat(os.lstat(tmp_path / "a"), before)
    assert (tmp_path / "target").read_bytes() == b"kept" and sorted(os.listdir(tmp_path)) == ["a", "target"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EIO])
def test_a_folder_that_cannot_be_synced_does_not_undo_the_write(tmp_path, monkeypatch, caplog, number):
    fsync = os.fsync

    def fails_on_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_on_folders)
    replace(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"more" and os.listdir(tmp_path) == ["a"]
    assert len(caplog.records) == (number == errno.EIO)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_and_what_is_new_stays(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", fails(number))
    (tmp_path / "a.tmp").write_bytes(b"half of")
    (tmp_path / "a.2.tmp").write_bytes(b"half of")
    os.utime(tmp_path / "a.2.tmp", (0, 0))
    (tmp_path / "a.3.tmp").write_bytes(b"half of")
    os.utime(tmp_path / "a.3.tmp", (time.time() + 10**6,) * 2)
    replace(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"more" and sorted(os.listdir(tmp_path)) == ["a", "a.tmp"]


def test_a_disk_that_fails_later_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    with open_input(tmp_path / "a") as file:
        os.dup2(os.open("/proc/self/mem", os.O_RDONLY), file.fileno())  # which fails at 0, as a broken disk does
        with refused("read", os.strerror(errno.EIO), path=tmp_path / "a"):
            file.read(10)
    with open_own(tmp_path / "log") as file:
        os.dup2(os.open("/dev/full", os.O_RDWR), file.fileno())
        file.write(b"x")
        with refused("written", os.strerror(errno.ENOSPC), "make room", path=tmp_path / "log"):
            file.flush()
        with refused("written", path=tmp_path / "log"):
            file.truncate(1)
        os.dup2(os.open(tmp_path / "a", os.O_RDWR), file.fileno())


def test_files_of_our_own_are_read_and_appended_to(tmp_path):
    for _ in range(2):
        open_and_write(tmp_path / "log")
    with open_own(tmp_path / "log") as file:
        file.seek(0)
        assert file.read() == b"moremore" and file.name == str(tmp_path / "log")


def test_sizes_are_bounded(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1234")
    assert read_input(path, 4) == b"1234"
    with refused(4, 3, path=path):
        read_input(path, 3)
    with refused("pipe", path="/dev/zero"):
        read_input("/dev/zero", 3)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_lines_have_no_end_and_no_byte_order_mark(tmp_path, start):
    path = tmp_path / "a.txt"
    path.write_bytes(start + b"first \r\n\nth\xefrd\tf")
    assert list(read_lines(path)) == [(1, "first "), (2, ""), (3, "th\udcefrd\tf")]
    path.write_bytes(start)
    assert list(read_lines(path)) == []


@pytest.mark.parametrize(
    ("content", "facts"),
    [("a b".encode("utf-16"), ["UTF-16"]), (b"1\n" + b"x" * 70_000, ["line 2", "65,536"])],
)
def test_what_is_not_text_is_named(tmp_path, content, facts):
    (tmp_path / "a.txt").write_bytes(content)
    with refused(*facts, path=tmp_path / "a.txt"):
        list(read_lines(tmp_path / "a.txt"))
