"""Compiling operators: kept, and done without where that does not work."""

import os
import subprocess
import sys

import pytest

from denseface.rewrites.native import load_operators

SCRIPT = "import denseface; from denseface.rewrites.native import load_operators; print(load_operators())"


def run(tmp_path, **environment):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def kept(tmp_path):
    return list(tmp_path.rglob("*"))


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_nothing_is_loaded(tmp_path, compiler):
    assert run(tmp_path, CXX=compiler) == "False"
    assert not [path for path in kept(tmp_path) if path.is_file()]


def test_a_cache_that_cannot_be_written_is_as_no_compiler(tmp_path):
    (tmp_path / "denseface").write_text("in the way")
    assert run(tmp_path) == "False"


@pytest.mark.skipif(not load_operators(), reason="there is no compiler for them")
def test_what_was_compiled_is_used_again(tmp_path):
    assert run(tmp_path) == "True"
    (library,) = [path for path in kept(tmp_path) if path.is_file()]
    written = library.stat().st_mtime_ns
    assert run(tmp_path) == "True"
    assert [path for path in kept(tmp_path) if path.is_file()] == [library]
    assert library.stat().st_mtime_ns == written
