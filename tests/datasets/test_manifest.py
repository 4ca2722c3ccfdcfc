import pytest

from denseface.datasets.manifest import Entry, read_manifest, write_manifest
from support.refusals import refused


def test_entries_come_back(tmp_path):
    names = ['with "quotes", and\nmore', "\u00e4\u4eba", "\udcff"]
    with write_manifest(tmp_path) as table:
        table.writerows((key, key % 2, name, f"{name}/1.png") for key, name in enumerate(names, 1))
    assert read_manifest(tmp_path, [3, 1, 9]) == {
        key: Entry(str(key % 2), names[key - 1], f"{names[key - 1]}/1.png") for key in (1, 3)
    }


def test_a_manifest_need_not_be_there(tmp_path):
    assert read_manifest(tmp_path, [1]) == {}


@pytest.mark.parametrize("content", [b"", b"\0" * 200, b"a,b\n1,2\n", b"1,0,anna\n", b'"' + b"x" * 200_000])
def test_another_table_has_no_entries(tmp_path, content):
    (tmp_path / "manifest.csv").write_bytes(content)
    assert read_manifest(tmp_path, [1]) == {}


def test_a_folder_in_its_place_is_named(tmp_path):
    (tmp_path / "manifest.csv").mkdir()
    with refused(path=tmp_path / "manifest.csv", cause=IsADirectoryError):
        read_manifest(tmp_path, [1])
