"""``python -m bench``: measure this project and its peers by turns, and write what came out."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import denseface  # noqa: F401  makes MXNet importable
from bench import centers, commands, identities, inference, loader, machine, report, training
from bench.race import Contender, race

_PARTS = ("inference", "latency", "training", "loader", "embed", "start", "centers")
_LONG = "identities"  # only if asked for, and alone
_NETWORKS = ("d63", "d121", "d161", "d169", "d201")
_ACTIVATIONS = ("relu", "prelu")
_EMBEDDED = 64


class _Race(NamedTuple):
    part: str
    title: str
    done: tuple[int, str]
    contenders: list[Contender]
    rounds: int


def main() -> None:
    """Run the parts that were asked for."""
    args = _arguments()
    if args.parts == [_LONG]:
        identities.measure(args.network, args.training_batch, args.rounds, args.out, _say)
        return
    results = {
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "machine": machine.describe(),
        "limits": _limits(args.rounds),
        "races": [],
    }
    for part, title, done, contenders, rounds in _races(args):
        if part in args.parts:
            _say(title)
            rows = race(contenders, rounds, lambda line: _say(f"  {line}"))
            for row in rows:
                _say(f"  {row['name']}: {row['seconds'] * 1e3:.1f} ms, {rows[0]['seconds'] / row['seconds']:.2f} times")
            results["races"].append({"title": title, "done": done, "rounds": rounds, "rows": rows})
    _say(str(report.write(args.out, results)))


def _races(args) -> Iterator[_Race]:
    few = max(2, args.rounds // 3)  # of what takes seconds
    for activation in args.activations:
        name = f"{args.network}, {activation}"
        for part, size in (("inference", args.batch), ("latency", 1)):
            contenders = inference.contenders(args.network, activation, size)
            yield _Race(part, f"Inference, {name}, batch {size}", (size, "pictures"), contenders, args.rounds)
        size = args.training_batch
        contenders = training.contenders(args.network, activation, size)
        yield _Race("training", f"Training, {name}, batch {size}", (size, "pictures"), contenders, few)
        contenders = commands.embed_contenders(args.network, activation, _EMBEDDED, "mxnet")
        yield _Race("embed", f"Embedding files, {name}", (_EMBEDDED, "pictures"), contenders, few)
    with tempfile.TemporaryDirectory() as folder:
        loader.make_set(folder)
        done = (loader.PICTURES, "pictures")
        yield _Race("loader", "Reading records", done, loader.contenders(folder), args.rounds)
    yield _Race("start", "Starting", (1, "starts"), commands.start_contenders(), args.rounds)
    title = f"A step of {centers.SAMPLE:,} of {centers.CLASSES:,} class centres"
    yield _Race("centers", title, (1, "steps"), centers.contenders(), args.rounds)


def _limits(rounds):
    """What the machine can do at most, measured before the rest."""
    multiply, copy = (row["seconds"] for row in race(commands.limit_contenders(), rounds, _say))
    return {
        "float32 matrix product": (2 * commands.MATRIX**3 / multiply / 1e9, "GFLOP/s"),
        "copy, read and written": (2 * commands.COPIED / copy / 1e9, "GB/s"),
    }


def _say(line):
    print(line, flush=True)


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    known = f"{', '.join(_PARTS)} (default: all), or {_LONG} alone"
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {known}")
    parser.add_argument("--network", default="d121", choices=_NETWORKS, help="default: d121")
    parser.add_argument("--activations", nargs="+", default=_ACTIVATIONS, choices=_ACTIVATIONS, help="default: both")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="pictures at a time (default: 8)")
    parser.add_argument("--training-batch", type=int, default=16, metavar="N", help="in training (default: 16)")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="turns of each (default: 15)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    args = parser.parse_args()
    args.parts = args.parts or _PARTS
    unknown = set(args.parts) - set(_PARTS) if args.parts != [_LONG] else ()
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(_PARTS)}, {_LONG}")
    return args


if __name__ == "__main__":
    main()
