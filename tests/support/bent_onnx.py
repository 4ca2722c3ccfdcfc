"""ONNX files bent in every way that a seed leads to, and what an engine makes of them, in a process of its own."""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from denseface.core.errors import InputError
from denseface.embedding.embedder import Embedder
from denseface.embedding.engines.onnx_model import read_onnx
from denseface.embedding.engines.onnx_shapes import OPERATORS
from denseface.export.metadata import write_metadata
from denseface.importing.onnx import import_onnx

SECONDS = 10  # of processor time for one file
MEGABYTES = 2048
_NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 16, 4096, 2**16, 2**31 - 1, 2**31, 2**62, 2**63 - 1)
_FLOATS = (0.0, -0.0, -1.0, 1e-45, 3e38, float("inf"), float("nan"))


def healthy(seed: int, quantized: bool = True) -> onnx.ModelProto:
    """A network for pictures of 16 x 16 with most of the operators that exported networks have."""
    draw = np.random.RandomState(seed)

    def values(name, *shape):
        return numpy_helper.from_array(draw.standard_normal(shape).astype(np.float32) * 0.3, name)

    def numbers(name, *given):
        return numpy_helper.from_array(np.array(given, np.int64), name)

    node = helper.make_node
    nodes = [
        node("Sub", ["data", "middle"], ["shifted"], "_minusscalar0"),
        node("Mul", ["shifted", "factor"], ["scaled"], "_mulscalar0"),
        node(
            "Conv", ["scaled", "w0", "b0"], ["conv0"], "conv0", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        node("PRelu", ["conv0", "slopes"], ["act0"], "act0"),
        node(
            "Conv",
            ["act0", "w1"],
            ["conv1"],
            "conv1",
            kernel_shape=[3, 3],
            group=8,
            dilations=[2, 2],
            pads=[2, 2, 2, 2],
        ),
        node("Concat", ["act0", "conv1"], ["joined"], "joined", axis=1),
        node("BatchNormalization", ["joined", "gamma", "beta", "mean", "var"], ["bn"], "bn", epsilon=1e-3),
        node("MaxPool", ["bn"], ["pooled"], "pooled", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Split", ["pooled", "halves"], ["left", "right"], "split", axis=1),
        node("Clip", ["left", "low", "high"], ["clipped"], "clip"),
        node("Add", ["clipped", "right"], ["sum"], "sum"),
        node("QuantizeLinear", ["sum", "scale", "zero"], ["bytes"], "quantize"),
        node("DequantizeLinear", ["bytes", "scale", "zero"], ["floats"], "dequantize"),
        node("AveragePool", ["floats"], ["mean2"], "mean2", kernel_shape=[2, 2], strides=[2, 2], count_include_pad=1),
        node("Transpose", ["mean2"], ["turned"], "turned", perm=[0, 2, 3, 1]),
        node("Slice", ["turned", "starts", "ends", "axes"], ["cut"], "cut"),
        node("Reshape", ["cut", "shape"], ["flat"], "flat"),
        node("Gemm", ["flat", "w2", "b2"], ["fc"], "fc", transB=1),
        node("ReduceSum", ["fc", "last"], ["total"], "total", keepdims=1),
        node("Tile", ["total", "repeats"], ["tiled"], "tiled"),
        node("Div", ["fc", "tiled"], ["fc1_output"], "fc1"),
    ]
    if not quantized:  # as networks are that are imported
        first = next(index for index, one in enumerate(nodes) if one.op_type == "QuantizeLinear")
        nodes[first : first + 2] = [node("Identity", ["sum"], ["floats"], "alias")]
    parameters = [
        numpy_helper.from_array(np.float32(127.5), "middle"),
        numpy_helper.from_array(np.float32(0.0078125), "factor"),
        values("w0", 8, 3, 3, 3),
        values("b0", 8),
        values("slopes", 8, 1, 1),
        values("w1", 8, 1, 3, 3),
        *(values(name, 16) for name in ("gamma", "beta", "mean")),
        numpy_helper.from_array(np.ones(16, np.float32), "var"),
        numbers("halves", 8, 8),
        numpy_helper.from_array(np.float32(-2), "low"),
        numpy_helper.from_array(np.float32(2), "high"),
        numpy_helper.from_array(np.float32(0.05), "scale"),
        numpy_helper.from_array(np.uint8(128), "zero"),
        numbers("starts", 0),
        numbers("ends", 2),
        numbers("axes", 1),
        numbers("shape", 0, -1),
        values("w2", 8, 32),
        values("b2", 8),
        numbers("last", 1),
        numbers("repeats", 1, 8),
    ]
    graph = helper.make_graph(
        nodes,
        "bent",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("fc1_output", TensorProto.FLOAT, ["N", 8])],
        parameters,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, write_metadata({"prefix": "p", "epoch": 1, "sha256": "0"}))
    return model


def bent(seed: int, quantized: bool = True) -> bytes:
    """Return a file that differs from a healthy one; with an even seed in a way that may make sense, with 0 in none."""
    draw = random.Random(seed)
    model = healthy(seed, quantized)
    if seed % 2:
        for _ in range(draw.randint(1, 3)):
            with contextlib.suppress(Exception):  # what an earlier way has left cannot be read
                draw.choice(_WAYS)(model, draw)
    elif seed:
        draw.choice(_GENTLE_WAYS)(model, draw)
    content = bytearray(model.SerializeToString())
    if seed % 2 and draw.random() < 0.1:
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def _other_operator(model, draw):
    draw.choice(model.graph.node).op_type = draw.choice([*sorted(OPERATORS), "Loop", "If", "Scan", "Gather", "Resize"])


def _other_input(model, draw):
    node = draw.choice(model.graph.node)
    names = [name for other in model.graph.node for name in other.output] + [t.name for t in model.graph.initializer]
    node.input[draw.randrange(len(node.input))] = draw.choice([*names, "data", "", "absent"])


def _fewer_or_more_inputs(model, draw):
    node = draw.choice(model.graph.node)
    if draw.random() < 0.5:
        del node.input[-1]
    else:
        node.input.append(draw.choice(model.graph.initializer).name)


def _other_attribute(model, draw, numbers=_NUMBERS):
    node = draw.choice([node for node in model.graph.node if node.attribute])
    attribute = draw.choice(node.attribute)
    if attribute.ints:
        attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(numbers)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = draw.choice(_FLOATS)
    else:
        attribute.i = draw.choice(numbers)


def _small_attribute(model, draw):
    _other_attribute(model, draw, range(-2, 9))


def _other_length(model, draw):
    node = draw.choice([node for node in model.graph.node if any(a.ints for a in node.attribute)])
    attribute = draw.choice([attribute for attribute in node.attribute if attribute.ints])
    if draw.random() < 0.5:
        attribute.ints.append(draw.choice(_NUMBERS[2:12]))
    else:
        del attribute.ints[-1]


def _no_attribute(model, draw):
    node = draw.choice([node for node in model.graph.node if node.attribute])
    del node.attribute[draw.randrange(len(node.attribute))]


def _added_attribute(model, draw):
    name = draw.choice(["auto_pad", "ceil_mode", "group", "axis", "training_mode", "mode", "broadcast", "alpha"])
    value = draw.choice([0, 1, 2, -1, 7, "SAME_UPPER", "VALID", "linear", 1.5, [1, 2]])
    draw.choice(model.graph.node).attribute.append(helper.make_attribute(name, value))


def _other_dimension(model, draw):
    tensor = draw.choice(model.graph.initializer)
    if tensor.dims:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(_NUMBERS)
    else:
        tensor.dims.append(draw.choice(_NUMBERS))


def _other_shape(model, draw):
    """Values and shape that agree with each other, and with nothing else."""
    tensor = draw.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor)
    shape = [draw.choice((1, 2, 3, 8, 16)) for _ in range(draw.randint(0, 5))]
    tensor.CopyFrom(numpy_helper.from_array(np.resize(array, shape), tensor.name))


