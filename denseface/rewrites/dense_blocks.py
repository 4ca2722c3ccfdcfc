"""Dense blocks as one operator each, which `denseface.rewrites.native` compiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from denseface.models.graph import Edge, Graph, Node, Shape
from denseface.rewrites.compiled import (
    BLOCK,
    declare,
    has_whole_blocks,
    inference_marker,
    is_plain_convolution,
    is_plain_normalization,
)

TRAINING_OPERATOR = "denseface_dense_block"
INFERENCE_OPERATOR = "denseface_dense_block_inference"


def fuse_dense_blocks(graph: Graph, *, bfloat16: bool = False) -> None:
    """Replace every dense block with ReLU or PReLU by one operator for training, which MXNet must have loaded.

    A dense block is a chain of layers BN - activation - 1x1 convolution - BN - activation - 3x3 convolution, each
    appended to its own input. A transition after it, BN - activation - 1x1 convolution - 2x2 average pooling, becomes
    part of the operator.

    Parameters
    ----------
    graph : Graph
        A network whose shapes are inferred.
    bfloat16 : bool
        Let the operators multiply in bfloat16, and keep what the backward pass reads in it, where the processor has
        instructions for that. Their inputs, outputs, parameters, statistics and sums are float32.
    """
    inference = inference_marker()

    def operator(name: str, block: _Block) -> Node:
        parameters = [(parameter, 0) for unit in block.units for parameter in unit.parameters]
        momentum = block.settings.momentum
        attrs = {**_attributes(block), "momentum": repr(momentum), "bfloat16": str(int(bfloat16))}
        return Node(TRAINING_OPERATOR, name, attrs, [(inference, 0), block.entry, *parameters])

    _fuse(graph, operator, whole_blocks=True)


def fuse_dense_blocks_for_inference(graph: Graph) -> None:
    """Replace dense blocks, with their transitions, by a faster operator for inference, which MXNet must have loaded.

    The operator reads its parameters at its first call; later changes have no effect. Moving averages become arguments.
    The graph's shapes are inferred.
    """

    def operator(name: str, block: _Block) -> Node:
        parameters = [(parameter, 0) for unit in block.units for parameter in unit.parameters]
        return Node(INFERENCE_OPERATOR, name, _attributes(block), [block.entry, *parameters])

    _fuse(graph, operator, whole_blocks=False)


def count_fused_layers(graph: Graph) -> int:
    """Count the layers that operators of `fuse_dense_blocks_for_inference` compute."""
    return sum(node.integer("layers") or 0 for node in graph.nodes if node.op == INFERENCE_OPERATOR)


class _Settings(NamedTuple):
    """Settings of a normalization and its activation, which all layers of a block share."""

    slopes: bool
    eps: float
    momentum: float


@dataclass(frozen=True)
class _Unit:
    """BN - activation - convolution."""

    norm: Node
    activation: Node
    convolution: Node
    gamma: Node
    beta: Node
    moving_mean: Node
    moving_variance: Node
    slope: Node | None
    weight: Node
    settings: _Settings

    @property
    def entry(self) -> Edge:
        """The unit's input, which may have been replaced since the unit was found."""
        return self.norm.inputs[0]

    @property
    def operators(self) -> tuple[Node, Node, Node]:
        return self.norm, self.activation, self.convolution

    @property
    def parameters(self) -> list[Node]:
        """Inputs of the operator, in its order."""
        slope = [self.slope] if self.slope else []
        return [self.gamma, self.beta, self.moving_mean, self.moving_variance, *slope, self.weight]


@dataclass(frozen=True)
class _Layer:
    """Two units, whose output is appended to their input."""

    reduction: _Unit  # the 1x1 convolution
    growth: _Unit  # the 3x3 convolution
    channels: Shape  # that the 3x3 convolution computes and reads

    @property
    def entry(self) -> Edge:
        return self.reduction.entry

    def continues(self, block: list[_Layer]) -> bool:
        """Test whether this layer can be the next of a block."""
        return (self.growth.settings, self.channels) == (block[0].growth.settings, block[0].channels)


def _units(layers: list[_Layer]) -> list[_Unit]:
    return [unit for layer in layers for unit in (layer.reduction, layer.growth)]


@dataclass(frozen=True)
class _Block:
    """Layers, and the transition after them, if it belongs to their operator."""

    layers: list[_Layer]
    transition: _Unit | None = None

    @property
    def entry(self) -> Edge:
        return self.layers[0].entry

    @property
    def settings(self) -> _Settings:
        return self.layers[0].growth.settings

    @property
    def units(self) -> list[_Unit]:
        """Units in the order in which the operator reads their parameters."""
        return _units(self.layers) + ([self.transition] if self.transition else [])


def _attributes(block: _Block) -> dict[str, str]:
    settings = block.settings
    return {
        "layers": str(len(block.layers)),
        "transition": str(int(block.transition is not None)),
        "slopes": str(int(settings.slopes)),
        "eps": repr(settings.eps),
    }


