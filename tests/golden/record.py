"""Record what InsightFace's own symbols are, from a copy of its tree: see README.md."""

import argparse
import gzip
import importlib
import itertools
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np

from support.helpers import GOLDEN, bind, golden_input, parameter_shapes

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


RESIDUAL = {
    **{f"r{depth}": {"num_layers": depth} for depth in (18, 34, 50, 100)},
    "r50fc": {"num_layers": 50, "net_output": "FC"},
    "r18-unit1": {"num_layers": 18, "net_unit": 1},
    "r18-unit1-input0": {"num_layers": 18, "net_unit": 1, "net_input": 0},
    "r18-unit1-se": {"num_layers": 18, "net_unit": 1, "net_se": 1},
    "r18-unit2": {"num_layers": 18, "net_unit": 2},
    "r18-unit2-se": {"num_layers": 18, "net_unit": 2, "net_se": 1},
    "r18-unit3-input0": {"num_layers": 18, "net_input": 0},
    "r18-unit3-se": {"num_layers": 18, "net_se": 1},
}
RESIDUAL_DEPTHS = (18, 34, 49, 50, 74, 90, 98, 99, 100, 101, 124, 134, 136, 140, 152, 160, 200, 269)
MOBILE = {
    "y1": {"emb_size": 128, "net_output": "GDC"},
    "y2": {"emb_size": 256, "net_output": "GDC", "net_blocks": [2, 8, 16, 4]},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, help="InsightFace's recognition/arcface_mxnet, with its config.py in place")
    tree = parser.parse_args().tree.resolve()
    sys.path[:0] = [str(tree), str(tree / "symbol")]
    sys.modules.setdefault("sklearn", ModuleType("sklearn"))  # fresnet.py imports it and uses nothing of it
    record_densenets()
    record_others("fresnet", RESIDUAL, not_run=("r34", "r100", "r50fc"))
    record_others("fmobilefacenet", MOBILE)


def record_densenets():
    parameters = {"body": {}, "heads": {}}
    for depth, act, head in itertools.product(DEPTHS, ACTIVATIONS, HEADS):
        symbol = densenet(depth, act, head)
        row = facts(symbol)
        parameters["body"][f"d{depth}/{act}"] = {
            "args": [named for named in row["args"] if is_body(named)],
            "aux": [named for named in row["aux"] if is_body(named)],
        }
        row["args"] = [named for named in row["args"] if not is_body(named)]
        row["aux"] = [named for named in row["aux"] if not is_body(named)]
        parameters["heads"][f"d{depth}/{act}/{head}"] = row
    outputs = {
        f"d{depth}-{act}-{head}": bind(densenet(depth, act, head), {"data": golden_input()}).outputs[0].asnumpy()
        for depth, act, head in OUTPUTS
    }
    write("fdensenet", parameters, outputs)


def record_others(family, networks, not_run=()):
    parameters = {"networks": {}}
    outputs = {}
    for name, settings in networks.items():
        symbol = build(family, **settings)
        parameters["networks"][name] = {"config": settings, **facts(symbol)}
        if name not in not_run:
            outputs[name] = bind(symbol, {"data": golden_input()}, gain=0.25).outputs[0].asnumpy()
    if family == "fresnet":
        parameters["units"] = {depth: units_per_stage(build(family, num_layers=depth)) for depth in RESIDUAL_DEPTHS}
    write(family, parameters, outputs)


def densenet(depth, act, head):
    return build("fdensenet", num_layers=depth, net_act=act, net_output=head)


def build(family, **settings):
    """InsightFace's own symbol, under the names of its first call."""
    from config import config

    usual = {"emb_size": 512, "net_act": "prelu", "net_output": "E", "net_unit": 3, "net_input": 1, "net_se": 0}
    config.update(usual, net_blocks=[1, 4, 6, 2], densenet_dropout=0.0)
    config.update(settings)
    with mx.name.NameManager():
        return importlib.import_module(family).get_symbol()


def facts(symbol):
    arguments, auxiliary = parameter_shapes(symbol)
    return {
        "args": arguments,
        "aux": auxiliary,
        "output": list(symbol.infer_shape(data=(1, 3, 112, 112))[1][0]),
        "params": int(sum(np.prod(shape) for _, shape in arguments)),
    }


def units_per_stage(symbol):
    stages = Counter(re.findall(r"stage(\d)_unit\d+_conv1_weight", " ".join(symbol.list_arguments())))
    return [stages[stage] for stage in sorted(stages)]


def write(family, parameters, outputs):
    text = json.dumps(parameters, separators=(",", ":")).encode()
    (GOLDEN / f"{family}_parameters.json.gz").write_bytes(gzip.compress(text, mtime=0))
    np.savez_compressed(GOLDEN / f"{family}_outputs.npz", **outputs)


def is_body(named):
    return named[0].startswith("densenet0_")


if __name__ == "__main__":
    main()
