"""Checkpoints: models that InsightFace loads, and what a run needs to resume exactly where it was.

The checkpoint at step N of prefix P is

``P-symbol.json``, ``P-N.params``
    The embedding network, in MXNet's format (N has at least four digits).
``P-ema-symbol.json``, ``P-ema-N.params``
    With averaged weights: the same network with them, a model of its own with the prefix ``P-ema``.
``P-N.states``
    What only training needs: the class centers and statistics of the loss, and the momentum of every parameter.
``P-N.states-1``, ``P-N.states-2``, ...
    Rows of arrays that are too large for one file.
``P-N.json``
    The manifest, written last: size and CRC-32 of the other files, the step, and the run's progress. A checkpoint
    without it, or with files of other sizes, is not complete and does not count, so a crash at any instant leaves
    the previous one whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import read_input, replacing
from denseface.models.params_file import FileMark, read_arrays, write_arrays
from denseface.models.symbol_file import embedding_output, read_symbol, variances, with_input_called_data

import mxnet as mx

Arrays = Mapping[str, np.ndarray]

_MAX_MANIFEST = 64 << 20  # bytes
_LARGE = 1 << 29  # bytes; a larger array is cut into files of this size, so that reading it takes little more memory
# MXNet's variance is the mean of the squares less the square of the mean. Rounding brings it below 0 where a channel is
# constant, which does no harm: 1e-5 and more are added to it before a root is taken.
_VARIANCE_ROUNDING = 1e-6


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
    scaling : Scaling, optional
        What was put before its first layer; see :mod:`denseface.embedding.scaling`.
    """

    symbol: mx.sym.Symbol
    arguments: Arrays
    auxiliary: Arrays
    prefix: str
    step: int
    scaling: Any = None

    default_engine = "mxnet"
    precision = "float32"
    metrics: ClassVar[dict] = {}  # it carries none; they are in the file at `metrics_path`

    @property
    def name(self) -> str:
        """``prefix,step``, as commands accept it."""
        return f"{self.prefix},{self.step}"

    @property
    def metrics_path(self) -> Path:
        """The file beside the model that keeps its verification metrics."""
        return _path(self.prefix, self.step, "verification.json")

    @cached_property
    def fingerprint(self) -> dict:
        """Identify the model.

        ``prefix`` and ``epoch`` say where it was read from. ``sha256`` is the hash, in hexadecimal, of the names and
        values of the parameters that its embedding depends on: the same for every copy of the model, saved with its
        training symbol or without, unless its pictures are scaled otherwise.
        """
        symbol = embedding_output(self.symbol)
        given = {**self.arguments, **self.auxiliary}
        digest = hashlib.sha256(self.scaling.mark() if self.scaling else b"")
        for name in sorted({*symbol.list_arguments(), *symbol.list_auxiliary_states()} - {"data"}):
            values = np.ascontiguousarray(given[name], np.float32)
            digest.update(f"{name} {values.shape}\n".encode())
            digest.update(values.tobytes())
        return {"prefix": self.prefix, "epoch": self.step, "sha256": digest.hexdigest()}


