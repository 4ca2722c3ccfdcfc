"""Which parameters weight decay applies to: one rule for all network families."""

from __future__ import annotations

from denseface.models.distillation import INPUTS
from denseface.models.graph import Graph
from denseface.models.losses import CLASS_CENTERS

_SHIFTED = ("BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "Convolution", "Deconvolution", "FullyConnected")


def set_decay_multipliers(graph: Graph) -> None:
    """Set the weight decay of every parameter by what it is, with the attribute ``__wd_mult__``.

    Weights and the scales of normalizations decay. Biases, the shifts of normalizations and the slopes of PReLUs do
    not. This is what MXNet does by names, except that there a network from Gluon decays throughout, and slopes decay
    where they are called gamma. The class centers keep the multiplier that the loss gave them.

    Parameters
    ----------
    graph : Graph
        That of a training symbol, before operators are replaced by faster ones.
    """
    spared = set()
    for node in graph.nodes:
        if node.op in _SHIFTED:
            spared.update(source for source, _ in node.inputs[2:3])  # data, weight or scale, bias or shift
        elif node.op == "LeakyReLU":
            spared.update(source for source, _ in node.inputs[1:])
    parameters = {*graph.arguments} - {*INPUTS, CLASS_CENTERS}
    for name, variable in graph.variables.items():
        if name in parameters:
            variable.attrs["__wd_mult__"] = "0.0" if variable in spared else "1.0"
