"""Contenders around the network: what ``denseface embed`` adds to its engine, and how fast the command starts."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.inference import cores
from bench.model import faces, make_model
from bench.race import Contender

_BATCH = 8


def embed_contenders(network: str, activation: str, pictures: int, engine: str) -> list[Contender]:
    """An engine alone, and pictures in files to embeddings in a file with it; both with mirror images."""
    task = (network, activation, pictures, engine)
    return [
        Contender(f"{engine}, pictures in memory", engine_alone, task),
        Contender(f"denseface embed, {engine}, files to .npz", files_to_npz, task),
    ]


def engine_alone(network, activation, pictures, engine):
    """The engine, called as often as ``embed`` calls it."""
    from denseface.embedding.engines import make_engine

    bound = make_engine(engine, make_model(network, activation), _BATCH)
    batches = np.split(faces(pictures), pictures // _BATCH)
    return lambda: np.concatenate([bound(batch) + bound(batch[..., ::-1].copy()) for batch in batches])


def files_to_npz(network, activation, pictures, engine):
    """What the command does, on files of the same pictures, in a process that has already started."""
    from PIL import Image

    from denseface.data.sources import Sources
    from denseface.embedding.embedder import Embedder
    from denseface.galleries.bulk import embed_all

    folder = tempfile.TemporaryDirectory()
    for number, picture in enumerate(faces(pictures).astype(np.uint8)):
        Image.fromarray(picture.transpose(1, 2, 0)).save(Path(folder.name) / f"{number:06d}.png")
    out = Path(folder.name) / "out.npz"
    embedder = Embedder(make_model(network, activation), engine=engine, batch_size=_BATCH, normalize=False)

    def run(folder=folder):
        out.unlink(missing_ok=True)
        with Sources([folder.name]) as sources:
            embed_all(embedder, sources, out)
        with np.load(out) as file:
            return file["embeddings"]

    return run


def start_contenders() -> list[Contender]:
    """The Python interpreter, and the command's help on top of it."""
    return [
        Contender("python -c ''", command, (("-c", ""),)),
        Contender("denseface --help", command, (("-m", "denseface", "--help"),)),
    ]


def command(arguments):
    """A Python process from its start to its end."""

    def run():
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return np.ones(1)

    return run


def limit_contenders() -> list[Contender]:
    """What the machine can do at most: arithmetic in both precisions, and memory."""
    return [
        Contender("multiply matrices in MXNet", multiply),
        Contender("multiply matrices in OpenVINO", multiply_in_openvino, ("f32",), tolerance=np.inf),
        Contender("multiply matrices in OpenVINO", multiply_in_openvino, ("bf16",), {}, np.inf, "bfloat16"),
        Contender(COPY, copy, tolerance=np.inf),
    ]


COPY = "copy memory"
MATRIX = 2048
COPIED = 1 << 28


def multiply():
    """Two float32 matrices of ``MATRIX`` x ``MATRIX``, in MXNet's oneDNN."""
    import mxnet as mx

    a, b = (mx.nd.random.uniform(shape=(MATRIX, MATRIX)) for _ in range(2))
    return lambda: mx.nd.FullyConnected(a, b, no_bias=True, num_hidden=MATRIX)[0, :1].asnumpy()


def multiply_in_openvino(precision):
    """Two such matrices, the second constant, in OpenVINO's oneDNN."""
    sys.modules.setdefault("openvino_telemetry", None)  # it reports over the network
    import openvino
    from openvino import opset8

    a, b = np.random.default_rng(0).standard_normal((2, MATRIX, MATRIX), dtype=np.float32)
    data = opset8.parameter([MATRIX, MATRIX], np.float32)
    model = openvino.Model([opset8.matmul(data, opset8.constant(b), False, False)], [data])
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda: compiled(a)[0][:1].copy()


def copy():
    """``COPIED`` bytes, on all cores."""
    from concurrent.futures import ThreadPoolExecutor

    count = cores()
    sources = np.split(np.ones(COPIED // 8 // count * count), count)
    targets = [np.zeros_like(source) for source in sources]
    pool = ThreadPoolExecutor(count)

    def run():
        list(pool.map(np.copyto, targets, sources))
        return np.ones(1)

    return run
