"""Record what InsightFace's own DenseNet symbols are, from a copy of its tree: see README.md."""

import argparse
import gzip
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from helpers import GOLDEN, bind, golden_input, parameter_shapes

import mxnet as mx

DEPTHS = (121, 161, 169, 201)
ACTIVATIONS = ("relu", "prelu")
HEADS = ("E", "F", "FC", "G", "H", "I", "J", "Z", "GAP")  # the others do not build, or only by accident
OUTPUTS = [
    *((121, "relu", head) for head in ("E", "FC", "H", "J", "GAP")),
    *((121, "prelu", head) for head in ("F", "G", "I", "GAP")),
    (161, "prelu", "GAP"),
    (169, "relu", "E"),
    (201, "prelu", "GAP"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, help="InsightFace's recognition/arcface_mxnet, with its config.py in place")
    tree = parser.parse_args().tree.resolve()
    sys.path[:0] = [str(tree), str(tree / "symbol")]
    parameters = {"body": {}, "heads": {}}
    for depth, act, head in itertools.product(DEPTHS, ACTIVATIONS, HEADS):
        symbol = build(depth, act, head)
        arguments, auxiliary = parameter_shapes(symbol)
        parameters["body"][f"d{depth}/{act}"] = {
            "args": [row for row in arguments if is_body(row)],
            "aux": [row for row in auxiliary if is_body(row)],
        }
        parameters["heads"][f"d{depth}/{act}/{head}"] = {
            "args": [row for row in arguments if not is_body(row)],
            "aux": [row for row in auxiliary if not is_body(row)],
            "output": list(symbol.infer_shape(data=(1, 3, 112, 112))[1][0]),
            "params": int(sum(np.prod(shape) for _, shape in arguments)),
        }
    text = json.dumps(parameters, separators=(",", ":")).encode()
    (GOLDEN / "fdensenet_parameters.json.gz").write_bytes(gzip.compress(text, mtime=0))
    outputs = {
        f"d{depth}-{act}-{head}": bind(build(depth, act, head), {"data": golden_input()}).outputs[0].asnumpy()
        for depth, act, head in OUTPUTS
    }
    np.savez_compressed(GOLDEN / "fdensenet_outputs.npz", **outputs)


def build(depth, act, head):
    """InsightFace's own symbol, under the names of its first call."""
    import fdensenet

    from config import config

    config.update(num_layers=depth, net_act=act, net_output=head, emb_size=512, densenet_dropout=0.0)
    with mx.name.NameManager():
        return fdensenet.get_symbol()


def is_body(row):
    return row[0].startswith("densenet0_")


if __name__ == "__main__":
    main()
