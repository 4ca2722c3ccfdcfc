"""Read pickles of plain data without running code from them.

A pickle is a program for a small stack machine, which may call whatever it can name. The machine here knows the
instructions that build lists, tuples, bytes, text, bools and whole numbers. The few calls that Python and NumPy write
for bytes, and for arrays of bools or whole numbers, are carried out by functions of this module; no name is ever looked
up.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Callable

from denseface.core.errors import InputError

_MAX_DIMENSIONS = 32
_ITEM_SIZES = {"b1": 1, "u1": 1, "i1": 1, "u2": 2, "i2": 2, "u4": 4, "i4": 4, "u8": 8, "i8": 8}
_INSTRUCTIONS = {instruction.code: instruction for instruction in pickletools.opcodes}


@dataclass
class Array:
    """A pickled NumPy array, empty until its BUILD instruction.

    Attributes
    ----------
    kind : str
        NumPy's code of the type: "b1" (bool), "u1" (uint8) to "u8", or "i1" to "i8" (int64).
    shape : tuple of int
    data : bytes
        The elements in memory order, little-endian.
    """

    kind: str = "u1"
    shape: tuple[int, ...] = (0,)
    data: bytes = b""


@dataclass(frozen=True)
class _Kind:
    """A pickled NumPy dtype."""

    code: str


@dataclass(frozen=True)
class _Name:
    """A name that the file may mention, and what a call of it does here."""

    call: Callable


class _Refused(Exception):  # noqa: N818
    """The file asks for something that plain data does not need."""


class _Malformed(Exception):  # noqa: N818
    """The file is not a whole pickle."""


def loads(data: bytes, source: str) -> Any:
    """Read one pickle, of protocol 0 to 5, from Python 2 or 3.

    Parameters
    ----------
    data : bytes
        The pickle. Whatever follows its end is not read.
    source : str
        The name of the file, for error messages.

    Returns
    -------
    object
        Made of list, tuple, bytes, str, bool, int and None, and of `Array` for a NumPy array. Python 2's ``str`` and
        every ``bytearray`` become bytes, NumPy's bools and whole numbers become bool and int.

    Raises
    ------
    InputError
        If the file asks for anything else, which the message names, is truncated, or is not a pickle.
    """
    machine = _Machine()
    try:
        for name, argument in _instructions(data):
            if name == "STOP":
                return machine.stack.pop()
            _STEPS[name](machine, argument)
    except _Refused as error:
        raise InputError(
            f"refused: the file asks for {error}, which plain data does not need; get another file", path=source
        ) from error
    except _Malformed as error:
        raise InputError(f"damaged, or not a pickle ({error}); if it was copied, copy it again", path=source) from error
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        # The stack, the memo or the file lacks what an instruction needs.
        raise InputError(
            "damaged, or not a pickle (an instruction lacks its arguments); if it was copied, copy it again",
            path=source,
        ) from error
    raise InputError("truncated; copy it again", path=source)


def _instructions(data: bytes) -> Iterator[tuple[str, object]]:
    """Yield the name and the argument of each instruction."""
    file = io.BytesIO(data)
    while code := file.read(1):
        instruction = _INSTRUCTIONS.get(code.decode("latin-1"))
        if instruction is None:
            raise _Malformed(f"byte {file.tell() - 1} is not an instruction")
        name = instruction.name
        if name in _LINE_READERS:
            yield name, _LINE_READERS[name](file)
        elif name in _STEPS or name == "STOP":
            yield name, instruction.arg and instruction.arg.reader(file)
        else:
            raise _Refused(f"the pickle instruction {name}")


def _read_name(file: BinaryIO) -> str:
    lines = file.readline() + file.readline()
    if not lines.endswith(b"\n"):
        raise _Malformed("it ends inside a name")
    return lines[:-1].replace(b"\n", b".").decode("utf-8")


def _read_quoted(file: BinaryIO) -> bytes:
    """Undo Python 2's ``repr`` of a str."""
    quoted = re.fullmatch(rb"""(['"])(.*)\1\n""", file.readline())
    if quoted is None:
        raise _Malformed("a string has no quotes")
    plain = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}

    def character(match: re.Match) -> bytes:
        escape = match[1]
        return bytes([int(escape[1:], 16)]) if len(escape) == 3 else plain.get(escape, escape)

    return re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", character, quoted[2])


# Of these, pickletools takes ASCII only.
_LINE_READERS = {"STRING": _read_quoted, "GLOBAL": _read_name, "INST": _read_name}


class _Machine:
    """The stack, the marks on it, and the memo of what may come again."""

    def __init__(self) -> None:
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def pop_to_mark(self) -> list:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def drop(self, _: None) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def remember_next(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def recall(self, key: int) -> None:
        self.stack.append(self.memo[key])

    def append(self, _: None) -> None:
        self.add([self.stack.pop()])

    def add(self, values: list) -> None:
        if type(self.stack[-1]) is not list:
            raise _Malformed("something is added to what is not a list")
        self.stack[-1].extend(values)

    def short_tuple(self, length: int) -> None:
        self.stack.append(tuple([self.stack.pop() for _ in range(length)][::-1]))

    def name(self, name: str) -> None:
        if name not in _NAMES:
            raise _Refused(_printable(name))
        self.stack.append(_NAMES[name])

    def name_on_stack(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(name) is not str:
            raise _Malformed("a name is not text")
        self.name(f"{module}.{name}")

    def instance(self, name: str) -> None:
        self.name(name)
        raise _Refused("the pickle instruction INST")

    def call(self, _: None) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name):
            raise _Refused("a call of what is not a name")
        self.stack.append(name.call(*arguments))

    def build(self, _: None) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Array):
            _, shape, kind, _, data = state
            _fill(target, data, kind, shape)
        elif not isinstance(target, _Kind) or any(part is not None for part in state[2:5]):
            raise _Refused("a state for something that has none")
        elif state[1] in (">", b">"):
            raise _Refused("big-endian numbers")


