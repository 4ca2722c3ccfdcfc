"""What InsightFace has and this project has not, and what to do instead."""

from __future__ import annotations

from typing import NamedTuple


class AbsentKey(NamedTuple):
    """A key of InsightFace's configuration: the one value that changes nothing, and the advice for others."""

    usual: bool | int
    advice: str


KEYS = {
    "fp16": AbsentKey(False, "dtype bfloat16 trains with half of the bits"),
    "memonger": AbsentKey(False, "for less memory use smaller batches, and accumulate several per step"),
    "num_workers": AbsentKey(1, "denseface launch starts several workers"),
    "is_shuffled_rec": AbsentKey(False, "records are shuffled by their index, whatever their order in the file"),
}

# Networks whose files this project does not have.
NETWORKS = ("m1", "m05", "mnas", "mnas05", "mnas025", "vargfacenet")

FLAGS = {
    "--worker-id": "the launcher numbers workers (docs/distributed.md); leave it out",
    "--extra-model-name": "each --models-root has its own run of this name; give another --models-root",
    "--fp16-scale": "--dtype bfloat16 needs no scale; leave it out",
}
