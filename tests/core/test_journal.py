import errno
import fcntl
import os

import pytest

from denseface.core.journal import Journal
from support.refusals import refused

HEADING = {"model": "a", "size": 3}


def equal(values, item):
    return values == [item, item * item]


def run(path, items, heading=HEADING, stop_after=None, holds=equal):
    """The items that a run finishes itself, and all that is in the journal at its end."""
    finished = []
    with Journal(path, heading) as journal:
        for item in journal.resume(iter(items), holds):
            if len(finished) == stop_after:
                break
            journal.append([[item, item * item]])
            finished.append(item)
        return finished, list(journal)


def test_an_interrupted_run_is_resumed(tmp_path):
    path = tmp_path / "journal"
    assert run(path, range(5), stop_after=2) == ([0, 1], [[0, 0], [1, 1]])
    assert run(path, range(5)) == ([2, 3, 4], [[i, i * i] for i in range(5)])
    assert run(path, range(5))[0] == []


def test_another_heading_starts_again(tmp_path):
    path = tmp_path / "journal"
    run(path, range(3))
    assert run(path, range(3), heading={"model": "b"})[0] == [0, 1, 2]


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_line_that_was_cut_short_does_not_count(tmp_path, cut):
    path = tmp_path / "journal"
    run(path, [1, 20])
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    expected = [20] if cut < len(b"[20, 400]\n") else [1, 20]
    assert run(path, [1, 20, 3]) == ([*expected, 3], [[1, 1], [20, 400], [3, 9]])


@pytest.mark.parametrize("line", [b"no JSON\n", b"3\n", b'{"a": 1}\n', b"[0, 5]\n", b"\xff\n"])
def test_what_follows_a_line_that_does_not_hold_is_dropped(tmp_path, line):
    path = tmp_path / "journal"
    run(path, range(3))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line, *lines[2:]]))
    assert run(path, range(3)) == ([1, 2], [[0, 0], [1, 1], [2, 4]])


def test_other_and_fewer_items_keep_what_they_share(tmp_path):
    path = tmp_path / "journal"
    run(path, range(5))
    assert run(path, [0, 1, 7, 3]) == ([7, 3], [[0, 0], [1, 1], [7, 49], [3, 9]])
    assert run(path, [0]) == ([], [[0, 0]])


def test_only_one_run_at_a_time(tmp_path):
    path = tmp_path / "journal"
    with Journal(path, HEADING), refused("another run", path=path):
        Journal(path, HEADING)
    assert run(path, range(2))[0] == [0, 1]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_once(tmp_path, monkeypatch, caplog, number):
    def none(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    for name in "ab":
        assert run(tmp_path / name, range(2))[0] == [0, 1]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_line_nested_too_deep_to_be_read_is_dropped(tmp_path):
    run(tmp_path / "journal", range(3))
    with open(tmp_path / "journal", "ab") as file:
        file.write(b"[" * 100_000 + b"\n")
    assert run(tmp_path / "journal", range(4))[0] == [3]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("kept")
    os.symlink(tmp_path / "precious", tmp_path / "journal")
    with refused("in the way", path=tmp_path / "journal"):
        Journal(tmp_path / "journal", HEADING)
    assert (tmp_path / "precious").read_text() == "kept"