def _other_values(model, draw):
    tensor = draw.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor).copy()
    if array.dtype.kind == "f":
        array.flat[draw.randrange(array.size)] = draw.choice(_FLOATS)
    elif array.dtype == np.int64:
        array.flat[draw.randrange(array.size)] = draw.choice(_NUMBERS)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _small_values(model, draw):
    tensor = draw.choice([tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT64])
    array = numpy_helper.to_array(tensor).copy()
    array[draw.randrange(array.size)] = draw.randint(-3, 9)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _other_type(model, draw):
    tensor = draw.choice(model.graph.initializer)
    if draw.random() < 0.5:
        tensor.data_type = draw.randrange(30)
    else:
        kind = draw.choice((np.float64, np.float16, np.int32, np.int64, np.int8, np.uint8, np.bool_))
        with np.errstate(all="ignore"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name))


def _no_node(model, draw):
    del model.graph.node[draw.randrange(len(model.graph.node))]


def _node_again(model, draw):
    model.graph.node.add().CopyFrom(draw.choice(model.graph.node))


def _other_end(model, draw):
    end = draw.choice([*model.graph.input, *model.graph.output])
    dimension = draw.choice(end.type.tensor_type.shape.dim)
    if draw.random() < 0.8:
        dimension.dim_value = draw.choice(_NUMBERS)
    else:
        end.type.tensor_type.elem_type = draw.randrange(20)


