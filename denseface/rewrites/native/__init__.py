"""Operators for MXNet in C++, compiled for this machine when they are first used."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import threading
from pathlib import Path

from denseface.rewrites.native.cache import CacheError, cached, is_cached

import mxnet as mx

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")
_LONGEST = 600  # seconds
_loading = threading.Lock()


class _CompilerError(Exception):
    """The operators cannot be compiled; the message is the reason."""


def load_operators() -> bool:
    """Make the operators known to MXNet, once per process. Without a suitable compiler nothing changes.

    The compiler is that of the environment variable ``CXX``, or ``c++``. The compiled library is kept in the user's
    cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``), or beside temporary files where nothing can be written there,
    under a name that depends on the sources, the compiler and the processor. A folder or file that another user can
    write is not used.

    Returns
    -------
    bool
        Whether MXNet knows the operators.
    """
    with _loading:  # MXNet must not load them twice
        return _load_once() is not None


def bfloat16_instructions() -> str:
    """Name the instructions by which the operators multiply in bfloat16.

    Returns
    -------
    str
        Empty if the operators cannot be loaded, or the processor has no such instructions: they compute in float32.
    """
    with _loading:
        return _load_once() or ""


def are_compiled() -> bool:
    """Tell whether `load_operators` finds the operators compiled, so that nobody would wait for the compiler."""
    try:
        return is_cached(_name(_compiler()[1]))
    except (_CompilerError, OSError):
        return False


@functools.cache
def _load_once() -> str | None:
    """Return the instructions of the operators, or None if these cannot be loaded."""
    try:
        compiler, version = _compiler()
        with cached(_name(version), functools.partial(_compile, compiler)) as library:
            mx.library.load(str(library), verbose=False)
            instructions = ctypes.CDLL(str(library)).denseface_bfloat16_instructions
            instructions.restype = ctypes.c_char_p
            return instructions().decode()
    except (_CompilerError, CacheError, OSError, UnicodeEncodeError) as error:
        reason = str(error)
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1].replace("MXNetError: ", "")
    logger.info("computing with MXNet's own operators only (%s)", reason)
    return None


def _compiler() -> tuple[str, bytes]:
    """Return the path of the compiler, and what it says about its version."""
    name = os.environ.get("CXX", "c++")
    compiler = shutil.which(name)
    if compiler is None:
        raise _CompilerError(f"no C++ compiler {name!r}")
    return compiler, _run(compiler, "--version")


def _name(version: bytes) -> str:
    """Name the compiled library by a digest of everything that it depends on."""
    sources = [path.read_bytes() for path in sorted([*_FOLDER.glob("*.cc"), *_FOLDER.glob("*.h")])]
    machine = [_processor(), *platform.libc_ver(), *_FLAGS]
    parts = [*sources, _glue().read_bytes(), version, *(text.encode() for text in machine)]
    return f"operators-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:32]}.so"


def _compile(compiler: str, library: Path) -> None:
    logger.warning("compiling operators with %s, once for this machine; it takes half a minute", compiler)
    include = Path(mx.__file__).parent / "include"
    sources = [str(_FOLDER / "operators.cc"), str(_glue())]
    _run(compiler, *_FLAGS, f"-I{include}", *sources, "-o", str(library), TMPDIR=str(library.parent))


def _run(*command: str, **environment: str) -> bytes:
    environment = {**os.environ, **environment}
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=_LONGEST, env=environment).stdout
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines()
        told = next((line for line in lines if "error" in line), f"exit status {error.returncode}")
        raise _CompilerError(f"{command[0]}: {told}") from error
    except subprocess.TimeoutExpired as error:
        raise _CompilerError(f"{command[0]} took longer than {_LONGEST} seconds") from error


def _glue() -> Path:
    """Return the source file that every library for MXNet contains."""
    return Path(mx.__file__).parent / "src" / "lib_api.cc"


def _processor() -> str:
    """Describe what ``-march=native`` depends on."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(errors="replace").splitlines() if table.exists() else []
    features = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(features))])
