import pytest

from denseface.errors import InputError
from denseface.files import open_input, replacing


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
