import dataclasses
import json
import logging
import os
import shutil

import numpy as np
import pytest

from denseface.data.faces import PictureError
from denseface.data.sources import Sources
from denseface.embedding.embedder import Embedder
from denseface.galleries.bulk import embed_all
from support.refusals import refused
from support.tiny_models import TINY_SHAPE, encode, pictures, tiny_model

COUNT = 21


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for i, picture in enumerate(pictures(COUNT)):
        (folder / f"{i:03d}.png").write_bytes(encode(picture))
    return folder


@pytest.fixture(scope="module")
def embedder():
    return counting(Embedder(tiny_model(), engine="mxnet", batch_size=4, image_shape=TINY_SHAPE))


def counting(embedder):
    """Let it say how many pictures it has computed, and die when it is told to."""
    original, embedder.computed, embedder.die_after = embedder.compute, 0, None

    def compute(batch):
        if embedder.die_after is not None and embedder.computed >= embedder.die_after:
            raise Killed
        embedder.computed += len(batch)
        return original(batch)

    embedder.compute = compute
    return embedder


def run(embedder, folder, out, die_after=None, **options):
    """Counts of a run, or None if it was killed; and how many pictures it computed."""
    embedder.computed, embedder.die_after = 0, die_after
    with Sources([folder]) as sources:
        try:
            return embed_all(embedder, sources, out, **options), embedder.computed
        except Killed:
            return None, embedder.computed


def content(out):
    with np.load(out) as file:
        return file["embeddings"], file["names"].tolist(), json.loads(str(file["model"]))


def test_every_picture_is_embedded_in_order(embedder, faces, tmp_path):
    out = tmp_path / "new" / "out.npz"
    done = []
    counts, computed = run(embedder, faces, out, on_progress=done.append)
    assert dataclasses.astuple(counts) == (COUNT, 0, 0, 0)
    assert computed == sum(done) == COUNT
    embeddings, names, model = content(out)
    np.testing.assert_array_equal(
        embeddings, Embedder(tiny_model(), engine="mxnet", image_shape=TINY_SHAPE).embed(pictures(COUNT))
    )
    assert names == [f"{faces}/{i:03d}.png" for i in range(COUNT)]
    assert model == {**embedder.describe(), "roots": [str(faces)]}
    assert {
        **embedder.fingerprint,
        "engine": "mxnet",
        "precision": "float32",
        "flip": True,
        "normalize": True,
    }.items() <= (model.items())
    assert model["image_shape"] == [16, 16, 3]
    assert [path.name for path in out.parent.iterdir()] == ["out.npz"]


def test_a_killed_run_goes_on_without_computing_anything_twice(embedder, faces, tmp_path):
    whole, out = tmp_path / "whole.npz", tmp_path / "out.npz"
    run(embedder, faces, whole)
    total = 0
    for die_after in (4, 8):
        counts, computed = run(embedder, faces, out, die_after)
        assert counts is None
        assert not out.exists()
        total += computed
    counts, computed = run(embedder, faces, out)
    assert total + computed == COUNT
    assert dataclasses.astuple(counts) == (COUNT, 0, total, 0)
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.npz.partial").exists()


def test_a_pipe_and_an_impossible_name_are_skipped(embedder, faces, tmp_path, caplog):
    os.mkfifo(faces / "pipe.png")
    (tmp_path / "list.txt").write_text(f"{faces}/000.png\n{faces}/pipe.png\na\0b.png\n")
    counts, _ = run(embedder, tmp_path / "list.txt", tmp_path / "out.npz")
    assert dataclasses.astuple(counts) == (1, 2, 0, 0)
    assert "pipe.png: is a pipe or a device" in caplog.text and "null byte" in caplog.text


def test_an_interrupt_says_how_to_go_on(embedder, faces, tmp_path, caplog):
    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(embedder, faces, tmp_path / "out.npz", on_progress=interrupt)
    assert "out.npz: interrupted; the same command resumes after 4 pictures" in caplog.text
    counts, _ = run(embedder, faces, tmp_path / "out.npz")
    assert counts.taken_over == 4


