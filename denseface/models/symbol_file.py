"""Networks in MXNet's JSON (``PREFIX-symbol.json``), checked before MXNet sees them.

MXNet trusts such a file: an edge to an output that does not exist, one input too few or a group count of 0 ends the
process, and some of its 1,100 operators open files or run code. Here the file is read in Python, and MXNet gets a text
that is written from the checked description: only operators of image networks, each with the right number of inputs and
with numbers in range. Operators get the names that MXNet has for them today, and compute in float32.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from denseface.core.errors import InputError, reason_of
from denseface.core.files import read_input
from denseface.models.graph import Edge, Graph, Node, Shape, make_symbol
from denseface.models.operators import for_inference

if TYPE_CHECKING:
    import mxnet as mx

_MAX_BYTES = 64 << 20
_MAX_NODES = 100_000
_MAX_NAME = 1000
_MAX_NUMBERS = 32  # in one attribute
_MAX_ELEMENTS = (1 << 31) - 1  # of one array, in MXNet's usual build
_SMALL, _LARGE = 1 << 12, 1 << 24
_PASSES = 4  # over the operators, to find all shapes; networks need one or two

_ONE_INPUT = """
    Activation BlockGrad Cast Dropout Flatten GridGenerator L2Normalization LRN MakeLoss Pad Pooling Reshape
    SliceChannel SoftmaxActivation SwapAxis _contrib_AdaptiveAvgPooling2D _contrib_div_sqrt_dim
    _contrib_interleaved_matmul_selfatt_qk _contrib_round_ste _contrib_sign_ste _copy _div_scalar _equal_scalar
    _greater_equal_scalar _greater_scalar _hypot_scalar _lesser_equal_scalar _lesser_scalar _logical_and_scalar
    _logical_or_scalar _logical_xor_scalar _maximum_scalar _minimum_scalar _minus_scalar _mod_scalar _mul_scalar
    _not_equal_scalar _plus_scalar _power_scalar _rdiv_scalar _rminus_scalar _rmod_scalar _rpower_scalar abs amp_cast
    arccos arccosh arcsin arcsinh arctan arctanh argmax argmax_channel argmin argsort broadcast_axis broadcast_to cbrt
    ceil clip cos cosh degrees depth_to_space erf exp expand_dims expm1 fix floor gamma gammaln hard_sigmoid log log10
    log1p log2 log_softmax logical_not make_loss max mean min negative norm one_hot ones_like prod radians rcbrt
    reciprocal relu repeat reverse rint round rsqrt sigmoid sign sin sinh slice slice_axis smooth_l1 softmin softsign
    sort space_to_depth sqrt square squeeze sum tan tanh tile topk transpose trunc zeros_like
"""
_TWO_INPUTS = """
    BilinearSampler Embedding LinearRegressionOutput LogisticRegressionOutput MAERegressionOutput SVMOutput
    SoftmaxOutput SpatialTransformer _contrib_interleaved_matmul_encdec_qk _contrib_interleaved_matmul_encdec_valatt
    _contrib_interleaved_matmul_selfatt_valatt _div _equal _greater _greater_equal _hypot _lesser _lesser_equal
    _linalg_gemm2 _logical_and _logical_or _logical_xor _maximum _minimum _mod _mul _not_equal _power _sub batch_dot
    batch_take broadcast_add broadcast_div broadcast_equal broadcast_greater broadcast_greater_equal broadcast_hypot
    broadcast_lesser broadcast_lesser_equal broadcast_like broadcast_logical_and broadcast_logical_or
    broadcast_logical_xor broadcast_maximum broadcast_minimum broadcast_mod broadcast_mul broadcast_not_equal
    broadcast_power broadcast_sub dot elemwise_add elemwise_div elemwise_mul elemwise_sub pick slice_like
    softmax_cross_entropy take
