"""``python -m research.identification``: identify people with 1, 2 and 5 pictures enrolled, among people who are not.

Half of the people are enrolled, with that many pictures each; their other pictures are mated searches, and all pictures
of the other half are searches for unknown people. Who and which is drawn anew for every seed.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

import numpy as np

from denseface.data.cropping import Cropper
from denseface.data.sources import Sources
from denseface.embedding.embedder import Embedder
from denseface.galleries.bulk import embed_all
from denseface.galleries.gallery import Gallery, write_gallery
from denseface.galleries.people import FUSIONS, person_of
from denseface.verification.identification import identify

ENROLLED = (1, 2, 5)


def main() -> None:
    """Print a line of JSON for each number of enrolled pictures and way to fuse them, and each seed in it."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        everything = _embed(args.model, args.people, Path(folder) / "all.npz")
        names = list(everything.names(range(len(everything))).values())
        embeddings = np.concatenate([block for _, block in everything.blocks(1 << 16)])
        for enrolled in ENROLLED:
            for fusion in FUSIONS if enrolled > 1 else FUSIONS[:1]:
                found = [
                    _measure(embeddings, names, everything.model, enrolled, fusion, seed, Path(folder))
                    for seed in args.seeds
                ]
                means = {name: _mean([each[name] for each in found]) for name in found[0]}
                print(json.dumps({"enrolled": enrolled, "fuse": fusion, "mean": means, "seeds": found}), flush=True)


def split(names: list[str], enrolled: int, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Draw the pictures to enrol, the mated searches and the searches for unknown people, as rows in order."""
    chance = random.Random(seed)
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(person_of(name), []).append(row)
    known = set(chance.sample(sorted(rows), len(rows) // 2))
    gallery = sorted(row for person in sorted(known) for row in chance.sample(rows[person], enrolled))
    probes = sorted({row for person in known for row in rows[person]} - {*gallery})
    return gallery, probes, [row for person, own in rows.items() if person not in known for row in own]


def _measure(embeddings, names, model, enrolled, fusion, seed, folder):
    parts = []
    for number, rows in enumerate(split(names, enrolled, seed)):
        chosen = embeddings[rows]
        path = folder / f"{number}.npz"
        shape, width = chosen.shape, max(map(len, names))
        write_gallery(path, [chosen], shape, [names[row] for row in rows], width, model)
        parts.append(Gallery(path))
    searches = identify(*parts, fusion=fusion)
    points = searches.open_set().points
    return {
        "rank 1": searches.hit_rate(1).value,
        "rank 5": searches.hit_rate(5).value,
        **{f"FNIR at FPIR {fpir:g}": 1 - point.tar for fpir, point in points.items()},
    }


def _mean(values):
    return float(np.mean(values))


def _embed(model, people, out):
    with Sources([people]) as sources:
        embed_all(Embedder.load(model, crop=Cropper(aligned=True)), sources, out)
    return Gallery(out)


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m research.identification", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, metavar="PREFIX,EPOCH")
    parser.add_argument("--people", required=True, metavar="DIR", help="aligned faces, one folder per person")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    return parser.parse_args()


if __name__ == "__main__":
    main()
