"""Every form of a picture becomes the same array: upright, of the wanted shape, or refused with the reason."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from denseface.core.errors import InputError
from denseface.data.pictures import PictureShape, decode, is_upright, load_picture

SIDE = 48
# Smooth, so that JPEG changes it little, and unlike each of its turns.
PICTURE = np.add.outer(np.linspace(0, 100, SIDE), np.linspace(0, 150, 64)).astype(np.uint8)[:, :, None] + np.array(
    [0, 2, 5], np.uint8
)
# What the camera stores of an upright picture, by EXIF's number for how it was held.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def encoded(picture, kind, orientation=None, **options):
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def difference(one, other):
    assert one.shape == other.shape
    return np.abs(one.astype(int) - other).max()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_turned_photograph_equals_the_upright_one(kind, orientation, tmp_path):
    upright = encoded(PICTURE, "PNG")
    turned = encoded(STORED[orientation](PICTURE), kind, orientation, quality=95)
    assert is_upright(turned) == (orientation == 1)
    assert difference(decode(turned), decode(upright)) <= 8
    path = tmp_path / "photo"
    path.write_bytes(turned)
    with Image.open(path) as opened:
        forms = [load_picture(form, (24, 32, 3)) for form in (turned, path, str(path), opened)]
        assert opened.getexif().get(0x0112) == orientation  # the caller's picture is left alone
    assert all(difference(form, load_picture(upright, (24, 32, 3))) <= 8 for form in forms)


def test_training_leaves_pictures_as_they_are_stored():
    stored = STORED[6](PICTURE)
    np.testing.assert_array_equal(decode(encoded(stored, "PNG", 6), upright=False), stored)


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_an_unknown_orientation_changes_nothing(orientation):
    assert difference(decode(encoded(PICTURE, "PNG", orientation)), PICTURE) == 0


def test_broken_exif_data_leave_the_orientation_that_can_be_read():
    payload = encoded(STORED[6](PICTURE), "JPEG", 6, quality=95)
    start = payload.index(b"II*\0" if b"II*\0" in payload else b"MM\0*")
    order = "little" if payload[start : start + 2] == b"II" else "big"
    # A second entry of a type that does not fit its value, so that the data cannot be written back.
    entry = (0x0112).to_bytes(2, order) + (3).to_bytes(2, order) + (1).to_bytes(4, order) + (6).to_bytes(2, order) * 2
    wrong = (0x8769).to_bytes(2, order) + (2).to_bytes(2, order) + (9).to_bytes(4, order) + b"\xff\xff\xff\x7f"
    ifd = (2).to_bytes(2, order) + entry + wrong + bytes(4)
    content = b"Exif\0\0" + payload[start : start + 8] + ifd
    broken = (
        payload[:2]
        + b"\xff\xe1"
        + (len(content) + 2).to_bytes(2, "big")
        + content
        + encoded(STORED[6](PICTURE), "JPEG", quality=95)[2:]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert difference(decode(broken), PICTURE) <= 8


@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_type_are_as_asked(channels):
    for form in (PICTURE, Image.fromarray(PICTURE), encoded(PICTURE, "PNG")):
        found = load_picture(form, (10, 20, channels))
        assert found.shape == (10, 20, channels) and found.dtype == np.uint8


def test_what_is_not_a_picture_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"text")
    with pytest.raises(InputError, match=rf"^{path}: "):
        load_picture(path, (8, 8, 3))
    with pytest.raises(InputError, match=r"not int$"):
        load_picture(3, (8, 8, 3))
    with pytest.raises(InputError, match="uint8"):
        load_picture(np.zeros((8, 8, 3)), (8, 8, 3))


def test_shapes_of_batches():
    shape = PictureShape(4, 5, 3)
    assert shape.nchw(2) == (2, 3, 4, 5) and PictureShape.from_nchw((2, 3, 4, 5)) == shape == (4, 5, 3)