def _fill(array: Array, data: object, kind: object, shape: object) -> None:
    """Set the contents of an array, if its type, shape and bytes agree."""
    if not isinstance(kind, _Kind) or not isinstance(data, bytes) or not isinstance(shape, tuple):
        raise _Malformed("an array lacks its type, its shape or its bytes")
    known = len(shape) <= _MAX_DIMENSIONS and all(type(length) is int and length >= 0 for length in shape)
    if not known or math.prod(shape) * _ITEM_SIZES[kind.code] != len(data):
        raise _Malformed("the shape of an array does not fit its bytes")
    array.kind, array.shape, array.data = kind.code, shape, data


def _printable(name: str) -> str:
    """Shorten a name from the file, and keep it on one line."""
    return name[:80].encode("unicode_escape").decode("ascii")


def _encode(text: str, encoding: str | bytes) -> bytes:
    """Do the call that Python 3 writes for bytes in the protocols 0 to 2."""
    if encoding not in ("latin1", "latin-1", b"latin1", b"latin-1"):
        raise _Refused("an encoding that is not latin-1")
    return text.encode("latin-1")


def _bytes(content: Any = b"", *encoding: str) -> bytes:
    """Do the call that Python writes for empty bytes and for bytearrays."""
    if encoding:
        return _encode(content, *encoding)
    if type(content) is not bytes:
        raise _Refused("bytes made from a value that is neither bytes nor text")
    return content


def _dtype(code: str | bytes, *_: bool) -> _Kind:
    code = code if isinstance(code, str) else code.decode("latin-1")
    if code not in _ITEM_SIZES:
        raise _Refused(f"the NumPy type {_printable(code)}")
    return _Kind(code)


def _empty_array(*_: object) -> Array:
    return Array()


def _array_from_buffer(data: bytes, kind: _Kind, shape: tuple[int, ...], _: str) -> Array:
    array = Array()
    _fill(array, data, kind, shape)
    return array


def _scalar(kind: _Kind, data: bytes) -> int:
    if not isinstance(kind, _Kind) or type(data) is not bytes or len(data) != _ITEM_SIZES[kind.code]:
        raise _Malformed("the bytes of a NumPy number do not fit its type")
    number = int.from_bytes(data, "little", signed=kind.code.startswith("i"))
    return bool(number) if kind.code == "b1" else number


def _no_call(*_: object) -> None:
    raise _Refused("a call of numpy.ndarray")


# Python 2 and 3, and NumPy 1 and 2, have different names for the same things.
_NAMES = {
    "_codecs.encode": _Name(_encode),
    "__builtin__.bytes": _Name(_bytes),
    "builtins.bytes": _Name(_bytes),
    "__builtin__.bytearray": _Name(_bytes),
    "builtins.bytearray": _Name(_bytes),
    "numpy.ndarray": _Name(_no_call),
    "numpy.dtype": _Name(_dtype),
    "numpy.core.multiarray._reconstruct": _Name(_empty_array),
    "numpy._core.multiarray._reconstruct": _Name(_empty_array),
    "numpy.core.multiarray.scalar": _Name(_scalar),
    "numpy._core.multiarray.scalar": _Name(_scalar),
    "numpy.core.numeric._frombuffer": _Name(_array_from_buffer),
    "numpy._core.numeric._frombuffer": _Name(_array_from_buffer),
}


def _pushing(value: Callable[[Any], object]) -> Callable[[_Machine, object], None]:
    return lambda machine, argument: machine.stack.append(value(argument))


def _python2_str(argument: str | bytes) -> bytes:
    return argument if isinstance(argument, bytes) else argument.encode("latin-1")


def _nothing(machine: _Machine, argument: int) -> None:
    """Skip an instruction that only readers of streams need."""


_STEPS: dict[str, Callable] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "APPEND": _Machine.append,
    "APPENDS": lambda machine, _: machine.add(machine.pop_to_mark()),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.short_tuple(1),
    "TUPLE2": lambda machine, _: machine.short_tuple(2),
    "TUPLE3": lambda machine, _: machine.short_tuple(3),
    "EMPTY_LIST": _pushing(lambda _: []),
    "EMPTY_TUPLE": _pushing(lambda _: ()),
    "NONE": _pushing(lambda _: None),
    "NEWTRUE": _pushing(lambda _: True),
    "NEWFALSE": _pushing(lambda _: False),
    "MEMOIZE": _Machine.remember_next,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_on_stack,
    "INST": _Machine.instance,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"), _pushing(lambda number: number)),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _pushing(_python2_str)),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _pushing(str)),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _pushing(bytes)),
}
