"""Network families from outside the project.

A family's file follows InsightFace's conventions: ``import symbol_utils``, ``from config import config``,
and a ``get_symbol()`` without arguments. InsightFace's own ``symbol`` folder has such files.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from denseface.core.errors import InputError
from denseface.models.symbol_file import parse_symbol

import mxnet as mx

logger = logging.getLogger(__name__)


def python_files(folder: str | Path) -> dict[str, Path]:
    """Find the Python files of a folder, by their names without ``.py``.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError("no such folder", path=folder, option="symbol_path")
    return {path.stem: path for path in sorted(Path(folder).resolve().glob("*.py"))}


def build(path: Path) -> mx.sym.Symbol:
    """Run a family's file and its ``get_symbol()``.

    The other files of its folder are preferred to all modules of the same names, except for this project's ``config``,
    which must have been imported. Afterwards ``sys.path`` and the project's modules are as they were. What the file
    prints goes to standard error.

    Parameters
    ----------
    path : Path
        The file. It is Python code and can do anything that Python code can do.

    Returns
    -------
    Symbol
        One output, of the input ``data``. Automatic names count from 0.

    Raises
    ------
    InputError
        If the file cannot be run, has no ``get_symbol``, or if that fails or returns something else.
    """
    logger.info("network from %s", path)
    # Standard output belongs to the command, which may write JSON there.
    with _imports_from(path.parent), mx.name.NameManager(), contextlib.redirect_stdout(sys.stderr):
        try:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec and spec.loader  # as for any file .py
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
            if not hasattr(module, "get_symbol"):
                raise InputError("has no get_symbol()", path=path)
            symbol = module.get_symbol()
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(_complaint(error, path.parent), path=path) from error
    if not isinstance(symbol, mx.sym.Symbol):
        raise InputError(f"get_symbol() returned {type(symbol).__name__}, not a symbol", path=path)
    if len(symbol.list_outputs()) != 1 or "data" not in symbol.list_inputs():
        raise InputError("the symbol of get_symbol() must have one output and the input data", path=path)
    parse_symbol(symbol.tojson(), str(path))  # refuse now what could not be read back after training
    return symbol


@contextlib.contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Prefer the folder's modules, all except ``config``, to all others for the time of the block."""
    theirs = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    theirs.discard("config")

    def take_out():
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in theirs}

    path_before, modules_before = list(sys.path), take_out()
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path_before
        take_out()
        sys.modules.update(modules_before)


def _complaint(error: BaseException, folder: Path) -> str:
    """One line: the error, and the last line of the folder's files in its traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    kind = type(error).__name__
    message = " ".join(str(error).split()).removeprefix(f"{kind}: ")
    return f"{kind}: {message}{where}"