@dataclass(frozen=True)
class TrainingState:
    """Everything a run needs to resume.

    Attributes
    ----------
    step : int
        Steps taken.
    arguments, auxiliary : dict of str to ndarray
        All parameters and moving averages.
    momenta : dict of str to ndarray
        The optimizer's state by parameter.
    progress : dict
        Plain values that the run adds, such as its best score.
    averages : pair of dict of str to ndarray, optional
        Averages of the embedding network's parameters and moving averages.
    """

    step: int
    arguments: Arrays
    auxiliary: Arrays
    momenta: Arrays
    progress: dict
    averages: tuple[Arrays, Arrays] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: its manifest has been read, its arrays have not.

    Attributes
    ----------
    prefix : str
        The run's prefix.
    step : int
        Steps taken.
    manifest : dict
        The content of ``P-N.json``.
    """

    prefix: str
    step: int
    manifest: dict

    @classmethod
    def newest(cls, prefix: str | Path) -> Checkpoint | None:
        """Find the newest complete checkpoint of a run; None if the run has none yet.

        Raises
        ------
        InputError
            If there are checkpoints, but none is complete. No crash leaves that, and starting again would overwrite
            the run.
        """
        found = _complete(str(prefix))
        steps = _steps(str(prefix), ".json")
        if steps and not found:
            raise InputError(
                "this checkpoint is damaged, its .params and .states do not "
                "belong to it; bring all three back, or remove this file to start again",
                path=_path(prefix, steps[-1], "json"),
            )
        return found[-1] if found else None

    def load(self, arguments: Arrays | None = None, momenta: Arrays | None = None) -> TrainingState:
        """Read every file once, and compare it with the manifest on the way.

        Parameters
        ----------
        arguments, momenta : dict of str to ndarray, optional
            Existing arrays that large arrays of the same name, shape and type are read into, instead of new ones.

        Raises
        ------
        InputError
            If a file has changed since it was written; the message names it.
        """
        targets = {f"arg:{name}": array for name, array in (arguments or {}).items()}
        targets.update({f"momentum:{name}": array for name, array in (momenta or {}).items()})
        deployed, auxiliary = _split(self._path("params"), self._read("params"))
        states = {**self._read("states"), **self._joined(targets)}
        return TrainingState(
            self.step,
            {**deployed, **_with_prefix(states, "arg:")},
            {**auxiliary, **_with_prefix(states, "aux:")},
            _with_prefix(states, "momentum:"),
            self.manifest["progress"],
            _split(self._path("ema"), self._read("ema")) if "ema" in self.manifest["files"] else None,
        )

    def _path(self, kind: str) -> Path:
        return _path(self.prefix, self.step, kind)

    def _read(self, kind: str) -> dict[str, np.ndarray]:
        return read_arrays(self._path(kind), FileMark(**self.manifest["files"][kind]))

    def _joined(self, targets: Arrays) -> dict[str, np.ndarray]:
        """The arrays that were cut, each in its target or, where that does not fit, in a new array."""
        totals = self.manifest.get("rows", {})
        strange = InputError("its rows are not those of its .states files", path=self._path("json"))
        room = sum(mark["size"] for mark in self.manifest["files"].values())
        arrays: dict[str, np.ndarray] = {}
        filled = dict.fromkeys(totals, 0)
        for kind in _pieces(self.manifest):
            for name, rows in self._read(kind).items():
                total = totals.get(name)
                start, end = filled.get(name, 0), filled.get(name, 0) + len(rows)
                if not isinstance(total, int) or end > total or total * rows[:1].nbytes > room:
                    raise strange
                if name not in arrays:
                    like, target = np.empty((total, *rows.shape[1:]), rows.dtype), targets.get(name)
                    if target is None or (target.shape, target.dtype) != (like.shape, like.dtype):
                        target = like
                    arrays[name] = target
                if arrays[name].shape[1:] != rows.shape[1:] or arrays[name].dtype != rows.dtype:
                    raise strange
                arrays[name][start:end] = rows
                filled[name] = end
        if filled != totals:
            raise strange
        return arrays


def parse_model(text: str) -> tuple[str, int | None]:
    """Split ``prefix,epoch``; the epoch is None if only a prefix is given.

    A comma belongs to the prefix where a folder's name follows it, or where files of that prefix exist.

    Raises
    ------
    InputError
        If something else than a number follows the last comma.
    """
    prefix, comma, epoch = text.rpartition(",")
    if comma and re.fullmatch(r"\d{1,9}", epoch):
        return prefix, int(epoch)
    if not comma or "/" in epoch or Path(f"{text}-symbol.json").exists():
        return text, None
    raise InputError(
        f"{text}: write it as PREFIX,EPOCH or as PREFIX alone, as in models/d15-arcface-orl/model", option="model"
    )


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
        If a file is missing or damaged, the two do not belong together, or a parameter is not a finite number. The
        message names the file.
    """
    prefix = str(prefix)
    if step is None:
        steps = _steps(prefix, ".params")
        if not steps:
            raise InputError(
                "no such file; a prefix is the path up to the dash before NNNN", path=f"{prefix}-NNNN.params"
            )
        step = steps[-1]
    path = _path(prefix, step, "params")
    values = {name.removeprefix("arg:").removeprefix("aux:"): value for name, value in read_arrays(path).items()}
    values = {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in values.items()}
    symbol = with_input_called_data(read_symbol(f"{prefix}-symbol.json"), values)
    states = {*symbol.list_auxiliary_states()}
    arguments = {name: value for name, value in values.items() if name not in states}
    auxiliary = {name: value for name, value in values.items() if name in states}
    embedding = embedding_output(symbol)  # what else the network has, a classifier say, is not asked for
    for kind, wanted, given in (
        ("parameter", [name for name in embedding.list_arguments() if name != "data"], arguments),
        ("auxiliary state", embedding.list_auxiliary_states(), auxiliary),
    ):
        missing = sorted(set(wanted) - set(given))
        if missing:
            raise InputError(
                f"{kind} {missing[0]} of {prefix}-symbol.json is missing ({len(missing)} in all); "
                "take both files from one run",
                path=path,
            )
        for name in wanted:
            _check_finite(path, name, given[name])
    for name in variances(embedding):
        if auxiliary[name].min() < -_VARIANCE_ROUNDING:
            raise InputError(f"the variance {name} is below 0; the file is damaged, take a copy that is not", path=path)
        auxiliary[name] = np.maximum(auxiliary[name], 0)
    return Model(symbol, arguments, auxiliary, prefix, step)


