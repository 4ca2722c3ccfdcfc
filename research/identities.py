"""``python -m research.identities``: what a training step costs as the identities grow.

The full layer, and Partial FC with a share of the classes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench import machine
from bench.model import faces
from bench.race import Contender, race
from denseface.models import families
from denseface.report.plotting import COLORS, MUTED, new_figure, save_figure

COUNTS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
RATES = (1, 0.1, 0.05)
_EMBEDDING = 512
_BODY = 2e9  # bytes that a step needs beside the classifier, at most
_COPIES = 5  # of the bound rows: weights, gradients and momenta, and unit vectors with their gradients
_LIMIT = 8e9  # bytes, shown in the chart


def main() -> None:
    """Write ``identities.json`` and ``identities.png``.

    One process at a time, because together they would not fit into memory. What needs more than is free is left out.
    """
    args = _arguments()
    network, batch_size, rounds, folder = args.network, args.batch, args.rounds, args.out
    rows = []
    for count in COUNTS:
        for rate in RATES:
            row = {"identities": count, "rate": rate}
            contender = Contender(f"{count} identities, rate {rate}", steps, (network, batch_size, count, rate))
            needed, free = _memory(count, rate), _free_memory()
            if needed > free:
                print(f"left out: {contender.name}: about {needed / 1e9:.0f} GB, but {free / 1e9:.0f} GB are free")
                continue
            for result in race([contender], rounds, print):
                row.update({key: result[key] for key in ("seconds", "fastest", "processor_seconds", "peak_memory")})
                print(f"{contender.name}: {row['processor_seconds']:.2f} s, {row['peak_memory'] / 1e9:.2f} GB")
                rows.append(row)
    results = {
        "command": shlex.join(["python", "-m", "research.identities", *sys.argv[1:]]),
        "network": f"{network}, relu, embeddings of {_EMBEDDING} values, ArcFace",
        "batch": batch_size,
        "rounds": rounds,
        "machine": machine.describe(),
        "rows": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "identities.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    save_figure(draw(results), folder / "identities.png")
    print(folder / "identities.png")


def steps(network: str, batch_size: int, num_classes: int, rate: float) -> Callable[[], np.ndarray]:
    """Return the learner of ``train.py``; every call takes a step with its own labels."""
    from denseface.data.loader import Batch
    from denseface.distributed.workers import OneWorker
    from denseface.options.names import Names
    from denseface.training.assembly import make_learner

    import mxnet as mx

    names = Names(network, "orl", "arcface")
    spec = families.configure(names, ["net_act=relu", f"emb_size={_EMBEDDING}", "loss_s=32", "wd=0.0005"])
    spec = spec.replace(per_batch_size=batch_size, sample_rate=rate, num_classes=num_classes)
    learner = make_learner(spec, OneWorker(), families.embedding_symbol(spec))
    learner.state.initialize(families.initializer(spec.network.net_name), seed=0)
    random = np.random.default_rng(0)
    pictures = faces(batch_size)

    def run():
        label = random.integers(0, num_classes, batch_size).astype(np.float32)
        loss = learner.step([Batch(pictures, label)], 0.01, seed=int(random.integers(1 << 40))).loss
        mx.nd.waitall()  # the step's end is computed in the background
        return np.array([loss])

    return run


def draw(results: dict):
    """Draw processor time and peak memory of a step against the number of identities, on logarithmic axes."""
    figure = new_figure(11, 4.6)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    panels = figure.subplots(1, 2)
    titles = {"processor_seconds": "processor time of a step, seconds", "peak_memory": "peak memory of the process, GB"}
    for axes, (key, title) in zip(panels, titles.items()):
        for rate, color, shift in zip(RATES, COLORS, (0, 4, -4)):  # points, so that figures do not touch
            line = [row for row in results["rows"] if row["rate"] == rate]
            counts = [row["identities"] for row in line]
            values = [row[key] / (1e9 if key == "peak_memory" else 1) for row in line]
            label = "full layer" if rate == 1 else f"sample rate {rate:g}"
            axes.plot(counts, values, color=color, marker="o", markersize=4, linewidth=1.5, label=label)
            axes.annotate(
                f"{values[-1]:.2g}", (counts[-1], values[-1]), (6, shift), textcoords="offset points", fontsize=9,
                color=color, va="center",
            )  # fmt: skip
        axes.set_title(title, fontsize=10, loc="left")
        axes.set(xscale="log", yscale="log", xlabel="identities", xlim=(8e3, 1.6e6))
        axes.set_xticks(COUNTS, [f"{count:,}" for count in COUNTS], fontsize=8)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    _plain_ticks(panels[0], [row["processor_seconds"] for row in results["rows"]])
    _plain_ticks(panels[1], [row["peak_memory"] / 1e9 for row in results["rows"]])
    panels[1].axhline(_LIMIT / 1e9, color=MUTED, linewidth=1, linestyle="--")
    panels[1].annotate("8 GB", (9e3, _LIMIT / 1e9), (0, 4), textcoords="offset points", fontsize=9, color=MUTED)
    panels[0].legend(fontsize=9, frameon=False)
    title = f"A training step: {results['network']}, batch {results['batch']}"
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")
    return figure


def _plain_ticks(axes, values: Sequence[float]):
    """Ticks at 1, 2, 5, 10 and so on, written out."""
    ticks = [base * 10.0**power for power in range(-3, 4) for base in (1, 2, 5)]
    low, high = min(values) / 1.3, max(values) * 1.3
    axes.set_ylim(low, high)
    axes.set_yticks([], minor=True)
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.set_yticklabels([f"{tick:g}" for tick in axes.get_yticks()])
    axes.minorticks_off()


def _memory(count, rate):
    """Bytes that a process will need, about."""
    row = 4 * _EMBEDDING
    tables = 0 if rate == 1 else 2 * count * row
    return _BODY + tables + _COPIES * rate * count * row


def _free_memory():
    return int(machine.field("/proc/meminfo", "MemAvailable").split()[0]) * 1024


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m research.identities", description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="d63", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="pictures per step (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="steps per number (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    main()
