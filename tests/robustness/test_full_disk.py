"""A disk that is full: one line, what was there before stays whole, and everything goes on once there is room."""

import contextlib
import dataclasses
import resource

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.data.pairs import write_pairs
from denseface.data.records import FaceRecords, write_face_records
from denseface.data.sources import Sources
from denseface.embedding.embedder import Embedder
from denseface.galleries.bulk import embed_all
from denseface.models import checkpoint
from support.tiny_checkpoints import assert_equal_arrays, embedding_symbol, make_state
from support.tiny_models import TINY_SHAPE, encode, pictures, tiny_model
from support.tiny_runs import assert_same_state, make_run

LIMITS = [[0, 300, 5000, 20_000, 90_000], pytest.param(range(0, 90_000, 900), marks=pytest.mark.torture)]


@contextlib.contextmanager
def no_room_beyond(size):
    """Let no file of this process grow beyond some bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def refused(folder):
    """The error of a full disk, on one line, about a file in the folder."""
    with pytest.raises(InputError) as caught:
        yield
    text = str(caught.value)
    assert text.startswith(str(folder)) and "it cannot be written (File too large); make room" in text
    assert text.isprintable()


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("limits", LIMITS)
def test_the_checkpoint_before_stays_whole(tmp_path, limits):
    symbol, prefix = embedding_symbol(), tmp_path / "model"
    checkpoint.save(prefix, symbol, make_state(4))
    large = {"fc1_weight": np.ones((3, 1000), np.float32), "fc7_weight": np.ones((5, 1000), np.float32)}
    usual = make_state(12)
    state = dataclasses.replace(usual, arguments={**usual.arguments, **large}, momenta={**usual.momenta, **large})
    failed = []
    for limit in limits:
        try:
            with no_room_beyond(limit):
                checkpoint.save(prefix, symbol, state)
        except InputError as error:
            assert "it cannot be written (File too large)" in str(error)
            failed.append(str(error).partition(":")[0].rpartition(".")[2])
        else:
            failed.append("none")
        newest = state if failed[-1] == "none" else make_state(4)
        assert_equal_arrays(checkpoint.Checkpoint.newest(prefix).load().momenta, newest.momenta)
        assert 4 in checkpoint.complete_steps(prefix)
        checkpoint.load_model(prefix)
    print({kind: failed.count(kind) for kind in ("json", "params", "states", "none")})
    assert {*failed} == {"json", "params", "states", "none"}
    checkpoint.save(prefix, symbol, state)
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


def test_a_run_stops_and_goes_on(records, tmp_path):
    make_run(records, tmp_path / "model", steps=4).fit()
    run = make_run(records, tmp_path / "model")
    run.resume()
    with refused(tmp_path), no_room_beyond(400):
        run.fit()
    assert checkpoint.Checkpoint.newest(tmp_path / "model").step == 4
    run = make_run(records, tmp_path / "model")
    run.resume()
    run.fit()
    whole = make_run(records, tmp_path / "whole")
    whole.fit()
    assert_same_state(run, whole)


@pytest.mark.parametrize("limit", [0, 100, 1000, 3000])
def test_embeddings_stop_and_go_on(tmp_path, limit):
    write_pairs(tmp_path / "set.bin", [encode(picture) for picture in pictures(40)], [True] * 20)
    embedder = Embedder(tiny_model(), batch_size=4, image_shape=TINY_SHAPE)
    with Sources([tmp_path / "set.bin"]) as sources:
        embed_all(embedder, sources, tmp_path / "whole.npz")
        with refused(tmp_path), no_room_beyond(limit):
            embed_all(embedder, sources, tmp_path / "out.npz")
        assert not (tmp_path / "out.npz").exists()
        embed_all(embedder, sources, tmp_path / "out.npz")
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert names(tmp_path) == ["out.npz", "set.bin", "whole.npz"]


def test_sets_are_there_whole_or_not_at_all(tmp_path):
    images = [(label, encode(picture)) for label, picture in enumerate(pictures(20))]
    with refused(tmp_path), no_room_beyond(2000):
        write_face_records(tmp_path, images, TINY_SHAPE[:2])
    with refused(tmp_path), no_room_beyond(2000):
        write_pairs(tmp_path / "set.bin", [payload for _, payload in images], [True] * 10)
    assert names(tmp_path) == []
    write_face_records(tmp_path, images, TINY_SHAPE[:2])
    with FaceRecords(tmp_path) as found:
        np.testing.assert_array_equal([found.read_image(key)[0] for key in found.keys], range(20))
