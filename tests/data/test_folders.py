import errno
import os

import pytest

from denseface.data.folders import existing, walk
from denseface.data.sources import Sources
from support.picture_folders import deep_folder, save_people


def paths(folder):
    return [path for path, _, _ in walk(folder)]


def test_files_come_sorted_without_hidden_ones(tmp_path):
    for name in ("b/2", "b/1", "a/x/1", "a/y", ".hidden/1", "a/.hidden", "c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert paths(tmp_path) == ["a/", "a/x/", "a/x/1", "a/y", "b/", "b/1", "b/2", "c"]


def test_links_are_not_followed(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    assert paths(tmp_path) == ["loop", "self"]


def test_folders_may_be_deeper_than_the_recursion_limit(tmp_path):
    save_people(tmp_path / "people", [1])
    with deep_folder(tmp_path / "people"), Sources([tmp_path / "people"]) as sources:
        assert len(sources) == 1


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """Run by root, the tests can read every folder; so scandir refuses one."""
    save_people(tmp_path, [1, 1])
    scandir = os.scandir

    def refusing(path):
        if os.path.basename(path) == "p00":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = [(path, error and error.errno) for path, _, error in walk(tmp_path)]
    assert found == [("p00/", errno.EACCES), ("p01/", None), ("p01/01.png", None)]
    with Sources([tmp_path]) as sources:
        assert [source.file.name for source in sources] == ["01.png"]
        assert [os.path.basename(path.rstrip("/")) for path in sources.unreadable] == ["p00"]


COMPOSED, DECOMPOSED = "Zo\u00eb", "Zoe\u0308"


@pytest.mark.parametrize(("stored", "asked"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_names_are_found_in_either_form_of_unicode(tmp_path, stored, asked):
    path = tmp_path / stored / f"{COMPOSED}.png"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert existing(tmp_path / asked / f"{DECOMPOSED}.png") == str(path)
    assert existing(tmp_path / asked / "absent.png") == str(tmp_path / asked / "absent.png")
    assert existing(path) == str(path)


def test_a_file_in_the_other_form_is_not_taken_for_one_that_is_there(tmp_path):
    for name in (COMPOSED, DECOMPOSED):
        (tmp_path / name).write_bytes(b"")
        assert existing(tmp_path / name) == str(tmp_path / name)
