import io
import random
import struct
import time

import numpy as np
import pytest

import denseface  # noqa: F401
from denseface.core.errors import InputError
from denseface.core.files import replacing
from denseface.models.params_file import read_arrays, write_arrays
from support.refusals import refused

TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")
FLOAT = struct.pack("<3i", 1, 0, 0)
ONE_TO_SIX = np.arange(1, 7, dtype="<f4").reshape(2, 3)


def samples():
    generator = np.random.default_rng(5)
    arrays = {f"arg:{name}": (100 * generator.random((2, 3, 4))).astype(name) for name in TYPES}
    return {**arrays, "aux:größe": np.arange(5, dtype="float32")}


def written(arrays):
    file = io.BytesIO()
    write_arrays(file, arrays)
    return file.getvalue()


def a_file(*arrays, names=("a",), count=None, name_count=None):
    """Compose a file from the bytes of its arrays."""
    encoded = [name if isinstance(name, bytes) else name.encode() for name in names]
    parts = [struct.pack("<3Q", 0x112, 0, len(arrays) if count is None else count), *arrays]
    parts.append(struct.pack("<Q", len(encoded) if name_count is None else name_count))
    return b"".join(parts + [struct.pack("<Q", len(name)) + name for name in encoded])


def current(shape, tail, storage=0, ndim=None, magic=0xF993FAC9):
    ndim = len(shape) if ndim is None else ndim
    return struct.pack(f"<Iii{len(shape)}q", magic, storage, ndim, *shape) + tail


