"""Every form of a picture becomes the same array: upright, of the wanted shape, or refused with the reason."""

import io
import os
import struct
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from denseface.data import pictures
from denseface.data.pictures import (
    PICTURE_SUFFIXES,
    ImageError,
    Photograph,
    PictureShape,
    decode,
    is_picture,
    is_upright,
    load_picture,
    open_photograph,
    read_header,
    usual_suffix,
)
from support.refusals import refused

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


@pytest.mark.parametrize("has_fast_decoder", [True, False])
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_a_photograph_is_decoded_at_the_scale_of_its_use(kind, orientation, has_fast_decoder, monkeypatch):
    if not has_fast_decoder:
        monkeypatch.setattr(pictures, "decode_fast", lambda *arguments: None)
    picture = np.asarray(Image.fromarray(PICTURE).resize((101, 67)))
    photograph = Photograph(encoded(STORED[orientation](picture), kind, orientation, quality=100, subsampling=0))
    assert photograph.shape == picture.shape[:2]
    for most, factor in ((0.3, 1), (1.9, 1), (2, 2), (7, 4), (8, 8), (1000, 8)):
        found = photograph.reduced(most)
        assert found.factor == factor
        assert found.pixels.shape == (-(-67 // factor), -(-101 // factor), 3)
        # Each pixel is the mean of those that it covers. At the lower and right edges, it covers less.
        rows, columns = 67 // factor * factor, 101 // factor * factor
        covered = picture[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor, 3)
        if orientation == 1:
            difference_of_means = found.pixels[: rows // factor, : columns // factor] - covered.mean(axis=(1, 3))
            assert np.abs(difference_of_means).max() <= 6
        assert photograph.reduced(most).pixels is found.pixels


def test_reduced_pixels_are_those_of_pillow():
    payload = encoded(PICTURE, "JPEG", quality=80)
    for factor in (1, 2, 4, 8):
        with Image.open(io.BytesIO(payload)) as image:
            image.draft(None, (64 // factor, SIDE // factor))
            np.testing.assert_array_equal(Photograph(payload).reduced(factor).pixels, np.asarray(image))


def test_what_is_no_jpeg_file_is_decoded_whole():
    for picture in (encoded(PICTURE, "PNG"), encoded(STORED[6](PICTURE), "PNG", 6), PICTURE):
        photograph = Photograph(picture)
        assert photograph.shape == PICTURE.shape[:2]
        found = photograph.reduced(8)
        assert found.factor == 1 and difference(found.pixels, PICTURE) == 0


@pytest.mark.parametrize("most", [1, 8])
def test_a_photograph_that_ends_early_is_refused_at_every_scale(most, tmp_path):
    payload = encoded(np.random.RandomState(0).randint(0, 256, (90, 90, 3)).astype(np.uint8), "JPEG")
    photograph = Photograph(payload[: len(payload) // 2])
    with refused("truncated", kind=ImageError):
        photograph.reduced(most)
    (tmp_path / "broken.jpg").write_bytes(payload[:20])
    with refused(path=tmp_path / "broken.jpg", kind=ImageError):
        open_photograph(tmp_path / "broken.jpg")


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
    with refused("not a JPEG", path=path):
        load_picture(path, (8, 8, 3))
    with refused("int"):
        load_picture(3, (8, 8, 3))
    with refused("uint8", "float64"):
        load_picture(np.zeros((8, 8, 3)), (8, 8, 3))


def test_shapes_of_batches():
    shape = PictureShape(4, 5, 3)
    assert shape.nchw(2) == (2, 3, 4, 5) and PictureShape.from_nchw((2, 3, 4, 5)) == shape == (4, 5, 3)


FORMATS = {
    "PNG": {},
    "BMP": {},
    "PPM": {},
    "WEBP": {"lossless": True},
    "GIF": {},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {"quality": 100},
    "JPEG": {"quality": 95},
}
NEEDS = {"AVIF": features.check("avif")}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_known_by_their_content(kind, tmp_path):
    if not NEEDS.get(kind, True):
        pytest.skip("this Pillow has none")
    payload = encoded(PICTURE[..., :1].repeat(3, 2), kind, **FORMATS[kind])
    assert read_header(payload).format == kind
    assert difference(decode(payload), PICTURE[..., :1].repeat(3, 2)) <= 6
    assert usual_suffix(payload) in PICTURE_SUFFIXES
    (tmp_path / "face").write_bytes(payload)
    assert is_picture(tmp_path / "face")


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
def test_formats_with_their_own_idea_of_turning_are_turned_once(kind, orientation):
    if not NEEDS.get(kind, True):
        pytest.skip("this Pillow has none")
    assert difference(decode(encoded(STORED[orientation](PICTURE), kind, orientation)), PICTURE) <= 12


def text(length):
    """A text of so many letters, compressed."""
    found = PngImagePlugin.PngInfo()
    found.add_text("note", "x" * length, zip=True)
    return found


def heic(brand=b"heic"):
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + brand + bytes(40)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "a JPEG 2000 picture"),
        (b"8BPS\0\1" + bytes(40), "a Photoshop picture"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "not a JPEG, PNG, BMP, PPM, WebP, GIF, TIFF or AVIF picture",
        ),
        (b"", "not a JPEG"),
        (encoded(PICTURE[..., 0].astype(np.int32), "TIFF"), "16 bits per channel (mode I)"),
        (encoded(PICTURE[..., 0].astype(np.float32), "TIFF"), "16 bits per channel (mode F)"),
        (encoded(PICTURE, "PNG", pnginfo=text(2_000_000)), "text or color profile"),
        (encoded(PICTURE, "PNG", icc_profile=b"x" * 2_000_000), "text or color profile"),
        (encoded(np.zeros((10_000, 20_000), bool), "PNG"), "64,000,000 pixels"),
        (encoded(PICTURE, "TIFF", tiffinfo={254: 1}), "preview"),
        (encoded(PICTURE, "PNG")[:12] + b"text" * 9, "broken"),
    ],
)
def test_what_cannot_be_read_says_why(payload, reason):
    with refused(reason, kind=ImageError):
        decode(payload)


RAMP = np.linspace(0, 65535, 8 * 16).astype(np.uint16).reshape(8, 16)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (encoded(RAMP, "PNG"), RAMP / 257),
        (encoded(RAMP, "PPM"), RAMP / 257),
        (encoded(RAMP, "TIFF"), RAMP / 257),
        (encoded(RAMP, "TIFF", tiffinfo={262: 0}), 255 - RAMP / 257),  # 0 is white
        (Image.fromarray(RAMP), RAMP / 257),
        (Image.fromarray(RAMP.astype(">u2")), RAMP / 257),
    ],
)
def test_16_bits_are_scaled_to_8(form, expected):
    found = load_picture(form)
    assert (np.abs(found - expected[..., None]) <= 0.5).all()
    assert load_picture(form, (8, 16, 1)).shape == (8, 16, 1)


def test_12_bits_of_a_tiff_are_scaled_to_8():
    values = np.linspace(0, 4095, 8 * 16).astype(np.uint16).ravel()
    packed = b"".join(bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in values.reshape(-1, 2).tolist())
    tags = [(256, 16), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8), (279, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    found = decode(head + packed + struct.pack("<H", len(tags)) + entries + bytes(4))
    assert np.abs(found[..., 0].ravel() - values * (255 / 4095)).max() <= 0.5


@pytest.fixture
def bare(monkeypatch):
    """Pillow without added readers; those that a test adds leave with it."""
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in ("HEIF", "JXL")])
    monkeypatch.setattr(Image, "OPEN", {name: Image.OPEN[name] for name in Image.ID if name in Image.OPEN})
    names = [name for name in sys.modules if name.startswith(("pillow_heif", "pillow_jxl"))]
    kept = {name: sys.modules.pop(name) for name in names}
    yield
    sys.modules.pop("pillow_jxl", None)
    sys.modules.update(kept)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_heic_is_read_by_an_installed_package(orientation, request):
    pytest.importorskip("pillow_heif.HeifImagePlugin")
    exif = Image.Exif()
    exif[0x0112] = orientation  # written as what the format itself says of turning
    payload = encoded(STORED[orientation](PICTURE), "HEIF", exif=exif.tobytes(), quality=100)
    request.getfixturevalue("bare")
    assert difference(decode(payload), PICTURE) <= 12
    assert usual_suffix(payload) == ".heic"


JXL_READER = """
import io
from PIL import Image
READ = lambda file, name: Image.open(io.BytesIO(file.read()[2:]))
Image.register_open("JXL", READ, lambda head: head[:2] == b"\\xff\\x0a")
"""


@pytest.mark.usefixtures("bare")
def test_jpeg_xl_is_read_by_an_installed_package(monkeypatch, tmp_path):
    (tmp_path / "pillow_jxl.py").write_text(JXL_READER)
    monkeypatch.syspath_prepend(tmp_path)
    payload = b"\xff\x0a" + encoded(PICTURE, "PNG")
    np.testing.assert_array_equal(decode(payload), PICTURE)
    assert usual_suffix(payload) in PICTURE_SUFFIXES


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("payload", "package"),
    [(heic(), "pillow-heif"), (heic(b"mif1"), "pillow-heif"), (b"\xff\x0a" + bytes(40), "pillow-jxl-plugin")],
)
def test_the_package_that_is_missing_is_named(payload, package, monkeypatch):
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    with refused(f"pip install {package}", kind=ImageError):
        decode(payload)


