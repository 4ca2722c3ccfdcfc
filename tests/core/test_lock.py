"""Two trainers never write at one place, and a dead one keeps nobody away."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from denseface.core.lock import locked
from support.refusals import refused

HOLDER = """
import sys, time
from denseface.core.lock import locked
with locked(sys.argv[1]):
    print(flush=True)
    time.sleep(99)
"""


def test_the_file_says_who_is_there_and_goes(tmp_path):
    with locked(tmp_path / "model"):
        assert (tmp_path / "model.lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_removed_fails_nothing(tmp_path, monkeypatch):
    def fail(path, **options):
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fail)
        with locked(tmp_path / "model"):
            pass
    with locked(tmp_path / "model"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_it_goes_after_a_failure_too(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "model"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_told_who_the_first_is_until_that_is_killed(tmp_path):
    prefix = tmp_path / "model"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(prefix)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with refused(process.pid, socket.gethostname(), path=tmp_path / "model.lock"), locked(prefix):
            pass
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "model.lock").exists()
    with locked(prefix):
        pass
    assert list(tmp_path.iterdir()) == []


def test_other_runs_beside_it_are_free(tmp_path):
    with locked(tmp_path / "model"), locked(tmp_path / "other"):
        pass


def test_a_file_that_has_been_replaced_meanwhile_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    import fcntl

    path = tmp_path / "model.lock"
    flock, calls = fcntl.flock, []

    def removed_by_its_last_holder(*args):
        calls.append(args)
        if len(calls) == 1:
            path.unlink()
        flock(*args)

    monkeypatch.setattr(fcntl, "flock", removed_by_its_last_holder)
    with locked(tmp_path / "model"):
        assert path.exists()
    assert len(calls) == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    prefix = tmp_path / "none" / "model"
    with refused(path=f"{prefix}.lock", cause=FileNotFoundError), locked(prefix):
        pass


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_place_of_the_lock_is_refused_and_its_target_stays(tmp_path, link):
    target = tmp_path / "precious"
    target.write_text("precious")
    link(target, tmp_path / "model.lock")
    with refused("link", path=tmp_path / "model.lock"), locked(tmp_path / "model"):
        pass
    assert target.read_text() == "precious" and (tmp_path / "model.lock").exists()
