import numpy as np
import pytest
from PIL import Image

from denseface.core.errors import InputError
from denseface.data.align import REFERENCE_POINTS
from denseface.data.cropping import Cropper
from denseface.data.landmarks import LandmarkFile
from denseface.data.pairs import read_pairs
from denseface.data.pictures import decode
from denseface.datasets.faces import Encoding
from denseface.datasets.pair_list import BuiltPairs, build_from_list, read_pair_list
from support.photos import as_line, faces_at
from support.picture_folders import face, save_face, save_people, who
from support.refusals import refused
from support.tiny_models import encode


@pytest.fixture
def images(tmp_path):
    """Two people as LFW has them, the second with pictures of several formats."""
    for person, name, suffixes in ((0, "Ann_Lee", ("jpg", "jpg", "jpg")), (1, "Bo", ("png", "JPG"))):
        for number, suffix in enumerate(suffixes, 1):
            save_face(tmp_path / "lfw" / name / f"{name}_{number:04}.{suffix}", person, number)
    return tmp_path / "lfw"


def built(out, num_genuine, num_impostor, num_omitted=0, bad=()):
    return BuiltPairs(num_genuine, num_impostor, num_omitted, list(bad), out.with_suffix(".bad.csv"))


def write(tmp_path, text):
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    return path


def test_lfw_lists_become_pairs_in_their_order(tmp_path, images):
    path = write(tmp_path, "2\t2\nAnn_Lee\t1\t3\nBo\t2\t1\nAnn_Lee\t2\tBo\t1\nBo\t2\tAnn_Lee\t3\n" + "Bo 1 2\n" * 4)
    assert build_from_list(path, tmp_path / "lfw.bin", images=images, encoding=Encoding(16)) == built(
        tmp_path / "lfw.bin", 6, 2
    )
    pairs = read_pairs(tmp_path / "lfw.bin")
    assert pairs.issame.tolist() == [True, True, False, False, True, True, True, True]
    expected = [(0, 1), (0, 3), (1, 2), (1, 1), (0, 2), (1, 1), (1, 2), (0, 3)] + [(1, 1), (1, 2)] * 4
    assert [who(image) for image in pairs.images] == expected
    assert pairs.people_of(pairs.images[:4]) == ["Ann_Lee", "Ann_Lee", "Bo", "Bo"]
    with open(images / "Ann_Lee" / "Ann_Lee_0001.jpg", "rb") as file:
        assert pairs.images[0] == file.read()  # a JPEG of the size


def test_folders_that_are_not_people_are_not_taken_for_them(tmp_path, images):
    path = write(tmp_path, "Bo 1 2\nBo/Bo_0001.png Ann_Lee/Ann_Lee_0002.jpg 1\n")
    build_from_list(path, tmp_path / "set.bin", images=images, encoding=Encoding(16))
    assert not read_pairs(tmp_path / "set.bin").people


def test_names_are_found_in_either_form_of_unicode(tmp_path):
    save_face(tmp_path / "Zoe\u0308" / "1.png", 0, 1)
    save_face(tmp_path / "Zo\u00eb B" / "1.png", 1, 1)
    path = tmp_path / "pairs.txt"
    path.write_text("Zo\u00eb/1.png\tZoe\u0308 B/1.png\t0\n", encoding="utf-8")
    assert read_pair_list(path, tmp_path).files == ["Zoe\u0308/1.png", "Zo\u00eb B/1.png"]


@pytest.mark.parametrize("heading", ["", "1\n", "1 1\n", "\n1\n\n"])
def test_a_first_line_may_say_how_many(tmp_path, images, heading):
    path = write(tmp_path, f"{heading}Bo 1 2\nBo 1 Ann_Lee 1\n")
    found = read_pair_list(path, images)
    assert found.files == ["Bo/Bo_0001.png", "Bo/Bo_0002.JPG", "Bo/Bo_0001.png", "Ann_Lee/Ann_Lee_0001.jpg"]
    assert found.issame.dtype == bool
    assert found.issame.tolist() == [True, False]
    assert found.lines == [1 + heading.count("\n"), 2 + heading.count("\n")]


def test_names_with_spaces_stand_between_tabs(tmp_path, images):
    (images / "Bo").rename(images / "Bo van Dyk")
    for number, suffix in ((1, ".png"), (2, ".JPG")):
        (images / "Bo van Dyk" / f"Bo_000{number}{suffix}").rename(
            images / f"Bo van Dyk/Bo van Dyk_000{number}{suffix}"
        )
    lines = (
        "1\t2",
        "Bo van Dyk\t1\t2",
        "Bo van Dyk\t2\tAnn_Lee\t1",
        "Bo van Dyk/Bo van Dyk_0001.png\tAnn_Lee/Ann_Lee_0002\t 0",
        "Ann_Lee 1 3",
    )
    found = read_pair_list(write(tmp_path, "\r\n".join(lines)), images)
    first, second = "Bo van Dyk/Bo van Dyk_0001.png", "Bo van Dyk/Bo van Dyk_0002.JPG"
    ann = [f"Ann_Lee/Ann_Lee_000{number}.jpg" for number in (1, 2, 3)]
    assert found.files == [first, second, second, ann[0], first, ann[1], ann[0], ann[2]]
    assert found.issame.tolist() == [True, False, False, True]


