"""What a way of training is worth on the demo's people: each recipe, with several seeds, measured on people held out.

    python -m research.recipes demo --holdout 31-40 --seeds 0 1 2

trains with ``train.py`` and measures with ``denseface verify``, in processes of their own. A run that was measured
before is not repeated, and one that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from research.degraded import degrade_set

_ROOT = Path(__file__).parents[1]
_COLUMNS = ("balanced accuracy", "TAR at FAR 1e-2", "TAR at FAR 1e-3")


class Recipe(NamedTuple):
    """The flags of ``train.py``, in which {model} stands for ``--model``, and the data, "aligned" or "degraded".

    Without flags, ``--model`` is measured as it is.
    """

    flags: str
    data: str = "aligned"


DEMO = "--recipe small --dataset orl"
_FINE_TUNING = (
    "--recipe small --network pretrained --pretrained {model} --dataset orl --max-steps 300 "
    "--set data_color=0 --set data_cutoff=0"
)
_TEACHER = "--recipe small --dataset orl --teacher {model} --set emb_size=256"
RECIPES = {
    "demo": Recipe(DEMO),
    "demo-ema": Recipe(f"{DEMO} --ema 0.99"),
    "d63": Recipe(f"{DEMO} --network d63 --set emb_size=128"),
    "r18": Recipe(f"{DEMO} --network r18 --set emb_size=128 --max-steps 160"),  # in the time of 600 steps of d63
    "model": Recipe(""),
    "model-degraded": Recipe("", "degraded"),
    "fine-tuned": Recipe(f"{_FINE_TUNING} --warm-centers --lr 0.0005"),
    "fine-tuned-degraded": Recipe(f"{_FINE_TUNING} --warm-centers --lr 0.0005", "degraded"),
    "fine-tuned-degraded-random-centers": Recipe(f"{_FINE_TUNING} --lr 0.0005", "degraded"),
    "fine-tuned-degraded-frozen": Recipe(
        f"{_FINE_TUNING} --warm-centers --lr 0.0005 --freeze 'conv*' --freeze 'batchnorm*'", "degraded"
    ),
    "fine-tuned-degraded-fast": Recipe(f"{_FINE_TUNING} --warm-centers --lr 0.003", "degraded"),
    "taught": Recipe(
        f"{_TEACHER} --loss teacher --lr 0.1 --wd 0.0005 --set net_output=FC --max-steps 2500 --dtype bfloat16 "
        "--set data_mix=0.8 --set data_yaw=15 --set data_pitch=6 --set data_color=0 --set data_cutoff=0 "
        "--set data_downsample=0 --set data_blur=0"
    ),
    "taught-beside-arcface": Recipe(_TEACHER),
}


def main() -> None:
    """Run recipes, and print a line for each run and the mean of each recipe."""
    args = _arguments()
    results = args.out / "recipes.json"
    found = json.loads(results.read_text()) if results.exists() else {}
    for name in args.recipes:
        rows = []
        for seed in args.seeds:
            key = f"{name} {args.holdout} seed {seed}"
            if key not in found:
                found[key] = measure(RECIPES[name], args.holdout, seed, args.out / key.replace(" ", "-"), args)
                results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            rows.append([found[key][column] for column in _COLUMNS])
            print(f"{key}: {_figures(rows[-1])}", flush=True)
        print(f"{name} {args.holdout}, mean of {len(rows)}: {_figures(map(statistics.fmean, zip(*rows)))}", flush=True)


def measure(recipe: Recipe, holdout: str, seed: int, folder: Path, args: argparse.Namespace) -> dict:
    """Train a recipe and return its metrics, with the mirrored picture added, and its command."""
    data = aligned_set(args.out, holdout)
    if recipe.data == "degraded":
        data = _degraded(data)
    if not recipe.flags:
        return verified(args.model, data / "orl.bin")
    flags = train(recipe.flags.format(model=args.model), data, seed, folder)
    return {"flags": flags, **verified(trained_model(folder), data / "orl.bin")}


def train(flags: str, data: Path, seed: int, folder: Path) -> str:
    """Train on a set, or go on with it, in a folder of the run's own, and return all flags of ``train.py``."""
    words = [*shlex.split(flags), "--set", f"dataset_path={data}", "--seed", str(seed), "--models-root", str(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "a") as log:
        subprocess.run([sys.executable, "train.py", *words, "--resume"], cwd=_ROOT, stdout=log, stderr=log, check=True)
    return shlex.join(words)


def trained_model(folder: Path) -> Path:
    """Return the prefix of the model that :func:`train` trained in a folder."""
    (symbol,) = folder.glob("*/model-symbol.json")
    return symbol.with_name("model")


def aligned_set(out: Path, holdout: str) -> Path:
    """Build the demo's set with these people held out, unless it is there, and return its folder."""
    folder = out / f"orl-{holdout}"
    command = [sys.executable, "-m", "denseface", "dataset", "orl", str(folder), "--holdout", holdout]
    subprocess.run(command, cwd=_ROOT, stdout=subprocess.DEVNULL, check=True)
    return folder


def verified(model: Path | str, pairs: Path) -> dict:
    """Return the metrics of a model, as ``--model`` takes it, on a verification set."""
    command = [sys.executable, "-m", "denseface", "verify", "--model", str(model), str(pairs), "--json"]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    metrics = json.loads(done.stdout)["sets"][0]["flip"]
    return dict(zip(_COLUMNS, (metrics["balanced_accuracy"], metrics["tar"]["0.01"], metrics["tar"]["0.001"])))


def _degraded(aligned):
    """Make the degraded copy of a set, unless it is there."""
    degraded = aligned.with_name(aligned.name.replace("orl", "degraded"))
    if not (degraded / "property").exists():
        degrade_set(aligned, degraded)
    return degraded


def _figures(values):
    return ", ".join(f"{column} {value:.3f}" for column, value in zip(_COLUMNS, values))


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m research.recipes", description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="+", choices=RECIPES, metavar="RECIPE", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--holdout", default="31-40", help="people held out, as of dataset orl (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--model", metavar="PREFIX,EPOCH", help="the pretrained model or teacher of a recipe")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    args = parser.parse_args()
    args.out = args.out.resolve()
    return args


if __name__ == "__main__":
    main()
