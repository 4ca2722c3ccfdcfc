"""``python -m bench``: measure this project and its peers in turns, and write the results."""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import denseface  # noqa: F401  makes MXNet importable
from bench import (
    centers,
    commands,
    inference,
    loader,
    machine,
    report,
    search,
    training,
)
from bench.model import macs_of, make_model
from bench.race import Contender, race

_PARTS = ("inference", "latency", "training", "loader", "embed", "search", "start", "centers")
_DENSE = ("d63", "d121", "d161", "d169", "d201")
_NETWORKS = (*_DENSE, "r50", "y1")  # the last two in training and embed only
_ACTIVATIONS = ("relu", "prelu")
_EMBEDDED = 64
_LIMIT_ROUNDS = 5


class _Race(NamedTuple):
    part: str
    title: str
    done: tuple[int, str]
    contenders: list[Contender]
    rounds: int
    macs: int = 0  # of a run, if it is the same for all contenders


def main() -> None:
    """Run the parts that were named."""
    args = _arguments()
    results = {
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "machine": machine.describe(),
        "limits": {},
        "races": [],
    }
    for part, title, done, contenders, rounds, macs in _races(args):
        if part in args.parts:
            _raise_limits(results["limits"])
            _say(title)
            rows = race(contenders, rounds, lambda line: _say(f"  {line}"))
            for row in rows:
                _say(f"  {row['name']}: {row['seconds'] * 1e3:.1f} ms, {rows[0]['seconds'] / row['seconds']:.2f} times")
            results["races"].append({"title": title, "done": done, "rounds": rounds, "macs": macs, "rows": rows})
            _raise_limits(results["limits"])
            page = report.write(args.out, results)  # after each race, because a later one may fail
    _say(str(page))


def _races(args) -> Iterator[_Race]:
    few = max(2, args.rounds // 3)  # of contenders that take seconds
    for network, activation in itertools.product(args.network, args.activations):
        name = f"{network}, {activation}"
        macs = macs_of(make_model(network, activation))
        for part, size in (("inference", args.batch), ("latency", 1)) if network in _DENSE else ():
            contenders = inference.contenders(network, activation, size)
            title = f"Inference, {name}, batch {size}"
            yield _Race(part, title, (size, "pictures"), contenders, args.rounds, size * macs)
        if "training" in args.parts:
            size = args.training_batch
            contenders = training.contenders(network, activation, size, _say)
            title = f"Training, {name}, batch {size}"  # the backward pass has two products for each forward one
            yield _Race("training", title, (size, "pictures"), contenders, few, 3 * size * macs)
        contenders = commands.embed_contenders(network, activation, _EMBEDDED, "mxnet")
        yield _Race("embed", f"Embedding files, {name}", (_EMBEDDED, "pictures"), contenders, few)
    with tempfile.TemporaryDirectory() as folder:
        loader.make_set(folder)
        done = (loader.PICTURES, "pictures")
        yield _Race("loader", "Reading records", done, loader.contenders(folder), args.rounds)
    if "search" in args.parts:  # the gallery takes half a gigabyte
        with tempfile.TemporaryDirectory() as folder:
            gallery = search.make_gallery(folder)
            for count, loaded in itertools.product((1, 100), (True, False)):
                title = f"Search of 1,000,000 embeddings, one core, {'already open' if loaded else 'from the file'}"
                contenders = search.contenders(gallery, count, loaded)
                yield _Race("search", f"{title}, {count} queries", (count, "queries"), contenders, few)
    yield _Race("start", "Starting", (1, "starts"), commands.start_contenders(), args.rounds)
    title = f"A step of {centers.SAMPLE:,} of {centers.CLASSES:,} class centers"
    yield _Race("centers", title, (1, "steps"), centers.contenders(), args.rounds)


def _raise_limits(limits):
    """Measure what the machine can do, and keep the best of all moments: a shared machine is slower at times."""
    for row in race(commands.limit_contenders(), _LIMIT_ROUNDS, _say):
        if row["name"] == commands.COPY:
            name, amount, unit = "copy, read and written", 2 * commands.COPIED, "GB/s"
        else:
            name, amount, unit = report.peak(row["precision"]), 2 * commands.MATRIX**3, "GFLOP/s"
        limits[name] = max(limits.get(name, (0, unit)), (amount / row["fastest"] / 1e9, unit))


def _say(line):
    print(line, flush=True)


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    what = f"what to measure: {', '.join(_PARTS)} (default: all)"
    parser.add_argument("parts", nargs="*", metavar="PART", help=what)
    parser.add_argument("--network", nargs="+", default=("d121", "d63"), choices=_NETWORKS, help="default: d121 d63")
    parser.add_argument("--activations", nargs="+", default=_ACTIVATIONS, choices=_ACTIVATIONS, help="default: both")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="pictures at a time (default: 8)")
    parser.add_argument("--training-batch", type=int, default=16, metavar="N", help="in training (default: 16)")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="turns per contender (default: 15)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    args = parser.parse_args()
    args.parts = args.parts or _PARTS
    unknown = set(args.parts) - set(_PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(_PARTS)}")
    return args


if __name__ == "__main__":
    main()
