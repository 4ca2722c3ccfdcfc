"""Compiling operators: once, for this user alone, and not at all where that does not work."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from denseface.rewrites import native
from denseface.rewrites.native import load_operators

import mxnet as mx

with_compiler = pytest.mark.skipif(not load_operators(), reason="no compiler for them")

SCRIPT = """
import concurrent.futures, logging
import denseface
from denseface.rewrites.native import load_operators
logging.basicConfig(level="INFO", format="%(message)s")
with concurrent.futures.ThreadPoolExecutor(8) as threads:
    print({future.result() for future in [threads.submit(load_operators) for _ in range(8)]})
"""


def run(base, **environment):
    """Load operators on 8 threads of a new process, its cache in a folder. Returns what all got, and the log."""
    temporary = base / "temporary"  # where operators are looked for, too
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "XDG_CACHE_HOME": str(base), "TMPDIR": str(temporary), **environment}
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    return result.stdout.strip(), result.stderr


def script(path, *lines):
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(0o755)
    return str(path)


def script_that_writes(path, content):
    """A compiler that calls itself by the real one's version, and writes this content without compiling anything."""
    return script(path, '[ "$1" = --version ] && exec c++ --version', f'for out; do :; done; cp {content} "$out"')


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The operators, compiled once for all tests."""
    base = tmp_path_factory.mktemp("compiled")
    compiler = os.environ.get("CXX", "c++")
    quick = script(base / "c++", f'[ "$1" = --version ] && exec {compiler} --version', f'exec {compiler} "$@" -O0')
    assert run(base, CXX=quick)[0] == "{True}"
    (library,) = (base / "denseface").glob("*.so")
    return library


@pytest.fixture
def copied(library, tmp_path):
    """A cache of one's own with the operators in it."""
    shutil.copytree(library.parent, tmp_path / "denseface")
    (tmp_path / "denseface").chmod(0o700)
    return tmp_path / "denseface" / library.name


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "no C++ compiler 'no-such-compiler'"),
        ("", "no C++ compiler ''"),
        ("false", "exit status 1"),
    ],
)
def test_without_a_compiler_nothing_is_loaded(tmp_path, compiler, reason):
    result, log = run(tmp_path, CXX=compiler)
    assert result == "{False}"
    assert log.startswith("computing with MXNet's own operators only (") and log.endswith(f"{reason})\n")
    assert not list(tmp_path.rglob("*.so"))


def test_the_compiler_says_why_it_fails(tmp_path):
    compiler = script(tmp_path / "c++", '[ "$1" = --version ] && exit 0', "echo 1: fatal error: none >&2; exit 4")
    result, log = run(tmp_path, CXX=compiler)
    assert result == "{False}"
    assert f"({compiler}: 1: fatal error: none)\n" in log
    assert not list((tmp_path / "denseface").iterdir())


def test_a_file_that_is_not_a_library_is_refused_with_the_reason(tmp_path):
    (tmp_path / "text").write_text("some text")
    result, log = run(tmp_path, CXX=script_that_writes(tmp_path / "c++", tmp_path / "text"))
    assert result == "{False}"
    assert "file too short" in log and "Traceback" not in log


@with_compiler
def test_what_was_compiled_is_used_again(copied):
    written = copied.stat().st_mtime_ns
    assert run(copied.parent.parent) == ("{True}", "")
    assert copied.stat().st_mtime_ns == written


@with_compiler
def test_the_package_may_be_where_nobody_can_write(library):
    package = Path(native.__file__).parents[2]
    assert package not in library.parents
    assert not [path for path in package.rglob("*") if path.suffix in (".so", ".o", ".sha256")]


@with_compiler
def test_a_cut_library_is_compiled_again(library, copied, tmp_path):
    copied.write_bytes(copied.read_bytes()[:20000])
    result, log = run(tmp_path, CXX=script_that_writes(tmp_path / "c++", library))
    assert result == "{True}" and log.startswith("compiling operators with ")
    assert copied.read_bytes() == library.read_bytes()


@with_compiler
def test_a_library_that_others_can_write_is_not_loaded(library, copied, tmp_path):
    source, planted, trace = (tmp_path / name for name in ("planted.cc", "planted.so", "trace"))
    source.write_text(
        f"""#include <cstdio>
        __attribute__((constructor)) void leave_a_trace() {{ std::fclose(std::fopen("{trace}", "w")); }}"""
    )
    subprocess.run([shutil.which(os.environ.get("CXX", "c++")), "-shared", "-fPIC", source, "-o", planted], check=True)
    compiler = script_that_writes(tmp_path / "c++", library)

    def plant(writable=None):
        shutil.copy(planted, copied)
        copied.with_suffix(".sha256").write_text(hashlib.sha256(planted.read_bytes()).hexdigest())
        if writable and os.geteuid() == 0:
            os.chown(writable, 65534, -1)
        elif writable:
            writable.chmod(0o777)

    plant()
    run(tmp_path, CXX=compiler)
    assert trace.exists()  # it is loaded as long as nobody else could have put it there
    trace.unlink()
    for writable in (copied, copied.parent):
        plant(writable)
        assert run(tmp_path, CXX=compiler)[0] == "{True}"
        assert not trace.exists()


@with_compiler
def test_a_lack_of_memory_is_an_error_and_not_the_end_of_the_process(tmp_path):
    program, mxnet = tmp_path / "failing_memory", Path(mx.__file__).parent
    sources = [Path(__file__).parents[1] / "support" / "failing_memory.cc", mxnet / "src" / "lib_api.cc"]
    folders = [mxnet / "include", Path(native.__file__).parent]
    compiler = [os.environ.get("CXX", "c++"), "-O1", "-march=native", "-std=c++17", "-fopenmp"]
    subprocess.run([*compiler, *(f"-I{folder}" for folder in folders), *sources, "-o", program], check=True)
    environment = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    result = subprocess.run([program], env=environment, stdout=subprocess.PIPE, text=True)
    assert result.returncode == 0, result.stdout
    failures = [int(line.rpartition(": ")[2]) for line in result.stdout.splitlines()]
    assert len(failures) >= 4 and min(failures) > 0