@pytest.mark.parametrize("damage", ["half a line", "half a row", "flipped bit", "no row", "noise", "another model"])
def test_only_what_is_whole_is_taken_over(embedder, faces, tmp_path, damage):
    whole, out = tmp_path / "whole.npz", tmp_path / "out.npz"
    run(embedder, faces, whole)
    run(embedder, faces, out, die_after=12)
    rows, log = (tmp_path / "out.npz.partial" / name for name in ("rows", "log"))
    contents = {path: path.read_bytes() for path in (rows, log)}
    lines = contents[log].splitlines(keepends=True)
    row = len(contents[rows]) // 12
    expected = 12
    if damage == "half a line":
        log.write_bytes(contents[log][:-9])
        expected = 8
    elif damage == "half a row":
        rows.write_bytes(contents[rows][: -row - 3])
        expected = 8
    elif damage == "flipped bit":
        changed = bytearray(contents[rows])
        changed[5 * row] ^= 1
        rows.write_bytes(changed)
        expected = 4
    elif damage == "no row":
        rows.unlink()
        expected = 0
    elif damage == "noise":
        log.write_bytes(b"".join(lines[:4]) + b"\xff\x00\n" + b"".join(lines[4:]))
        expected = 0
    else:
        log.write_bytes(lines[0].replace(b'"epoch": 1', b'"epoch": 2') + b"".join(lines[1:]))
        expected = 0
    counts, _ = run(embedder, faces, out)
    assert counts.taken_over == expected
    assert out.read_bytes() == whole.read_bytes()


def test_changed_pictures_are_computed_anew(embedder, faces, tmp_path):
    out = tmp_path / "out.npz"
    run(embedder, faces, out, die_after=16)
    (faces / "006.png").write_bytes(encode(pictures(1, seed=9)[0]))
    (faces / "010.png").unlink()
    counts, _ = run(embedder, faces, out)
    assert dataclasses.astuple(counts) == (COUNT - 1, 0, 4, 0)
    embeddings, names, _ = content(out)
    np.testing.assert_array_equal(embeddings[6], embedder.embed(pictures(1, seed=9))[0])
    assert names == [str(path) for path in sorted(faces.iterdir())]


def test_fewer_pictures_than_before(embedder, faces, tmp_path):
    out = tmp_path / "out.npz"
    run(embedder, faces, out, die_after=16)
    for i in range(3, COUNT):
        (faces / f"{i:03d}.png").unlink()
    counts, computed = run(embedder, faces, out)
    assert (dataclasses.astuple(counts), computed) == ((3, 0, 3, 0), 0)
    assert len(content(out)[0]) == 3


def test_broken_pictures_are_named_and_skipped(embedder, faces, tmp_path, caplog):
    out = tmp_path / "out.npz"
    for i in (0, 1, 2, 3, 9, 20):  # one whole batch, and the last
        (faces / f"{i:03d}.png").write_bytes(b"broken")
    run(embedder, faces, out, die_after=11)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "denseface"):
        counts, _ = run(embedder, faces, out)
    assert dataclasses.astuple(counts) == (15, 6, 16, 0)
    named = [record.getMessage() for record in caplog.records]
    assert [message.split(":")[1].strip() for message in named] == [f"{faces}/{i:03d}.png" for i in (0, 1, 2, 3, 9, 20)]
    assert "not a JPEG" in named[-1]
    good = [i for i in range(COUNT) if i not in (0, 1, 2, 3, 9, 20)]
    embeddings, names, _ = content(out)
    assert names == [f"{faces}/{i:03d}.png" for i in good]
    np.testing.assert_array_equal(embeddings, embedder.embed(pictures(COUNT)[good]))


def test_many_broken_pictures_are_counted(embedder, tmp_path, caplog):
    path = tmp_path / "faces.txt"
    path.write_text("".join(f"absent{i}.png\n" for i in range(130)) + "there.png\n")
    (tmp_path / "there.png").write_bytes(encode(pictures(1)[0]))
    with caplog.at_level(logging.WARNING, "denseface"):
        counts, _ = run(embedder, path, tmp_path / "out.npz")
    assert dataclasses.astuple(counts) == (1, 130, 0, 0)
    assert len(caplog.records) == 21
    assert caplog.records[-1].getMessage() == "100 pictures skipped so far"