@pytest.mark.parametrize("line", ["Bo van Dyk 1 2", "Bo van\tDyk 1 2", "a b.png c.png 1", "Ann_Lee 1\t2"])
def test_a_line_that_needs_tabs_says_so(tmp_path, images, line):
    path = write(tmp_path, line)
    with refused("line 1", "tabs", path=path):
        read_pair_list(path, images)


def test_a_byte_order_mark_is_not_part_of_a_name(tmp_path, images):
    for text in ("Bo 1 2\n", "1\nBo 1 2\nBo 1 Ann_Lee 1\n"):
        path = write(tmp_path, text)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert read_pair_list(path, images).files[:2] == ["Bo/Bo_0001.png", "Bo/Bo_0002.JPG"]
    path.write_bytes("Bo 1 2\n".encode("utf-16"))
    with refused("UTF-16", path=path):
        read_pair_list(path, images)


@pytest.mark.parametrize("name", ["Bo_0003.jfif", "Bo_0003.tif", "Bo_0003"])
def test_a_path_may_have_any_suffix(tmp_path, images, name):
    save_face(images / "Bo" / name, 1, 3, format="PNG")
    found = read_pair_list(write(tmp_path, f"Bo/{name} Bo/Bo_0001.png 1"), images)
    assert found.files == [f"Bo/{name}", "Bo/Bo_0001.png"]


def test_a_list_that_was_cut_off_is_noticed(tmp_path, images):
    path = write(tmp_path, "10 300\nBo 1 2\n")
    with refused("6000 pairs", 1, path=path):
        read_pair_list(path, images)


def test_lists_of_paths_are_relative_to_their_folder(tmp_path):
    save_people(tmp_path / "p", [2, 1])
    path = write(tmp_path, f"p/p00/01.png ./p/p00//02.png 1\n{tmp_path}/p/p01/01.png p/p00/../p00/02 0\n")
    assert build_from_list(path, tmp_path / "a.bin", encoding=Encoding(16)) == built(tmp_path / "a.bin", 1, 1)
    assert [who(image) for image in read_pairs(tmp_path / "a.bin").images] == [(0, 1), (0, 2), (1, 1), (0, 2)]


def test_landmarks_and_processes(tmp_path):
    save_people(tmp_path, [2, 1], size=40)
    path = write(tmp_path, "p00/01.png p00/02.png 1\np00/01.png p01/01.png 0\n")
    points = REFERENCE_POINTS * (40 / 112)
    lines = [as_line(f"p0{person}/0{number}.png", points) for person in (0, 1) for number in (1, 2)]
    (tmp_path / "landmarks.txt").write_text("".join(lines))
    crop = Cropper(landmarks=LandmarkFile(tmp_path / "landmarks.txt"))
    build_from_list(path, tmp_path / "1.bin", encoding=Encoding(crop=crop))
    assert [who(image) for image in read_pairs(tmp_path / "1.bin").images] == [(0, 1), (0, 2), (0, 1), (1, 1)]
    with pytest.raises(InputError) as caught:
        build_from_list(path, tmp_path / "2.bin", encoding=Encoding(crop=crop, processes=0))
    assert caught.value.option == "processes"
    (tmp_path / "landmarks.txt").write_text("".join(lines[:2]))
    crop = Cropper(landmarks=LandmarkFile(tmp_path / "landmarks.txt"))
    with refused("impostor", "line 2: p01/01.png", tmp_path / "landmarks.txt", path=path):
        build_from_list(path, tmp_path / "3.bin", encoding=Encoding(crop=crop))
    assert not (tmp_path / "3.bin").exists()