def message(tmp_path, data):
    path = tmp_path / "m-0001.params"
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read_arrays(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert np.array_equal(found[name], array)


def test_writes_the_bytes_that_mxnet_writes(tmp_path):
    import mxnet as mx

    for arrays in (samples(), {}):
        mx.nd.save(str(tmp_path / "mx"), {k: mx.nd.array(v, dtype=v.dtype) for k, v in arrays.items()})
        assert written(arrays) == (tmp_path / "mx").read_bytes()
        assert_same(read_arrays(tmp_path / "mx"), arrays)


def test_mxnet_reads_what_is_written(tmp_path):
    import mxnet as mx

    with replacing(tmp_path / "f") as file:
        write_arrays(file, samples())
    assert_same({k: v.asnumpy() for k, v in mx.nd.load(str(tmp_path / "f")).items()}, samples())


@pytest.mark.parametrize("array", [ONE_TO_SIX.T, ONE_TO_SIX.astype(">f4"), ONE_TO_SIX[:, ::2]])
def test_writes_any_memory_layout(tmp_path, array):
    (tmp_path / "f").write_bytes(written({"a": array}))
    assert_same(read_arrays(tmp_path / "f"), {"a": np.array(array, "<f4")})


@pytest.mark.parametrize(
    "array",
    [
        struct.pack("<3I", 2, 2, 3) + FLOAT,
        struct.pack("<Ii2q", 0xF993FAC8, 2, 2, 3) + FLOAT,
        struct.pack("<Iii2q", 0xF993FAC9, 0, 2, 2, 3) + struct.pack("<3i", 2, 7, 0),
    ],
    ids=["oldest", "earlier", "from a GPU"],
)
def test_reads_old_files_as_mxnet_does(tmp_path, array):
    import mxnet as mx

    (tmp_path / "f").write_bytes(a_file(array + ONE_TO_SIX.tobytes()))
    assert_same(read_arrays(tmp_path / "f"), {"a": ONE_TO_SIX})
    assert np.array_equal(mx.nd.load(str(tmp_path / "f"))["a"].asnumpy(), ONE_TO_SIX)


def test_reads_numpy_shapes_as_mxnet_writes_them(tmp_path):
    import mxnet as mx

    with mx.util.np_shape(True):
        arrays = {"a": mx.nd.array(ONE_TO_SIX), "number": mx.nd.array(21).reshape(())}
        mx.nd.save(str(tmp_path / "f"), arrays)
    assert_same(read_arrays(tmp_path / "f"), {"a": ONE_TO_SIX, "number": np.array(21, "<f4")})


def test_arrays_are_writable_copies(tmp_path):
    data = written({"a": ONE_TO_SIX})
    (tmp_path / "f").write_bytes(data)
    array = read_arrays(tmp_path / "f")["a"]
    array += 1
    assert np.array_equal(array, ONE_TO_SIX + 1) and (tmp_path / "f").read_bytes() == data


def test_refuses_what_mxnet_saves_but_is_not_a_dense_dict(tmp_path):
    import mxnet as mx

    mx.nd.save(str(tmp_path / "list"), [mx.nd.ones(2)])
    assert "1 arrays but 0 names" in message(tmp_path, (tmp_path / "list").read_bytes())
    for kind in ("row_sparse", "csr"):
        mx.nd.save(str(tmp_path / kind), {"a": mx.nd.ones((2, 2)).tostype(kind)})
        assert f"sparse ({kind})" in message(tmp_path, (tmp_path / kind).read_bytes())


DATA = FLOAT + ONE_TO_SIX.tobytes()
A = current((2, 3), DATA)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a file of MXNet arrays"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a file of MXNet arrays"),
        (struct.pack("<3Q", 0x112, 0, 1 << 62), "4611686018427387904 arrays"),
        (a_file(A, struct.pack("<I", 99)), "array 1 of 2, near byte 92: 0x00000063"),
        (a_file(current((2, 3), DATA, magic=0xF993FACB)), "array 0 of 1, near byte 28: 0xf993facb"),
        (a_file(current((2, 3), DATA, storage=-1)), "storage type -1"),
        (a_file(current((1,) * 33, DATA)), "1 to 32 dimensions, not 33"),
        (a_file(current((2, 3), DATA, ndim=1 << 30)), "1 to 32 dimensions, not 1073741824"),
        (a_file(current((2, 3), DATA, ndim=-2)), "1 to 32 dimensions, not -2"),
        (a_file(current((), b"", ndim=-1)), "no shape and no elements"),
        (a_file(current((), DATA)), "no shape and no elements"),
        (a_file(struct.pack("<I", 0)), "no shape and no elements"),
        (a_file(current((2, -3), DATA)), "dimension of length 0"),
        (a_file(current((2, 0), DATA)), "dimension of length 0"),
        (a_file(current((1 << 62, 1 << 62), DATA)), f"{1 << 126} bytes should follow"),
        (a_file(current((1 << 40,), DATA)), f"{1 << 42} bytes should follow"),
        (a_file(struct.pack("<3I", 2, 0xFFFFFFFF, 0xFFFFFFFF) + DATA), "bytes should follow"),
        (a_file(current((2, 3), struct.pack("<3i", 4, 0, 0))), "device type 4"),
        (a_file(current((2, 3), struct.pack("<3i", 1, 0, -1))), "element type -1"),
        (a_file(current((2, 3), struct.pack("<3i", 1, 0, 12))), "element type 12"),
        (a_file(A, names=()), "1 arrays but 0 names"),
        (a_file(A, names=("a", "b")), "1 arrays but 2 names"),
        (a_file(A, name_count=1 << 62), "4611686018427387904 names"),
        (a_file(A, A, names=("a", "a")), "name 1 of 2, near byte 178: the name a comes twice"),
        (a_file(A, names=(b"\xff",)), "UTF-8"),
        (a_file(A, names=("a\0b",)), "printable"),
        (a_file(A)[:-9] + struct.pack("<Q", 1 << 63) + b"a", "9223372036854775808 bytes should follow"),
        (a_file(A) + b"\0", "1 bytes follow the last name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_says_what_is_wrong(tmp_path, data, says):
    assert says in message(tmp_path, data)


def test_every_shorter_file_is_refused(tmp_path):
    data = written({"a": ONE_TO_SIX, "b": np.ones(2, "int8")})
    for length in range(len(data)):
        message(tmp_path, data[:length])


def test_damage_is_an_error_or_other_numbers_but_nothing_else(tmp_path):
    random_numbers = random.Random(6)
    data = written(samples())
    path = tmp_path / "f"
    refused = 0
    for _ in range(1000):
        damaged = bytearray(data)
        for _ in range(random_numbers.randint(1, 4)):
            damaged[random_numbers.randrange(len(data))] = random_numbers.choice((0, 1, 127, 128, 255))
        path.write_bytes(damaged)
        try:
            read_arrays(path)
        except InputError:
            refused += 1
    assert 100 < refused < 1000


def test_a_missing_file_is_named(tmp_path):
    with refused(path=tmp_path / "gone.params", cause=FileNotFoundError):
        read_arrays(tmp_path / "gone.params")


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("a", np.ones(2, "complex64"), "complex64"),
        ("a", np.ones(2, bool), "bool"),
        ("a", np.array(1.0), "shape"),
        ("a", np.ones((2, 0)), "shape"),
        ("a\n", np.ones(2), "printable"),
    ],
)
def test_writes_nothing_of_what_cannot_be_read_again(name, array, says):
    file = io.BytesIO()
    with pytest.raises(ValueError) as caught:
        write_arrays(file, {"good": np.ones(2), name: array})
    assert says in str(caught.value)
    assert file.getvalue() == b""


def test_large_files_are_read_fast_and_written_without_a_copy(tmp_path):
    import tracemalloc

    arrays = {str(number): np.ones((1 << 20,), "float32") for number in range(16)}
    tracemalloc.start()
    with replacing(tmp_path / "f") as file:
        write_arrays(file, arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    started = time.perf_counter()
    assert_same(read_arrays(tmp_path / "f"), arrays)
    assert time.perf_counter() - started < 5
