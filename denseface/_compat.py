"""Make MXNet 1.9.1 importable on Python 3.9 to 3.13 with NumPy 1.23 to 2.x.

MXNet is retired upstream and takes names from NumPy and Python that have been removed since. A finder at the head of
``sys.meta_path`` gives them back at the moment ``mxnet`` is first looked for, so that ``import denseface`` stays light
and MXNet's own files stay untouched.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
import threading
from pathlib import Path

INSTALL_COMMAND = "pip install --no-deps mxnet==1.9.1 && pip install requests 'graphviz<0.9' setuptools"

_MOST_THREADS = 1024
_OWN_THREADS = 16  # of MXNet's engine, beside those of OpenMP
_ADDRESS_SPACE, _ADDRESS_SPACE_OF_A_THREAD = 1_700_000, 80_000  # KiB; a convolution on two threads took 1,650,000

# What NumPy has removed or renamed since 1.23, and what means the same today.
_NUMPY_NAMES = {
    "bool": lambda np: np.bool_,
    "float_": lambda np: np.float64,
    "PZERO": lambda np: 0.0,
    "NZERO": lambda np: -0.0,
    "PINF": lambda np: np.inf,
    "NINF": lambda np: -np.inf,
    "Inf": lambda np: np.inf,
    "Infinity": lambda np: np.inf,
    "infty": lambda np: np.inf,
    "NAN": lambda np: np.nan,
    "NaN": lambda np: np.nan,
    "alltrue": lambda np: np.all,
    "sometrue": lambda np: np.any,
    "product": lambda np: np.prod,
    "cumproduct": lambda np: np.cumprod,
    "in1d": lambda np: np.isin,
    "row_stack": lambda np: np.vstack,
    "trapz": lambda np: np.trapezoid,
    "round_": lambda np: np.round,
}

# The files of MXNet that copy functions out of NumPy by name, whether or not anybody calls them.
_COPYING_FILES = ("numpy/fallback.py", "numpy/fallback_linalg.py", "numpy/utils.py")


class _MXNetFinder:
    """Prepares the ground for MXNet, then lets the ordinary finders load it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "mxnet":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"MXNet is not installed; install it with: {INSTALL_COMMAND}", name="mxnet")
        if importlib.util.find_spec("distutils") is None:
            raise ModuleNotFoundError(
                "MXNet needs distutils, which Python 3.12 removed; bring it back with: pip install setuptools",
                name="distutils",
            )
        from denseface.core.cpus import usable_cores

        os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # a line on stderr at every bind otherwise
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))  # MXNet takes half the processors otherwise
        # The calling thread then copies arrays alone. Otherwise it starts OpenMP threads of its own, and as these and
        # those of MXNet's engine are more than the cores, OpenMP's threads sleep between any two loops.
        os.environ.setdefault("MXNET_CPU_PARALLEL_SIZE", str(10**9))
        # They wait for a tenth of a millisecond before they sleep. Of OpenMP's own three milliseconds most is lost if
        # other programs need the cores.
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", "20000")
        check_environment()
        _restore_numpy_names(Path(spec.origin).parent)
        if os.environ.get("DMLC_ROLE") in ("scheduler", "server"):  # the import does not return then
            _watch_peers()
        spec.loader = _Loader(fullname, spec.origin)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads MXNet without what it can do without, and says what to do if its library cannot be loaded."""

    def exec_module(self, module):
        from denseface.core.errors import InputError

        with _hidden("sklearn", "scipy.stats", *([] if _imports("onnx") else ["onnx"])):
            try:
                super().exec_module(module)
            except SystemExit:  # of a scheduler or server, whose work is done
                from denseface.core.streams import leave

                leave(0)  # MXNet is not freed, as the thread that watches the others may be in it
            except OSError as error:  # the dynamic linker's
                reason = " ".join(str(error).split())
                raise InputError(f"MXNet cannot be loaded ({reason}): {_advice(reason)}") from error


def _imports(name):
    """Import a module; return whether MXNet's own import of it would end as MXNet expects."""
    try:
        importlib.import_module(name)
    except ImportError:
        pass
    except Exception:  # onnx raises a VersionError beside another protobuf
        return False
    return True


class _HidingFinder:
    """Lets imports of some modules fail on the thread that made it."""

    def __init__(self, names):
        self.names = names
        self.thread = threading.get_ident()

    def find_spec(self, fullname, path=None, target=None):
        if fullname in self.names and threading.get_ident() == self.thread:
            raise ModuleNotFoundError(f"{fullname} is hidden from MXNet", name=fullname)


@contextlib.contextmanager
def _hidden(*names):
    """Hide modules from MXNet: two that are loaded for seconds, for what nobody calls, and those that would end it."""
    finder = _HidingFinder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _advice(reason):
    """Say what helps if a library is missing that MXNet's needs."""
    if "libcuda." in reason:
        return f"install NVIDIA's driver, or MXNet for CPUs: pip uninstall mxnet-cu117, then {INSTALL_COMMAND}"
    if re.search(r"lib(cu|nv|nccl)", reason):
        return "install NVIDIA's libraries, and name their folders in LD_LIBRARY_PATH, as docs/gpu.md has it"
    return "install that library (libgomp.so.1: apt install libgomp1)"


def check_environment() -> None:
    """Check what would otherwise end the process inside MXNet.

    Raises
    ------
    InputError
        If ``OMP_NUM_THREADS`` is not a number of threads, or MXNet needs more threads or more address space than the
        system allows.
    """
    from denseface.core.cpus import usable_cores
    from denseface.core.errors import InputError
    from denseface.core.threads import require_threads

    text = os.environ.get("OMP_NUM_THREADS") or str(usable_cores())
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_THREADS:
        raise InputError(f"OMP_NUM_THREADS={text}: MXNet needs one whole number here, from 1 to {_MOST_THREADS}")
    import resource  # which Windows does not have, nor MXNet

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = _ADDRESS_SPACE + int(text) * _ADDRESS_SPACE_OF_A_THREAD
    if limit != resource.RLIM_INFINITY and limit < needed << 10:
        raise InputError(
            f"ulimit -v {limit >> 10}: MXNet needs an address space of {needed} KiB with {text} threads; raise it"
        )
    require_threads(_OWN_THREADS + int(text))


def _watch_peers() -> None:
    from denseface.core.errors import InputError
    from denseface.distributed import heartbeats

    try:
        heartbeats.watch_as_server()
    except InputError as error:
        sys.exit(f"denseface: error: {error}")


def _restore_numpy_names(mxnet_folder: Path) -> None:
    """Give NumPy back each name that MXNet takes from it, real where it exists under another name."""
    import numpy as np

    for name, value in _NUMPY_NAMES.items():
        if name not in vars(np):
            setattr(np, name, value(np))
    for file in _COPYING_FILES:
        source = (mxnet_folder / file).read_text(encoding="utf-8")
        for submodule, name in re.findall(r"= onp\.(linalg\.)?(\w+)$", source, flags=re.MULTILINE):
            module = np.linalg if submodule else np
            if name not in vars(module):  # hasattr would find, and warn of, NumPy's own stand-ins
                setattr(module, name, _placeholder(name))


def _placeholder(name):
    def removed(*args, **kwargs):
        raise NotImplementedError(f"numpy.{name} was removed from NumPy")

    removed.__name__ = removed.__qualname__ = name
    return removed


def install() -> None:
    """Put the finder in place, once."""
    if "mxnet" not in sys.modules and not any(isinstance(finder, _MXNetFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MXNetFinder())
