"""``python -m research.growth``: how the cost of an embedding grows with the batch, the network and the embedding."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench import machine
from bench.model import configured, faces, macs_of, random_model
from bench.race import Contender, race
from denseface.embedding.engines import make_engine
from denseface.models import families
from denseface.report.plotting import COLORS, new_figure, save_figure

ENGINES = ("mxnet", "onnxruntime", "openvino")
_NETWORK, _BATCH, _EMBEDDING = "d121", 8, 512  # where another thing varies
_MACS = "GMACs per picture"
AXES = {
    "pictures per batch": [(_NETWORK, batch, _EMBEDDING) for batch in (1, 4, 16)],
    _MACS: [(network, _BATCH, _EMBEDDING) for network in ("d63", "d121", "d169", "d201", "d161")],
    "values of an embedding": [(_NETWORK, _BATCH, length) for length in (64, 512, 2048)],
}


def main() -> None:
    """Write ``growth.json`` and ``growth.png``; draw the latter again from the former with ``--draw``."""
    args = _arguments()
    stored = args.out / "growth.json"
    if not args.draw:
        results = {
            "command": shlex.join(["python", "-m", "research.growth", *sys.argv[1:]]),
            "rounds": args.rounds,
            "machine": machine.describe(),
            "points": {axis: [_point(task, args.rounds) for task in tasks] for axis, tasks in AXES.items()},
        }
        args.out.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results = json.loads(stored.read_text(encoding="utf-8"))
    save_figure(draw(results["points"], results["machine"]["processor"]), args.out / "growth.png")
    print(args.out / "growth.png")


def embeddings(engine: str, network: str, batch_size: int, emb_size: int) -> Callable[[], np.ndarray]:
    """Embed a batch with relu and the head E."""
    bound = make_engine(engine, _model(network, emb_size), batch_size)
    pictures = faces(batch_size)
    return lambda: bound(pictures)


def draw(points: dict[str, list[dict]], processor: str):
    """Draw the processor time of a picture, a panel for each thing that varies."""
    figure = new_figure(10, 4)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    for axes, (axis, line) in zip(figure.subplots(1, len(points)), points.items()):
        for engine, color in zip(ENGINES, COLORS):
            values = [1e3 * point["engines"].get(engine, np.nan) for point in line]
            places = [_value(axis, point) for point in line]
            style = "" if axis == _MACS else "-"  # points of different networks are not joined
            axes.plot(places, values, style, color=color, marker="o", markersize=4, linewidth=1.5, label=engine)
        if axis == _MACS:
            tops = [1e3 * max(point["engines"].values()) for point in line]
            for point, top in zip(line, tops):
                where = (_value(axis, point), top)
                axes.annotate(point["network"], where, (0, 5), textcoords="offset points", ha="center", fontsize=8)
        else:
            axes.set_xscale("log", base=2)
            axes.set_xticks(places, map(str, places))
        axes.set_xlabel(axis)
        axes.set_ylabel("processor time, ms per picture")
        axes.set_ylim(bottom=0)
        axes.margins(y=0.12)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize=9, frameon=False)
    figure.suptitle(
        f"{_NETWORK}, relu, head E, batch {_BATCH}, {_EMBEDDING} values, unless the axis says otherwise; {processor}",
        fontsize=10, x=0.02, ha="left",
    )  # fmt: skip
    return figure


def _point(task, rounds):
    contenders = [Contender(engine, embeddings, (engine, *task)) for engine in ENGINES]
    found = {row["name"]: row["processor_seconds"] / task[1] for row in race(contenders, rounds, print)}
    network, batch_size, emb_size = task
    print(task, {name: f"{1e3 * seconds:.1f} ms" for name, seconds in found.items()}, flush=True)
    macs = macs_of(_model(network, emb_size))
    return {"network": network, "batch": batch_size, "emb_size": emb_size, "macs": macs, "engines": found}


def _value(axis, point):
    if axis == _MACS:
        return point["macs"] / 1e9
    return point["batch" if axis == "pictures per batch" else "emb_size"]


def _model(network, emb_size):
    return random_model(families.embedding_symbol(configured(network, "relu", "E", emb_size)), network)


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m research.growth", description=__doc__.partition(": ")[2])
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns per engine (default: %(default)s)")
    parser.add_argument("--draw", action="store_true", help="draw what was measured before")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    main()
