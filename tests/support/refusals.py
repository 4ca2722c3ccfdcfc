"""What a test expects of an error: its fields and the facts that it names, not its sentences."""

from __future__ import annotations

import contextlib
import re

import pytest

from denseface.core.errors import InputError


@contextlib.contextmanager
def refused(*facts, path=None, option=None, kind=InputError, cause=None):
    """The block raises an error of this path and option, whose reason contains the facts: names, numbers, values.

    A fact is found as a whole word, so 1 is not in 12. ``cause`` is the class of the error that it was raised from.
    """
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    assert (error.path, error.option) == (None if path is None else str(path), option), error
    assert cause is None or isinstance(error.__cause__, cause), repr(error.__cause__)
    absent = [fact for fact in map(str, facts) if not re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", error.reason)]
    assert not absent, f"{absent} not in: {error.reason}"
