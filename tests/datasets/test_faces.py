import io

import numpy as np
import pytest
from PIL import Image

from denseface.core.errors import InputError
from denseface.data.align import REFERENCE_POINTS, align
from denseface.data.cropping import Cropper
from denseface.data.landmarks import LandmarkFile, Located
from denseface.data.pictures import Header, read_header
from denseface.datasets.faces import Encoding, Face, encode_face, encode_faces
from support.photos import as_line, faces_at, group
from support.photos import face as smooth_face
from support.picture_folders import contents, face, save_face, save_people, who

ALIGNED = Cropper(aligned=True)


def encode(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def decode(payload):
    with Image.open(io.BytesIO(payload)) as image:
        assert image.format == "JPEG"
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "WEBP", "JPEG"])
def test_any_format_becomes_a_jpeg_of_the_size(kind):
    picture = decode(encode_face(encode(face(4, 7, 40), kind), Encoding(24, crop=ALIGNED)))
    assert picture.shape == (24, 24, 3)
    assert np.abs(picture - np.asarray(Image.fromarray(face(4, 7, 40)).resize((24, 24)))).max() < 30
    assert who(encode_face(encode(face(4, 7, 40), kind), Encoding(24, crop=ALIGNED))) == (4, 7)


def test_gray_pictures_get_three_channels():
    payload = encode(np.full((9, 7), 90, np.uint8))
    assert np.abs(decode(encode_face(payload, Encoding(16, crop=ALIGNED))) - 90).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_that_is_ready_keeps_its_bytes(mode):
    payload = encode(Image.fromarray(face(1, 2, 16)).convert(mode), "JPEG", quality=50)
    assert encode_face(payload, Encoding(16)) is payload


@pytest.mark.parametrize(
    "payload",
    [
        encode(face(1, 2, 16)),
        encode(face(1, 2, 18), "JPEG"),
        encode(Image.fromarray(face(1, 2, 16)).convert("CMYK"), "JPEG"),
    ],
)
def test_any_other_picture_is_encoded_anew(payload):
    assert encode_face(payload, Encoding(16, crop=ALIGNED)) != payload
    with Image.open(io.BytesIO(encode_face(payload, Encoding(16, crop=ALIGNED)))) as image:
        assert (image.size, image.mode) == ((16, 16), "RGB")


def test_quality_counts():
    payload = encode(np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.uint8))
    assert len(encode_face(payload, Encoding(16, 10))) < len(encode_face(payload, Encoding(16, 95)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_camera_is_turned_back(orientation):
    upright = np.kron(np.array([[10, 80], [160, 240]], np.uint8), np.ones((8, 8), np.uint8))
    # What EXIF calls row 0 and column 0 of each orientation, as the way back from the upright picture.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encode_face(encode(np.ascontiguousarray(stored), "JPEG", exif=exif, quality=95), Encoding(16)))
    assert np.abs(found.reshape(16, 16, -1)[:, :, 0] - upright).max() <= 3


def test_broken_exif_data_are_no_broken_picture(tmp_path, recwarn):
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = encode(face(1, 2, 16), "JPEG", exif=exif)
    place = payload.find(b"Exif\0\0")
    broken = payload[:place] + b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + payload[place + 16 :]
    (tmp_path / "a.jpg").write_bytes(broken)
    assert list(encode_faces(tmp_path, ["a.jpg"], Encoding(16))) == [Face("a.jpg", broken, None)]
    assert not recwarn


def located(points):
    return Located(faces_at((0, 0))._replace(landmarks=points[None]), None)


def test_landmarks_align_the_face():
    picture = np.random.RandomState(0).randint(0, 256, (60, 50, 3)).astype(np.uint8)
    picture = np.asarray(Image.fromarray(picture[:6, :5]).resize((50, 60)))
    points = REFERENCE_POINTS * 0.4 + [1, 3]
    found = decode(encode_face(encode(picture), Encoding(32), located=located(points)))
    assert np.abs(found - align(picture, points, 32)).mean() < 6
    ready = encode(picture[:32, :32], "JPEG")
    assert encode_face(ready, Encoding(32), located=located(REFERENCE_POINTS * 0.25)) != ready


def test_the_face_in_a_photograph_is_cut_out():
    crop = Cropper(detector=lambda picture: faces_at((60, 30)), face=None)
    found = decode(encode_face(encode(group((60, 30))), Encoding(32, crop=crop)))
    assert np.abs(found - smooth_face(0)).mean() < 6


def test_a_group_is_refused_unless_a_face_is_chosen(tmp_path):
    (tmp_path / "group.png").write_bytes(encode(group((10, 5), (80, 5))))
    for choice, reason in ((None, "2 faces are in it; choose one (option face)"), ("largest", None)):
        crop = Cropper(detector=lambda picture: faces_at((10, 5), (80, 5)), face=choice)
        (found,) = encode_faces(tmp_path, ["group.png"], Encoding(32, crop=crop))
        assert found.reason == reason
    with pytest.raises(InputError) as caught:
        Encoding(crop=Cropper(face="all"))
    assert caught.value.option == "face"


@pytest.mark.parametrize("payload", [b"", b"text", encode(face(1, 1), "JPEG")[:-200], encode(face(1, 1), "JPEG2000")])
def test_broken_pictures_are_refused(payload):
    with pytest.raises(InputError):
        encode_face(payload)


def test_headers_are_read_without_pixels():
    assert read_header(encode(np.zeros((5, 9), np.uint8))[:60]) == Header("PNG", "L", 9, 5)


def test_files_come_in_order_with_what_is_wrong(tmp_path):
    save_face(tmp_path / "a" / "1.png", 3, 1)
    save_face(tmp_path / "b.jpg", 2, 2)
    (tmp_path / "c.png").write_bytes(b"broken")
    found = list(encode_faces(tmp_path, ["b.jpg", "c.png", "absent.png", "a/1.png"], Encoding(16)))
    assert [item.file for item in found] == ["b.jpg", "c.png", "absent.png", "a/1.png"]
    assert found[0] == Face("b.jpg", contents(tmp_path)["b.jpg"], None)
    assert found[1].payload is None and found[1].reason.startswith("not a JPEG, PNG, BMP")
    assert found[2].payload is None and found[2].reason.startswith("it cannot be read")
    assert who(found[3].payload) == (3, 1)


@pytest.mark.parametrize("processes", [1, 2])
def test_files_without_landmarks_are_named(tmp_path, processes):
    save_people(tmp_path, [3], size=112)
    lines = as_line("p00/01.png", REFERENCE_POINTS), as_line("p00/02.png", REFERENCE_POINTS[[0, 1, 2, 4, 3]])
    (tmp_path / "landmarks.txt").write_text("".join(lines))
    crop = Cropper(landmarks=LandmarkFile(tmp_path / "landmarks.txt"))
    files = ["p00/01.png", "p00/02.png", "p00/03.png"]
    found = list(encode_faces(tmp_path, files, Encoding(crop=crop, processes=processes)))
    assert who(found[0].payload) == (0, 1)
    assert "seem to have the corners of the mouth exchanged" in found[1].reason
    assert found[2].reason == f"no landmarks of it are in {tmp_path}/landmarks.txt"


@pytest.mark.parametrize("options", [{"size": 7}, {"size": 1025}, {"quality": 0}, {"quality": 96}, {"processes": 0}])
def test_options_out_of_range_are_refused(tmp_path, options):
    (name,) = options
    with pytest.raises(InputError) as caught:
        list(encode_faces(tmp_path, [], Encoding(**options)))
    assert caught.value.option == name