def test_progress_counts_different_pictures(tmp_path, images):
    seen = []
    path = write(tmp_path, "Bo 1 2\nBo 2 1\nBo 1 Ann_Lee 1\n")
    build_from_list(
        path, tmp_path / "a.bin", images=images, encoding=Encoding(16), on_progress=lambda *counts: seen.append(counts)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("Bo 1 9", ["no picture Bo/Bo_0009"]),
        ("Bo 1 Cy 1", ["no picture Cy/Cy_0001"]),
        ("Bo/Bo_0001.png Bo/Bo_0003.png 1", ["no picture Bo/Bo_0003.png"]),
        ("Bo/Bo_0001.png ../secret.png 1", ["../secret.png", "outside"]),
        ("Bo/Bo_0001.png Bo/../../secret 1", ["Bo/../../secret", "outside"]),
        ("/etc/passwd Bo/Bo_0001.png 1", ["/etc/passwd", "outside"]),
        ("../secret 1 2", ["outside"]),
        ("Bo/link.png Bo/Bo_0001.png 1", ["Bo/link.png", "outside"]),
        ("away/secret.png Bo/Bo_0001.png 1", ["away/secret.png", "outside"]),
        ("Bo/\0.png Bo/Bo_0001.png 1", ["no picture"]),
        (f"{'x' * 300}.png Bo/Bo_0001.png 1", ["no picture"]),
        ("Bo", ["PATH1 PATH2 0|1"]),
        ("Bo 1 x", ["PATH1 PATH2 0|1"]),
        ("a.png b.png 2", ["PATH1 PATH2 0|1"]),
        ("Bo 1 Bo x", ["PATH1 PATH2 0|1"]),
        ("Bo 1 Bo 2 3", ["PATH1 PATH2 0|1"]),
    ],
)
def test_a_bad_line_is_named(tmp_path, images, line, facts):
    save_face(tmp_path / "secret.png", 0, 0)
    (images / "Bo" / "link.png").symlink_to(tmp_path / "secret.png")
    (images / "away").symlink_to(tmp_path)
    path = write(tmp_path, f"Bo 1 2\n\n{line}\n")
    with refused("line 3", *facts, path=path):
        build_from_list(path, tmp_path / "a.bin", images=images)
    assert not (tmp_path / "a.bin").exists()


def test_the_number_of_bad_lines_is_said(tmp_path, images):
    path = write(tmp_path, "Bo 1 2\nBo 1 7\nBo 1 8\nBo 9 1\n")
    with refused("line 2", "Bo/Bo_0007", "2 more", path=path):
        read_pair_list(path, images)


def test_a_broken_picture_is_named(tmp_path, images):
    (images / "Bo" / "Bo_0002.JPG").write_bytes(b"broken")
    path = write(tmp_path, "Bo 1 Ann_Lee 2\nBo 1 2\n")
    with refused("genuine", "line 2: Bo/Bo_0002.JPG", "not a JPEG", path=path):
        build_from_list(path, tmp_path / "a.bin", images=images, encoding=Encoding(16))
    assert not list(tmp_path.glob("a.*"))


def test_files_that_cannot_be_used_are_named(tmp_path, images):
    path = write(tmp_path, "\n")
    with refused("no pair", path=path):
        read_pair_list(path, images)
    with refused("not a folder", path=tmp_path / "absent"):
        read_pair_list(write(tmp_path, "Bo 1 2\n"), tmp_path / "absent")
    with refused(path=tmp_path / "absent.txt", cause=FileNotFoundError):
        read_pair_list(tmp_path / "absent.txt", images)
    with refused(".bin", path=path):
        build_from_list(path, path, images=images)
    (tmp_path / "noise.txt").write_bytes(np.random.RandomState(0).bytes(1000))
    with refused("line 1", "PATH1 PATH2 0|1", path=tmp_path / "noise.txt"):
        read_pair_list(tmp_path / "noise.txt", images)


@pytest.fixture
def group(tmp_path):
    """Photographs of 60 x 60, and a detector that finds none of the third, and two faces in the first of Bo."""
    save_face(tmp_path / "Ann" / "Ann_0001.png", 0, 1, size=60)
    save_face(tmp_path / "Ann" / "Ann_0002.png", 0, 2, size=60)
    save_face(tmp_path / "Ann" / "Ann_0003.png", 0, 3, size=60)
    save_face(tmp_path / "Bo" / "Bo_0001.png", 1, 1, size=60)

    def detector(picture):
        person, number = who(encode(picture))
        return faces_at(*[(2, 2), (28, 28)][: 0 if number == 3 else 1 + person])

    return Encoding(16, crop=Cropper(detector=detector, face=None))


LIST = "1 2\nAnn 1 2\nAnn 2 3\nAnn 1 Bo 1\nAnn 2 Bo 1\n"


