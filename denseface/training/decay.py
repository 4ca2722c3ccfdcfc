"""Which parameters weight decay applies to: one rule for all network families."""

from __future__ import annotations

import json

import mxnet as mx

_SHIFTED = ("BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "Convolution", "Deconvolution", "FullyConnected")


def with_decay_multipliers(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Set the weight decay of every parameter by what it is.

    Weights and the scales of normalizations decay. Biases, the shifts of normalizations and the slopes of PReLUs do
    not. This is what MXNet does by names, except that there a network from Gluon decays throughout, and slopes decay
    where they are called gamma. The class centers keep the multiplier that the loss gave them.

    Parameters
    ----------
    symbol : Symbol
        A training symbol, before operators are replaced by faster ones.

    Returns
    -------
    Symbol
        The same, with the attribute ``__wd_mult__`` on every variable but the data, the labels and the class centers.
    """
    description = json.loads(symbol.tojson())
    nodes = description["nodes"]
    parameters = {*symbol.list_arguments()} - {"data", "softmax_label", "fc7_weight"}
    spared = set()
    for node in nodes:
        sources = [nodes[source]["name"] for source, *_ in node["inputs"]]
        if node["op"] in _SHIFTED:
            spared.update(sources[2:3])  # data, weight or scale, bias or shift
        elif node["op"] == "LeakyReLU":
            spared.update(sources[1:])
    for node in nodes:
        if node["op"] == "null" and node["name"] in parameters:
            node.setdefault("attrs", {})["__wd_mult__"] = "0.0" if node["name"] in spared else "1.0"
    return mx.sym.load_json(json.dumps(description, ensure_ascii=False))
