"""Options as data: a dataclass whose fields say what an option is called, its values, and what a resume asks of it.

Command lines, configuration keys, bounds, checks and tables of the documentation follow from such fields.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any

from denseface.core.errors import InputError

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class Resume(enum.Enum):
    """What a resumed run does about an option; the values complete "a resumed run ..."."""

    REPEATS = "has to repeat it"
    FITS = "has to have parameters of the same names and shapes"
    MAY_CHANGE = "may have another, from its next step on"
    ROUNDS = "may have another; sums are rounded otherwise"
    NO_STEP = "may have another, which changes no step"
    ANOTHER = "starts another run"
    UNUSED = "ignores it"


@dataclasses.dataclass(frozen=True)
class Option:
    """One option.

    Attributes
    ----------
    field : str
        Name of the dataclass's field.
    default : object
        None for an option that may be absent.
    help : str
        What it does, without a full stop.
    kind : type
        ``int``, ``float``, ``bool`` or ``str``; of each item, where there are several.
    bounds : (float, float)
        Least and greatest number.
    choices : sequence of str or int
        All values that there are; empty for any.
    unit : str
        What a number counts, as in "degrees".
    key : str
        Its name in ``config.py`` and for ``--set``; empty if it has none.
    flag : bool
        Whether ``train.py`` has a flag of the field's name.
    many : bool
        Whether it has several values: a tuple, written with commas in between or, if it has no key, as a repeated flag.
    count : int or None
        So many values, where their number is fixed.
    metavar : str
        Stands for the value in the help of a flag.
    resume : Resume or None
        What a resumed run does about it; None if it acts through other options.
    losses : sequence of str
        Kinds of losses that have it; empty for all.
    advice : dict of str to str
        Texts that people write, and what to write instead.
    chosen : str
        Why no ``--set`` may set it, and what to do instead; empty if it may.
    parse : callable, optional
        Reads an item from text, where ``kind`` does not.
    form : callable, optional
        Turns a value into the form that InsightFace's files expect of its key.
    """

    field: str
    default: Any
    help: str
    kind: type
    bounds: tuple[float, float] = (-math.inf, math.inf)
    choices: Sequence[Any] = ()
    unit: str = ""
    key: str = ""
    flag: bool = False
    many: bool = False
    count: int | None = None
    metavar: str = ""
    resume: Resume | None = Resume.MAY_CHANGE
    losses: Sequence[str] = ()
    advice: dict[str, str] = dataclasses.field(default_factory=dict)
    chosen: str = ""
    parse: Callable[[str], Any] | None = None
    form: Callable[[Any], Any] | None = None

    @property
    def name(self) -> str:
        """Name in saved configurations and in errors: that of the flag, or else the key."""
        return self.field if self.flag else self.key

    @property
    def repeated(self) -> bool:
        """Whether its flag is given once for each value."""
        return self.many and not self.key

    def is_of(self, loss_name: str) -> bool:
        """Whether runs with this kind of loss have the option."""
        return not self.losses or loss_name in self.losses

    def read(self, text: str) -> Any:
        """Read the value of a key from text; several are separated by commas.

        Raises
        ------
        ValueError
            With the reason.
        """
        if not self.many:
            return self.read_item(text)
        items = [item.strip() for item in text.split(",")] if text else []
        return self.checked([self.read_item(item) for item in items])

    def read_item(self, text: str) -> Any:
        """Read one value from text; raises ValueError with the reason."""
        if text.lower() in self.advice:
            raise ValueError(self.advice[text.lower()])
        if self.parse:
            return self.parse(text)
        if self.kind is int and text.lower() == "false":  # InsightFace's way to turn a number off
            text = "0"
        try:
            value = _TRUTHS[text.lower()] if self.kind is bool else self.kind(text)
        except (ValueError, KeyError):
            raise ValueError(self._expected()) from None
        return self._checked_item(value)

    def checked(self, value: Any) -> Any:
        """Return a value in the option's own type; raises ValueError with the reason if it is not one of its values."""
        if value is None and self.default is None:
            return None
        if not self.many:
            return self._checked_item(value)
        if not isinstance(value, (list, tuple)) or self.count not in (None, len(value)):
            raise ValueError(self._expected())
        return tuple(map(self._checked_item, value))

    def example(self, value: Any) -> str:
        """Write a value as text, as a command line has it; empty for None."""
        if self.many:
            return ",".join(map(str, value))
        text = "" if value is None else str(value)
        return text.lower() if self.kind is bool else text

    def _checked_item(self, value: Any) -> Any:
        if self.parse:
            return value
        if self.kind in (int, float) and value is False:
            value = 0
        numbers = {int: Integral, float: Real}.get(self.kind, self.kind)
        if not isinstance(value, numbers) or (self.kind is not bool and isinstance(value, bool)):
            raise ValueError(self._expected())
        try:
            value = self.kind(value)
        except OverflowError:
            raise ValueError(self._expected()) from None
        if self.kind is float and not math.isfinite(value):
            raise ValueError(self._expected())
        if self.choices and value not in self.choices:
            raise ValueError(f"there is no {value!r}; there are {', '.join(map(str, self.choices))}")
        if self.kind in (int, float) and not self.bounds[0] <= value <= self.bounds[1]:
            raise ValueError(f"it must be from {self.bounds[0]:.9g} to {self.bounds[1]:.9g}")
        return value

    def _expected(self) -> str:
        kind = _KINDS[self.kind]
        if self.many:
            count = f"{self.count} values" if self.count else "values"
            kind = f"{count}, each {kind}"
        example = self.example(self.default)
        return f"expected {kind}" + (f", as in {example}" if example else "")


def option(default: Any, help: str, *, key: str | None = None, kind: type | None = None, **settings: Any) -> Any:
    """Make a dataclass's field an option.

    Parameters
    ----------
    default, help
        As for :class:`Option`.
    key : str, optional
        By default the name of the field; empty for an option that only has a flag.
    kind : type, optional
        By default that of the default value, or of its first item.
    **settings
        Attributes of :class:`Option`.
    """
    if kind is None:
        kind = type(default[0] if settings.get("many") else default)
    return dataclasses.field(default=default, metadata={"option": {"key": key, "help": help, "kind": kind, **settings}})


def options_of(cls: Any) -> Iterator[Option]:
    """Yield the options that are fields of a dataclass, or of an object of one."""
    for field in dataclasses.fields(cls):
        if "option" in field.metadata:
            settings = dict(field.metadata["option"])
            if settings["key"] is None:
                settings["key"] = field.name
            yield Option(field=field.name, default=field.default, **settings)


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of dataclasses of options: every value is checked, and of its option's type.

    Raises
    ------
    InputError
        If a value is not one that its option takes.
    """

    def __post_init__(self) -> None:
        for each in options_of(self):
            try:
                object.__setattr__(self, each.field, each.checked(getattr(self, each.field)))
            except ValueError as error:
                raise InputError(str(error), option=each.field) from error