def test_all_pictures_that_cannot_be_cut_are_listed_at_once(tmp_path, group):
    path = write(tmp_path, LIST.replace("1 2\n", "1 3\n", 1) + "Bo 1 1\nAnn/Ann_0001 Ann/Ann_0002 0\n")
    made = build_from_list(path, tmp_path / "a.bin", encoding=group)
    assert (made.num_genuine, made.num_impostor, made.num_omitted) == (1, 1, 4)
    assert [(face.file, face.kind, face.remedy, face.payload) for face in made.bad] == [
        ("Ann/Ann_0003.png", "no face found", "landmarks", None),
        ("Bo/Bo_0001.png", "several faces", "face", None),
    ]
    assert [line.split(",")[0] for line in made.bad_file.read_text().splitlines()] == [
        "file", "Ann/Ann_0003.png", "Bo/Bo_0001.png",
    ]  # fmt: skip
    pairs = read_pairs(tmp_path / "a.bin")
    assert pairs.images[:2] == pairs.images[2:] and pairs.issame.tolist() == [True, False] and not pairs.failed.any()
    build_from_list(write(tmp_path, "Ann 1 2\n"), tmp_path / "a.bin", encoding=group)
    assert not made.bad_file.exists()


def test_the_middle_of_a_picture_may_stand_for_a_face(tmp_path, group):
    made = build_from_list(write(tmp_path, LIST), tmp_path / "a.bin", encoding=group, unfound="center")
    assert (made.num_genuine, made.num_impostor, made.num_omitted, len(made.bad)) == (2, 2, 0, 2)
    images = read_pairs(tmp_path / "a.bin").images
    middle = np.asarray(Image.fromarray(face(0, 3, 60)[15:45, 15:45]).resize((16, 16), Image.Resampling.BILINEAR))
    assert np.abs(decode(images[3]).astype(int) - middle).mean() < 5
    (tmp_path / "Bo" / "Bo_0001.png").write_bytes(b"broken")
    with refused("impostor", path=tmp_path / "pairs.txt"):
        build_from_list(write(tmp_path, LIST), tmp_path / "b.bin", encoding=group, unfound="center")


def test_a_failure_to_enroll_is_kept_and_known(tmp_path, group):
    (tmp_path / "Ann" / "Ann_0003.png").write_bytes(b"broken")
    made = build_from_list(write(tmp_path, LIST), tmp_path / "a.bin", encoding=group, unfound="fail")
    assert (made.num_genuine, made.num_impostor, made.num_omitted, len(made.bad)) == (2, 2, 0, 2)
    pairs = read_pairs(tmp_path / "a.bin")
    assert pairs.failed.tolist() == [False, True, True, True]
    assert decode(pairs.images[3]).shape == (16, 16, 3) and not decode(pairs.images[3]).any()
    assert pairs.people_of(pairs.images) == ["Ann", "Ann", "Ann", "Ann", "Ann", "Bo", "Ann", "Bo"]
    with pytest.raises(InputError) as caught:
        build_from_list(write(tmp_path, LIST), tmp_path / "a.bin", unfound="guess")
    assert caught.value.option == "unfound"


def test_a_list_without_folds_is_spread_over_them(tmp_path, images):
    """As LFW's lists for development are: all genuine pairs, then all impostor pairs."""
    genuine = [f"Ann_Lee\t{a}\t{b}" for a in (1, 2, 3) for b in (1, 2, 3)] + ["Bo\t1\t2"]
    impostor = [f"Ann_Lee\t{a}\tBo\t{b}" for a in (1, 2, 3) for b in (1, 2)] + ["Bo\t1\tAnn_Lee\t1"] * 4
    path = write(tmp_path, "\n".join(["10", *genuine, *impostor]))
    assert not read_pair_list(path, images).has_folds
    build_from_list(path, tmp_path / "a.bin", images=images, encoding=Encoding(16))
    pairs = read_pairs(tmp_path / "a.bin")
    assert [fold.sum() for fold in np.split(pairs.issame, 10)] == [1] * 10
    seen = np.array([who(image) for image in pairs.images]).reshape(-1, 2, 2)
    assert seen[pairs.issame][:4].tolist() == [[[0, 1], [0, b]] for b in (1, 2, 3)] + [[[0, 2], [0, 1]]]
    assert seen[~pairs.issame][:3].tolist() == [[[0, 1], [1, 1]], [[0, 1], [1, 2]], [[0, 2], [1, 1]]]
    path = write(tmp_path, "\n".join(["1\t10", *genuine, *impostor]))
    assert read_pair_list(path, images).has_folds
    build_from_list(path, tmp_path / "a.bin", images=images, encoding=Encoding(16))
    assert read_pairs(tmp_path / "a.bin").issame.tolist() == [True] * 10 + [False] * 10


def test_accents_may_be_composed_in_either_way(tmp_path):
    save_face(tmp_path / "Zoe\u0308" / "1.png", 0, 1)
    save_face(tmp_path / "Ren\u00e9" / "1.png", 1, 1)
    path = write(tmp_path, "Zo\u00eb/1.png Rene\u0301/1 0\n")
    assert read_pair_list(path, tmp_path).files == ["Zoe\u0308/1.png", "Ren\u00e9/1.png"]
