"""The hostile pickles below would, with ``pickle.loads``, make a file at CANARY or eat memory or time."""

import bz2
import gzip
import lzma
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.data import plain_pickle
from denseface.data.plain_pickle import Array
from support.refusals import refused

CANARY = b"canary-of-the-pickle-tests"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def numpy_array(dtype, data, shape=b"K\x03\x85"):
    """An array as NumPy pickles it in protocol 2."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
        b"(K\x01" + shape + b"cnumpy\ndtype\n" + text(dtype) + b"\x89\x88\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89" + data + b"tb"
    )


TOUCH = b"touch " + CANARY
SYSTEM = b"cos\nsystem\n(S'" + TOUCH + b"'\ntR."
WRITE = b"open('" + CANARY + b"', 'w')"
DOUBLING = b"]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))
HUGE = b"\xff\xff\xff\x7f"
HUGE8 = b"\xff\xff\xff\xff\xff\xff\xff\x7f"

# name: (pickle, what the message must say)
HOSTILE = {
    "os.system, protocol 0": (SYSTEM, "os.system"),
    "os.system, protocol 1": (b"cos\nsystem\n(U" + bytes([len(TOUCH)]) + TOUCH + b"tR.", "os.system"),
    "posix.system, protocol 2": (b"\x80\x02cposix\nsystem\n" + text(TOUCH) + b"\x85R.", "posix.system"),
    "os.system, protocol 3": (b"\x80\x03cos\nsystem\n" + text(TOUCH) + b"\x85R.", "os.system"),
    "os.system, protocol 4": (b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text(TOUCH) + b"\x85R.", "os.system"),
    "os.system, protocol 5": (b"\x80\x05\x8c\x02os\x94\x8c\x06system\x94\x93" + text(TOUCH) + b"\x85R.", "os.system"),
    "builtins.eval": (b"cbuiltins\neval\n" + text(WRITE) + b"\x85R.", "builtins.eval"),
    "Python 2's eval": (b"c__builtin__\neval\n" + text(WRITE) + b"\x85R.", "__builtin__.eval"),
    "builtins.exec": (b"cbuiltins\nexec\n" + text(WRITE) + b"\x85R.", "builtins.exec"),
    "open": (b"cio\nopen\n" + text(CANARY) + text(b"w") + b"\x86R.", "io.open"),
    "getattr on an allowed name": (
        b"cbuiltins\ngetattr\ncnumpy\ndtype\n" + text(b"newbyteorder") + b"\x86R.",
        "getattr",
    ),
    "a dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x16ndarray.__reduce__.foo\x93.", "numpy.ndarray.__reduce__.foo"),
    "a module below an allowed one": (b"cnumpy.testing._private.utils\nrunstring\n.", "runstring"),
    "subprocess, nested in a list": (
        b"](](csubprocess\ncall\n](U\x05touchU\x1a" + CANARY + b"e\x85Ree.",
        "subprocess.call",
    ),
    "dropped before the end": (b"cos\nsystem\n" + text(TOUCH) + b"\x85R0]]\x86.", "os.system"),
    "INST": (b"(S'" + TOUCH + b"'\nios\nsystem\n.", "os.system"),
    "INST of an allowed name": (b"(S'a'\nibuiltins\nbytes\n.", "INST"),
    "OBJ": (b"(cos\nsystem\n" + text(TOUCH) + b"o.", "os.system"),
    "OBJ of an allowed name": (b"(cbuiltins\nbytes\no.", "OBJ"),
    "NEWOBJ": (b"\x80\x02csubprocess\nPopen\n" + text(TOUCH) + b"\x85\x81.", "subprocess.Popen"),
    "NEWOBJ of an allowed name": (b"\x80\x02cnumpy\nndarray\nK\x03\x85\x81.", "NEWOBJ"),
    "NEWOBJ_EX": (b"\x80\x04\x8c\x08builtins\x8c\x05bytes\x93)}\x92.", "EMPTY_DICT"),
    "STACK_GLOBAL from the memo": (
        b"\x80\x04\x8c\x06system\x94\x8c\x02os\x940h\x01h\x00\x93" + text(TOUCH) + b"\x85R.",
        "os.system",
    ),
    "STACK_GLOBAL of lists": (b"\x80\x04" + DOUBLING + b"h\x3ch\x3c\x93.", "a name is not text"),
    "EXT1": (b"\x80\x02\x82\x01.", "EXT1"),
    "EXT2": (b"\x80\x02\x83\x01\x01.", "EXT2"),
    "EXT4": (b"\x80\x02\x84\x01\x01\x01\x01.", "EXT4"),
    "PERSID": (b"Psomething\n.", "PERSID"),
    "BINPERSID": (b"U\x01aQ.", "BINPERSID"),
    "DICT": (b"(dU\x01a]s.", "DICT"),
    "EMPTY_SET": (b"\x80\x04\x8f.", "EMPTY_SET"),
    "FROZENSET": (b"\x80\x04(\x91.", "FROZENSET"),
    "NEXT_BUFFER": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "a float": (b"G" + bytes(8) + b".", "BINFLOAT"),
    "BUILD on an allowed name": (b"cbuiltins\nbytes\n(NNNNNtb.", "a state for something that has none"),
    "BUILD on a list": (b"](NNNNNtb.", "a state for something that has none"),
    "a call of a list": (b"])R.", "a call of what is not a name"),
    "a call of numpy.ndarray": (b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85R.", "a call of numpy.ndarray"),
    "bytes of a huge number": (b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.", "bytes made from a value"),
    "bytearray of a huge number": (b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "bytes made from a value"),
    "a codec that runs code": (b"c_codecs\nencode\n" + text(b"a") + text(b"zlib_codec") + b"\x86R.", "not latin-1"),
    "_codecs.decode": (b"c_codecs\ndecode\n" + text(b"a") + text(b"rot13") + b"\x86R.", "_codecs.decode"),
    "an array of objects": (numpy_array(b"O8", b"](cos\nsystem\ne"), "the NumPy type O8"),
    "an array of float64": (numpy_array(b"f8", b"U\x18" + bytes(24)), "the NumPy type f8"),
    "a dtype with fields": (
        b"cnumpy\ndtype\nU\x02u1\x89\x88\x87R(K\x03U\x01|N(U\x01atNK\x01K\x01K\0tb.",
        "a state for something that has none",
    ),
    "a dtype of nested lists": (DOUBLING + b"cnumpy\ndtype\nh\x3c\x85R.", "damaged, or not a pickle"),
    "a NumPy number of another size": (
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02i8\x85RU\x01a\x86R.",
        "the bytes of a NumPy number do not fit its type",
    ),
    "a NumPy number that is a float": (
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02f8\x85RU\x08" + bytes(8) + b"\x86R.",
        "the NumPy type f8",
    ),
    "big-endian numbers": (
        b"cnumpy\ndtype\nU\x02i8\x89\x88\x87R(K\x03U\x01>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb.",
        "big-endian numbers",
    ),
    "an array shorter than its shape": (numpy_array(b"u1", b"U\x02ab"), "does not fit its bytes"),
    "an array of negative size": (
        numpy_array(b"u1", b"U\x03abc", b"J\xff\xff\xff\xffJ\xfd\xff\xff\xff\x86"),
        "does not fit its bytes",
    ),
    "an array of a million sides": (
        numpy_array(b"u1", b"U\x03abc", b"(" + (b"\x8a\xff" + b"\x7f" * 255) * 20_000 + b"t"),
        "does not fit its bytes",
    ),
    "a huge BINBYTES8": (b"\x80\x04\x8e" + HUGE8 + b"a.", "damaged, or not a pickle"),
    "a huge BYTEARRAY8": (b"\x80\x05\x96" + HUGE8 + b"a.", "damaged, or not a pickle"),
    "a huge BINUNICODE8": (b"\x80\x04\x8d" + HUGE8 + b"a.", "damaged, or not a pickle"),
    "a huge BINBYTES": (b"B" + HUGE + b"a.", "damaged, or not a pickle"),
    "a negative BINSTRING": (b"T\xff\xff\xff\xffa.", "damaged, or not a pickle"),
    "a huge LONG4": (b"\x80\x02\x8b" + HUGE + b"\x01.", "LONG4"),
    "a LONG of a million digits": (b"L" + b"9" * 1_000_000 + b"L\n.", "damaged, or not a pickle"),
    "a frame past the end": (b"\x80\x04\x95" + HUGE8 + b"cos\nsystem\n.", "os.system"),
    "a memo of four billion": (b"]r\xff\xff\xff\xffcos\nsystem\n.", "os.system"),
    "a name with a line feed": (b"\x80\x04\x8c\x02o\n\x8c\x06system\x93.", r"o\\n.system"),
    **{
        f"os.system, compressed by {module.__name__}": (module.compress(SYSTEM), "damaged, or not a pickle")
        for module in (bz2, gzip, lzma, zlib)
    },
}

DAMAGED = {
    "nothing": b"",
    "no end": b"]]\x86",
    "an end without a value": b".",
    "a page": b"<html><body>404 Not Found</body></html>",
    "a JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "zeros": bytes(1000),
    "no mark": b"]t.",
    "a memo that is not there": b"h\x05.",
    "an append to a tuple": b")]a.",
    "a tuple longer than the stack": b"]\x87.",
    "a call without arguments": b"cbuiltins\nbytes\nR.",
    "a string without quotes": b"Sabc\n.",
    "a name without its end": b"cos",
}


@pytest.fixture(autouse=True)
def _in_a_folder_without_canary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not os.path.exists(CANARY)


def test_the_canary_sings():
    """Python's own pickle runs the first of them."""
    program = f"import pickle; pickle.loads({HOSTILE['os.system, protocol 0'][0]!r})"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert os.path.exists(CANARY)
    os.remove(CANARY)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_by_name(name):
    data, message = HOSTILE[name]
    with refused(path="lfw.bin") as caught:
        plain_pickle.loads(data, "lfw.bin")
    assert re.search(message, caught.value.reason) and "\n" not in caught.value.reason
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickles_are_refused(name):
    with refused(path="lfw.bin") as caught:
        plain_pickle.loads(DAMAGED[name], "lfw.bin")
    assert caught.value.reason.startswith(("truncated", "damaged, or not a pickle"))


