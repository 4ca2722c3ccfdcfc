"""One embedder for many threads: each call gets the embedding of its own picture."""

import importlib.util
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from denseface.embedding.embedder import Embedder
from denseface.embedding.engines import ENGINES
from support.tiny_models import TINY_SHAPE, pictures, tiny_model

THREADS = 16


@pytest.mark.parametrize("calls", [50, pytest.param(1_000, marks=pytest.mark.torture)])
@pytest.mark.parametrize("engine", ENGINES)
def test_each_thread_gets_its_own_embeddings(engine, calls):
    if not importlib.util.find_spec(engine.split("-")[0]):
        pytest.skip(f"{engine} is not installed")
    embedder = Embedder(tiny_model(), engine=engine, image_shape=TINY_SHAPE)
    images = pictures(40)
    alone = [embedder.embed(image) for image in images]

    def count_wrong(thread):
        places = itertools.islice(itertools.cycle(range(len(images))), thread, thread + calls)
        return sum(not np.array_equal(embedder.embed(images[place]), alone[place]) for place in places)

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(count_wrong, range(THREADS))) == [0] * THREADS
