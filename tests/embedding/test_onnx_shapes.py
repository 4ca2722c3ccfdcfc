"""The shapes of ONNX's operators, beside those that the package onnx infers and ONNX Runtime computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from denseface.embedding.engines.onnx_shapes import OPERATORS, Array, UnusableError, infer

X = (2, 4, 7, 6)


def ints(*numbers):
    return np.array(numbers, np.int64)


def floats(*shape):
    return np.ones(shape, np.float32)


# Operator, what it reads beside the picture, attributes; opset 13 unless it says so.
SAME = """
    Abs Elu Erf Exp Identity LeakyRelu Log LogSoftmax Neg Relu Selu Sigmoid Softmax Softplus Softsign Sqrt Tanh
    HardSigmoid LpNormalization Dropout
"""
TWO = ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum")
CASES = [
    *((op, [], {}) for op in SAME.split()),
    ("HardSwish", [], {"opset": 14}),
    ("Cast", [], {"to": TensorProto.FLOAT}),
    ("Clip", [floats(), floats()], {}),
    ("QuantizeLinear", [floats(), np.array(0, np.uint8)], {}),
    *(
        (op, [floats(*shape)], {})
        for op in ["Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum"]
        for shape in ((4, 1, 1), X, ())
    ),
    ("PRelu", [floats(4, 1, 1)], {}),
    ("BatchNormalization", [floats(4)] * 4, {}),
    ("InstanceNormalization", [floats(4)] * 2, {}),
    ("Conv", [floats(8, 4, 3, 3), floats(8)], {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 0, 2, 1]}),
    ("Conv", [floats(8, 1, 3, 2)], {"group": 4, "dilations": [2, 1]}),
    *(("Conv", [floats(8, 4, 3, 3)], {"auto_pad": pad, "strides": [2, 2]}) for pad in ("SAME_UPPER", "VALID")),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [], {"kernel_shape": [2, 3], "strides": [3, 3], "ceil_mode": 1}),
    ("GlobalAveragePool", [], {}),
    ("GlobalMaxPool", [], {}),
    ("Concat", [floats(2, 3, 7, 6)], {"axis": 1}),
    ("Flatten", [], {}),
    *(("Flatten", [], {"axis": axis}) for axis in (0, -1, 4)),
    *(("Reshape", [ints(*codes)], {}) for codes in ((0, -1), (2, 4, 42), (-1,), (0, 0, 0, 0))),
    *((op, [], {"axes": [1, -1]}) for op in ["ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin"]),
    ("ReduceMean", [], {"keepdims": 0}),
    ("ReduceMean", [ints(2)], {"opset": 18}),
    ("ReduceSum", [ints(1, 2)], {"keepdims": 0}),
    ("Slice", [ints(1, 0), ints(5, 1 << 40), ints(2, -1), ints(2, 1)], {}),
    ("Slice", [ints(-1), ints(-(1 << 40)), ints(1), ints(-1)], {}),
    ("Slice", [], {"starts": [0, 1], "ends": [2, -1], "axes": [1, 2], "opset": 9}),
    ("Split", [ints(1, 3)], {"axis": 1, "outputs": 2}),
    ("Split", [], {"axis": 2, "outputs": 2, "num_outputs": 2, "opset": 18}),
    ("Unsqueeze", [ints(0, -1)], {}),
    ("Tile", [ints(1, 2, 1, 3)], {}),
    ("Transpose", [], {}),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    ("Pad", [ints(0, 0, 1, 2, 0, 0, 0, 1)], {}),
    ("Gather", [ints(2, 1, -4)], {"axis": 1}),
    ("Shape", [], {}),
    ("Shape", [], {"start": 1, "end": -1, "opset": 15}),
    ("MatMul", [floats(6, 5)], {}),
    ("MatMul", [floats(4, 6, 5)], {}),
]
OTHERS = {  # operators whose first input is not a picture
    "Gemm": ("Gemm", [floats(2, 6), floats(5, 6), floats(5)], {"transB": 1}),
    "Squeeze": ("Squeeze", [floats(2, 1, 3, 1), ints(1)], {}),
    "Squeeze all": ("Squeeze", [floats(2, 1, 3, 1)], {}),
    "Constant": ("Constant", [], {"value": numpy_helper.from_array(floats(2, 3))}),
    "DequantizeLinear": ("DequantizeLinear", [np.ones(X, np.uint8), floats(), np.array(0, np.uint8)], {}),
}


def ours(op, inputs, attributes, n_outputs):
    node = helper.make_node(op, list("abcdefgh"[: len(inputs)]), list("xyz"[:n_outputs]), **attributes)
    return [array.shape for array in infer(node, inputs)]


def run(op, inputs, attributes, n_outputs, opset):
    """Shapes that ONNX Runtime computes."""
    names = "abcdefgh"[: len(inputs)]
    node = helper.make_node(op, list(names), list("xyz"[:n_outputs]), **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in zip(names, inputs)
        ],
        [onnx.ValueInfoProto(name=name) for name in "xyz"[:n_outputs]],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    content = onnx.shape_inference.infer_shapes(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return [value.shape for value in session.run(None, dict(zip(names, inputs)))]


@pytest.mark.parametrize("case", [*CASES, *OTHERS.values()], ids=lambda case: case[0])
def test_shapes_are_those_that_onnx_runtime_computes(case):
    op, others, attributes = case
    given = others if case in OTHERS.values() else [floats(*X), *others]
    attributes = dict(attributes)
    n_outputs, opset = attributes.pop("outputs", 1), attributes.pop("opset", 13)
    inputs = [Array(value.shape, value if value.size < 10 else None) for value in given]
    assert ours(op, inputs, attributes, n_outputs) == run(op, given, attributes, n_outputs, opset)


def test_every_operator_is_compared():
    assert {op for op, *_ in [*CASES, *OTHERS.values()]} == OPERATORS


def test_a_shape_that_is_computed_from_the_pictures_is_followed():
    """As PyTorch writes ``x.view(x.size(0), -1)``."""
    (shape,) = infer(helper.make_node("Shape", ["a"], ["x"]), [Array(X)])
    (first,) = infer(helper.make_node("Gather", ["a", "b"], ["x"]), [shape, Array((), ints(0).reshape(()))])
    (size,) = infer(helper.make_node("Unsqueeze", ["a"], ["x"], axes=[0]), [first])
    (codes,) = infer(helper.make_node("Concat", ["a", "b"], ["x"], axis=0), [size, Array((1,), ints(-1))])
    assert codes.values.tolist() == [2, -1]
    assert infer(helper.make_node("Reshape", ["a", "b"], ["x"]), [Array(X), codes]) == [Array((2, 168))]


@pytest.mark.parametrize(
    ("op", "others", "attributes", "reason"),
    [
        ("Add", [floats(3, 1, 1)], {}, "do not fit each other"),
        ("Conv", [floats(8, 3, 3, 3)], {}, "do not fit an input"),
        ("MaxPool", [], {"kernel_shape": [3]}, "does not fit an input"),
        ("Reshape", [ints(0, 5)], {}, "cannot be reshaped"),
        ("Reshape", [floats(2)], {}, "do not follow"),
        ("Split", [ints(1, 1)], {"axis": 1}, "cannot be split"),
        ("Transpose", [], {"perm": [0, 0, 1, 2]}, "axes"),
        ("Gather", [ints(4)], {"axis": 1}, "along an axis of 4"),
        ("Slice", [ints(0), ints(1), ints(1), ints(0)], {}, "do not fit each other"),
        ("Concat", [floats(2, 3, 7, 5)], {"axis": 1}, "cannot be joined"),
    ],
)
def test_what_does_not_fit_is_refused(op, others, attributes, reason):
    inputs = [Array(X), *(Array(value.shape, value) for value in others)]
    with pytest.raises(UnusableError) as caught:
        ours(op, inputs, attributes, 1)
    assert reason in str(caught.value)
