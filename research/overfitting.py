"""``python -m research.overfitting``: metrics on the people of the training set beside those on people held out.

Each RUN is a folder of ``train.py --ckpt 2``, which keeps the model of every verification.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from denseface.data.pictures import decode
from denseface.data.records import FaceRecords
from denseface.embedding.embedder import Embedder
from denseface.evaluation.metrics import pair_scores, score_pairs


def main() -> None:
    """Print a line of JSON for each checkpoint: best balanced accuracy on training and on held-out pairs."""
    args = _arguments()
    with FaceRecords(args.data) as records:
        labels, payloads = zip(*(records.read_image(key) for key in records.keys.tolist()))
    pairs = np.stack(np.triu_indices(len(labels), 1), axis=1)
    issame = np.equal(*np.array(labels)[pairs].T)
    faces = np.stack([decode(payload) for payload in payloads])
    for run in args.runs:
        with open(run / "model-verification.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) % args.every == 0]
        for row in rows:
            embeddings = Embedder.load(f"{run / 'model'},{row['step']}").embed(faces)
            trained = score_pairs(pair_scores(embeddings, pairs), issame, 2).balanced_accuracy
            held_out = float(row["balanced_accuracy"])
            gap = {"trained": trained, "held out": held_out, "gap": trained - held_out}
            found = {name: round(value, 4) for name, value in gap.items()}
            print(json.dumps({"run": run.name, "step": int(row["step"]), **found}), flush=True)


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m research.overfitting", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, default=Path("datasets/orl"), metavar="DIR", help="the training set")
    parser.add_argument("--every", type=int, default=100, metavar="N", help="steps (default: 100)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