def test_strict_stops_at_a_broken_picture(embedder, faces, tmp_path):
    out = tmp_path / "out.npz"
    (faces / "009.png").write_bytes(b"broken")
    with refused(faces / "009.png", "not a JPEG"):
        run(embedder, faces, out, strict=True)
    assert not out.exists()
    (faces / "009.png").write_bytes(encode(pictures(COUNT)[9]))
    counts, _ = run(embedder, faces, out, strict=True)
    assert dataclasses.astuple(counts)[:2] == (COUNT, 0)
    assert counts.taken_over >= 8


def test_an_embedding_that_is_not_finite_names_its_picture(embedder, faces, tmp_path, monkeypatch):
    bad = pictures(COUNT)[5].transpose(2, 0, 1)
    original = embedder._run

    def compute(rows):
        embeddings = original(rows)[: len(rows)].copy()
        embeddings[(rows == bad).all((1, 2, 3))] = np.nan
        return embeddings

    monkeypatch.setattr(embedder, "_run", compute)
    with refused("finite", kind=PictureError) as caught:
        run(embedder, faces, tmp_path / "out.npz")
    assert caught.value.name == str(faces / "005.png")
    assert not (tmp_path / "out.npz").exists()


def test_nothing_readable_writes_nothing(embedder, tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    with refused("no picture", path=tmp_path / "out.npz"):
        run(embedder, tmp_path / "a.png", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_a_second_run_is_kept_out(embedder, faces, tmp_path):
    out = tmp_path / "out.npz"

    def start_another(done):
        with refused("another run", path=tmp_path / "out.npz.partial" / "log"):
            run(counting(Embedder(tiny_model(), engine="mxnet", image_shape=TINY_SHAPE)), faces, out)

    counts, _ = run(embedder, faces, out, on_progress=start_another)
    assert counts.embedded == COUNT


def test_without_room_to_write_the_folder_is_named(embedder, faces):
    with pytest.raises(OSError) as caught:
        run(embedder, faces, "/proc/out.npz")
    assert caught.value.filename == "/proc/out.npz.partial"


def test_the_same_pictures_elsewhere_are_others(embedder, faces, tmp_path):
    out = tmp_path / "out.npz"
    run(embedder, faces, out, die_after=8)
    shutil.move(faces, tmp_path / "moved")
    counts, _ = run(embedder, tmp_path / "moved", out)
    assert dataclasses.astuple(counts) == (COUNT, 0, 0, 0)


@pytest.mark.parametrize("name", ["log", "rows", ""])
def test_nothing_is_written_through_a_link(tmp_path, name):
    (tmp_path / "a.png").write_bytes(encode(pictures(1)[0]))
    precious = tmp_path / "precious"
    partial = tmp_path / "out.npz.partial"
    if name:
        precious.write_text("precious")
        partial.mkdir()
        (partial / name).symlink_to(precious)
    else:
        precious.mkdir()
        partial.symlink_to(precious)
    embedder = Embedder(tiny_model(), engine="mxnet", image_shape=TINY_SHAPE)
    with refused("link", path=partial / name if name else partial):
        embed_all(embedder, Sources([tmp_path / "a.png"]), tmp_path / "out.npz")
    assert not list(precious.iterdir()) if not name else precious.read_text() == "precious"


@pytest.mark.parametrize("place", [*range(5), "short", "long"])
@pytest.mark.parametrize(
    "edit", [[None], "x", 1e400, True, [["x", 1]], [[1, 2]], [["x"]], [[None, "y"]], "\ud800", None]
)
def test_an_edited_log_is_done_again_where_it_is_in_doubt(embedder, faces, tmp_path, place, edit):
    whole, out = tmp_path / "whole.npz", tmp_path / "out.npz"
    run(embedder, faces, whole)
    run(embedder, faces, out, die_after=12)
    log = tmp_path / "out.npz.partial" / "log"
    heading, *lines = log.read_bytes().splitlines(keepends=True)
    values = json.loads(lines[5])
    if isinstance(place, int):
        values[place] = edit
    else:
        values = values[:1] if place == "short" else [*values, edit]
    log.write_bytes(heading + b"".join([*lines[:5], json.dumps(values).encode() + b"\n", *lines[6:]]))
    counts, _ = run(embedder, faces, out)
    assert counts.taken_over == 4 and out.read_bytes() == whole.read_bytes()
