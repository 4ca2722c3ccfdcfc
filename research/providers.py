"""Compare accelerators with the CPU: embeddings, faces and time, on the machine at hand.

    python -m research.providers --model model.onnx photo.jpg another.jpg

Without ``--provider``, every provider that the installed ONNX Runtime contains.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from denseface.cli.console import print_table
from denseface.core.errors import InputError, describe
from denseface.core.onnx_session import probe_pictures
from denseface.core.providers import PROVIDERS
from denseface.core.vectors import similarity
from denseface.data.detection import CenterFace, Faces
from denseface.data.pictures import load_picture
from denseface.embedding.embedder import Embedder

_BATCHES = (1, 8, 64)
_REPEATS = 20


def main() -> None:
    """Print a table of all providers, and why one cannot be used."""
    import onnxruntime

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help="photographs to find faces in")
    parser.add_argument("--model", required=True, metavar="MODEL")
    parser.add_argument("--provider", nargs="+", choices=PROVIDERS, metavar="NAME")
    args = parser.parse_args()
    available = onnxruntime.get_available_providers()
    names = args.provider or [name for name, provider in PROVIDERS.items() if provider.name in available]
    photographs = [load_picture(path) for path in args.pictures]
    rows = [("provider", "task", "ms", "lowest cosine, or pixels of difference")]
    for name in dict.fromkeys(["cpu", *names]):
        try:
            rows += [(name, *row) for row in measure(args.model, name, photographs)]
        except InputError as error:
            rows.append((name, describe(error), "", ""))
    print_table(rows)


def measure(model: str, provider: str, photographs: list[np.ndarray]) -> list[tuple[str, str, str]]:
    """Measure one provider: a row for each size of batch, and one for the detector.

    Returns
    -------
    list of (task, milliseconds of a call, difference from the CPU)
    """
    rows = []
    for size in _BATCHES:
        embedders = [Embedder.load(model, provider=name, batch_size=size) for name in ("cpu", provider)]
        batch = np.concatenate(probe_pictures(embedders[0].image_shape.nchw(size)))
        expected, found = (embedder.compute(batch).rows for embedder in embedders)
        cosine = np.diag(similarity(found, expected)).min()
        seconds = timed(lambda embedder=embedders[1], batch=batch[:size]: embedder.compute(batch))
        rows.append(
            (f"{size} pictures and mirror images, {embedders[1].precision}", f"{1000 * seconds:.1f}", f"{cosine:.6f}")
        )
    if photographs:
        detectors = [CenterFace(provider=name) for name in ("cpu", provider)]
        differences = [apart(*(detector(photograph) for detector in detectors)) for photograph in photographs]
        seconds = timed(lambda: [detectors[1](photograph) for photograph in photographs]) / len(photographs)
        rows.append(("faces of a photograph", f"{1000 * seconds:.1f}", f"{max(differences):.3f}"))
    return rows


def timed(call: Callable[[], object]) -> float:
    """Return the median time of a call, in seconds, after two that are not counted."""
    times = []
    for _ in range(_REPEATS + 2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def apart(found: Faces, expected: Faces) -> float:
    """Return the largest distance of landmarks, in pixels; infinity if there are more or fewer faces."""
    if found.landmarks.shape != expected.landmarks.shape:
        return np.inf
    return float(np.abs(found.landmarks - expected.landmarks).max(initial=0))


if __name__ == "__main__":
    main()