def _fuse(graph: Graph, operator: Callable[[str, _Block], Node], whole_blocks: bool) -> None:
    """Replace every dense block by the operator of its name and layers.

    With `whole_blocks`, a transition is part of it only if `BLOCK` divides its channels.
    """
    uses = Counter(source for node in graph.nodes for source, _ in node.inputs)
    uses.update(node for node, _ in graph.heads)
    blocks = _with_transitions(graph, uses, _blocks(graph, uses), BLOCK if whole_blocks else 1)
    for block in blocks.values():
        for unit in block.units:
            for parameter in unit.parameters:
                declare(parameter, graph.shapes[parameter, 0])
    graph.rewrite(lambda node: operator(node.name, blocks[node]) if node in blocks else node)


def _blocks(graph: Graph, uses: Counter[Node]) -> dict[Node, _Block]:
    """Find the layers of every block, by the concatenation at its end."""
    blocks: dict[Node, list[_Layer]] = {}
    for node in graph.nodes:
        layer = _layer(node, graph.shapes)
        if layer is None:
            continue
        data = layer.entry[0]
        inner = [operator for unit in _units([layer]) for operator in unit.operators]
        # MXNet does not tell the operator to add to the gradients of other users, so there must be none.
        if uses[data] != 2 or any(uses[operator] != 1 for operator in inner):
            continue
        if data in blocks and layer.continues(blocks[data]):
            blocks[node] = [*blocks.pop(data), layer]
        else:
            blocks[node] = [layer]
    return {node: _Block(layers) for node, layers in blocks.items()}


def _with_transitions(
    graph: Graph, uses: Counter[Node], blocks: dict[Node, _Block], divisor: int
) -> dict[Node, _Block]:
    """Add the transition after a block to it, if there is one; such a block ends in the pooling.

    The divisor is that of the channels that the block reads, and of those that the transition computes.
    """
    found = dict(blocks)
    for node in graph.nodes:
        unit = _unit(node.source(), kernel=1) if _is_plain_pooling(node) else None
        if unit is None or unit.entry[0] not in blocks:
            continue
        end = unit.entry[0]
        block = blocks[end]
        sizes = graph.shapes.get((end, 0), ())[2:]
        channels = [graph.shapes.get(edge, (0, 1))[1] for edge in (block.entry, (node, 0))]
        if (
            unit.settings == block.settings
            and all(uses[operator] == 1 for operator in (end, *unit.operators))
            and all(size % 2 == 0 for size in sizes)
            and all(count % divisor == 0 for count in channels)
        ):
            found[node] = _Block(found.pop(end).layers, unit)
    return found


def _layer(node: Node, shapes: dict[Edge, Shape]) -> _Layer | None:
    """Return the layer that ends in this concatenation, if there is one."""
    if node.op != "Concat" or node.integer("dim", 1) != 1 or len(node.inputs) != 2:
        return None
    data, (appended, _) = node.inputs
    growth = _unit(appended, kernel=3)
    reduction = _unit(growth.entry[0], kernel=1) if growth else None
    if not growth or not reduction or reduction.entry != data or reduction.settings != growth.settings:
        return None
    shape = shapes.get((growth.weight, 0), ())
    return _Layer(reduction, growth, shape[:2]) if has_whole_blocks(shape) else None


def _unit(convolution: Node, kernel: int) -> _Unit | None:
    """Return the unit that ends in this node, if there is one."""
    if not is_plain_convolution(convolution, kernel):
        return None
    activation = convolution.source()
    kind = {"Activation": "relu", "LeakyReLU": "prelu"}.get(activation.op)
    if kind is None or activation.text("act_type") != kind:
        return None
    norm, output = activation.inputs[0]
    if output != 0 or not is_plain_normalization(norm):
        return None
    gamma, beta, moving_mean, moving_variance = (norm.source(index) for index in (1, 2, 3, 4))
    unit = _Unit(
        norm=norm,
        activation=activation,
        convolution=convolution,
        gamma=gamma,
        beta=beta,
        moving_mean=moving_mean,
        moving_variance=moving_variance,
        slope=activation.source(1) if kind == "prelu" else None,
        weight=convolution.source(1),
        settings=_Settings(kind == "prelu", norm.number("eps", 1e-3), norm.number("momentum", 0.9)),
    )
    return unit if all(parameter.op == "null" for parameter in unit.parameters) else None


def _is_plain_pooling(node: Node) -> bool:
    """Test for an average over squares of 2x2 pixels."""
    return (
        node.op == "Pooling"
        and node.text("pool_type") == "avg"
        and node.ints("kernel") == (2, 2)
        and node.ints("stride", (1, 1)) == (2, 2)
        and node.ints("pad", (0, 0)) == (0, 0)
        and not node.flag("global_pool")
        and node.text("layout", "NCHW") == "NCHW"
    )
