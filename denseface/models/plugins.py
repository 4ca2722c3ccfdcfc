"""Network families and network entries from outside the project.

A family's file is written against InsightFace's conventions: ``import symbol_utils``, ``from config import config``,
and a ``get_symbol()`` without arguments.  InsightFace's own ``symbol`` folder is one that holds such files.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from denseface.core.errors import InputError
from denseface.core.files import read_input
from denseface.models.symbol_file import parse_symbol

import mxnet as mx

logger = logging.getLogger(__name__)

_MAX_FILE_SIZE = 1 << 20  # bytes of a file of networks


def python_files(folder: str | Path) -> dict[str, Path]:
    """Find the Python files of a folder, by their names without ``.py``.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder", option="symbol_path")
    return {path.stem: path for path in sorted(Path(folder).resolve().glob("*.py"))}


def build(path: Path) -> mx.sym.Symbol:
    """Run a family's file and its ``get_symbol()``.

    The file runs with its folder's other files before all modules of the same names, but with this project's
    ``config``, which must have been imported.  Afterwards ``sys.path`` and the project's modules are as they were.

    Parameters
    ----------
    path : Path
        The file.  It is Python code and may do whatever Python code may do.

    Returns
    -------
    Symbol
        One output, of the input ``data``.  Automatic names count from 0.

    Raises
    ------
    InputError
        If the file cannot be run, has no ``get_symbol``, or if that fails or gives something else.
    """
    logger.info("network from %s", path)
    with _imports_from(path.parent), mx.name.NameManager():
        try:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
            if not hasattr(module, "get_symbol"):
                raise InputError(f"{path}: has no get_symbol()")
            symbol = module.get_symbol()
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(f"{path}: {_complaint(error, path.parent)}") from error
    if not isinstance(symbol, mx.sym.Symbol):
        raise InputError(f"{path}: get_symbol() gave {type(symbol).__name__}, not a symbol")
    if len(symbol.list_outputs()) != 1 or "data" not in symbol.list_inputs():
        raise InputError(f"{path}: the symbol of get_symbol() must have one output and the input data")
    parse_symbol(symbol.tojson(), str(path))  # what could not be read back after training is refused before
    return symbol


def read_networks(path: str | Path, known: Mapping[str, object]) -> dict[str, dict]:
    """Read network entries, ``{"NAME": {"net_name": FAMILY, KEY: VALUE, ...}, ...}``, from a JSON file.

    Parameters
    ----------
    path : str or Path
        The file.
    known : mapping
        The configuration's keys with their usual values.  A known key takes only values of the same type; other keys
        are for the family's file to read, and taken as they are.

    Returns
    -------
    dict
        The entries by name.

    Raises
    ------
    InputError
        If the file is not such JSON, or a name or value cannot be used.
    """
    try:
        networks = json.loads(read_input(path, _MAX_FILE_SIZE))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(networks, dict) or not all(isinstance(settings, dict) for settings in networks.values()):
        raise InputError(f'{path}: write it as {{"NAME": {{"net_name": "FAMILY", "KEY": VALUE}}}}')
    for name, settings in networks.items():
        if not re.fullmatch(r"[\w-]+", name):
            raise InputError(f"{path}: {name!r}: a network's name is made of letters, digits, _ and -")
        if not isinstance(settings.get("net_name"), str):
            raise InputError(f"{path}: {name}: net_name must name the family, the file without .py")
        for key in settings.keys() & known.keys():
            try:
                settings[key] = _like(known[key], settings[key])
            except (TypeError, OverflowError) as error:
                expected = f"expected {type(known[key]).__name__}, as in {json.dumps(known[key])}"
                raise InputError(f"{path}: {name}: {key} is {json.dumps(settings[key])}; {expected}") from error
    return networks


@contextlib.contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Let the folder's modules, all but ``config``, come before all others; then put everything back."""
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
    """One line: the error, and the last line of the folder's files that it passed through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    kind = type(error).__name__
    message = " ".join(str(error).split()).removeprefix(f"{kind}: ")
    return f"{kind}: {message}{where}"


def _like(current: object, value: object) -> object:
    """The value in the type of the current one; TypeError if it does not fit."""
    if isinstance(current, list) and isinstance(value, list):
        return [_like(current[0], item) for item in value]
    if isinstance(current, float) and type(value) is int:
        return float(value)
    if type(value) is not type(current) or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError
    return value