@pytest.mark.parametrize("protocol", range(6))
def test_no_damage_leads_to_another_error(protocol):
    rng = np.random.default_rng(protocol)
    whole = pickle.dumps((PLAIN, [np.arange(9, dtype=np.uint8), np.bool_(True), bytearray(b"ab")]), protocol)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        try:
            plain_pickle.loads(bytes(data), "lfw.bin")
        except InputError:
            refused += 1
    assert refused > 30


PLAIN = [([b"", b"\xff\xd8 '\"\\\n\r\t\0", b"a" * 300], (True, False), [], (), ["text \u00e9"], -5, 70_000, None)]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back(protocol):
    assert plain_pickle.loads(pickle.dumps(PLAIN, protocol), "a") == PLAIN


@pytest.mark.parametrize("protocol", range(6))
def test_what_is_pickled_once_comes_back_as_one(protocol):
    image = b"\xff\xd8 image"
    first, (second, third) = plain_pickle.loads(pickle.dumps([image, (image, bytearray(image))], protocol), "a")
    assert first == third == image
    assert first is second


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_bytes_and_bools_come_back(protocol):
    column = np.frombuffer(b"\xff\xd8 image", np.uint8).reshape(-1, 1)
    values = [column, column.copy(), np.array([True, False]), np.bool_(True), np.bool_(False), bytearray(b"\xff"), b""]
    found = plain_pickle.loads(pickle.dumps(values, protocol), "a")
    image = Array("u1", (8, 1), b"\xff\xd8 image")
    assert found == [image, image, Array("b1", (2,), b"\1\0"), True, False, b"\xff", b""]


