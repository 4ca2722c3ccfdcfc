"""Network entries from a JSON file, beside those of ``config.py``."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from denseface.core.errors import InputError
from denseface.core.files import read_input
from denseface.options import insightface
from denseface.options.spec import BY_KEY

_MAX_BYTES = 1 << 20


def read_networks(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read network entries, ``{"NAME": {"net_name": FAMILY, KEY: VALUE, ...}, ...}``.

    A known key takes only what its option takes; other keys are for the family's file to read, and take numbers,
    texts, true, false, null, and lists of these.

    Parameters
    ----------
    path : str or Path
        The file, at most 1 MB.

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
        raise InputError(f"not a JSON file: {error}", path=path) from error
    if not isinstance(networks, dict) or not all(isinstance(settings, dict) for settings in networks.values()):
        raise InputError('write it as {"NAME": {"net_name": "FAMILY", "KEY": VALUE}}', path=path)
    for name, settings in networks.items():
        if not re.fullmatch(r"[\w-]+", name):
            raise InputError(f"{name!r}: a network's name is made of letters, digits, _ and -", path=path)
        if not isinstance(settings.get("net_name"), str):
            raise InputError(f"{name}: net_name must name the family, the file without .py", path=path)
        for key, value in settings.items():
            reason = _fault(key, value)
            if reason:
                raise InputError(f"{name}: {key[:80]}{reason}", path=path)
    return networks


def _fault(key: str, value: object) -> str:
    """Why an entry cannot have this value of a key; empty if it can."""
    if not re.fullmatch(r"[a-zA-Z]\w*", key) or hasattr(dict, key):
        return ": not a name for a key; take a word of letters, digits and _"
    if key in insightface.KEYS:
        usual, advice = insightface.KEYS[key]
        return "" if value == usual else f" is {_written(value)}: not supported: {advice}; leave it out"
    if key in BY_KEY:
        try:
            BY_KEY[key].checked(value)
        except ValueError as error:
            return f" is {_written(value)}; {error}"
    elif not _is_plain(value):
        return ": expected a number, a text, true, false, null, or a list of these"
    return ""


def _written(value: object) -> str:
    return json.dumps(value)[:80]


def _is_plain(value: object) -> bool:
    return all(
        one is None or isinstance(one, (bool, int, str)) or (isinstance(one, float) and math.isfinite(one))
        for one in (value if isinstance(value, list) else [value])
    )