def save(prefix: str | Path, symbol: mx.sym.Symbol, state: TrainingState) -> None:
    """Write a complete checkpoint.

    Parameters
    ----------
    prefix : path-like
        Path stem of its files; the folder exists.
    symbol : Symbol
        The network to deploy: the embedding, or the whole training symbol. Parameters that it does not have go into
        the ``.states`` files.
    state : TrainingState
        What to save.
    """
    prefix = str(prefix)
    deployed = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    params = {
        **{f"arg:{name}": array for name, array in state.arguments.items() if name in deployed},
        **{f"aux:{name}": array for name, array in state.auxiliary.items() if name in deployed},
    }
    states = {
        **{f"arg:{name}": array for name, array in state.arguments.items() if name not in deployed},
        **{f"aux:{name}": array for name, array in state.auxiliary.items() if name not in deployed},
        **{f"momentum:{name}": array for name, array in state.momenta.items()},
    }
    large = {name: array for name, array in states.items() if array.nbytes > _LARGE and len(array) > 1}
    small = {name: array for name, array in states.items() if name not in large}
    pieces = [{name: rows} for name, array in large.items() for rows in _cut(array)]
    files = {"params": params, "states": small}
    files.update({f"states-{n}": piece for n, piece in enumerate(pieces, start=1)})
    symbols = {prefix: symbol}
    if state.averages:
        kinds = zip(("arg", "aux"), state.averages)
        files["ema"] = {f"{kind}:{name}": array for kind, arrays in kinds for name, array in arrays.items()}
        symbols[f"{prefix}-ema"] = embedding_output(symbol)
    marks: dict[str, dict] = {}
    manifest: dict[str, Any] = {"step": state.step, "files": marks, "progress": state.progress}
    if large:
        manifest["rows"] = {name: len(array) for name, array in large.items()}
    for stem, network in symbols.items():
        with replacing(f"{stem}-symbol.json") as file:
            file.write(network.tojson().encode())
    for kind, arrays in files.items():
        with replacing(_path(prefix, state.step, kind)) as file:
            marks[kind] = write_arrays(file, arrays)._asdict()
    with replacing(_path(prefix, state.step, "json")) as file:
        file.write(json.dumps(manifest, indent=1).encode())


def complete_steps(prefix: str | Path) -> list[int]:
    """Steps with a complete checkpoint, in ascending order."""
    return [checkpoint.step for checkpoint in _complete(str(prefix))]


def keep_only(prefix: str | Path, models: Iterable[int] | None, states: Iterable[int]) -> None:
    """Remove other checkpoints, metrics of removed models, and unfinished files that a crash left.

    Parameters
    ----------
    prefix : path-like
        The run's prefix.
    models : iterable of int, optional
        Steps whose embedding network stays; None keeps all.
    states : iterable of int
        Steps that a run can still resume from; their networks stay too.
    """
    prefix = str(prefix)
    states = {*states}
    # A checkpoint's manifest goes before its other files, so that a crash in between leaves no complete one half there.
    _remove(prefix, r"\.json", but=states)
    _remove(prefix, r"\.states(-\d+)?", but=states)
    if models is not None:
        kept = {*models, *states}
        for stem in (prefix, f"{prefix}-ema"):
            _remove(stem, r"\.params", but=kept)
            _remove(stem, r"\.verification\.json", but=kept)
    for unfinished in _beside(prefix, r"-(ema-)?(symbol\.json|\d{4,}\.(params|states(-\d+)?|json))(\.\d)?\.tmp"):
        unfinished.unlink(missing_ok=True)


