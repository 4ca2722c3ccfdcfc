import errno
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from denseface.core.parallel import ordered_map, parallel_map
from support.processes import is_running
from support.refusals import refused


def test_threads_keep_the_order_and_take_items_as_needed():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    def late(item):
        time.sleep(0.01 * (item % 3))
        return -item

    with ordered_map(late, items(), threads=3, ahead=5) as results:
        assert [next(results) for _ in range(4)] == [0, -1, -2, -3]
        assert len(taken) == 9
        assert list(results) == [-item for item in range(4, 100)]


def test_threads_end_with_the_block_even_if_results_are_left():
    before = threading.active_count()
    with ordered_map(abs, range(100), threads=3, ahead=5) as results:
        next(results)
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_what_goes_wrong_on_a_thread_is_raised_here():
    with pytest.raises(ValueError, match="'x'"), ordered_map(int, ["1", "x"], 2, ahead=2) as results:
        list(results)


def test_one_process_is_this_one():
    results = parallel_map(lambda item: (item, os.getpid()), range(5), 1)
    assert list(results) == [(item, os.getpid()) for item in range(5)]


def test_results_keep_their_order_and_items_are_taken_as_needed():
    taken = []

    def items():
        for item in range(1000):
            taken.append(item)
            yield item

    results = parallel_map(str, items(), 2)
    assert [next(results) for _ in range(20)] == list(map(str, range(20)))
    assert len(taken) < 300
    assert list(results) == list(map(str, range(20, 1000)))


def test_what_goes_wrong_is_raised_here():
    with pytest.raises(ValueError, match="'x'"):
        list(parallel_map(int, ["1", "x"], 2))


def test_a_process_that_was_ended_is_named():
    with refused("killed", option="processes"):
        list(parallel_map(os._exit, [3], 2))


SCRIPT = """
import sys, time
from denseface.core.parallel import ordered_map, parallel_map
if __name__ == "__main__":
    for _ in parallel_map(time.sleep, [0.02] * 10000, 2):
        print("go", flush=True)
"""


def children(pid):
    """The processes that a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_process_is_left(tmp_path, sent, code):
    """Ctrl-C is sent to all at once, as a terminal does; a kill only to the first."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "go\n"
    started = children(process.pid)
    assert len(started) >= 2
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)
    else:
        process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.count("Traceback") == (sent == signal.SIGINT)
    deadline = time.monotonic() + 30
    while any(map(is_running, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(filter(is_running, started))


def test_an_interrupt_waits_until_the_processes_have_started(monkeypatch):
    start, steps = BaseProcess.start, []

    def take_interrupt():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    def interrupted_start(process):
        steps.append("interrupted")
        other = threading.Thread(target=take_interrupt)
        other.start()
        other.join()
        start(process)
        steps.append("started")

    monkeypatch.setattr(BaseProcess, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        list(parallel_map(str, range(100), 2))
    assert steps == ["interrupted", "started"] * (len(steps) // 2)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EROFS, errno.EACCES])
def test_without_shared_memory_one_process_does_the_work(monkeypatch, caplog, number):
    def none(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(multiprocessing.synchronize, "SemLock", none)
    monkeypatch.setattr(multiprocessing.synchronize.Lock, "__init__", none)
    assert list(parallel_map(abs, [-1, -2, -3], processes=2)) == [1, 2, 3]
    assert len(caplog.records) == 1 and os.strerror(number) in caplog.text


def test_a_limit_of_threads_is_one_line(monkeypatch):
    def full(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    with refused("thread", cause=RuntimeError):  # noqa: SIM117
        with ordered_map(abs, [1, 2], threads=2, ahead=2) as results:
            list(results)


def test_a_limit_of_processes_is_one_line(monkeypatch):
    def full(*arguments, **options):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(BaseProcess, "start", full)
    with refused("process", cause=BlockingIOError):
        list(parallel_map(abs, [1, 2], processes=2))
