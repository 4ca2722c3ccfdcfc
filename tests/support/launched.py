"""Processes that a launcher starts, and what they may do."""

import contextlib
import os
import sys
from pathlib import Path

from denseface.distributed.launcher import Process

# What a worker does: it says that it is there, and ends well when it is asked to, which ends the servers.
WORKER = """
import pathlib, signal, sys, time
def stop(number, frame):
    pathlib.Path(sys.argv[1], f"stopped by {number}").touch()
    sys.exit(128 + number)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
print("at work", flush=True)
time.sleep(60)
"""
SERVER = """
import pathlib, sys, time
while not any(pathlib.Path(sys.argv[1]).glob("stopped by *")):
    time.sleep(0.05)
"""


def python(name, code, *arguments, host=None):
    return Process(name, host, {"PYTHONDONTWRITEBYTECODE": "1"}, (sys.executable, "-c", code, *arguments), os.getcwd())


def children(parent):
    """Processes that a process has started, in that order."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append((int(fields[19]), int(path.parent.name)))
    return [pid for _, pid in sorted(found)]
