"""Embeddings of other programs become galleries, if they are those of the model."""

import json
import os
import zipfile

import numpy as np
import pytest

from denseface.cli import main
from denseface.data.faces import PictureError
from denseface.data.sources import Sources
from denseface.embedding.embedder import Embedder
from denseface.galleries.gallery import Gallery
from denseface.galleries.importing import import_gallery
from support.refusals import refused
from support.tiny_models import TINY_SHAPE, encode, pictures, save_model, tiny_model

COUNT = 7


@pytest.fixture(scope="module")
def embedder():
    return Embedder(tiny_model(), image_shape=TINY_SHAPE, batch_size=4)


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures, and the other program's embeddings of them."""
    folder = tmp_path / "photos"
    for number, picture in enumerate(pictures(COUNT)):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture))
    return folder


@pytest.fixture
def names(photos):
    return [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.png"))]


@pytest.fixture
def stored(photos, names, embedder):
    """Not normalized, and of double precision."""
    batch = np.stack([pictures(COUNT)[int(name[2:-4])] for name in names]).transpose(0, 3, 1, 2).astype(np.float32)
    return embedder.compute(batch).summed.astype(np.float64) * 3


@pytest.fixture
def imported(tmp_path, embedder, photos):
    """Import rows and names, which tests change before."""

    def run(rows, names, check=True, **options):
        np.save(tmp_path / "old.npy", rows)
        (tmp_path / "old.txt").write_text("".join(f"{name}\n" for name in names))
        paths = tmp_path / "old.npy", tmp_path / "old.txt", tmp_path / "new.npz"
        if not check:
            return import_gallery(*paths, embedder, **options)
        with Sources([photos]) as sources:
            return import_gallery(*paths, embedder, pictures=sources, **options)

    return run


@pytest.mark.parametrize(("kind", "order"), [("<f8", "C"), (">f4", "F"), ("<f2", "C")])
def test_a_gallery_is_searched_with_the_model_as_before(
    imported, stored, names, embedder, photos, tmp_path, kind, order
):
    found = imported(stored.astype(kind, order=order), names)
    assert found[:3] == (COUNT, 8, COUNT) and found.agreement > 0.9999
    gallery = Gallery(tmp_path / "new.npz")
    gallery.require_same(embedder.describe())
    assert (gallery.model["engine"], gallery.model["checked"]) == ("imported", COUNT)
    (best,) = gallery.search(embedder.embed(str(photos / names[3])), 1)[0]
    assert best.name == names[3] and best.score == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("made", [np.savez, np.savez_compressed])
def test_an_archive_of_one_array_is_read(tmp_path, embedder, stored, names, made):
    (tmp_path / "names.txt").write_text("\n".join(names))
    made(tmp_path / "one.npz", stored)
    assert import_gallery(tmp_path / "one.npz", tmp_path / "names.txt", tmp_path / "a.npz", embedder).embedded == COUNT
    made(tmp_path / "two.npz", stored, stored)
    with refused("2 arrays", path=tmp_path / "two.npz"):
        import_gallery(tmp_path / "two.npz", tmp_path / "names.txt", tmp_path / "b.npz", embedder)


@pytest.mark.parametrize(
    "changed",
    [
        lambda name, photos: name.removesuffix(".png"),
        lambda name, photos: f"{photos}/{name}",
        lambda name, photos: f"{photos}/{name}".removesuffix(".png"),
    ],
)
def test_names_are_paths_with_or_without_folder_and_suffix(imported, stored, names, photos, changed):
    assert imported(stored, [changed(name, photos) for name in names]).checked == COUNT


def test_a_single_picture_is_known_by_its_file_name(tmp_path, embedder, stored, names, photos):
    np.save(tmp_path / "a.npy", stored[:1])
    (tmp_path / "a.txt").write_text("0\n")
    with Sources([photos / names[0], photos / names[1]]) as sources:
        found = import_gallery(tmp_path / "a.npy", tmp_path / "a.txt", tmp_path / "a.npz", embedder, pictures=sources)
    assert found.checked == 1


def test_embeddings_without_mirror_images_are_said_to_be(imported, photos, names, embedder, tmp_path):
    batch = np.stack([pictures(COUNT)[int(name[2:-4])] for name in names]).transpose(0, 3, 1, 2).astype(np.float32)
    plain = embedder.compute(batch).plain
    with refused("without mirror images all agree", path=tmp_path / "old.npy"):
        imported(plain, names)
    assert imported(plain, names, flip=False).agreement > 0.9999
    assert Gallery(tmp_path / "new.npz").model["flip"] is False


def test_embeddings_of_another_model_are_refused_with_the_number(imported, stored, names, tmp_path):
    with refused("tiny,1", "another model", path=tmp_path / "old.npy"):
        imported(np.roll(stored, 1, axis=1), names)
    swapped = stored.copy()
    swapped[[2, 3]] = swapped[[3, 2]]
    with refused(names[2], path=tmp_path / "old.npy"):
        imported(swapped, names)
    assert not (tmp_path / "new.npz").exists()


def test_pictures_without_names_are_no_check(imported, stored, names, tmp_path):
    with refused("no name", path=tmp_path / "old.npy"):
        imported(stored, [f"x{number}" for number in range(COUNT)])


def test_a_picture_that_cannot_be_read_is_named(imported, stored, names, photos):
    (photos / names[1]).write_bytes(b"nothing")
    with refused("not a JPEG", kind=PictureError) as caught:
        imported(stored, names)
    assert caught.value.name == str(photos / names[1])


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "not finite"), (np.inf, "not finite"), (0, "all zeros")])
@pytest.mark.parametrize("check", [True, False])
def test_rows_that_are_no_embeddings_are_named(imported, stored, names, value, reason, check, tmp_path):
    stored[4] = value
    with refused("row 4", names[4], reason, path=tmp_path / "old.npy"):
        imported(stored, names, check)
    assert not (tmp_path / "new.npz").exists()


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (lambda names: names[1:], ["6 names", "7 embeddings"]),
        (lambda names: [*names[:-1], names[0]], ["line 7", "a/0.png", "line 1"]),
        (lambda names: ["", *names[1:]], ["line 1"]),
        (lambda names: [names[0], f"{names[0]}\0", *names[2:]], ["line 2", "null"]),  # which ends a name in the gallery
        (lambda names: [*names[:2], "x" * 5000, *names[3:]], ["line 3", "4,096"]),
    ],
)
def test_names_that_do_not_fit_are_refused(imported, stored, names, change, facts, tmp_path):
    with refused(*facts, path=tmp_path / "old.txt"):
        imported(stored, change(names))


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((7, 9)),
        np.zeros(7),
        np.zeros((7, 8), np.int8),
        np.array([object()] * 7),
        np.zeros((0, 8)),
        np.zeros((7, 8), complex),
    ],
)
def test_arrays_that_are_no_embeddings_are_refused(imported, names, rows, tmp_path):
    with refused(path=tmp_path / "old.npy"):
        imported(rows, names, check=False)


