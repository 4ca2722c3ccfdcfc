import io

import numpy as np
from PIL import Image

from denseface.data import fast_jpeg, pictures
from denseface.data.fast_jpeg import decode_fast
from denseface.data.pictures import ImageError, decode

SIZE = (40, 33)


def jpeg(random, gray=False, **options):
    coarse = random.randint(0, 256, (9, 9, 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC)
    file = io.BytesIO()
    (picture.convert("L") if gray else picture).save(file, "JPEG", **options)
    return file.getvalue()


def files(random):
    for quality in (5, 75, 95, 100):
        for subsampling in (0, 1, 2):
            for progressive in (False, True):
                yield jpeg(random, quality=quality, subsampling=subsampling, progressive=progressive)
    yield jpeg(random, gray=True)


def none(payload, image_shape):
    """Stands for a decoder that leaves everything to Pillow."""


def outcome(monkeypatch, decoder, payload, shape):
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "decode_fast", decoder)
        try:
            return decode(payload, shape, upright=False).tobytes()
        except ImageError as error:
            return str(error)


def test_it_decodes_the_pixels_of_pillow(monkeypatch):
    for payload in files(np.random.RandomState(0)):
        expected = outcome(monkeypatch, none, payload, (*SIZE, 3))
        found = decode_fast(payload, (*SIZE, 3))
        assert found.tobytes() == expected and not found.flags.writeable
    gray = jpeg(np.random.RandomState(1), gray=True)
    assert decode_fast(gray, (*SIZE, 1)).tobytes() == outcome(monkeypatch, none, gray, (*SIZE, 1))


def test_training_uses_it_and_a_picture_to_look_at_does_not(monkeypatch):
    payload = jpeg(np.random.RandomState(0))
    asked = []
    monkeypatch.setattr(pictures, "decode_fast", lambda *arguments: asked.append(arguments))
    decode(payload, (*SIZE, 3), upright=False)
    assert asked == [(payload, (*SIZE, 3))]
    decode(payload, (*SIZE, 3))
    decode(payload)
    assert len(asked) == 1


def test_what_is_unusual_is_left_to_pillow():
    random = np.random.RandomState(0)
    payload = jpeg(random)
    assert decode_fast(payload, (*SIZE, 3)) is not None
    file = io.BytesIO()
    Image.fromarray(random.randint(0, 256, (*SIZE, 4)).astype(np.uint8), "CMYK").save(file, "JPEG")
    for other, shape in (
        (payload, (*SIZE, 1)),
        (payload, (SIZE[1], SIZE[0], 3)),
        (payload[:-40], (*SIZE, 3)),
        (file.getvalue(), (*SIZE, 3)),
        (b"\x89PNG", (*SIZE, 3)),
        (b"", (*SIZE, 3)),
    ):
        assert decode_fast(other, shape) is None


def test_damaged_files_end_as_they_do_in_pillow(monkeypatch):
    random = np.random.RandomState(0)
    whole = [jpeg(random), jpeg(random, progressive=True), jpeg(random, gray=True)]
    decoded = 0
    for number in range(300):
        payload = bytearray(whole[number % 3])
        for _ in range(random.randint(1, 4)):
            payload[random.randint(len(payload))] = random.randint(256)
        payload = bytes(payload[: random.randint(2, len(payload)) if number % 4 == 0 else None])
        decoded += decode_fast(payload, (*SIZE, 3)) is not None
        found = outcome(monkeypatch, decode_fast, payload, (*SIZE, 3))
        assert found == outcome(monkeypatch, none, payload, (*SIZE, 3))
    assert decoded > 20


def test_without_the_package_pillow_decodes(monkeypatch):
    payload = jpeg(np.random.RandomState(0))
    expected = decode(payload, (*SIZE, 3), upright=False)
    monkeypatch.setattr(fast_jpeg, "simplejpeg", None)
    assert decode_fast(payload, (*SIZE, 3)) is None
    np.testing.assert_array_equal(decode(payload, (*SIZE, 3), upright=False), expected)
