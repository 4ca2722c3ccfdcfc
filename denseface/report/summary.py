"""The layers of a network and their costs: layer by layer, stage by stage, and in total."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from denseface.models.graph import Graph, Node
from denseface.models.symbol_file import infer_shapes
from denseface.report.costs import VIEWS, cost_of

if TYPE_CHECKING:
    from denseface.models.graph import Shape

    import mxnet as mx

_BYTES = 4  # of a float32
HEAD = "head"


@dataclass(frozen=True)
class Layer:
    """One operator and its costs for one picture.

    Attributes
    ----------
    name, op : str
        As in the symbol.
    kind : str
        A short description, such as "conv 3x3 /2, 64".
    stage : str
        Picture size that it works on, as "28x28"; "head" after the last layer with a spatial size.
    inputs : tuple of int
        Indices in `Summary.layers` of the layers that it reads, -1 for the picture; layers that work on parameters
        alone are left out.
    output : tuple of int
        Shape of its first output, without the batch.
    parameters, auxiliary : int
        Number of learned values, and of moving averages, that no earlier layer shares.
    macs, flops : int or None
        Multiply-accumulates and floating-point operations, counted as in :mod:`denseface.report.costs`; None for an
        operator that is unknown there.
    memory : int
        Bytes of its outputs in float32; 0 for an operator that returns its input.
    """

    name: str
    op: str
    kind: str
    stage: str
    inputs: tuple[int, ...]
    output: tuple[int, ...]
    parameters: int
    auxiliary: int
    macs: int | None
    flops: int | None
    memory: int


@dataclass(frozen=True)
class Costs:
    """Sums over layers, for one picture.

    Attributes
    ----------
    layers, parameters, auxiliary, macs, flops, memory : int
        As in `Layer`; layers of an unknown operator add nothing to ``macs`` and ``flops``.
    """

    layers: int
    parameters: int
    auxiliary: int
    macs: int
    flops: int
    memory: int


@dataclass(frozen=True)
class Summary:
    """A network, layer by layer.

    Attributes
    ----------
    layers : list of Layer
        In an order in which each comes after those that it reads.
    """

    layers: list[Layer]

    @property
    def total(self) -> Costs:
        """Sums over the whole network."""
        return sum_of(self.layers)

    @property
    def stages(self) -> dict[str, Costs]:
        """Sums over each stage, in the order of computation."""
        names = dict.fromkeys(layer.stage for layer in self.layers)
        return {name: sum_of(layer for layer in self.layers if layer.stage == name) for name in names}

    @property
    def unknown(self) -> dict[str, list[str]]:
        """Names of the layers that could not be counted, by operator."""
        found: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.macs is None:
                found.setdefault(layer.op, []).append(layer.name)
        return found

    def to_dict(self) -> dict:
        """Return everything in types that JSON knows."""
        return {
            "total": asdict(self.total),
            "stages": {name: asdict(costs) for name, costs in self.stages.items()},
            "unknown_operators": self.unknown,
            "layers": [asdict(layer) for layer in self.layers],
        }


def sum_of(layers: Iterable[Layer]) -> Costs:
    """Add up layers."""
    layers = list(layers)
    sums = {
        name: sum(getattr(layer, name) or 0 for layer in layers)
        for name in ("parameters", "auxiliary", "macs", "flops", "memory")
    }
    return Costs(layers=len(layers), **sums)


def summarize(symbol: mx.sym.Symbol, input_shape: tuple[int, int, int], name: str = "the network") -> Summary:
    """List the layers and costs of a network, from its symbol alone.

    Parameters
    ----------
    symbol : Symbol
        Its input is ``data``.
    input_shape : tuple (C, H, W)
        Of one picture.
    name : str
        Name for error messages.

    Returns
    -------
    Summary

    Raises
    ------
    InputError
        If the network does not accept such pictures.
    """
    graph = Graph(symbol)
    infer_shapes(graph, name, data=(1, *input_shape))
    operators = [node for node in graph.nodes if node.op != "null"]
    return Summary(_layers(operators, graph.shapes, {*graph.variables} - {*graph.arguments}))


def _layers(
    operators: Sequence[Node], shapes: Mapping[tuple[Node, int], Shape], auxiliary_names: Collection[str]
) -> list[Layer]:
    indices = {node: -1 for node, _ in shapes if node.op == "null" and node.name == "data"}
    stages = _stages(operators, {node: shapes[node, 0] for node in operators})
    outputs: dict[Node, list] = {}
    for (node, _), shape in shapes.items():
        outputs.setdefault(node, []).append(shape)
    counted = {"data"}
    layers = []
    for index, node in enumerate(operators):
        inputs = tuple(indices[source] for source, _ in node.inputs if source in indices)
        if inputs:
            indices[node] = index
        own = dict.fromkeys(source for source, _ in node.inputs if source.op == "null" and source.name not in counted)
        counted.update(variable.name for variable in own)
        sizes = {variable.name: math.prod(shapes[variable, 0]) for variable in own}
        cost = cost_of(node, [shapes[source] for source in node.inputs], shapes[node, 0])
        layers.append(
            Layer(
                name=node.name,
                op=node.op,
                kind=_kind(node),
                stage=stages[node],
                inputs=inputs,
                output=shapes[node, 0][1:],
                parameters=sum(size for name, size in sizes.items() if name not in auxiliary_names),
                auxiliary=sum(size for name, size in sizes.items() if name in auxiliary_names),
                macs=cost.macs if cost else None,
                flops=cost.flops if cost else None,
                memory=0 if node.op in VIEWS else _BYTES * sum(math.prod(shape) for shape in outputs[node]),
            )
        )
    return layers


def _stages(operators: Sequence[Node], shapes: Mapping[Node, Shape]) -> dict[Node, str]:
    """Return the stage of each operator: its picture size, or the stage of its user where it has no spatial size."""
    stages: dict[Node, str] = {}
    later: dict[Node, str] = {}
    for node in reversed(operators):
        height, width = shapes[node][2:] if len(shapes[node]) == 4 else (1, 1)
        stages[node] = f"{height}x{width}" if height * width > 1 else later.get(node, HEAD)
        for source, _ in node.inputs:
            if later.get(source, HEAD) == HEAD:
                later[source] = stages[node]
    return stages


def _kind(node: Node) -> str:
    """Describe an operator in a few words."""
    if node.op in ("Convolution", "Deconvolution"):
        return f"{'conv' if node.op == 'Convolution' else 'deconv'} {_window(node)}, {_filters(node)}"
    if node.op == "Pooling":
        pool = node.text("pool_type", "max").replace("avg", "mean")
        return f"global {pool} pool" if node.flag("global_pool") else f"{pool} pool {_window(node)}"
    if node.op == "FullyConnected":
        return f"FC {node.integer('num_hidden')}"
    if node.op == "Activation":
        return node.text("act_type") or node.op.lower()
    if node.op == "LeakyReLU":
        return node.text("act_type", "leaky")
    if node.op == "Dropout":
        return f"dropout {node.text('p', '0.5')}"
    return {"BatchNorm": "BN", "elemwise_add": "add"}.get(node.op, node.op.strip("_").lower().replace("_", " "))


def _window(node: Node) -> str:
    kernel = "x".join(map(str, node.ints("kernel")))
    stride = max(node.ints("stride", (1,)))
    return f"{kernel} /{stride}" if stride > 1 else kernel


def _filters(node: Node) -> str:
    filters, groups = node.integer("num_filter"), node.integer("num_group", 1)
    if groups == 1:
        return str(filters)
    return f"{filters} {'depthwise' if groups == filters else f'in {groups} groups'}"