def _other_version(model, draw):
    if draw.random() < 0.5:
        model.opset_import[0].version = draw.choice((*_NUMBERS[:8], *range(6, 30), 999))
    else:
        model.ir_version = draw.choice(_NUMBERS)


def _other_mark(model, draw):
    depth = draw.choice((10, 1000, 100_000))
    texts = ["", "[" * depth, '{"a":' * depth, "null", '{"prefix": 1, "epoch": "a", "sha256": null}']
    model.metadata_props[0].value = draw.choice(texts)


def _graph_within(model, draw):
    node = draw.choice(model.graph.node)
    node.attribute.append(helper.make_attribute("body", model.graph))


_WAYS = (
    _other_operator,
    _other_input,
    _fewer_or_more_inputs,
    _other_attribute,
    _other_attribute,
    _other_attribute,
    _other_length,
    _no_attribute,
    _added_attribute,
    _other_dimension,
    _other_shape,
    _other_shape,
    _other_values,
    _other_values,
    _other_type,
    _no_node,
    _node_again,
    _other_end,
    _other_version,
    _other_mark,
    _graph_within,
)


_GENTLE_WAYS = (
    _other_operator,
    _other_input,
    _small_attribute,
    _other_length,
    _no_attribute,
    _added_attribute,
    _other_shape,
    _small_values,
    _other_values,
    _other_type,
)


def main(engine: str, first: str, count: str, folder: str) -> None:
    """Open and run files of some seeds; print each seed before it, and what came of it after."""
    path, imported = Path(folder, "bent.onnx"), engine == "mxnet"
    for seed in range(int(first), int(first) + int(count)):
        print(seed, end=" ", flush=True)
        path.write_bytes(bent(seed, quantized=not imported))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            model = import_onnx(path) if imported else read_onnx(path)
            shape = model.file.input_shape if imported else model.input_shape
            embedder = Embedder(model, engine=engine, image_shape=(*shape[1:], shape[0]))
            size = embedder.image_shape[0] * embedder.image_shape[1] * embedder.image_shape[2]
            embedder.embed(np.resize(np.arange(256, dtype=np.uint8), size).reshape(embedder.image_shape))
        except InputError as error:
            said = str(error)
            assert "\n" not in said
            print("refused:", said.removeprefix(f"{path}: "))
        else:
            print("computed")
        signal.setitimer(signal.ITIMER_PROF, 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        assert peak < MEGABYTES, f"{peak} MB"


if __name__ == "__main__":
    main(*sys.argv[1:])
