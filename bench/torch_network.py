"""Any network of this project in PyTorch: each node of its symbol as the module that a user would take for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bench.model import NETWORKS, make_model
from bench.torch_densenet import copy_of
from denseface.models.checkpoint import Model
from denseface.models.graph import Graph, Node


class Network(nn.Module):
    """From raw pictures (N, 3, H, W) to embeddings.

    Raises
    ------
    ValueError
        If there is an operator that it does not know.
    """

    def __init__(self, model: Model):
        super().__init__()
        parameters = {**model.arguments, **model.auxiliary}
        self.steps, self.operators = [], nn.ModuleList()
        for node in Graph(model.symbol).nodes:
            if node.op == "null":
                continue
            operator = _operator(node, [parameters.get(source.name) for source, _ in node.inputs])
            if isinstance(operator, nn.Module):
                self.operators.append(operator)
            inputs = [source.name for source, _ in node.inputs if source.name not in parameters]
            self.steps.append((operator, inputs, node.name))

    def forward(self, pictures):
        values = {}
        for operator, inputs, output in self.steps:
            values[output] = operator(*(pictures if name == "data" else values[name] for name in inputs))
        return values[output]


def torch_copy(network: str, activation: str, head: str | None = None) -> nn.Module:
    """Return the network of :func:`bench.model.make_model` in PyTorch."""
    model = make_model(network, activation, head)
    if network in NETWORKS and network.startswith("d") and network != "d15":  # whose stem is another
        return copy_of(model, int(network[1:]), activation, head or "E")
    return Network(model)


def _operator(node: Node, arrays: list[np.ndarray | None]):
    """Return the module or function for a node, with its parameters."""
    if node.op in ("_minus_scalar", "_mul_scalar"):
        scalar = node.number("scalar")
        return (lambda x: x - scalar) if node.op == "_minus_scalar" else (lambda x: x * scalar)
    if node.op == "elemwise_add":
        return torch.add
    if node.op == "Activation" and node.text("act_type") == "relu":
        return nn.ReLU()
    if node.op == "LeakyReLU" and node.text("act_type") == "prelu":
        return _filled(nn.PReLU(arrays[1].size), weight=arrays[1])
    if node.op == "Concat":
        return lambda *features: torch.cat(features, 1)
    if node.op == "Pooling" and not node.flag("global_pool", False):
        kind = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[node.text("pool_type")]
        is_full = node.text("pooling_convention", "valid") == "full"
        return kind(node.ints("kernel"), node.ints("stride", (1, 1)), node.ints("pad", (0, 0)), ceil_mode=is_full)
    if node.op == "Dropout":
        return nn.Dropout(node.number("p", 0.5))
    if node.op == "Convolution":
        outputs, inputs, groups = *arrays[1].shape[:2], node.integer("num_group", 1)
        stride, padding = node.ints("stride", (1, 1)), node.ints("pad", (0, 0))
        module = nn.Conv2d(inputs * groups, outputs, node.ints("kernel"), stride, padding, groups=groups, bias=False)
        return _filled(module, weight=arrays[1])
    if node.op == "FullyConnected":
        module = nn.Sequential(nn.Flatten(), nn.Linear(arrays[1].shape[1], len(arrays[1])))
        _filled(module[1], weight=arrays[1], bias=arrays[2])
        return module
    if node.op == "BatchNorm":
        kind = nn.BatchNorm1d if node.source().op == "FullyConnected" else nn.BatchNorm2d
        module = kind(arrays[1].size, node.number("eps", 1e-3), 1 - node.number("momentum", 0.9))
        module.weight.requires_grad_(not node.flag("fix_gamma", True))
        return _filled(module, weight=arrays[1], bias=arrays[2], running_mean=arrays[3], running_var=arrays[4])
    raise ValueError(f"PyTorch's counterpart of {node.op} {node.name} is not known here")


def _filled(module: nn.Module, **arrays: np.ndarray) -> nn.Module:
    with torch.no_grad():
        for name, array in arrays.items():
            getattr(module, name).copy_(torch.from_numpy(array))
    return module
