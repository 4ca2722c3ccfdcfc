"""Options as data: what they read, and what they refuse."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from denseface.core.errors import InputError
from denseface.core.option import Options, option, options_of


@dataclass(frozen=True)
class Some(Options):
    size: int = option(3, "how large", bounds=(1, 9), advice={"big": "write 9"})
    rate: float = option(0.5, "how fast", bounds=(0, 1))
    on: bool = option(True, "whether", flag=True)
    kind: str = option("a", "which", choices=("a", "b"))
    shape: tuple = option((1, 2), "height and width", many=True, count=2, bounds=(1, 9))
    most: int | None = option(None, "at most", kind=int, key="", flag=True)


OPTIONS = {each.field: each for each in options_of(Some)}


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("size", "9", 9), ("rate", "1", 1.0), ("on", "False", False), ("on", "1", True), ("kind", "b", "b"),
        ("shape", "3, 4", (3, 4)), ("most", "7", 7),
    ],
)  # fmt: skip
def test_text_becomes_a_value_of_the_options_type(field, text, value):
    found = OPTIONS[field].read(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("size", "0"), ("size", "10"), ("size", "1.5"), ("size", "big"), ("size", "9" * 5000), ("rate", "nan"),
        ("rate", "inf"), ("rate", "-0.1"), ("rate", ""), ("on", "yes"), ("kind", "c"), ("shape", "1"),
        ("shape", "1,2,3"), ("shape", "1,0"), ("shape", ""),
    ],
)  # fmt: skip
def test_text_that_is_no_value_is_refused(field, text):
    with pytest.raises(ValueError) as caught:
        OPTIONS[field].read(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", True), ("size", "3"), ("size", 10), ("rate", 10**400), ("on", 1), ("shape", 3), ("kind", None)],
)
def test_a_value_of_another_kind_is_refused_by_name(field, value):
    with pytest.raises(InputError) as caught:
        Some(**{field: value})
    assert caught.value.option == field


def test_values_get_the_options_type():
    some = Some(rate=1, shape=[3, 4], size=False + 1)
    assert (some.rate, some.shape, some.most) == (1.0, (3, 4), None) and type(some.rate) is float


def test_false_turns_a_number_off():
    assert option_of_a_number().read("False") == 0


def option_of_a_number():
    @dataclass(frozen=True)
    class One(Options):
        side: int = option(4, "side", bounds=(0, 9))

    return next(options_of(One))


def test_a_name_is_that_of_the_flag_or_else_the_key():
    assert [each.name for each in OPTIONS.values()] == ["size", "rate", "on", "kind", "shape", "most"]
    assert OPTIONS["most"].key == ""
