"""What losses for bad data are worth on the demo's people, some of whose pictures have a wrong label or lose detail.

    python -m research.noise --seeds 0 1 2

trains each loss with ``train.py`` on sets with 20 % and 40 % of the labels exchanged, and on one with half of the
pictures degraded, and measures on people held out. It also compares the pictures that ``denseface dataset drop`` leaves
out with those whose labels were exchanged. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from denseface.data.records import FaceRecords, write_face_records
from research.degraded import degrade, degrade_set
from research.recipes import aligned_set, train, trained_model

_ROOT = Path(__file__).parents[1]
# A small network on small pictures, because there are many runs; otherwise the recipe of the demo.
_FLAGS = (
    "--network light --networks research/networks/networks.json --symbol-path research/networks --recipe small "
    "--dataset orl "
    "--lr-schedule cosine --lr 0.05 --max-steps 600 --verbose 600 "
    "--set emb_size=128 --set image_shape=32,32,3 --set data_cutoff=12"
)
_LOSSES = {
    "arcface": "--loss arcface",
    "subcenter": "--loss subcenter --set loss_m2=0.3 --set loss_s=32",
    "adaface": "--loss adaface --set loss_m=0.3 --set loss_s=32",
    "arcface, filtered": "--loss arcface --set interclass_filtering_threshold=0.4",
}
_COLUMNS = {"balanced accuracy": "balanced_accuracy", "TAR at FAR 1e-2": "tar_1e-2"}
_KINDS = ("clean", "20%", "40%", "degraded")


def main() -> None:
    """Run everything that is asked for, and print a line for each run and the mean of each method."""
    args = _arguments()
    aligned = aligned_set(args.out, args.holdout)
    results = args.out / "noise.json"
    found = json.loads(results.read_text()) if results.exists() else {}
    for seed in args.seeds:
        for kind in args.kinds:
            data = _data(kind, aligned, args.out, seed)
            for loss in args.losses:
                name = f"{kind}, {loss}"
                if f"{name}, seed {seed}" not in found:
                    row = _measured(args.out / "-".join((kind, loss, str(seed))), data, loss, seed, args)
                    found[f"{name}, seed {seed}"] = row
                    results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                print(f"{name}, seed {seed}: {_text(found[f'{name}, seed {seed}'])}", flush=True)
    for kind in args.kinds:
        for loss in args.losses:
            rows = [found[f"{kind}, {loss}, seed {seed}"] for seed in args.seeds]
            mean = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
            print(f"{kind}, {loss}, mean of {len(rows)}: {_text(mean)}", flush=True)


def exchange(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Give a share of the pictures the labels of each other, so that each of these gets a wrong one.

    Parameters
    ----------
    labels : ndarray of shape (N,), int
    share : float
        0 to 1.
    seed : int
        Decides which pictures, and how they are exchanged.

    Returns
    -------
    ndarray of shape (N,), int
    """
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(labels), round(share * len(labels)), replace=False)
    exchanged = labels.copy()
    order = chosen
    while len(same := np.flatnonzero(labels[order] == labels[chosen])):
        others = rng.integers(len(chosen), size=len(same))
        order = order.copy()
        for position, other in zip(same, others):
            order[[position, other]] = order[[other, position]]
    exchanged[chosen] = labels[order]
    return exchanged


def compare(dropped: set, wrong: set) -> dict:
    """Return precision and recall of the dropped pictures."""
    hits = len(dropped & wrong)
    return {"precision": hits / max(len(dropped), 1), "recall": hits / len(wrong)}


def _measured(folder, data, loss, seed, args):
    """Train a loss; where labels are wrong, also see what its run drops, and train ArcFace without that."""
    row = _trained(folder, data, _LOSSES[loss], seed, args)
    wrong = data / "wrong.json"
    if wrong.exists():
        dropped = _dropped(folder, data, args.angle)
        row.update(dropped=len(dropped), **compare(dropped, set(json.loads(wrong.read_text()))))
        if loss == "subcenter":
            again = _trained(folder / "again", folder / "cleaned", _LOSSES["arcface"], seed, args)
            row.update({f"{key} of arcface without them": value for key, value in again.items()})
    return row


def _trained(folder, data, loss, seed, args):
    """Train on a set, and return the last metrics of the log."""
    train(f"{_FLAGS} {loss} {args.more}", data, seed, folder)
    (table,) = folder.glob("*/model-verification.csv")
    *_, last = _read(table)
    return {title: float(last[column]) for title, column in _COLUMNS.items()}


def _dropped(folder, data, angle):
    """Write the set without what a run drops, and return the dropped keys."""
    cleaned = folder / "cleaned"
    shutil.rmtree(cleaned, ignore_errors=True)
    flags = [str(data), str(cleaned), "--run", str(trained_model(folder)), "--angle", str(angle)]
    command = [sys.executable, "-m", "denseface", "dataset", "drop", *flags]
    subprocess.run(command, cwd=_ROOT, stdout=subprocess.DEVNULL, check=True)
    shutil.copy(data / "orl.bin", cleaned)
    return {int(row["key"]) for row in _read(cleaned / "dropped.csv")}


def _data(kind, aligned, out, seed):
    """Make a set, unless it is there: clean, with wrong labels, or with half of its pictures degraded."""
    if kind == "clean":
        return aligned
    folder = out / f"{aligned.name}-{kind}-{seed}"
    if (folder / "property").exists():
        return folder
    with FaceRecords(aligned) as records:
        labels, payloads = zip(*(records.read_image(key) for key in records.keys.tolist()))
        size = records.image_shape
    labels = np.array(labels)
    if kind == "degraded":
        degrade_set(aligned, folder)  # for its verification set
        chosen = np.random.default_rng(seed).permutation(len(labels)) < len(labels) / 2
        payloads = [degrade(face, seed=n) if poor else face for n, (face, poor) in enumerate(zip(payloads, chosen))]
        write_face_records(folder, zip(labels.tolist(), payloads), size)
        return folder
    exchanged = exchange(labels, float(kind.rstrip("%")) / 100, seed)
    order = np.argsort(exchanged, kind="stable")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(aligned / "orl.bin", folder)
    wrong = np.flatnonzero((exchanged != labels)[order]) + 1  # keys count from 1
    (folder / "wrong.json").write_text(json.dumps(wrong.tolist()))
    write_face_records(folder, [(int(exchanged[index]), payloads[index]) for index in order], size)
    return folder


def _read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _text(row):
    return ", ".join(f"{key} {value:g}" if key == "dropped" else f"{key} {value:.3f}" for key, value in row.items())


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m research.noise", description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=_KINDS, default=_KINDS, help="sets to train on (default: all)")
    parser.add_argument("--losses", nargs="+", choices=_LOSSES, default=[*_LOSSES], help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--holdout", default="31-40", help="people held out, as of dataset orl (default: %(default)s)")
    parser.add_argument("--angle", type=float, default=75.0, help="that pictures are dropped beyond (default: 75)")
    parser.add_argument("--more", default="", metavar="FLAGS", help="more flags of train.py, after those of the script")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    args = parser.parse_args()
    args.out = args.out.resolve()
    return args


if __name__ == "__main__":
    main()