@pytest.mark.usefixtures("bare")
def test_a_package_that_does_not_fit_is_not_blamed_on_the_picture(monkeypatch, tmp_path):
    (tmp_path / "pillow_jxl.py").write_text("raise OSError('libjxl.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    with refused("pillow-jxl-plugin", "libjxl.so: no such file", kind=ImageError):
        decode(b"\xff\x0a" + bytes(40))


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, io.BytesIO])
def test_bytes_and_open_files_are_read(form):
    np.testing.assert_array_equal(load_picture(form(encoded(PICTURE, "PNG"))), PICTURE)


def test_an_open_file_is_read_from_where_it_stands(tmp_path):
    (tmp_path / "two").write_bytes(b"header" + encoded(PICTURE, "PNG"))
    with open(tmp_path / "two", "rb") as file:
        file.seek(6)
        np.testing.assert_array_equal(load_picture(file), PICTURE)
        with refused("read already", kind=ImageError):
            load_picture(file)
    with refused("closed"):
        load_picture(file)
    with open(tmp_path / "two", encoding="latin-1") as file, refused("binary"):
        load_picture(file)


def test_other_files_are_no_pictures(tmp_path):
    for name, content in {
        "a.txt": b"BM, P5 and GIF",
        "b": b"",
        "c": b"P5 is one",
        "d.eps": b"%!PS",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert not is_picture(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    assert not is_picture(tmp_path / "pipe") and not is_picture(tmp_path) and not is_picture(tmp_path / "absent")
    assert is_picture(tmp_path / "broken.JFIF")
