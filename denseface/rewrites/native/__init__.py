"""Operators of this project's own for MXNet, in C++, compiled for this machine at their first use."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import mxnet as mx

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")
_LONGEST = 600  # seconds


@functools.cache
def load_operators() -> bool:
    """Make the operators known to MXNet, once in a process; without a compiler that can do it, nothing changes.

    The compiler is that of the environment variable ``CXX``, or the system's.  What it makes is kept in the user's
    cache folder, by what it was made from and by processor.

    Returns
    -------
    bool
        Whether they are there.
    """
    try:
        mx.library.load(str(_compiled()), verbose=False)
    except (OSError, subprocess.SubprocessError, mx.MXNetError) as error:
        logger.info("computing with MXNet's own operators alone (%s)", str(error).splitlines()[0])
        return False
    return True


def _compiled():
    """The compiled library."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise FileNotFoundError("there is no C++ compiler")
    package = Path(mx.__file__).parent
    glue = package / "src" / "lib_api.cc"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "denseface"
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=_LONGEST).stdout
    own = [path.read_bytes() for path in sorted([*_FOLDER.glob("*.cc"), *_FOLDER.glob("*.h")])]
    made_from = [*own, glue.read_bytes(), version, _processor().encode(), " ".join(_FLAGS).encode()]
    library = folder / f"operators-{hashlib.sha256(b'|'.join(made_from)).hexdigest()[:32]}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch, "operators.so")
            sources = [str(_FOLDER / "operators.cc"), str(glue)]
            command = [compiler, *_FLAGS, f"-I{package / 'include'}", *sources, "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, timeout=_LONGEST)
            with open(made, "rb") as file:
                os.fsync(file.fileno())
            os.replace(made, library)  # whole, whoever else compiles it at the same time
    return library


def _processor():
    """What ``-march=native`` depends on."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(errors="replace").splitlines() if table.exists() else []
    features = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(features))])
