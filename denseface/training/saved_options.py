"""The options of a run, saved beside its checkpoints, and what a resumed run has to repeat of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from denseface.core.errors import InputError
from denseface.core.files import read_input, replacing
from denseface.core.option import Resume
from denseface.options.spec import BY_NAME, RunSpec

_MAX_BYTES = 1 << 20  # of a saved file


def repeated(spec: RunSpec) -> dict[str, Any]:
    """Return the options that a resumed run has to repeat, if they are set, as plain values.

    They decide which pictures a step sees, how it computes, or what a checkpoint contains. Rates, lengths, losses and
    augmentation are not among them: these may change within a run.
    """
    options = spec.by_name().items()
    found = {name: value for name, value in options if value and BY_NAME[name].resume is Resume.REPEATS}
    return json.loads(json.dumps(found))  # with lists for tuples, as a checkpoint returns them


def check_repeated(saved: Mapping[str, Any], now: Mapping[str, Any], step: int) -> None:
    """Raise InputError if an option that a resumed run has to repeat differs from its checkpoint's, of this step."""
    head_steps = saved.get("head_steps", 0)  # an option that there was
    if isinstance(head_steps, int) and head_steps > step:
        raise InputError(
            f"its first {head_steps} steps train the head alone, which denseface cannot do; start a new run"
        )
    for option in sorted({*saved, *now} - {"head_steps"}):
        before, here = saved.get(option, "not set"), now.get(option, "not set")
        if before != here:
            raise InputError(f"{here}: the run to resume was started with {before}; repeat that", option=option)


def save_options(path: str, spec: RunSpec) -> list[str]:
    """Save the options of a run.

    Parameters
    ----------
    path : str
        The file.
    spec : RunSpec
        The options.

    Returns
    -------
    list of str
        How they differ from those that the file had, without what only the start of a run uses; empty if there was no
        file, or none that can be read.
    """
    flags = {name: value for name, value in spec.by_name().items() if BY_NAME[name].flag}
    text = json.dumps({"config": spec.by_key(), "arguments": flags}, indent=1)
    before, now = read_options(path), _saved(text)
    with replacing(path) as file:
        file.write(text.encode())
    return [f"{key} {now[key]} (was {before[key]})" for key in now if before.get(key, now[key]) != now[key]]


def read_options(path: str) -> dict[str, Any]:
    """Return what a resumed run uses of the options in a file, by name; nothing without a file that can be read."""
    with contextlib.suppress(InputError):
        return _saved(read_input(path, _MAX_BYTES))
    return {}


def _saved(text: str | bytes) -> dict[str, Any]:
    """Return what a resumed run uses of saved options, by name; nothing if they cannot be read."""
    try:
        saved = json.loads(text)
        found = {**saved["config"], **saved["arguments"]}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return {
        name: value for name, value in found.items()
        if name not in BY_NAME or BY_NAME[name].resume is not Resume.UNUSED
    }  # fmt: skip
