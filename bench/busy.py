"""Contenders that compute beside busy programs, which want the same cores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from bench import inference, training
from bench.race import Contender

# Busy from one byte of its input to the next, and over when that is closed.
_NEIGHBOR = """
import os, select
while os.read(0, 1):
    while not select.select([0], [], [], 0)[0]:
        pass
    os.read(0, 1)
"""
_NEIGHBORS = (0, 1, 2)


def contenders(network: str, activation: str, batch_size: int, is_training: bool) -> list[Contender]:
    """This project alone and beside one and two busy programs, on all cores, and on one."""
    task = (network, activation, batch_size)
    make, arguments = (training.mxnet_step, (*task, True)) if is_training else (inference.default_engine, task)
    return [
        Contender(f"{count} busy programs{said}", beside, (count, make, *arguments), environment, 1e-2)
        for count in _NEIGHBORS
        for said, environment in (("", {}), (", one thread", {"OMP_NUM_THREADS": "1"}))
    ]


def beside(count: int, make: Callable, *arguments: object) -> Callable:
    """Let programs be busy as long as a contender computes."""
    run = make(*arguments)
    command = [sys.executable, "-c", _NEIGHBOR]
    neighbors = [subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0) for _ in range(count)]

    def tell():
        for neighbor in neighbors:
            neighbor.stdin.write(b"1")

    def run_beside():
        tell()
        try:
            return run()
        finally:
            tell()

    return run_beside
