"""How the cost of an embedding grows with the batch, the depth and the length of the embedding."""

from __future__ import annotations

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
_DEPTH = "depth, and GMACs"
AXES = {
    "pictures per batch": [(_NETWORK, batch, _EMBEDDING) for batch in (1, 2, 4, 8, 16, 32)],
    _DEPTH: [(network, _BATCH, _EMBEDDING) for network in ("d63", "d121", "d161", "d169", "d201")],
    "values of an embedding": [(_NETWORK, _BATCH, length) for length in (64, 128, 256, 512, 1024)],
}


def measure(rounds: int, folder: Path, say: Callable[[str], None]) -> None:
    """Write ``growth.json`` and ``growth.png``."""
    points = {axis: [] for axis in AXES}
    for axis, tasks in AXES.items():
        for task in tasks:
            contenders = [Contender(engine, embeddings, (engine, *task)) for engine in ENGINES]
            point = {"network": task[0], "batch": task[1], "emb_size": task[2], "engines": {}}
            point["macs"] = macs_of(_model(task[0], task[2]))
            for row in race(contenders, rounds, say):
                point["engines"][row["name"]] = row["seconds"] / task[1]
            points[axis].append(point)
            shown = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in point["engines"].items())
            say(f"{task[0]}, batch {task[1]}, {task[2]} values: {shown} per picture")
    results = {
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "rounds": rounds,
        "machine": machine.describe(),
        "points": points,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "growth.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    save_figure(draw(points), folder / "growth.png")
    say(str(folder / "growth.png"))


def embeddings(engine: str, network: str, batch_size: int, emb_size: int) -> Callable[[], np.ndarray]:
    """Embed a batch with relu and the head E."""
    bound = make_engine(engine, _model(network, emb_size), batch_size)
    pictures = faces(batch_size)
    return lambda: bound(pictures)


def draw(points: dict):
    """Draw milliseconds a picture, a panel for each thing that varies."""
    figure = new_figure(12, 4)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    for axes, (axis, line) in zip(figure.subplots(1, len(points)), points.items()):
        positions = range(len(line))
        for engine, color in zip(ENGINES, COLORS):
            values = [1e3 * point["engines"].get(engine, np.nan) for point in line]
            style = "" if axis == _DEPTH else "-"  # points of different networks are not joined
            axes.plot(positions, values, style, color=color, marker="o", markersize=4, linewidth=1.5, label=engine)
        axes.set_xticks(positions, [_tick(axis, point) for point in line], fontsize=9)
        axes.set_xlabel(axis)
        axes.set_ylim(bottom=0)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    first = figure.axes[0]
    first.set_ylabel("ms per picture")
    first.legend(fontsize=9, frameon=False)
    figure.suptitle(
        f"An embedding: {_NETWORK}, relu, batch {_BATCH}, {_EMBEDDING} values, unless the axis says otherwise",
        fontsize=11, x=0.02, ha="left",
    )  # fmt: skip
    return figure


def _tick(axis, point):
    if axis == _DEPTH:
        return f"{point['network'][1:]}\n{point['macs'] / 1e9:.1f}"
    return str(point["batch" if axis == "pictures per batch" else "emb_size"])


def _model(network, emb_size):
    return random_model(families.embedding_symbol(configured(network, "relu", "E", emb_size)), network)