"""
# How many inputs an operator takes, at least and at most. Within this range MXNet checks the number itself.
_OPERATORS = {
    **dict.fromkeys(_ONE_INPUT.split(), (1, 1)),
    **dict.fromkeys(_TWO_INPUTS.split(), (2, 2)),
    **dict.fromkeys(("Crop", "LeakyReLU", "_contrib_BilinearResize2D", "softmax"), (1, 2)),
    **dict.fromkeys(("Convolution", "Deconvolution", "FullyConnected"), (2, 3)),
    **dict.fromkeys(("GroupNorm", "InstanceNorm", "LayerNorm", "where"), (3, 3)),
    "BatchNorm": (5, 5),
    "_contrib_DeformableConvolution": (3, 4),
    **dict.fromkeys(("Concat", "UpSampling", "add_n", "stack"), (1, _SMALL)),
}

# The least and the greatest number that an attribute may have. MXNet divides by some of them and counts with others.
_LIMITS = {
    **dict.fromkeys(("kernel", "stride", "dilate", "scale", "block_size", "num_args", "num_outputs"), (1, _SMALL)),
    **dict.fromkeys(("num_group", "num_groups", "reps", "repeats", "output_size"), (1, _SMALL)),
    **dict.fromkeys(("pad", "adj", "pad_width"), (0, _SMALL)),
    **dict.fromkeys(("num_filter", "num_hidden", "depth", "size"), (1, _LARGE)),
    "target_shape": (0, _LARGE),
    "shape": (-4, _LARGE),  # of Reshape, where 0 to -4 are codes
    "__shape__": (-1, _LARGE),
}
# Whole numbers are left out: MXNet divides them by 0, which ends the process.
_FLOATS = ("None", "float16", "float32", "float64", "bfloat16")
_FLOAT_CODES = ("-1", "0", "1", "2", "12")  # what MXNet writes for these as the type of a variable
_SHAPES = ("shape", "__shape__", "target_shape", "size", "reps")
_NEXT_VERSION = 20000  # MXNet 2, whose networks 1.9 does not read

# What a training symbol ends in, behind its classifier.
_LOSSES = {
    *("SoftmaxOutput", "SVMOutput", "LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput"),
    *("softmax", "log_softmax", "SoftmaxActivation", "MakeLoss", "make_loss", "softmax_cross_entropy", "BlockGrad"),
    *("Cast", "amp_cast"),
}

_NODE_KEYS = {"op", "name", "inputs", "attrs", "attr", "param", "backward_source_id"}
_ATTRIBUTE_KEYS = ("param", "attr", "attrs")  # from the oldest to today's
_HANDED_ON = ("ctx_group", "lr_mult", "wd_mult", "force_mirroring", "mirror_stage")


class _UnusableError(Exception):
    """The file describes something that cannot be used."""


def read_symbol(path: str | Path) -> mx.sym.Symbol:
    """Read a network that MXNet 0.9 to 1.9 saved.

    Parameters
    ----------
    path : path-like
        ``PREFIX-symbol.json``, at most 64 MB.

    Returns
    -------
    Symbol

    Raises
    ------
    InputError
        If the file is missing, damaged, or has parts that image networks do not need. The message names the file and
        the node.
    """
    try:
        text = read_input(path, _MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("it is not UTF-8 text; a network's description is JSON", path=path) from error
    return parse_symbol(text, str(path))


def parse_symbol(text: str, name: str) -> mx.sym.Symbol:
    """Make a network from its description in JSON, as ``Symbol.tojson`` of MXNet 0.9 to 1.9 returns it.

    Parameters
    ----------
    text : str
        The JSON.
    name : str
        Where it comes from, for error messages.

    Returns
    -------
    Symbol

    Raises
    ------
    InputError
        As from `read_symbol`.
    """
    import mxnet as mx

    try:
        description = _checked_graph(text)
    except _UnusableError as problem:
        raise InputError(str(problem), path=name) from problem
    try:
        return mx.sym.load_json(json.dumps(description, ensure_ascii=False))
    except mx.base.MXNetError as error:
        raise InputError(f"MXNet refuses it: {reason_of(error)}", path=name) from error


def variances(symbol: mx.sym.Symbol) -> list[str]:
    """Names of the variances that the network's BatchNorms keep."""
    return sorted({node.source(4).name for node in Graph(symbol).nodes if node.op == "BatchNorm"})


