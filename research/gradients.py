"""``python -m research.gradients``: the gradient of each convolution of a network in its first steps, by depth.

Batch normalization makes the loss independent of the length of a weight, and its gradient inverse to that length. The
product of both lengths, which is measured, is therefore the same however the weights were scaled at the start.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from denseface.data.pictures import decode
from denseface.data.records import FaceRecords
from denseface.models import families
from denseface.models.graph import Graph
from denseface.options.names import Names
from denseface.report.plotting import COLORS, new_figure, save_figure

import mxnet as mx

NETWORKS = ("d121", "r50", "plain121")
_INPUTS = ("data", "softmax_label")
_OWN = Path(__file__).parent / "networks"


def main() -> None:
    """Write ``gradients.json`` and ``gradients.png``."""
    args = _arguments()
    found = {}
    for network in args.networks:
        runs = [measure(network, args.data, args.batch, args.steps, seed) for seed in args.seeds]
        found[network] = np.exp(np.mean(np.log(runs), axis=0)).tolist()
        first, last = np.mean(found[network][:5]), np.mean(found[network][-5:])
        print(f"{network}: first five {first:.3g}, last five {last:.3g}, ratio {first / last:.2g}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    results = {"batch": args.batch, "steps": args.steps, "seeds": args.seeds, "networks": found}
    (args.out / "gradients.json").write_text(json.dumps(results) + "\n", encoding="utf-8")
    save_figure(
        draw(found, f"first {args.steps} steps, batch {args.batch}, {len(args.seeds)} seeds"),
        args.out / "gradients.png",
    )


def measure(network: str, data: Path, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Return, for each convolution in the order of computation, the mean over some steps of SGD of its gradient.

    Parameters
    ----------
    network : str
        Of ``config.py`` or of ``research/networks``; with ReLU and the head GAP.
    data : Path
        Folder of a training set.
    batch_size, steps, seed : int
        The seed decides parameters and batches.
    """
    settings = ["net_act=relu", "net_output=GAP", "loss_m2=0.3"]
    spec = families.configure(Names(recipe="small", network=network, dataset="orl"), settings, _OWN / "networks.json")
    pictures, labels = _faces(data)
    spec = spec.replace(num_classes=len(np.unique(labels)), symbol_path=str(_OWN))
    embedding = families.embedding_symbol(spec)
    names = [node.source(1).name for node in Graph(embedding).nodes if node.op == "Convolution"]
    symbol = families.training_symbol(spec, embedding)
    learned = [name for name in symbol.list_arguments() if name not in _INPUTS]
    shapes = {"data": (batch_size, *pictures.shape[1:]), "softmax_label": (batch_size,)}
    executor = symbol.simple_bind(mx.cpu(), grad_req=dict.fromkeys(learned, "write"), **shapes)
    mx.random.seed(seed)
    np.random.seed(seed)  # MXNet's initializers draw from both
    initializer, attributes = families.initializer(spec.network.net_name), symbol.attr_dict()
    for name, array in [*executor.arg_dict.items(), *executor.aux_dict.items()]:
        if name not in _INPUTS:
            initializer(mx.init.InitDesc(name, attributes.get(name, {})), array)
    random = np.random.default_rng(seed)
    products = []
    for _ in range(steps):
        chosen = random.choice(len(labels), batch_size, replace=False)
        executor.forward(is_train=True, data=mx.nd.array(pictures[chosen]), softmax_label=mx.nd.array(labels[chosen]))
        executor.backward()
        lengths = [executor.arg_dict[name].norm() * executor.grad_dict[name].norm() for name in names]
        products.append([length.asscalar() / batch_size for length in lengths])
        for name, gradient in executor.grad_dict.items():
            if gradient is not None:
                executor.arg_dict[name][:] -= spec.optimizer.lr / batch_size * gradient
    return np.mean(products, axis=0)


def draw(found: dict[str, list[float]], how: str):
    """Draw the gradients of networks against the depth, from the pictures (0) to the head (1)."""
    figure = new_figure(8, 4)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    axes = figure.subplots()
    for (network, values), color in zip(found.items(), COLORS):
        axes.plot(
            np.linspace(0, 1, len(values)), values, color=color, marker="o", markersize=2.5, linewidth=1, label=network
        )
    axes.set(yscale="log", xlabel="depth of the convolution, 0: first, 1: last", ylabel="length of gradient x weight")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_title(f"Gradients of convolutions: {how}", fontsize=10, loc="left")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False)
    return figure


def _faces(data):
    with FaceRecords(data) as records:
        labels, payloads = zip(*(records.read_image(key) for key in records.keys.tolist()))
    return np.stack([decode(face).transpose(2, 0, 1) for face in payloads]).astype(np.float32), np.array(
        labels, np.float32
    )


def _arguments():
    parser = argparse.ArgumentParser(
        prog="python -m research.gradients", description=__doc__.partition(": ")[2].partition("\n")[0]
    )
    parser.add_argument(
        "networks", nargs="*", default=NETWORKS, metavar="NETWORK", help=f"default: {' '.join(NETWORKS)}"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("datasets/orl"), metavar="DIR", help="training set (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    main()
