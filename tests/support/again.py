"""Call a test's function in a new process: OpenMP and the compiled operators read the environment once.

python tests/support/again.py FILE FUNCTION CASES, where CASES is a list of arguments in JSON, with lists for tuples.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import denseface  # noqa: F401 - makes MXNet importable

TESTS = Path(__file__).parents[1]


def call_again(function, cases, **environment):
    """Call a function of a test's file for each case, a list of arguments, with environment variables."""
    command = [sys.executable, __file__, function.__code__.co_filename, function.__name__, json.dumps(cases)]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", **environment}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout


def other_threads(*numbers):
    """The numbers of threads that this process does not compute with, so that only these need another one."""
    return [number for number in numbers if number != os.environ.get("OMP_NUM_THREADS")]


def compiler_without(instructions, folder):
    """Environment variables for a compiler whose operators do without some instructions of this processor.

    It optimizes less, which takes half the time, and the folder keeps what it has compiled.
    """
    folder.mkdir(exist_ok=True)
    compiler = folder / f"without-{instructions}-{os.getpid()}"
    compiler.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo {instructions}\nexec c++ "$@" -O1 -mno-{instructions}\n'
    )
    compiler.chmod(0o755)
    return {"CXX": str(compiler), "XDG_CACHE_HOME": str(folder)}


def _as_tuples(value):
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def main(file, function, cases):
    spec = importlib.util.spec_from_file_location("again", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for case in json.loads(cases, object_hook=lambda found: {k: _as_tuples(v) for k, v in found.items()}):
        getattr(module, function)(*map(_as_tuples, case))


if __name__ == "__main__":
    main(*sys.argv[1:])
