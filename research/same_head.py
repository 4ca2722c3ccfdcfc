"""``python -m research.same_head``: what networks with ReLU and the head GAP cost."""

from __future__ import annotations

import argparse
from functools import partial

from bench import machine
from bench.model import FACE, faces, make_model
from bench.race import Contender, race
from bench.training import mxnet_step
from denseface.embedding.engines import make_engine
from denseface.report.summary import summarize

NETWORKS = ("d63", "d121", "d169", "r18", "r34", "r50")
_HEAD, _BATCH = "GAP", 8


def main() -> None:
    """Print a row of a Markdown table for each network; of the machine, one thread alone is measured."""
    args = _arguments()
    print(machine.describe()["processor"], flush=True)
    for network in args.networks:
        total = summarize(make_model(network, "relu", _HEAD).symbol, FACE, network).total
        task = (network, "relu", _BATCH)
        one = {"OMP_NUM_THREADS": "1"}
        contenders = (
            Contender("inference", embeddings, (network,), one),
            Contender("training", mxnet_step, (*task, True, False, _HEAD), one),
            Contender("training in bfloat16", mxnet_step, (*task, True, True, _HEAD), one),
        )
        cells = [network, f"{total.parameters:,}", f"{total.macs / 1e9:.2f}", f"{total.memory / 2**20:.1f}"]
        for contender in contenders:
            (row,) = race([contender], args.rounds, print)
            cells.append(f"{1e3 * row['processor_seconds'] / _BATCH:.1f}")
        print("|", " | ".join(cells), "|", flush=True)


def embeddings(network: str):
    """Embed a batch with the engine ``mxnet``."""
    bound = make_engine("mxnet", make_model(network, "relu", _HEAD), _BATCH)
    return partial(bound, faces(_BATCH))


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m research.same_head", description=__doc__.partition(": ")[2])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK", help="default: d63 ... r50")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