def embedding_output(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Cut a network at its embedding.

    That is ``fc1_output``. In a network without it, it is the first output or, if that is a loss or a softmax, what the
    fully connected layer before it takes: the features of a classifier.
    """
    internals = symbol.get_internals()
    if "fc1_output" in internals.list_outputs():
        return internals["fc1_output"]
    graph = Graph(symbol)
    head = graph.heads[0]
    if head[0].op not in _LOSSES:
        return symbol[0]
    while head[0].op in _LOSSES:
        head = head[0].inputs[0]
    if head[0].op == "FullyConnected":
        head = head[0].inputs[0]
    # A part of the same symbol, not a new one: a run that is resumed knows a pretrained network by its JSON.
    everything = Graph(internals)
    same = dict(zip(everything.nodes, graph.nodes))
    return internals[[(same[node], output) for node, output in everything.heads].index(head)]


def with_input_called_data(symbol: mx.sym.Symbol, values: Collection[str]) -> mx.sym.Symbol:
    """Rename the only input of a network's embedding, the variable without a value, to ``data``."""
    arguments = embedding_output(symbol).list_arguments()
    inputs = [name for name in arguments if name not in values]
    if len(inputs) != 1 or "data" in symbol.list_inputs():
        return symbol
    graph = Graph(symbol)
    graph.variables[inputs[0]].name = "data"
    return graph.symbol()


def infer_shapes(graph: Graph, name: str, **shapes: Shape) -> None:
    """Work out `Graph.shapes` of a network from elsewhere, of all outputs.

    ``Symbol.infer_shape`` trusts the network: an array without elements, or one so large that its size overflows, ends
    the process when it is reshaped, a Reshape may change the number of elements, and an operator overwrites the shape
    of what it takes for its own parameter, even if that is the output of another operator. MXNet then computes outside
    of its arrays. Here each operator is asked alone, in order, and has to agree with the shapes that its inputs have.

    Parameters
    ----------
    graph : Graph
        That of a symbol, as from `read_symbol`.
    name : str
        Where it comes from, for error messages.
    **shapes : tuple of int
        The shape of each input, as ``data=(1, 3, 112, 112)``. Names that the network does not have are left out.

    Raises
    ------
    InputError
        If the shapes do not fit the network or do not determine the others, or an array has no elements or more than
        MXNet can count.
    """
    import mxnet as mx

    try:
        found = _propagated(graph, shapes)
        unknown = [node.name for (node, _), shape in found.items() if not _is_known(shape)]
        if unknown:
            raise InputError(f"{name}: the shape of {unknown[0][:80]} does not follow from {_written(shapes)}")
        graph.infer_shapes(**shapes)
        _compare(graph, found)
    except _UnusableError as problem:
        raise InputError(f"{name}: with {_written(shapes)}: {problem}") from problem
    except mx.base.MXNetError as error:
        raise InputError(f"{name}: MXNet refuses it with {_written(shapes)}: {reason_of(error)}") from error
    graph.shapes = found


def _propagated(graph: Graph, shapes: Mapping[str, Shape]) -> dict[Edge, Shape]:
    """Find the shape of each output, () if unknown, by asking one operator at a time."""
    found: dict[Edge, Shape] = {}
    n_outputs = {node: _n_outputs(node.op, node.attrs) for node in graph.nodes}
    for node, output in graph.heads:
        n_outputs[node] = max(n_outputs[node], output + 1)
    for node in graph.nodes:
        if node.op == "null":
            found[node, 0] = shapes.get(node.name) or _declared_shape(node)
            _check_sizes([found[node, 0]], but_unknown=True)
    for _ in range(_PASSES):  # a parameter's shape may follow from an operator that comes after another that reads it
        before = dict(found)
        for node in graph.nodes:
            if node.op != "null":
                _infer_node(node, n_outputs[node], found)
        if found == before or all(map(_is_known, found.values())):
            break
    return found


def _infer_node(node: Node, n_outputs: int, found: dict[Edge, Shape]) -> None:
    given = [found[edge] for edge in node.inputs]
    _check_sizes([shape for shape in given if _is_known(shape)])  # before MXNet divides by it
    wanted, outputs = _infer_operator(node.op, tuple(sorted(node.attrs.items())), tuple(given), n_outputs)
    place = f"{node.op} {node.name[:80]}"
    for edge, has, wants in zip(node.inputs, given, wanted):
        source, _ = edge
        if _is_known(has) and has != wants:
            raise _UnusableError(f"{place} needs an input of {wants}, but {source.name[:80]} is {has}")
        if source.op == "null" and wants:
            if not _fits(found[edge], wants):  # one variable may be two of its inputs
                raise _UnusableError(f"{place} needs {source.name[:80]} in two shapes")
            found[edge] = wants
    inputs = [found[edge] for edge in node.inputs]
    if all(map(_is_known, inputs)):
        _check_sizes(outputs)
        _check_use(node, inputs, outputs)
    for output, shape in enumerate(outputs):
        found[node, output] = shape


def _check_use(node: Node, inputs: list[Shape], outputs: list[Shape]) -> None:
    """Refuse shapes that MXNet infers and then computes outside of."""
    op, place = node.op, node.name[:80]
    if op == "Reshape" and math.prod(inputs[0]) != math.prod(outputs[0]):
        raise _UnusableError(f"{place} makes {outputs[0]} of {inputs[0]}, which has another size")
    if op == "batch_take" and (len(inputs[0]) != 2 or math.prod(inputs[1]) != inputs[0][0]):
        raise _UnusableError(f"{place} takes one number of each row, but has {inputs[0]} and {inputs[1]}")
    if op == "where" and inputs[0] not in (inputs[1], inputs[1][:1]):
        raise _UnusableError(f"{place} chooses from {inputs[1]} by conditions of {inputs[0]}; both must have one shape")


@functools.lru_cache(maxsize=4096)
def _infer_operator(
    op: str, attributes: tuple[tuple[str, str], ...], given: tuple[Shape, ...], n_outputs: int
) -> tuple[list[Shape], list[Shape]]:
    """Ask MXNet for the shapes of one operator's inputs and outputs; each input is a variable of its own."""
    names = [f"input{number}" for number in range(len(given))]
    node = Node(op, "operator", dict(attributes), [(Node("null", name), 0) for name in names])
    operator = make_symbol([(node, output) for output in range(n_outputs)])
    arguments = operator.list_arguments()
    known = {name: shape for name, shape in zip(names, given) if shape and name in arguments}
    inputs, outputs, states = operator.infer_shape_partial(**known)
    inferred = dict(zip([*arguments, *operator.list_auxiliary_states()], [*inputs, *states]))
    return [inferred[name] for name in names], outputs


def _compare(graph: Graph, found: Mapping[Edge, Shape]) -> None:
    """See that MXNet, asked about the whole network, comes to the same shapes."""
    for edge in graph.uses():
        inferred = graph.shapes.get(edge, ())
        if found[edge] != inferred:
            raise _UnusableError(
                f"the shape of {edge[0].name[:80]} is {found[edge]}, but MXNet takes it for {inferred}"
            )


def _declared_shape(node: Node) -> Shape:
    """The shape that a variable says it has; 0 stands for an unknown length."""
    numbers = _numbers(node.attrs, "__shape__", node.name[:80])
    return tuple(max(0, number) for number in numbers)


def _is_known(shape: Shape) -> bool:
    return bool(shape) and all(shape)


def _fits(declared: Shape, shape: Shape) -> bool:
    return not declared or (
        len(declared) == len(shape) and all(one in (0, other) or other == 0 for one, other in zip(declared, shape))
    )


def _check_sizes(shapes: list[Shape], but_unknown: bool = False) -> None:
    for shape in shapes:  # () if nothing is known of it, 0 for an unknown length
        if any(length < (0 if but_unknown else 1) for length in shape):
            raise _UnusableError(f"an array of the shape {shape} has no elements, or no size that follows")
        if math.prod(shape) > _MAX_ELEMENTS:
            raise _UnusableError(f"an array of the shape {shape} has more than {_MAX_ELEMENTS} elements")


def _written(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name}={shape}" for name, shape in shapes.items())


def _checked_graph(text: str) -> dict:
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _UnusableError("not JSON") from error
    if not isinstance(graph, dict):
        raise _UnusableError("not a network: JSON, but not an object with nodes")
    listed = _list(graph, "nodes", "the network")
    if len(listed) > _MAX_NODES:
        raise _UnusableError(f"it has {len(listed)} nodes; up to {_MAX_NODES} are read")
    nodes: list[dict] = []
    for listed_node in listed:
        nodes.append(_checked_node(listed_node, nodes))
    variables = [number for number, node in enumerate(nodes) if node["op"] == "null"]
    _check_variables(graph, nodes, variables)
    heads = [_checked_edge(head, nodes, "heads") for head in _list(graph, "heads", "the network")]
    if not heads:
        raise _UnusableError("the network has no heads, so it computes nothing")
    return {"nodes": nodes, "arg_nodes": variables, "heads": heads, **_version(graph)}


def _checked_node(node: object, earlier: list[dict]) -> dict:
    place = f"node {len(earlier)}"
    if not isinstance(node, dict):
        raise _UnusableError(f"{place} is not an object")
    op, name = (_text(node.get(key), f"{place}: its {key}") for key in ("op", "name"))
    place = f"{place} ({name[:80]})"
    if not set(node) <= _NODE_KEYS:
        raise _UnusableError(f"{place}: unknown key {min(set(node) - _NODE_KEYS)[:80]!a}")
    op, attributes = for_inference(op, _attributes(node, place))
    inputs = [_checked_edge(edge, earlier, place) for edge in _list(node, "inputs", place)]
    if op == "null":
        _check_variable(attributes, len(inputs), place)
    else:
        _check_operator(op, attributes, len(inputs), place)
    if op == "BatchNorm" and any(earlier[source]["op"] != "null" for source, *_ in inputs[3:]):
        raise _UnusableError(f"{place}: BatchNorm's mean and variance are not variables")  # it writes to them
    return {"op": op, "name": name, "attrs": attributes, "inputs": inputs}


def _attributes(node: dict, place: str) -> dict[str, str]:
    merged: dict[str, str] = {}
    for kind in _ATTRIBUTE_KEYS:
        attributes = node.get(kind, {})
        if not isinstance(attributes, dict):
            raise _UnusableError(f"{place}: its {kind} is not an object")
        for key, value in attributes.items():
            _text(key, f"{place}: the name of an attribute")
            if not isinstance(value, str) or not value.isprintable():
                raise _UnusableError(f"{place}: the attribute {key[:80]} is not printable text")
            merged[key] = value
    return merged


def _check_variable(attributes: dict[str, str], n_inputs: int, place: str) -> None:
    if n_inputs:
        raise _UnusableError(f"{place}: a variable has no inputs")
    if "__shape__" in attributes:
        _numbers(attributes, "__shape__", place)
    if attributes.get("__dtype__", "0") not in _FLOAT_CODES:
        raise _UnusableError(
            f"{place}: __dtype__ is {attributes['__dtype__'][:80]}; only floating-point types are read"
        )


def _check_operator(op: str, attributes: dict[str, str], n_inputs: int, place: str) -> None:
    if op not in _OPERATORS:
        raise _UnusableError(f"{place}: refused: the operator {op[:80]} is not one that image networks need")
    least, most = _OPERATORS[op]
    if not least <= n_inputs <= most:
        wanted = least if least == most else f"{least} to {most}"
        raise _UnusableError(f"{place}: {op} takes {wanted} inputs, not {n_inputs}")
    for key in attributes:
        # MXNet would pass "weight_lr_mult" on to the input of that name, even if there is none.
        if key.endswith(_HANDED_ON) and key not in _HANDED_ON:
            raise _UnusableError(f"{place}: {key[:80]} was written by MXNet before 0.9; load and save it with MXNet 1")
        if key in _LIMITS:
            _numbers(attributes, key, place)
        if key in ("dtype", "out_dtype") and attributes[key] not in _FLOATS:
            raise _UnusableError(f"{place}: {key} is {attributes[key][:80]}; only floating-point types are read")
    if "num_args" in attributes and _numbers(attributes, "num_args", place) != [n_inputs]:
        raise _UnusableError(f"{place}: num_args is not {n_inputs}, the number of its inputs")
    if op == "SliceChannel" and len(_numbers(attributes, "num_outputs", place)) != 1:
        raise _UnusableError(f"{place}: num_outputs is not one number")
    if op == "UpSampling" and attributes.get("sample_type") == "bilinear" and "num_filter" not in attributes:
        raise _UnusableError(f"{place}: bilinear UpSampling needs num_filter")  # MXNet divides by it
    if op == "Reshape":
        _check_reshape(attributes, place)


def _numbers(attributes: dict[str, str], key: str, place: str) -> list[int]:
    """Read the whole numbers of an attribute such as ``(3, 3)``, and check them."""
    value = attributes.get(key, "None")
    if value == "None":
        return []
    numbers = [int(digits) for digits in re.findall(r"-?[0-9]{1,20}", value)]
    if not re.fullmatch(r"[-0-9L,()\[\] ]*", value) or len(numbers) > _MAX_NUMBERS:  # L from Python 2
        raise _UnusableError(f"{place}: {key} is {value[:80]}; expected up to {_MAX_NUMBERS} whole numbers")
    least, most = _LIMITS[key]
    if not all(least <= number <= most for number in numbers):
        raise _UnusableError(f"{place}: {key} is {value[:80]}; expected numbers from {least} to {most}")
    if key in _SHAPES and math.prod(number for number in numbers if number > 0) > _MAX_ELEMENTS:
        raise _UnusableError(f"{place}: {key} is {value[:80]}, more than {_MAX_ELEMENTS} elements")
    return numbers


def _check_reshape(attributes: dict[str, str], place: str) -> None:
    """Refuse codes that make MXNet divide by 0 or write outside its memory.

    0 copies a dimension, -1 is inferred from the others, -2 copies all that follow, -3 merges two, and -4 splits one
    into the two numbers behind it.
    """
    codes = _numbers(attributes, "shape", place)
    if attributes.get("reverse", "False").lower() not in ("false", "0"):
        codes.reverse()
    position, moved = 0, False
    while position < len(codes):
        code = codes[position]
        parts = codes[position + 1 : position + 3] if code == -4 else []
        # MXNet keeps the index of -1 among the codes, and uses it as the index among the dimensions.
        if (code == -1 and moved) or not all(part == -1 or part > 0 for part in parts):
            raise _UnusableError(f"{place}: cannot be reshaped to {attributes['shape'][:80]}")
        moved = moved or code in (-2, -4)
        position += 1 + len(parts)


def _checked_edge(edge: object, nodes: list[dict], place: str) -> list[int]:
    """Check [node, output] or [node, output, version]."""
    if not isinstance(edge, list) or not 2 <= len(edge) <= 3 or not all(map(_is_index, edge)):
        raise _UnusableError(f"{place}: an edge is a list of a node, an output and a version, all numbers")
    source, output = edge[:2]
    if source >= len(nodes):
        raise _UnusableError(f"{place}: it takes its input from node {source}, which does not come before it")
    if output >= _n_outputs(nodes[source]["op"], nodes[source]["attrs"]):
        raise _UnusableError(f"{place}: node {source} ({nodes[source]['name'][:80]}) has no output {output}")
    return edge


def _is_index(number: object) -> bool:
    return type(number) is int and 0 <= number < 1 << 31


def _n_outputs(op: str, attributes: dict[str, str]) -> int:
    """Count the outputs that other nodes may use; one operator has several."""
    return _numbers(attributes, "num_outputs", "")[0] if op == "SliceChannel" else 1


def _check_variables(graph: dict, nodes: list[dict], variables: list[int]) -> None:
    listed = _list(graph, "arg_nodes", "the network")
    if listed != variables:
        raise _UnusableError("arg_nodes does not list the variables (the nodes whose op is null)")
    names = set()
    for number in variables:
        name = nodes[number]["name"]
        if name in names:
            raise _UnusableError(f"node {number} ({name[:80]}): there is a variable of this name already")
        names.add(name)


def _version(graph: dict) -> dict:
    """The version of MXNet that wrote the file; MXNet upgrades the network accordingly."""
    attributes = graph.get("attrs", {})
    entry = attributes.get("mxnet_version") if isinstance(attributes, dict) else attributes
    if entry is None:
        return {}
    known = isinstance(entry, list) and len(entry) == 2 and entry[0] == "int" and type(entry[1]) is int
    if not known or not 0 <= entry[1] < _NEXT_VERSION:
        raise _UnusableError("its attrs do not name the MXNet, 0.8 to 1.9, that wrote it")
    return {"attrs": {"mxnet_version": entry}}


def _list(parent: dict, key: str, place: str) -> list:
    value = parent.get(key)
    if not isinstance(value, list):
        raise _UnusableError(f"{place}: {key} is missing or not a list")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= _MAX_NAME:
        raise _UnusableError(f"{what} is not printable text of 1 to {_MAX_NAME} characters")
    return value
