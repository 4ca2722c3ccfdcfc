"""Threads in libraries written in C++."""

import subprocess
import sys
import threading

import pytest

from denseface.core import threads
from denseface.core.threads import require_threads
from support.refusals import refused

SCRIPT = """
import threading, time
from denseface.core.threads import finished_before_exit

def work():
    while True:
        with finished_before_exit():
            started.set()
            print("begun", flush=True)
            time.sleep(0.2)
            print("ended", flush=True)

started = threading.Event()
threading.Thread(target=work, daemon=True).start()
started.wait()
"""


@pytest.fixture
def few_threads(monkeypatch):
    """A system that starts three more threads."""
    start, left = threading.Thread.start, [3]

    def start_if_allowed(thread):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_allowed)


def test_threads_that_can_be_started(few_threads):
    before = threading.active_count()
    require_threads(3)
    assert threading.active_count() == before


def test_too_few_threads_are_an_error(few_threads):
    before = threading.active_count()
    with refused(3, 4):
        require_threads(4)
    assert threading.active_count() == before


def test_a_process_ends_after_the_calls_that_run():
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert ended.stdout.split() in (["begun", "ended"], ["begun", "ended"] * 2)


def test_a_call_that_hangs_does_not_keep_the_process():
    script = SCRIPT.replace("time.sleep(0.2)", "time.sleep(60)")
    script += "from denseface.core import threads; threads._LONGEST_WAIT = 0.1"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
    assert threads._LONGEST_WAIT > 1