def test_names_of_numpy_1_and_2_are_known():
    for core in (b"numpy.core", b"numpy._core"):
        scalar = b"c" + core + b".multiarray\nscalar\ncnumpy\ndtype\nU\x02b1\x85RU\x01\x01\x86R."
        assert plain_pickle.loads(scalar, "a") is True
        buffer = b"c" + core + b".numeric\n_frombuffer\n(C\x02abcnumpy\ndtype\nU\x02u1\x85RK\x02\x85U\x01CtR."
        assert plain_pickle.loads(buffer, "a") == Array("u1", (2,), b"ab")


@pytest.mark.parametrize(
    "data",
    [
        # What Python 2.7 writes for ['\xff\xd8 \'"\\\n', True, (1L,)] in the protocols 0, 1 and 2.
        b"(lp0\nS'\\xff\\xd8 \\'\"\\\\\\n'\np1\naI01\na(L1L\ntp2\na.",
        b"]q\x00(U\x07\xff\xd8 '\"\\\nq\x01I01\n(L1L\ntq\x02e.",
        b"\x80\x02]q\x00(U\x07\xff\xd8 '\"\\\nq\x01\x88\x8a\x01\x01\x85q\x02e.",
    ],
)
def test_python_2_strings_are_bytes(data):
    assert pickle.loads(data, encoding="latin1") == ["\xff\xd8 '\"\\\n", True, (1,)]
    assert plain_pickle.loads(data, "a") == [b"\xff\xd8 '\"\\\n", True, (1,)]


def test_an_array_from_python_2_comes_back():
    assert plain_pickle.loads(b"\x80\x02" + numpy_array(b"u1", b"U\x03abc") + b".", "a") == Array("u1", (3,), b"abc")


def test_what_is_popped_does_not_come_back():
    assert plain_pickle.loads(b"]K\x010(K\x01K\x021(0.", "a") == []
