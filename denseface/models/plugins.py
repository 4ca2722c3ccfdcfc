"""Network families and network entries from outside the project.

A family's file follows InsightFace's conventions: ``import symbol_utils``, ``from config import config``,
and a ``get_symbol()`` without arguments. InsightFace's own ``symbol`` folder has such files.
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
from typing import Any

from denseface.core.errors import InputError
from denseface.core.files import read_input
from denseface.models.symbol_file import parse_symbol

import mxnet as mx

logger = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20  # of a file of networks


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
                raise InputError(f"{path}: has no get_symbol()")
            symbol = module.get_symbol()
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(f"{path}: {_complaint(error, path.parent)}") from error
    if not isinstance(symbol, mx.sym.Symbol):
        raise InputError(f"{path}: get_symbol() returned {type(symbol).__name__}, not a symbol")
    if len(symbol.list_outputs()) != 1 or "data" not in symbol.list_inputs():
        raise InputError(f"{path}: the symbol of get_symbol() must have one output and the input data")
    parse_symbol(symbol.tojson(), str(path))  # refuse now what could not be read back after training
    return symbol


def read_networks(
    path: str | Path,
    known: Mapping[str, object],
    bounds: Mapping[str, tuple[float, float]],
    absent: Mapping[str, tuple[object, str]],
) -> dict[str, dict]:
    """Read network entries, ``{"NAME": {"net_name": FAMILY, KEY: VALUE, ...}, ...}``, from a JSON file.

    Parameters
    ----------
    path : str or Path
        The file, at most 1 MB.
    known : mapping
        The configuration's keys with their usual values. A known key takes only values of the same type; other keys
        are for the family's file to read, and take numbers, texts, true, false, null, and lists of these.
    bounds : mapping
        Least and greatest value of known keys.
    absent : mapping
        InsightFace's keys that are not supported: the one value that is taken, and the advice for others.

    Returns
    -------
    dict
        The entries by name.

    Raises
    ------
    InputError
        If the file is not such JSON, or a name, a key or a value cannot be used.
    """
    content = read_input(path, _MAX_BYTES)
    try:
        networks = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(networks, dict) or not all(isinstance(settings, dict) for settings in networks.values()):
        raise InputError(f'{path}: write it as {{"NAME": {{"net_name": "FAMILY", "KEY": VALUE}}}}')
    for name, settings in networks.items():
        if not re.fullmatch(r"[\w-]+", name):
            raise InputError(f"{path}: {name!r}: a network's name is made of letters, digits, _ and -")
        if not isinstance(settings.get("net_name"), str):
            raise InputError(f"{path}: {name}: net_name must name the family, the file without .py")
        for key, value in settings.items():
            place = f"{path}: {name}: {key[:80]}"
            if not re.fullmatch(r"[a-zA-Z]\w*", key) or hasattr(dict, key):
                raise InputError(f"{place}: not a name for a key; take a word of letters, digits and _")
            if key in absent:
                _check_absent(place, value, *absent[key])
            elif key in known:
                settings[key] = _checked(place, known[key], value, *bounds.get(key, (-math.inf, math.inf)))
            elif not _is_plain(value):
                raise InputError(f"{place}: expected a number, a text, true, false, null, or a list of these")
    return networks


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


def _check_absent(place: str, value: object, usual: object, advice: str) -> None:
    if value != usual:
        raise InputError(f"{place} is {json.dumps(value)[:80]}: not supported: {advice}; leave it out")


def _checked(place: str, usual: object, value: Any, low: float, high: float) -> object:
    """The value in the type of the usual one; InputError if it does not fit."""
    written = json.dumps(value)[:80]
    try:
        value = _like(usual, value)
    except (TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{place} is {written}; expected {type(usual).__name__}, as in {json.dumps(usual)}") from error
    numbers = [one for one in (value if isinstance(value, (list, tuple)) else [value]) if type(one) in (int, float)]
    if not all(low <= number <= high for number in numbers):
        raise InputError(f"{place} is {written}; it must be from {low:.9g} to {high:.9g}")
    return value


def _like(usual: object, value: Any) -> Any:
    if isinstance(usual, list) and isinstance(value, list):
        return [_like(usual[0], item) for item in value]
    if isinstance(usual, tuple) and isinstance(value, list) and len(value) == len(usual):
        return tuple(map(_like, usual, value))
    if isinstance(usual, float) and type(value) is int:
        return float(value)
    if type(value) is not type(usual) or (isinstance(value, float) and not math.isfinite(value)):
        raise TypeError
    return value


def _is_plain(value: object) -> bool:
    return all(
        one is None or isinstance(one, (bool, int, str)) or (isinstance(one, float) and math.isfinite(one))
        for one in (value if isinstance(value, list) else [value])
    )
