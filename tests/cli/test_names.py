"""Names that a terminal cannot print, or would obey, end no command and change no terminal."""

import os
import subprocess
import sys

import pytest

from denseface.cli.console import print_table
from denseface.data.records import write_face_records
from support.tiny_models import encode, pictures


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_path_that_is_not_text_is_printed(tmp_path, encoding):
    write_face_records(tmp_path / "set", [(0, encode(pictures(1)[0]))], (16, 16))
    out = os.fsencode(tmp_path) + b"/out\xff\xc3\xa9"
    command = [sys.executable, "-m", "denseface", "dataset", "unpack", tmp_path / "set", out]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"/out\udcff" in done.stdout and b": 1 picture\n" in done.stdout
    assert os.listdir(out)


def test_names_in_tables_are_escaped(capsys):
    print_table([("name", "score"), ("anna\x1b[2J\udcff\n", "0.5")])
    lines = ["name".ljust(19) + "  score", r"anna\x1b[2J\udcff\n  0.5"]
    assert capsys.readouterr().out.splitlines() == lines
