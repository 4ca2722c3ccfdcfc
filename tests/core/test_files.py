import errno
import os

import pytest

from denseface.core.errors import InputError
from denseface.core.files import open_input, replacing


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
    with pytest.raises(InputError, match=r"none/a\.bin: it cannot be written"), replacing(missing):
        pass
    with pytest.raises(InputError, match=r"none/a\.bin: it cannot be read"):
        open_input(missing)
    with pytest.raises(InputError, match="it cannot be read"):
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
    message = r"it cannot be written \(Is a directory\); name a file$"
    with pytest.raises(InputError, match=message), replacing(tmp_path) as file:
        file.write(b"new")
    assert list(tmp_path.iterdir()) == [] and not tmp_path.with_name(tmp_path.name + ".tmp").exists()


def test_another_file_that_fails_in_the_block_is_not_blamed_on_this_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), replacing(tmp_path / "a.bin"):
        (tmp_path / "other").read_bytes()


def test_what_may_never_end_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InputError, match=r"it cannot be read \(a pipe or a device\); save it to a file"):
            open_input(path)


def test_a_name_with_a_null_character_is_one_line():
    with pytest.raises(InputError, match=r"a\\x00b: it cannot be read \(embedded null byte\)"):
        open_input("a\0b")
