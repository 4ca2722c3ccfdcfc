"""``python -m bench``: measure this project and its peers in turns, and write the results."""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import denseface  # noqa: F401  makes MXNet importable
from bench import busy, centers, commands, inference, loader, machine, photographs, report, search, training
from bench.model import NETWORKS, macs_of, make_model
from bench.race import Contender, race

_LIMIT_ROUNDS = 5
_EMBEDDED = 64

# The networks of each part that depends on one, unless others are named.
_DEFAULT_NETWORKS = {
    "inference": ("d121", "d15", "r18", "y1"),
    "latency": ("d121", "y1"),
    "training": ("d121",),
    "embed": ("d63",),
    "busy": ("d63", "y1"),
}
_PARTS = (*_DEFAULT_NETWORKS, "detection", "gallery", "loader", "search", "start", "centers")
_ACTIVATIONS = ("relu", "prelu")


class _Race(NamedTuple):
    title: str
    done: tuple[int, str]
    contenders: list[Contender]
    rounds: int
    macs: int = 0  # of a run, if it is the same for all contenders


def main() -> None:
    """Run the parts that were named."""
    args = _arguments()
    began = time.monotonic()
    results = {
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "machine": machine.describe(),
        "limits": {},
        "races": [],
    }
    has_limits = not {"inference", "latency", "training"}.isdisjoint(args.parts)
    if has_limits:
        _raise_limits(results["limits"])
    for title, done, contenders, rounds, macs in _races(args):
        _say(f"{title} ({time.monotonic() - began:.0f} s)")
        try:
            rows = race(contenders, rounds, lambda line: _say(f"  {line}"))
        except RuntimeError as error:  # a peer computes something else; the other races are worth their time
            _say(f"  {error}")
            continue
        for row in rows:
            _say(f"  {row['name']}: {row['seconds'] * 1e3:.1f} ms, {rows[0]['seconds'] / row['seconds']:.2f} times")
        results["races"].append({"title": title, "done": done, "rounds": rounds, "macs": macs, "rows": rows})
        report.write(args.out, results)  # after each race, because a later one may fail
    if has_limits:
        _raise_limits(results["limits"])  # a shared machine is slower at times
    _say(f"{report.write(args.out, results)}, in {time.monotonic() - began:.0f} s")


def _races(args) -> Iterator[_Race]:
    few = max(2, args.rounds // 3)  # of contenders that take seconds
    for part in args.parts:
        for network, activation in _networks(args, part):
            yield from _races_of(part, network, activation, few, args)
        if part == "detection" or part == "gallery":
            make = photographs.detection_contenders if part == "detection" else photographs.gallery_contenders
            for size, count in photographs.COUNT.items():
                title = f"Photographs of {size} to {'landmarks' if part == 'detection' else 'a gallery'}, one core"
                yield _Race(title, (count, "pictures"), make(size), few)
        elif part == "loader":
            with tempfile.TemporaryDirectory() as folder:
                loader.make_set(folder)
                done = (loader.PICTURES, "pictures")
                yield _Race("Reading records", done, loader.contenders(folder), args.rounds)
        elif part == "search":
            with tempfile.TemporaryDirectory() as folder:  # the gallery takes half a gigabyte
                gallery = search.make_gallery(folder)
                for count, loaded in itertools.product((1, 100), (True, False)):
                    title = f"Search of 1,000,000 embeddings, one core, {'already open' if loaded else 'from the file'}"
                    contenders = search.contenders(gallery, count, loaded)
                    yield _Race(f"{title}, {count} queries", (count, "queries"), contenders, few)
        elif part == "start":
            yield _Race("Starting", (1, "starts"), commands.start_contenders(), args.rounds)
        elif part == "centers":
            title = f"A step of {centers.SAMPLE:,} of {centers.CLASSES:,} class centers"
            yield _Race(title, (1, "steps"), centers.contenders(), args.rounds)


def _races_of(part: str, network: str, activation: str, few: int, args: argparse.Namespace) -> Iterator[_Race]:
    """The races of a part with one network."""
    name = f"{network}, {activation}" if network in NETWORKS else network
    if part == "embed":
        contenders = commands.embed_contenders(network, activation, _EMBEDDED, "mxnet")
        yield _Race(f"Embedding files, {name}", (_EMBEDDED, "pictures"), contenders, few)
        return
    if part == "busy":
        for is_training, size in ((False, 1), (True, args.training_batch)):
            title = f"{'Training' if is_training else 'Inference'} on a busy machine, {name}, batch {size}"
            contenders = busy.contenders(network, activation, size, is_training)
            yield _Race(title, (size, "pictures"), contenders, few)
        return
    macs = macs_of(make_model(network, activation))
    if part == "training":
        size = args.training_batch
        contenders = training.contenders(network, activation, size, _say)
        title = f"Training, {name}, batch {size}"  # the backward pass has two products for each forward one
        yield _Race(title, (size, "pictures"), contenders, few, 3 * size * macs)
        return
    size = args.batch if part == "inference" else 1
    contenders = inference.contenders(network, activation, size, args.every)
    yield _Race(f"Inference, {name}, batch {size}", (size, "pictures"), contenders, args.rounds, size * macs)


def _networks(args: argparse.Namespace, part: str) -> Iterator[tuple[str, str]]:
    """The networks of a part, and their activations."""
    if part not in _DEFAULT_NETWORKS:
        return
    for network in args.network or _DEFAULT_NETWORKS[part]:
        own = ("relu" if network.startswith("d") else "prelu",)  # as they are usually trained
        yield from ((network, activation) for activation in args.activations or own)
    if part in ("inference", "latency"):
        yield from ((prefix, "") for prefix in args.checkpoint)


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
    parser.add_argument("--network", nargs="+", choices=NETWORKS, help="default: a few in each part")
    parser.add_argument(
        "--activations", nargs="+", choices=_ACTIVATIONS, help="default: relu for DenseNets, prelu for the others"
    )
    parser.add_argument(
        "--checkpoint", nargs="+", default=(), metavar="PREFIX", help="models to measure in inference, beside networks"
    )
    parser.add_argument("--every", action="store_true", help="PyTorch and MXNet in all their ways in inference, too")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="pictures at a time (default: 8)")
    parser.add_argument("--training-batch", type=int, default=16, metavar="N", help="in training (default: 16)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns per contender (default: 5)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    args = parser.parse_args()
    args.parts = args.parts or _PARTS
    unknown = set(args.parts) - set(_PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(_PARTS)}")
    return args


if __name__ == "__main__":
    main()