def test_broken_files_are_refused(tmp_path, embedder, stored, names):
    (tmp_path / "names.txt").write_text("\n".join(names))
    np.save(tmp_path / "whole.npy", stored)
    whole = (tmp_path / "whole.npy").read_bytes()
    archive = tmp_path / "text.npz"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("a.txt", "hello")
    contents = [b"", b"PK", b"nothing", whole[:-1], whole[:40], archive.read_bytes()]
    for content in contents:
        (tmp_path / "broken").write_bytes(content)
        with refused(path=tmp_path / "broken"):
            import_gallery(tmp_path / "broken", tmp_path / "names.txt", tmp_path / "new.npz", embedder)
    with refused(path=tmp_path / "absent.npy", cause=FileNotFoundError):
        import_gallery(tmp_path / "absent.npy", tmp_path / "names.txt", tmp_path / "new.npz", embedder)


def test_an_array_that_becomes_shorter_is_told(tmp_path, embedder):
    count, path = 20_000, tmp_path / "old.npy"
    np.save(path, np.ones((count, 8), np.float32))
    (tmp_path / "old.txt").write_text("".join(f"{number}\n" for number in range(count)))
    with refused("shorter", path=path):
        import_gallery(
            path, tmp_path / "old.txt", tmp_path / "new.npz", embedder, on_written=lambda _: os.truncate(path, 4096)
        )
    assert not (tmp_path / "new.npz").exists()


def test_the_command_says_what_was_checked(tmp_path, capsys, stored, names, photos):
    save_model(tiny_model(), tmp_path / "model")
    np.save(tmp_path / "old.npy", stored)
    (tmp_path / "old.txt").write_text("\n".join(names))
    command = ["gallery", "import", tmp_path / "old.npy", "--names", tmp_path / "old.txt", "-o", tmp_path / "new.npz"]
    command += ["--model", tmp_path / "model", "--image-size", "16,16"]
    assert main([*map(str, command), "--check", str(photos)]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (
        f"{tmp_path}/new.npz: 7 embeddings of 8 values, 7 pictures checked, cosines from 1.0000\n",
        "",
    )
    assert main([*map(str, command)]) == 0
    assert "nothing was checked" in capsys.readouterr().err
    assert main(["search", str(tmp_path / "new.npz"), str(photos / names[0]), *map(str, command[-4:]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["found"][0]["name"] == names[0]