def _remove(prefix: str, ending: str, but: Collection[int]) -> None:
    for path in _beside(prefix, rf"-\d{{4,}}{ending}"):
        if _step(prefix, path) not in but:
            path.unlink(missing_ok=True)


def _path(prefix: str | Path, step: int, kind: str) -> Path:
    if kind == "ema":
        return Path(f"{prefix}-ema-{step:04d}.params")
    return Path(f"{prefix}-{step:04d}.{kind}")


def _beside(prefix: str | Path, pattern: str) -> list[Path]:
    """Files in the prefix's folder that are named after the prefix and the pattern."""
    folder, name = Path(prefix).parent, Path(prefix).name
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if re.fullmatch(re.escape(name) + pattern, path.name)]


def _steps(prefix: str, suffix: str) -> list[int]:
    return sorted(_step(prefix, path) for path in _beside(prefix, rf"-\d{{4,}}{re.escape(suffix)}"))


def _step(prefix: str | Path, path: Path) -> int:
    return int(path.name[len(Path(prefix).name) + 1 :].partition(".")[0])


def _complete(prefix: str) -> list[Checkpoint]:
    """Complete checkpoints in ascending order: those whose manifest names files that exist and have the right size."""
    manifests = {step: _read_manifest(_path(prefix, step, "json")) for step in _steps(prefix, ".json")}
    found = []
    for step, manifest in manifests.items():
        sizes = {kind: mark["size"] for kind, mark in manifest["files"].items()} if manifest else {}
        if manifest and all(_size(_path(prefix, step, kind)) == size for kind, size in sizes.items()):
            found.append(Checkpoint(prefix, step, manifest))
    return found


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _read_manifest(path: Path) -> dict | None:
    """The manifest, or None if the file is not one."""
    content = read_input(path, _MAX_MANIFEST)
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or too deep
        return None
    return manifest if _is_manifest(manifest) else None


def _is_manifest(manifest: object) -> bool:
    if not isinstance(manifest, dict) or not isinstance(manifest.get("progress"), dict):
        return False
    files, rows = manifest.get("files"), manifest.get("rows", {})
    if not isinstance(files, dict) or not isinstance(rows, dict):
        return False
    pieces = _pieces(manifest)
    marks = [mark for mark in files.values() if isinstance(mark, dict) and set(mark) == set(FileMark._fields)]
    return (
        {*files} - {"ema"} == {"params", "states", *pieces}
        and bool(rows) == bool(pieces)
        and len(marks) == len(files)
        and all(type(number) is int for mark in marks for number in mark.values())
    )


def _pieces(manifest: dict) -> list[str]:
    count = len({*manifest["files"]} - {"params", "states", "ema"})
    return [f"states-{number}" for number in range(1, count + 1)]


def _cut(array: np.ndarray) -> list[np.ndarray]:
    """Parts of an array along its first axis, of at most ``_LARGE`` bytes but at least one row."""
    length = max(1, _LARGE // array[:1].nbytes)
    return [array[start : start + length] for start in range(0, len(array), length)]


def _with_prefix(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


def _split(path: Path, arrays: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arguments and auxiliary states of a ``.params`` file."""
    strange = [name for name in arrays if not name.startswith(("arg:", "aux:"))]
    if strange:
        raise InputError(f"{strange[0]} is neither arg: nor aux:; save it with MXNet's save_checkpoint", path=path)
    return _with_prefix(arrays, "arg:"), _with_prefix(arrays, "aux:")


def _check_finite(path: Path, name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "f" and not (math.isfinite(array.min()) and math.isfinite(array.max())):
        raise InputError(
            f"{name} has values that are not finite numbers; training diverged before it was saved, or "
            "the file is damaged; take another checkpoint",
            path=path,
        )
