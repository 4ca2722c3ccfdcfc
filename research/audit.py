"""``python -m research.audit``: plant faults in a folder of aligned faces, and measure how many the audit finds.

Planted are duplicates of one picture in twenty, encoded again; one person in eight split into two folders; as many
folders of two people each; wrong labels of one picture in ten; and as many pictures that are no face as a fortieth of
the others. For duplicates, and for people split or together, it does not matter which of the two the audit names.

With ``--train PAIRS.bin``, the demo's network is trained on the folder as it was, with the faults, and without what the
audit names, and measured on these pairs of other people.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from research.recipes import DEMO, train, trained_model, verified

DUPLICATES, WRONG, NO_FACES = 0.05, 0.1, 0.025  # shares of all pictures
GROUPS = 0.125  # of all people


def main() -> None:
    """Print a line of JSON for each seed: precision and recall by kind."""
    args = _arguments()
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            faulty, out = Path(folder) / "faulty", Path(folder) / "audit"
            planted = plant(args.people, faulty, seed)
            if args.keep:
                shutil.copytree(faulty, args.keep / str(seed))
            cleaned = Path(folder) / "cleaned"
            _denseface("dataset", "audit", faulty, "--aligned", "-o", out, "--model", args.model, "--apply", cleaned)
            with open(out / "suspects.csv", newline="", encoding="utf-8") as table:
                found = {row["picture"]: row["kind"] for row in csv.DictReader(table)}
            row = {"seed": seed, **score(planted, found)}
            if args.train:
                sets = {"true": args.people, "faulty": faulty, "cleaned": cleaned}
                row["trained"] = {
                    name: _trained(people, Path(folder) / "trained" / name, seed, args.train)
                    for name, people in sets.items()
                }
        print(json.dumps(row), flush=True)


def _trained(people, folder, seed, pairs):
    """Train the demo's network on a folder of people, and measure it."""
    _denseface("dataset", "folder", people, folder / "set", "--aligned")
    train(f"{DEMO} --set val_targets=", folder / "set", seed, folder / "run")
    return verified(trained_model(folder / "run"), pairs)


def _denseface(*words):
    subprocess.run([sys.executable, "-m", "denseface", *map(str, words)], stdout=subprocess.DEVNULL, check=True)


def score(planted: dict[str, tuple[str, object]], found: dict[str, str]) -> dict[str, dict[str, float | int]]:
    """Compare the planted faults, kind and group by picture, with the kinds that were found.

    Pictures of a kind that has groups are right if they belong to a planted group, and a group is found if any is.
    """
    kinds = sorted({kind for kind, _ in planted.values()})
    rows = {}
    for kind in kinds:
        groups = {group for fault, group in planted.values() if fault == kind}
        said = [name for name, each in found.items() if each == kind]
        right = [name for name in said if planted.get(name, ("", None))[0] == kind]
        hit = {planted[name][1] for name in right}
        rows[kind] = {"planted": len(groups), "recall": len(hit) / len(groups), "said": len(said)}
        rows[kind]["precision"] = len(right) / len(said) if said else 1.0
    innocent = [name for name in found if name not in planted]
    hit = {planted[name] for name in found if name in planted}
    rows["any"] = {
        "planted": len({*planted.values()}),
        "recall": len(hit) / len({*planted.values()}),
        "said": len(found),
    }
    rows["any"]["precision"] = 1 - len(innocent) / len(found) if found else 1.0
    return rows


def plant(people: Path, out: Path, seed: int) -> dict[str, tuple[str, object]]:
    """Copy a folder of people with faults; return the kind and the group of each faulty picture, by its new path."""
    chance = random.Random(seed)
    named = {folder.name: sorted(folder.iterdir()) for folder in sorted(people.iterdir())}
    names = list(named)
    chance.shuffle(names)
    groups = round(len(names) * GROUPS)
    split, merged = names[:groups], list(zip(names[groups : 2 * groups], names[2 * groups : 3 * groups]))
    planted: dict[str, tuple[str, object]] = {}
    folders: dict[str, dict[str, bytes]] = {}

    def put(folder, name, payload):
        folders.setdefault(folder, {})[name] = payload
        return f"{folder}/{name}"

    swallowed = {second: first for first, second in merged}
    merged_names = {name for pair in merged for name in pair}
    for person, files in named.items():
        for number, file in enumerate(files):
            folder = swallowed.get(person, person)
            folder += "-again" if person in split and number % 2 else ""
            path = put(folder, f"{person}-{file.name}", file.read_bytes())
            if person in split:
                planted[path] = ("one person in two folders", person)
            elif person in merged_names:
                planted[path] = ("two people in one folder", folder)
    whole = [name for name in names if name not in split and name not in merged_names]
    pictures = [(folder, name) for folder in whole for name in sorted(folders[folder])]
    total = sum(map(len, named.values()))
    chosen = chance.sample(pictures, round(total * DUPLICATES) + round(total * WRONG))
    for folder, name in chosen[: round(total * DUPLICATES)]:
        path = put(folder, f"{Path(name).stem}-copy.jpg", _again(folders[folder][name]))
        planted[path] = ("duplicate", path)
        planted[f"{folder}/{name}"] = ("duplicate", path)
    for folder, name in chosen[round(total * DUPLICATES) :]:
        wrong = chance.choice([other for other in whole if other != folder])
        path = put(wrong, f"wrong-{name}", folders[folder].pop(name))
        planted[path] = ("another person", path)
    for number in range(round(total * NO_FACES)):
        path = put(chance.choice(whole), f"noise-{number}.jpg", _no_face(chance.randrange(1 << 30)))
        planted[path] = ("no face", path)
    for folder, content in folders.items():
        (out / folder).mkdir(parents=True)
        for name, payload in content.items():
            (out / folder / name).write_bytes(payload)
    return planted


def _again(payload):
    file = io.BytesIO()
    Image.open(io.BytesIO(payload)).save(file, "JPEG", quality=60)
    return file.getvalue()


def _no_face(seed):
    """A smooth random texture in gray."""
    noise = np.random.default_rng(seed).integers(0, 256, (112, 112)).astype(np.uint8)
    blurred = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1 + seed % 8))
    values = np.asarray(blurred, np.float32)
    values = (values - values.min()) / (values.max() - values.min()) * 255
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).convert("RGB").save(file, "JPEG", quality=90)
    return file.getvalue()


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m research.audit", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, metavar="PREFIX,EPOCH")
    parser.add_argument(
        "--people", required=True, type=Path, metavar="DIR", help="aligned faces, one folder per person"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the faulty sets here")
    parser.add_argument("--train", type=Path, metavar="PAIRS.bin", help="train on each set, and measure on these pairs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
