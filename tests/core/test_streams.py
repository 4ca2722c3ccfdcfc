"""Standard streams that are closed, full, gone or ASCII, under every command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import denseface

ROOT = Path(denseface.__file__).parents[1]
COMMAND = f"{sys.executable} -m denseface"
SHOW = f"{COMMAND} dataset info nowhere-\u00fc"


def run(line):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "line, code",
    [
        (f"{COMMAND} --version >&-", 0),
        (f"{COMMAND} --version 2>&-", 0),
        (f"{COMMAND} --help | head -1", 0),
        (f"{COMMAND} --help >/dev/full", 1),
        (f"{SHOW} 2>&-", 1),
        (f"{SHOW} 2>/dev/full", 1),
        (f"{SHOW} >&- 2>&- <&-", 1),
    ],
)
def test_commands_end_without_a_traceback(line, code):
    result = run(line)
    assert result.returncode == code, result
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr


def test_what_ascii_lacks_is_escaped():
    result = run(SHOW)
    assert result.returncode == 1 and "nowhere-" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "line, code, message",
    [
        (f"{COMMAND} launch --workers 1 --dry-run -- \u00fc", 0, ""),
        (f"{COMMAND} launch --workers 1 --dry-run -- x >/dev/full", 1,
         "denseface: error: standard output: No space left on device\n"),
        (f"{COMMAND} launch --workers 99 --dry-run -- x | head -1", 0, ""),
    ],
)  # fmt: skip
def test_output_that_cannot_be_written_is_one_line(line, code, message):
    result = run(line)
    assert (result.returncode, result.stderr) in {(code, message), (1 if "head" in line else code, message)}


def test_a_closed_stream_lends_its_number_to_no_file(tmp_path):
    script = (
        "from denseface.core.streams import prepare_streams\nprepare_streams()\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w')\nprint('lost')\nassert file.fileno() > 2"
    )
    assert run(f'{sys.executable} -c "{script}" <&- >&- 2>&-').returncode == 0
    assert (tmp_path / "file").read_text() == ""
