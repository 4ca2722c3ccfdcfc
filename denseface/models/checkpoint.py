"""Checkpoints: models that InsightFace loads, and what a run needs to go on exactly where it was.

The checkpoint at step N of prefix P is

``P-symbol.json``, ``P-N.params``
    The embedding network, in MXNet's format (N has at least four digits).
``P-N.states``
    The parameters that only training has (the classes' centres) and the momentum of every parameter.
``P-N.states-1``, ``P-N.states-2``, ...
    Rows of those that are too large for one file.
``P-N.json``
    Written last: the size and CRC of the other files, the step, and the figures.  Where it is missing or does not fit,
    the checkpoint is not complete and does not count, so a crash at any instant leaves the previous one whole.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import open_input, replacing
from denseface.models.params_file import read_arrays, write_arrays
from denseface.models.symbol_file import read_symbol

import mxnet as mx

Arrays = Mapping[str, np.ndarray]

_LARGE = 1 << 29  # bytes; a larger array is cut into files of at most so many, and read with little more memory


@dataclass(frozen=True)
class Model:
    """A network with its parameters.

    Attributes
    ----------
    symbol : Symbol
        Its first output is the embedding.
    arguments, auxiliary : dict of str to ndarray
        Parameters and moving averages by name.
    prefix : str
        Where it was read from: ``prefix-symbol.json`` and ``prefix-NNNN.params``.
    step : int
        NNNN.
    """

    symbol: mx.sym.Symbol
    arguments: Arrays
    auxiliary: Arrays
    prefix: str
    step: int

    @property
    def name(self) -> str:
        """``prefix,step``, as commands take it."""
        return f"{self.prefix},{self.step}"


@dataclass(frozen=True)
class TrainingState:
    """Everything a run needs to go on.

    Attributes
    ----------
    step : int
        Steps taken.
    arguments, auxiliary : dict of str to ndarray
        All parameters and moving averages.
    momenta : dict of str to ndarray
        The optimizer's state by parameter.
    progress : dict
        Plain values: whatever else the run wants back, such as its best score.
    """

    step: int
    arguments: Arrays
    auxiliary: Arrays
    momenta: Arrays
    progress: dict


def parse_model(text: str) -> tuple[str, int | None]:
    """Split ``prefix,epoch``; the epoch is None where only a prefix is given.

    Raises
    ------
    InputError
        If what follows the last comma is no number.
    """
    prefix, comma, epoch = text.rpartition(",")
    if not comma:
        return text, None
    if not re.fullmatch(r"\d{1,9}", epoch):
        raise InputError(f"--model {text}: write it as PREFIX,EPOCH, as in models/d63-arcface-orl/model,100")
    return prefix, int(epoch)


def load_model(prefix: str | Path, step: int | None = None) -> Model:
    """Read a network and its parameters, written by this project, by InsightFace or by any MXNet program.

    Parameters
    ----------
    prefix : path-like
        ``prefix-symbol.json`` and ``prefix-NNNN.params`` are read.
    step : int, optional
        NNNN; by default the largest there is.

    Raises
    ------
    InputError
        If a file is missing, damaged, or does not belong to the other; the message names it.
    """
    prefix = str(prefix)
    if step is None:
        steps = _steps(prefix, "params")
        if not steps:
            raise InputError(f"{prefix}-NNNN.params: no such file; give --model the path up to the dash before NNNN")
        step = steps[-1]
    path = _path(prefix, step, "params")
    arguments, auxiliary = _split(path)
    symbol = read_symbol(f"{prefix}-symbol.json")
    for kind, wanted, given in (
        ("parameter", [n for n in symbol.list_arguments() if n not in ("data", "softmax_label")], arguments),
        ("auxiliary state", symbol.list_auxiliary_states(), auxiliary),
    ):
        missing = sorted(set(wanted) - set(given))
        if missing:
            raise InputError(
                f"{path}: {kind} {missing[0]} of {prefix}-symbol.json is missing ({len(missing)} in all); "
                "take both files from one run"
            )
    return Model(symbol, arguments, auxiliary, prefix, step)


def save(prefix: str | Path, symbol: mx.sym.Symbol, state: TrainingState) -> None:
    """Write a complete checkpoint.

    Parameters
    ----------
    prefix : path-like
        Where; the folder exists.
    symbol : Symbol
        The network to deploy: the embedding, or the whole with its loss.  Parameters that it does not have go to the
        states.
    state : TrainingState
        What to keep.
    """
    prefix = str(prefix)
    deployed = set(symbol.list_arguments())
    params = {
        **{f"arg:{name}": array for name, array in state.arguments.items() if name in deployed},
        **{f"aux:{name}": array for name, array in state.auxiliary.items()},
    }
    states = {
        **{f"arg:{name}": array for name, array in state.arguments.items() if name not in deployed},
        **{f"momentum:{name}": array for name, array in state.momenta.items()},
    }
    large = {name: array for name, array in states.items() if array.nbytes > _LARGE and len(array) > 1}
    small = {name: array for name, array in states.items() if name not in large}
    pieces = [{name: rows} for name, array in large.items() for rows in _cut(array)]
    files = {"params": params, "states": small, **{f"states-{n}": piece for n, piece in enumerate(pieces, start=1)}}
    manifest = {"step": state.step, "files": {}, "progress": state.progress}
    if large:
        manifest["rows"] = {name: len(array) for name, array in large.items()}
    with replacing(f"{prefix}-symbol.json") as file:
        file.write(symbol.tojson().encode())
    for kind, arrays in files.items():
        path = _path(prefix, state.step, kind)
        with replacing(path) as file:
            write_arrays(file, arrays)
        manifest["files"][kind] = _mark(path)
    with replacing(_path(prefix, state.step, "json")) as file:
        file.write(json.dumps(manifest, indent=1).encode())


def load_state(
    prefix: str | Path, step: int, arguments: Arrays | None = None, momenta: Arrays | None = None
) -> TrainingState:
    """Read back what :func:`save` wrote.

    Parameters
    ----------
    prefix, step
        Which checkpoint.
    arguments, momenta : dict of str to ndarray, optional
        Arrays to read those into that were cut, instead of new ones; those that do not fit stay as they are.

    Raises
    ------
    InputError
        If the checkpoint at this step is missing or not complete.
    """
    prefix = str(prefix)
    manifest = _manifest(prefix, step)
    if manifest is None:
        raise InputError(f"{_path(prefix, step, 'json')}: no complete checkpoint to resume from")
    places = {f"arg:{name}": array for name, array in (arguments or {}).items()}
    places.update({f"momentum:{name}": array for name, array in (momenta or {}).items()})
    deployed, auxiliary = _split(_path(prefix, step, "params"))
    states = read_arrays(_path(prefix, step, "states"))
    states.update(_joined(prefix, step, manifest, places))
    return TrainingState(
        step,
        {**deployed, **_with_prefix(states, "arg:")},
        auxiliary,
        _with_prefix(states, "momentum:"),
        manifest["progress"],
    )


def complete_steps(prefix: str | Path) -> list[int]:
    """Steps at which there is a complete checkpoint to resume from, in ascending order."""
    prefix = str(prefix)
    return [step for step in _steps(prefix, "json") if _manifest(prefix, step) is not None]


def newest_step(prefix: str | Path) -> int | None:
    """Find the newest step to resume from; None where there is no checkpoint at all.

    Raises
    ------
    InputError
        If none of those there is whole.  A crash leaves no such place, and to start anew would overwrite the run.
    """
    complete = complete_steps(prefix)
    found = _steps(str(prefix), "json")
    if found and not complete:
        raise InputError(
            f"{_path(prefix, found[-1], 'json')}: this checkpoint is damaged, it does not fit its .params and .states; "
            "bring all three back, or remove this file to start anew"
        )
    return complete[-1] if complete else None


def keep_only(prefix: str | Path, models: Iterable[int] | None, states: Iterable[int]) -> None:
    """Remove checkpoints, the figures of models that go, and what a crash left half written.

    Parameters
    ----------
    prefix : path-like
        Whose.
    models : iterable of int, optional
        Steps of which the embedding network stays; None keeps all.
    states : iterable of int
        Steps from which a run can still be resumed; the network stays too.
    """
    prefix = str(prefix)
    states = {*states}
    kept = {"json": states, r"states(-\d+)?": states}  # in the order of removal: no complete checkpoint is half there
    if models is not None:
        kept["params"] = kept[r"verification\.json"] = {*models, *states}
    for kind, steps in kept.items():
        for path in _beside(prefix, rf"-\d{{4,}}\.{kind}"):
            if _step(prefix, path) not in steps:
                path.unlink(missing_ok=True)
    for leftover in _beside(prefix, r"-(symbol\.json|\d{4,}\.(params|states(-\d+)?|json))\.tmp"):
        leftover.unlink(missing_ok=True)


def _path(prefix, step, kind):
    return Path(f"{prefix}-{step:04d}.{kind}")


def _beside(prefix, pattern):
    """Files in the prefix's folder whose names are the prefix's and then match the pattern."""
    folder, name = Path(prefix).parent, Path(prefix).name
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if re.fullmatch(re.escape(name) + pattern, path.name)]


def _steps(prefix, kind):
    return sorted(_step(prefix, path) for path in _beside(prefix, rf"-\d{{4,}}\.{kind}"))


def _step(prefix, path):
    return int(path.name[len(Path(prefix).name) + 1 :].partition(".")[0])


def _manifest(prefix, step):
    """The last file of a complete checkpoint, or None."""
    try:
        with open_input(_path(prefix, step, "json")) as file:
            manifest = json.load(file)
        rows = manifest.get("rows", {})
        kinds = ["params", "states", *_pieces(manifest)]
        fits = set(kinds) == set(manifest["files"]) and bool(rows) == (len(kinds) > 2)
        fits = fits and all(_mark(_path(prefix, step, kind)) == manifest["files"][kind] for kind in kinds)
        if fits and isinstance(manifest["progress"], dict):
            return manifest
    except (InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None


def _pieces(manifest):
    return [f"states-{number}" for number in range(1, len(manifest["files"]) - 1)]


def _cut(array):
    """Parts of an array along its first axis, of at most ``_LARGE`` bytes but of one row at least."""
    length = max(1, _LARGE // array[:1].nbytes)
    return [array[start : start + length] for start in range(0, len(array), length)]


def _joined(prefix, step, manifest, places):
    """The arrays that were cut, each in its place or, where that does not fit, in a new one."""
    totals = manifest.get("rows", {})
    strange = InputError(f"{_path(prefix, step, 'json')}: its rows are not those of its .states files")
    room = sum(mark["size"] for mark in manifest["files"].values())
    arrays, filled = {}, dict.fromkeys(totals, 0)
    for kind in _pieces(manifest):
        for name, rows in read_arrays(_path(prefix, step, kind)).items():
            total = totals.get(name)
            start, end = filled.get(name, 0), filled.get(name, 0) + len(rows)
            if not isinstance(total, int) or end > total or total * rows[:1].nbytes > room:
                raise strange
            if name not in arrays:
                like, place = np.empty((total, *rows.shape[1:]), rows.dtype), places.get(name)
                fits = place is not None and (place.shape, place.dtype) == (like.shape, like.dtype)
                arrays[name] = place if fits else like
            if arrays[name].shape[1:] != rows.shape[1:] or arrays[name].dtype != rows.dtype:
                raise strange
            arrays[name][start:end] = rows
            filled[name] = end
    if filled != totals:
        raise strange
    return arrays


def _mark(path):
    """Size and CRC-32 of a file."""
    crc = size = 0
    with open_input(path) as file:
        for block in iter(lambda: file.read(1 << 22), b""):
            crc = zlib.crc32(block, crc)
            size += len(block)
    return {"size": size, "crc32": crc}


def _with_prefix(arrays, prefix):
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


def _split(path):
    """Arguments and auxiliary states of a ``.params`` file."""
    arrays = read_arrays(path)
    strange = [name for name in arrays if not name.startswith(("arg:", "aux:"))]
    if strange:
        raise InputError(f"{path}: {strange[0]} is neither arg: nor aux:; save it with MXNet's save_checkpoint")
    return _with_prefix(arrays, "arg:"), _with_prefix(arrays, "aux:")
