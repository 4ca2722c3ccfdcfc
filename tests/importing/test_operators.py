"""Each operator of ONNX that is imported, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import helper

from denseface.core.errors import InputError
from denseface.embedding.engines import make_engine
from denseface.embedding.engines.onnx_model import read_onnx
from denseface.embedding.scaling import Scaling
from denseface.importing.onnx import import_onnx
from denseface.importing.operators import CONVERTERS
from support.helpers import relative_error
from support.torch_like import OPSET, Builder

SIDE = 9
RANDOM = np.random.RandomState(5)
WEIGHT = RANDOM.standard_normal((6, 3, 3, 3)) * 0.2
DEPTHWISE = RANDOM.standard_normal((6, 1, 3, 3)) * 0.2
SLOPES = RANDOM.uniform(0.1, 0.9, 6)
CHANNELS = RANDOM.uniform(0.5, 2, (1, 6, 1, 1))


def shuffled(net, x):
    x = net.add("Reshape", [x, net.constant("split", [0, 2, 3, SIDE, SIDE], np.int64)], "a")
    x = net.add("Transpose", [x], "b", perm=[0, 2, 1, 3, 4])
    return net.add("Reshape", [x, net.constant("join", [0, -1, SIDE, SIDE], np.int64)], "c")


def gated(net, x):
    """Squeeze and excitation."""
    gate = net.add("ReduceMean", [x], "mean", axes=[2, 3], keepdims=1)
    gate = net.add("Conv", [gate, net.constant("gate", RANDOM.standard_normal((6, 6, 1, 1)))], "gate")
    return net.add("Mul", [x, net.add("HardSigmoid", [gate], "gate", alpha=0.2, beta=0.5)], "scale")


def halves(net, x):
    net.nodes.append(helper.make_node("Split", [x, net.constant("sizes", [2, 4], np.int64)], ["l", "r"], "s", axis=1))
    return net.add("Concat", ["r", "l"], "join", axis=1)


def aliased(net, x):
    """Two normalizations whose parameters are one tensor each, as torch.onnx.export writes equal ones."""
    ones, zeros = net.constant("ones", np.ones(6)), net.constant("zeros", np.zeros(6))
    alias = net.add("Identity", [ones], "alias")
    x = net.add("BatchNormalization", [x, ones, zeros, zeros, ones], "one", epsilon=1e-5)
    return net.add("BatchNormalization", [x, alias, zeros, zeros, ones], "two", epsilon=1e-5)


def turned(net, x):
    x = net.add("Transpose", [x], "to", perm=[0, 2, 3, 1])
    return net.add("Transpose", [net.add("Relu", [x], "act")], "back", perm=[0, 3, 1, 2])


def widened(net, x):
    axes = net.constant("axes", [2], np.int64)
    x = net.add("Unsqueeze", [x, axes], "more")
    return net.add("Squeeze", [x, axes], "less")


def one(op, *constants, first=False, **attributes):
    """A node of this operator, which reads constants after the data, or `first` before it."""

    def body(net, x):
        given = [
            net.constant(f"c{number}", value, np.float32 if np.asarray(value).dtype.kind == "f" else np.int64)
            if value is not None
            else ""
            for number, value in enumerate(constants)
        ]
        return net.add(op, [*given, x] if first else [x, *given], op.lower(), **attributes)

    return body


UNARY = [
    "Abs",
    "Elu",
    "Erf",
    "Exp",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Neg",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Tanh",
]
BODIES = {
    **{op: one(op) for op in UNARY},
    "leaky": one("LeakyRelu", alpha=0.3),
    "elu": one("Elu", alpha=0.3),
    "hard sigmoid": one("HardSigmoid", alpha=0.3, beta=0.4),
    "grouped": one("Conv", DEPTHWISE, kernel_shape=[3, 3], group=6, pads=[1, 1, 1, 1]),
    "biased": one("Conv", RANDOM.standard_normal((6, 6, 3, 3)) * 0.2, np.arange(6) / 6, strides=[2, 1]),
    "dilated": one("Conv", DEPTHWISE, group=6, dilations=[2, 1], pads=[2, 1, 2, 1]),
    "padded on two sides": one("Conv", DEPTHWISE, group=6, pads=[0, 0, 1, 2], strides=[2, 2]),
    **{f"{auto} convolution": one("Conv", DEPTHWISE, group=6, strides=[2, 2], auto_pad=auto)
       for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")},
    "normalized": one("BatchNormalization", SLOPES, -SLOPES, SLOPES - 0.5, SLOPES + 0.1, epsilon=1e-3),
    "slopes": one("PRelu", SLOPES.reshape(6, 1, 1)),
    "slopes of four axes": one("PRelu", SLOPES.reshape(1, 6, 1, 1)),
    "one slope": one("PRelu", [0.3]),
    "between": one("Clip", np.float32(-0.5), np.float32(0.5)),
    "below": one("Clip", None, np.float32(0.5)),
    "nothing between": one("Clip", np.float32(0.5), np.float32(-0.5)),
    "above": one("Clip", np.float32(-0.2)),
    **{f"{op} a number": one(op, np.float32(1.5)) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    **{f"a number {op}": one(op, np.float32(1.5), first=True) for op in ("Add", "Sub", "Mul", "Max", "Min")},
    **{f"{op} channels": one(op, CHANNELS) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    **{f"{op} channels of three axes": one(op, CHANNELS[0]) for op in ("Add", "Sub", "Mul", "Div")},
    "channels Sub": one("Sub", CHANNELS, first=True),
    "itself": lambda net, x: net.add("Mul", [x, net.add("Add", [x, x], "twice")], "product"),
    "three": lambda net, x: net.add("Sum", [x, x, x], "sum"),
    "square": one("Pow", np.float32(2)),
    "root": lambda net, x: net.add("Sqrt", [net.add("Abs", [x], "abs")], "root"),
    "a quotient": lambda net, x: net.add("Div", [net.constant("c", np.float32(2)), net.add("Exp", [x], "exp")], "div"),
    "zeros around": one("Pad", [0, 0, 1, 2, 0, 0, 3, 0]),
    "threes around": one("Pad", [0, 0, 1, 2, 0, 0, 3, 0], np.float32(3)),
    "nothing around": one("Pad", [0] * 8),
    **{mode: one("Pad", [0, 0, 1, 2, 0, 0, 3, 0], mode=mode) for mode in ("edge", "reflect")},
    "mean": one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "mean with padding": one("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "mean padded at the end": one("AveragePool", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1],
                                  count_include_pad=1),
    "maximum": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "maximum padded at the end": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
    "maximum of a part": one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "whole mean": one("GlobalAveragePool"),
    "whole maximum": one("GlobalMaxPool"),
    **{f"{op} {keep}": one(op, axes=[2, 3], keepdims=keep)
       for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2") for keep in (0, 1)},
    "sum": one("ReduceSum", [2, -1], keepdims=0),
    "length": lambda net, x: net.add("LpNormalization", [net.add("Flatten", [x], "flat")], "unit", axis=1, p=2),
    "probabilities": one("Softmax", axis=1),
    "logarithms": one("LogSoftmax", axis=1),
    "slice": one("Slice", [1, -4], [9, 1 << 40], [1, 3]),
    "backward": one("Slice", [-1], [-(1 << 40)], [1], [-1]),
    "every second": one("Slice", [1], [9], [2], [2]),
    "reversed": one("Gather", [5, 4, 3, 2, 1, 0], axis=1),
    "dropout": one("Dropout"),
    "repeated": one("Tile", [1, 2, 1, 3]),
    "cast": one("Cast", to=1),
    "shuffled": shuffled,
    "gated": gated,
    "halves": halves,
    "aliased": aliased,
    "turned": turned,
    "widened": widened,
}  # fmt: skip


def network(tmp_path, body, opset=OPSET, ending=None):
    """Write a network of a convolution, the body and a linear layer; return its path."""
    net = Builder()
    x = net.add("Conv", ["input.1", net.constant("stem.weight", WEIGHT)], "stem", pads=[1, 1, 1, 1])
    x = body(net, net.add("Mul", [x, net.constant("small", np.float32(0.02))], "scaled"))
    x = net.add("Flatten", [x], "flatten")
    features = _features(net, opset)
    x = (ending or linear)(net, x, features)
    path = tmp_path / "face.onnx"
    path.write_bytes(net.model(x, 8, SIDE, opset).SerializeToString())
    return path


def _features(net, opset):
    """Count what reaches the last layer, by ONNX's own shape inference."""
    graph = helper.make_graph(
        net.nodes,
        "body",
        [helper.make_tensor_value_info("input.1", onnx.TensorProto.FLOAT, [2, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(net.nodes[-1].output[0], onnx.TensorProto.FLOAT, None)],
        net.initializers,
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), data_prop=True
    )
    return model.graph.output[0].type.tensor_type.shape.dim[1].dim_value


def linear(net, x, features):
    return net.linear(x, "fc", features, 8)


def agree(path):
    batch = np.random.RandomState(1).uniform(-1, 1, (2, 3, SIDE, SIDE)).astype(np.float32) * 100
    model = import_onnx(path, Scaling())
    expected = make_engine("onnxruntime", read_onnx(path, Scaling()), 2)(batch)
    found = make_engine("mxnet", model, 2, (3, SIDE, SIDE))(batch)
    assert relative_error(found, expected) < 1e-5
    return model


@pytest.mark.parametrize("name", BODIES)
def test_an_operator_computes_what_onnx_runtime_computes(name, tmp_path):
    agree(network(tmp_path, BODIES[name]))


@pytest.mark.parametrize("opset", [18, 20])
def test_axes_may_be_an_input(opset, tmp_path):
    agree(network(tmp_path, one("ReduceMean", [2, 3], keepdims=1), opset))


@pytest.mark.parametrize("settings", [{"transB": 0}, {"transB": 0, "alpha": 0.5, "beta": 2.0}], ids=str)
def test_a_matrix_may_be_stored_by_columns(settings, tmp_path):
    def ending(net, x, features):
        matrix = net.constant("w", RANDOM.standard_normal((features, 8)))
        return net.add("Gemm", [x, matrix, net.constant("b", np.arange(8) / 8)], "fc", **settings)

    agree(network(tmp_path, one("Relu"), ending=ending))


def test_a_sum_after_a_product_is_its_bias(tmp_path):
    def ending(net, x, features):
        matrix = net.constant("w", RANDOM.standard_normal((features, 8)))
        return net.add("Add", [net.constant("b", np.arange(8) / 8), net.add("MatMul", [x, matrix], "fc")], "sum")

    model = agree(network(tmp_path, one("Relu"), ending=ending))
    assert {*model.arguments} == {"stem.weight", "w", "b"}


def test_constants_of_arithmetic_do_not_learn_and_moving_averages_have_one_owner(tmp_path):
    model = agree(network(tmp_path, one("Mul", CHANNELS)))
    attributes = model.symbol.attr_dict()
    assert [name for name in model.arguments if attributes[name].get("__lr_mult__") == "0.0"] == ["c0"]
    model = agree(network(tmp_path, aliased))
    assert len(model.auxiliary) == 4 and not {*model.arguments} & {*model.auxiliary}


REFUSED = {
    "MaxPool maxpool: windows with gaps": one("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]),
    "AveragePool averagepool: a mean over windows of different sizes": one(
        "AveragePool", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1]
    ),
    "InstanceNormalization instancenormalization: this operator has no counterpart": one(
        "InstanceNormalization", SLOPES, SLOPES
    ),
    "Gather gather: a choice by indices": one("Gather", [0, 2], axis=1),
    "Pad pad: padding of": one("Pad", [0, 1, 0, 0, 0, 0, 0, 0]),
    "ReduceMean reducemean: a reduction over pictures": lambda net, x: net.add(
        "Add", [x, net.add("ReduceMean", [x], "reducemean", axes=[0], keepdims=1)], "sum"
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_counterpart_is_refused_by_its_name(reason, tmp_path):
    path = network(tmp_path, REFUSED[reason])
    with pytest.raises(InputError) as caught:
        import_onnx(path, Scaling())
    op, rest = reason.split(" ", 1)
    assert f"{op} /{rest.split(':')[0]}/{op}: {rest.split(': ')[1]}" in str(caught.value)


def test_every_operator_has_a_test():
    tested = {"Gemm", "MatMul", "Flatten", "Reshape", "Transpose"}
    for body in BODIES.values():
        net = Builder()
        body(net, "x")
        tested |= {node.op_type for node in net.nodes}
    assert {*CONVERTERS} - tested == {"Log"}  # of numbers above 0 only
