"""System calls that fail, one by one, in every command: one line, nothing torn, and the same command ends it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import fault_runs

TESTS = Path(__file__).parents[1]
COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.mark.parametrize(("seconds", "most"), [(10, 1), pytest.param(1500, 6, marks=pytest.mark.torture, id="torture")])
def test_commands_name_what_fails_and_lose_nothing(tmp_path, seconds, most):
    assert COMPILER, "the shim needs a C compiler"
    shim = tmp_path / "faults.so"
    command = [COMPILER, "-shared", "-fPIC", "-o", str(shim), str(TESTS / "support" / "faults.c"), "-ldl"]
    subprocess.run(command, check=True)
    (tmp_path / "runs").mkdir()
    command = [sys.executable, str(Path(fault_runs.__file__)), str(tmp_path / "runs"), str(seconds), str(most)]
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    environment = {**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    print(counts)
    assert not counts["wrong"] and counts["faults"]
