import json
import re
import sys
from symbol import fdensenet, fmobilefacenet, fresnet

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from denseface.core.errors import InputError
from denseface.export.metadata import read_metadata
from denseface.export.onnx import convert, export
from denseface.export.operators import CONVERTERS
from denseface.models.checkpoint import Model
from support.helpers import golden_input, golden_outputs, relative_error, value_of
from support.refusals import refused
from support.tiny_models import as_ndarrays
from symbol_utils import HEADS

import mxnet as mx

S = mx.sym
DATA = mx.sym.Variable("data")
SHAPE = (2, 4, 7, 6)


def model_of(symbol, arguments=None, auxiliary=None):
    """A model of the symbol with these parameters."""
    return Model(symbol, arguments or {}, auxiliary or {}, "tiny", 1)


def drawn(symbol, shape, gain=2.0):
    """A model of the symbol with parameters that their names decide."""
    shapes, _, aux_shapes = symbol.infer_shape(data=shape)
    inputs = ("data", "softmax_label")
    arguments = {n: value_of(n, s, gain) for n, s in zip(symbol.list_arguments(), shapes) if n not in inputs}
    return model_of(
        symbol, arguments, {n: value_of(n, s, gain) for n, s in zip(symbol.list_auxiliary_states(), aux_shapes)}
    )


def run_mxnet(model, data):
    executor = model.symbol.simple_bind(mx.cpu(), grad_req="null", data=data.shape)
    executor.copy_params_from(*as_ndarrays(model), allow_extra_params=True)
    return executor.forward(is_train=False, data=mx.nd.array(data))[0].asnumpy()


def run_onnx(model, data):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"data": data})[0]


def assert_same(network, shape=SHAPE, low=-3.0, opset=17, dynamic_batch=True):
    """Check that MXNet and ONNX Runtime agree within 1e-5, at any batch size; returns the ONNX model.

    The network is a model, or a symbol whose parameters are drawn.
    """
    given = network if isinstance(network, Model) else drawn(network, shape)
    model = convert(given, shape, opset=opset, dynamic_batch=dynamic_batch)
    for batch in (1, 3) if dynamic_batch else shape[:1]:
        data = np.random.RandomState(batch).uniform(low, 3, (batch, *shape[1:])).astype(np.float32)
        expected, found = run_mxnet(given, data), run_onnx(model, data)
        assert np.isfinite(expected).all()
        assert np.abs(expected).max() > 1e-3
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    return model


def op_types(model):
    return [node.op_type for node in model.graph.node]


def conv(**options):
    return S.Convolution(DATA, **{"kernel": (3, 3), "num_filter": 8, "name": "conv", **options})


def pool(**options):
    return S.Pooling(DATA, name="pool", **{"kernel": (3, 3), **options})


def fc(data=DATA, **options):
    return S.FullyConnected(data, num_hidden=5, name="fc", **options)


def prelu(name="relu", data=DATA, slopes=None):
    return S.LeakyReLU(data, S.Variable(f"{name}_gamma", shape=slopes), act_type="prelu", name=name)


def split(**options):
    parts = S.SliceChannel(DATA, **options)
    return S.elemwise_sub(parts[1], parts[0])


FEATURES = S.mean(DATA, axis=(2, 3))  # (N, 4)
CHANNELS = S.mean(DATA, axis=(2, 3), keepdims=True)  # (N, 4, 1, 1)

CASES = {
    "conv": conv(),
    "conv-1x1": conv(kernel=(1, 1)),
    "conv-no_bias": conv(no_bias=True),
    "conv-stride-pad": conv(stride=(2, 3), pad=(1, 2)),
    "conv-dilate": conv(dilate=(2, 1), pad=(2, 0)),
    "conv-group": conv(num_group=2),
    "conv-depthwise": conv(num_filter=4, num_group=4, no_bias=True),
    "conv-layout": conv(layout="NCHW"),
    "conv-1d": S.Convolution(S.Reshape(DATA, shape=(0, 0, -1)), kernel=(5,), stride=(2,), num_filter=3, name="conv"),
    "bn-default": S.BatchNorm(DATA, name="bn"),
    "bn": S.BatchNorm(DATA, fix_gamma=False, eps=2e-5, name="bn"),
    "bn-eps": S.BatchNorm(DATA, fix_gamma=False, eps=0.5, name="bn"),
    "bn-fix_gamma": S.BatchNorm(DATA, fix_gamma=True, eps=2e-5, name="bn"),
    "bn-global-stats": S.BatchNorm(DATA, fix_gamma=False, use_global_stats=True, momentum=0.5, name="bn"),
    "bn-negative-axis": S.BatchNorm(FEATURES, fix_gamma=False, axis=-1, name="bn"),
    **{
        f"activation-{act}": S.Activation(DATA, act_type=act)
        for act in ("relu", "sigmoid", "tanh", "softrelu", "softsign")
    },
    "leaky-default": S.LeakyReLU(DATA),
    "leaky": S.LeakyReLU(DATA, act_type="leaky", slope=0.1),
    "elu-default": S.LeakyReLU(DATA, act_type="elu"),
    "elu": S.LeakyReLU(DATA, act_type="elu", slope=0.7),
    "selu": S.LeakyReLU(DATA, act_type="selu"),
    "gelu": S.LeakyReLU(DATA, act_type="gelu"),
    "prelu": prelu(),
    "prelu-1-slope": prelu(slopes=(1,)),
    "prelu-features": prelu(data=FEATURES),
    "prelu-square": prelu(data=S.slice(DATA, begin=(None, None, 0, 0), end=(None, None, 4, 4))),
    "concat": S.Concat(DATA, DATA * 2, DATA),
    "concat-dim": S.Concat(DATA, DATA * 2, dim=2),
    "concat-last": S.Concat(DATA, DATA * 2, dim=-1),
    "concat-batch": S.Concat(DATA, DATA * 2, dim=0),
    "flatten": S.Flatten(DATA),
    "fc": fc(),
    "fc-no_bias": fc(no_bias=True),
    "fc-features": fc(FEATURES),
    "fc-positions": fc(flatten=False),
    "fc-positions-no_bias": fc(flatten=False, no_bias=True),
    "fc-features-flatten-off": fc(FEATURES, flatten=False),
    "dropout": S.Dropout(DATA, p=0.4) + 1,
    "dropout-last": S.Dropout(DATA * 2, p=0.4),
    "identity": S.identity(DATA) + S.BlockGrad(DATA),
    "data-itself": S.identity(DATA),
    "clip": S.clip(DATA, a_min=-0.5, a_max=1.5),
    "scalar-plus": DATA + 1.5,
    "scalar-minus": DATA - 1.5,
    "scalar-rminus": 1.5 - DATA,
    "scalar-mul": DATA * 1.5,
    "scalar-div": DATA / 1.5,
    "scalar-rdiv": 1.5 / S.exp(DATA),
    "scalar-power": DATA**2,
    "scalar-rpower": S.pow(2, DATA),
    "scalar-maximum": S.maximum(DATA, 0.3),
    "scalar-minimum": S.minimum(DATA, 0.3),
    "elemwise-add": DATA + S.exp(DATA),
    "elemwise-sub": DATA - S.exp(DATA),
    "elemwise-mul": DATA * S.exp(DATA),
    "elemwise-div": DATA / S.exp(DATA),
    "elemwise-old-names": S._internal._Plus(S._internal._Minus(DATA, S.exp(DATA)), S._internal._Mul(DATA, DATA)),
    "add-many": S.add_n(DATA, DATA * 2, S.exp(DATA)),
    "cast": S.Cast(DATA * 2, dtype="float32"),
    "elemwise-maximum": S.maximum(DATA, DATA * DATA),
    "elemwise-minimum": S.minimum(DATA, DATA * DATA),
    "elemwise-power": S.pow(S.exp(DATA), DATA),
    "broadcast-add": S.broadcast_add(DATA, CHANNELS),
    "broadcast-sub": S.broadcast_sub(CHANNELS, DATA),
    "broadcast-mul": S.broadcast_mul(DATA, CHANNELS),
    "broadcast-div": S.broadcast_div(DATA, S.exp(CHANNELS)),
    "broadcast-maximum": S.broadcast_maximum(DATA, CHANNELS),
    "broadcast-minimum": S.broadcast_minimum(DATA, CHANNELS),
    "broadcast-power": S.broadcast_power(S.exp(DATA), CHANNELS),
    "broadcast-parameter": S.broadcast_mul(DATA, S.Variable("scale_gamma", shape=(1, 4, 1, 1))),
    "softmax": S.softmax(DATA),
    "softmax-axis": S.softmax(DATA, axis=1),
    "softmax-temperature": S.softmax(DATA, axis=1, temperature=3.0),
    "log_softmax": S.log_softmax(DATA),
    "log_softmax-axis-temperature": S.log_softmax(DATA, axis=1, temperature=0.5),
    "SoftmaxActivation": S.SoftmaxActivation(FEATURES),
    "SoftmaxActivation-instance": S.SoftmaxActivation(DATA),
    "SoftmaxActivation-channel": S.SoftmaxActivation(DATA, mode="channel"),
    "SoftmaxOutput": S.SoftmaxOutput(FEATURES, name="softmax"),
    "SoftmaxOutput-multi_output": S.SoftmaxOutput(DATA, multi_output=True, name="softmax"),
    "SoftmaxOutput-preserve_shape": S.SoftmaxOutput(DATA, preserve_shape=True, name="softmax"),
    "L2Normalization": S.L2Normalization(DATA),
    "L2Normalization-features": S.L2Normalization(FEATURES),
    "L2Normalization-channel": S.L2Normalization(DATA, mode="channel"),
    "L2Normalization-spatial": S.L2Normalization(DATA, mode="spatial"),
    "L2Normalization-eps": S.L2Normalization(DATA, eps=10.0),
    "slice_axis": S.slice_axis(DATA, axis=1, begin=1, end=3),
    "slice_axis-negative": S.slice_axis(DATA, axis=-1, begin=-4, end=-1),
    "slice_axis-open": S.slice_axis(DATA, axis=2, begin=2, end=None),
    "slice": S.slice(DATA, begin=(None, 1, -4), end=(None, 3, None)),
    "slice-step": S.slice(DATA, begin=(None, None, 1), end=(None, None, 6), step=(None, 2, 3)),
    "slice-back": S.slice(DATA, begin=(None, None, 5, None), end=(None, None, 1, None), step=(None, None, -2, -1)),
    "split": split(num_outputs=2),
    "split-axis": split(num_outputs=3, axis=3),
    "split-squeeze": split(num_outputs=7, axis=2, squeeze_axis=True),
    "split-squeeze-one-output": S.SliceChannel(DATA, num_outputs=6, axis=3, squeeze_axis=True)[4],
    "split-one-output": S.SliceChannel(DATA, num_outputs=2)[1],
    "split-in-one": S.SliceChannel(DATA, num_outputs=1)[0],
    "reshape": S.Reshape(DATA, shape=(0, -1, 2)),
    "reshape-positive": S.Reshape(DATA, shape=(-1, 4, 42)),
    "reshape-into-batch": S.Reshape(DATA, shape=(-1, 6)),
    "reshape-copy-rest": S.Reshape(DATA, shape=(0, -3, -2)),
    "reshape-merge": S.Reshape(DATA, shape=(-3, 0, 0)),
    "reshape-split": S.Reshape(DATA, shape=(0, -4, 2, -1, -2)),
    "reshape-reverse": S.Reshape(DATA, shape=(-1, 0), reverse=True),
    "transpose": S.transpose(DATA, axes=(0, 2, 3, 1)),
    "transpose-default": S.transpose(DATA),
    "swap-axes": S.SwapAxis(DATA, dim1=1, dim2=3),
    "expand_dims": S.expand_dims(DATA, axis=1),
    "expand_dims-last": S.expand_dims(DATA, axis=-1),
    "squeeze-axis": S.squeeze(CHANNELS, axis=3),
    "squeeze-axes": S.squeeze(CHANNELS, axis=(2, -1)),
    **{f"{name}-all": getattr(S, name)(DATA) for name in ("sum", "mean", "max", "min")},
    **{f"{name}-axis": getattr(S, name)(DATA, axis=1) for name in ("sum", "mean", "max", "min")},
    "mean-axes-keepdims": S.mean(DATA, axis=(1, -1), keepdims=True),
    "mean-all-keepdims": S.mean(DATA, keepdims=True),
    "max-exclude": S.max(DATA, axis=1, exclude=True),
    "sum-exclude-keepdims": S.sum(DATA, axis=(0, 2), exclude=True, keepdims=True),
    "mean-all-broadcast": S.broadcast_div(DATA, S.mean(S.exp(DATA))),
    **{name: getattr(S, name)(DATA) for name in ("square", "exp", "negative", "abs")},
    **{name: getattr(S, name)(DATA) for name in ("relu", "sigmoid", "tanh", "softsign")},
    "tile": S.tile(CHANNELS, reps=(1, 1, 3, 2)),
    "tile-channels": S.tile(S.max(DATA, axis=1, keepdims=True), reps=(1, 5, 1, 1)),
    "tile-short": S.tile(DATA, reps=(2,)),
    "tile-long": S.tile(FEATURES, reps=(2, 1, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_operator(case):
    model = assert_same(CASES[case])
    assert [output.name for output in model.graph.output] == CASES[case].list_outputs()


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.startswith(("sum", "mean", "max", "min", "L2", "split"))]
)
def test_operator_that_opset_18_changed(case):
    assert_same(CASES[case], opset=18)


@pytest.mark.parametrize("op", ["log", "sqrt"])
def test_operator_on_positive_numbers(op):
    assert_same(getattr(S, op)(DATA), low=0.1)


def test_every_operator_of_the_table_is_tested():
    ops = {node["op"] for symbol in CASES.values() for node in json.loads(symbol.tojson())["nodes"]}
    assert set(CONVERTERS) - ops == {"Pooling", "log", "sqrt", "amp_cast"}


POOLS = {
    "overlapping": dict(kernel=(3, 3), stride=(2, 2)),
    "default-stride": dict(kernel=(3, 2)),
    "pad": dict(kernel=(3, 3), stride=(2, 2), pad=(1, 1)),
    "uneven": dict(kernel=(4, 3), stride=(2, 1), pad=(1, 2)),
    "1d": dict(kernel=(4,), stride=(3,), pad=(1,)),
}


@pytest.mark.parametrize("convention", ["valid", "full"])
@pytest.mark.parametrize("pool_type", ["max", "avg", "avg-without-pad"])
@pytest.mark.parametrize("size", [(7, 6), (8, 9), (10, 5)], ids=str)
@pytest.mark.parametrize("window", POOLS)
def test_pooling(window, size, pool_type, convention):
    data = S.Reshape(DATA, shape=(0, 0, -1)) if window == "1d" else DATA
    symbol = S.Pooling(
        data,
        pool_type=pool_type[:3],
        count_include_pad=not pool_type.endswith("without-pad"),
        pooling_convention=convention,
        **POOLS[window],
    )
    assert_same(symbol, (2, 3, *size))


def test_pooling_counts_the_padding_unless_told_otherwise():
    assert_same(S.Pooling(DATA, pool_type="avg", kernel=(3, 3), pad=(1, 1)))


@pytest.mark.parametrize("pool_type", ["max", "avg"])
def test_global_pooling(pool_type):
    """The kernel, stride and padding of a global pooling mean nothing."""
    assert_same(S.Pooling(DATA, pool_type=pool_type, global_pool=True))
    assert_same(S.Pooling(DATA, pool_type=pool_type, global_pool=True, kernel=(7, 7), stride=(2, 2), pad=(1, 1)))


@pytest.mark.parametrize("opset", [17, 18, 19, 20, 21])
def test_opset(opset):
    """A squeeze-and-excitation block with a pooling and a reduction, in every opset."""
    body = S.BatchNorm(conv(pad=(1, 1), no_bias=True), fix_gamma=False, eps=2e-5, name="bn")
    squeezed = S.Pooling(body, global_pool=True, kernel=(7, 7), pool_type="avg", name="se_pool1")
    squeezed = S.Convolution(squeezed, num_filter=2, kernel=(1, 1), name="se_conv1")
    squeezed = S.Convolution(prelu("se_relu1", squeezed), num_filter=8, kernel=(1, 1), name="se_conv2")
    body = S.broadcast_mul(body, S.Activation(squeezed, act_type="sigmoid", name="se_sigmoid"))
    body = S.Pooling(body, pool_type="avg", kernel=(3, 3), stride=(2, 2), pooling_convention="full", name="pool")
    model = assert_same(S.max(body, axis=(2, 3)), opset=opset)
    assert [entry.version for entry in model.opset_import] == [opset]


@pytest.mark.parametrize(
    "symbol",
    [fc(), conv(), S.squeeze(CHANNELS), S.Reshape(DATA, shape=(2, -1, 6)), S.mean(DATA), S.Concat(DATA, DATA, dim=0)],
    ids=lambda symbol: symbol.name,
)
def test_fixed_batch(symbol):
    model = assert_same(symbol, shape=(3, *SHAPE[1:]), dynamic_batch=False)
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [3, 4, 7, 6]


def test_a_batch_size_fixed_by_the_network_needs_a_fixed_batch():
    symbol = S.Reshape(DATA, shape=(3, 168), name="fixed")
    assert_same(symbol, shape=(3, *SHAPE[1:]), dynamic_batch=False)
    with refused("Reshape fixed", "batch size"):
        convert(model_of(symbol), (3, *SHAPE[1:]))


def test_fixed_gamma_counts_as_one_whatever_is_stored():
    given = drawn(CASES["bn-fix_gamma"], SHAPE)
    given.arguments["bn_gamma"] = np.array([5, 6, 7, 8], np.float32)
    model = assert_same(given)
    assert "bn_gamma" not in {tensor.name for tensor in model.graph.initializer}


def test_one_slope_needs_no_broadcasting():
    assert op_types(assert_same(prelu(slopes=(1,)))) == ["LeakyRelu"]
    assert op_types(assert_same(prelu())) == ["PRelu"]


def test_nodes_of_one_name_are_told_apart():
    symbol = S.Activation(S.Activation(DATA, act_type="tanh", name="same"), act_type="sigmoid", name="same")
    model = assert_same(symbol)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_a_parameter_may_be_called_like_an_output():
    assert_same(S.broadcast_mul(S.tanh(DATA, name="act"), S.Variable("act_output", shape=(1, 4, 1, 1)), name="out"))


def test_one_slope_may_come_without_a_declared_shape():
    """MXNet infers one slope per channel unless it is told."""
    model = convert(model_of(prelu(), {"relu_gamma": np.array([0.3], np.float32)}), SHAPE)
    assert op_types(model) == ["LeakyRelu"]


def test_parameters_are_stored_once_and_only_if_used():
    weight = S.Variable("shared_weight", shape=(4, 4, 1, 1))
    once = S.Convolution(DATA, weight, num_filter=4, kernel=(1, 1), no_bias=True)
    symbol = S.Convolution(once, weight, num_filter=4, kernel=(1, 1), no_bias=True)
    given = drawn(symbol, SHAPE)
    given.arguments["fc7_weight"] = np.ones((1000, 512), np.float32)
    model = assert_same(given)
    assert [tensor.name for tensor in model.graph.initializer] == ["shared_weight"]
    assert np.array_equal(numpy_helper.to_array(model.graph.initializer[0]), given.arguments["shared_weight"])


def test_half_precision_parameters_become_single():
    given = drawn(CASES["fc"], SHAPE)
    model = convert(model_of(given.symbol, {n: value.astype("float16") for n, value in given.arguments.items()}), SHAPE)
    assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.FLOAT}


@pytest.fixture
def d63(configured):
    """The symbol of a small DenseNet with these settings."""

    def build(**settings):
        configured("d63", emb_size=32, image_shape=(32, 32, 3), **settings)
        return fdensenet.get_symbol()

    return build


FACE = (2, 3, 32, 32)


@pytest.mark.parametrize("head", HEADS)
def test_densenet_heads(head, d63):
    symbol = d63(net_output=head, net_act="relu")
    model = assert_same(symbol, FACE)
    assert [output.name for output in model.graph.output] == ["fc1_output"]


@pytest.mark.parametrize("act_type", [*fdensenet.SIMPLE_ACTIVATIONS, *fdensenet.OTHER_ACTIVATIONS])
def test_densenet_activations(act_type, d63):
    assert_same(d63(net_output="GAP", net_act=act_type), FACE)


@pytest.mark.parametrize(
    ("family", "name", "settings"),
    [
        (fdensenet, "d121-prelu-GAP", dict(network="d121", net_act="prelu", net_output="GAP")),
        (fresnet, "r18-unit1-se", dict(network="r18", net_unit=1, net_se=1)),
        (fmobilefacenet, "y1", dict(network="y1")),
    ],
)
def test_insightfaces_figures_come_out(family, name, settings, configured):
    configured(**settings)
    symbol, data = family.get_symbol(), golden_input()
    model = drawn(symbol, data.shape, gain=2.0 if family is fdensenet else 0.25)
    found = run_onnx(convert(model, data.shape), data)
    assert relative_error(found, golden_outputs(family.__name__.split(".")[-1])[name]) < 1e-4


def test_insightface_sees_that_pictures_are_normalized_inside(d63):
    """Its package looks for these names among the first eight nodes, and for one input and one output."""
    symbol = d63(net_output="E")
    model = convert(drawn(symbol, FACE), FACE, metadata={"prefix": "model", "epoch": "7"})
    graph = model.graph
    assert [(node.op_type, node.name) for node in graph.node[:2]] == [("Sub", "_minusscalar0"), ("Mul", "_mulscalar0")]
    assert [entry.name for entry in graph.input] == ["data"]
    assert [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == ["N", 3, 32, 32]
    assert [dim.dim_param or dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim] == ["N", 32]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"prefix": "model", "epoch": "7"}
    assert not {"Dropout", "Identity"} & set(op_types(model))
    onnx.checker.check_model(model, full_check=True)


def test_files_are_as_old_as_their_opset_allows():
    assert [convert(model_of(DATA * 2), SHAPE, opset=opset).ir_version for opset in (17, 19, 21)] == [8, 9, 10]


@pytest.mark.parametrize(
    ("symbol", "message"),
    [
        (S.erfinv(DATA, name="odd"), "erfinv odd: this operator"),
        (pool(pool_type="sum"), "Pooling pool: pool_type=sum"),
        (pool(pool_type="lp", p_value=2), "Pooling pool: pool_type=lp"),
        (pool(layout="NHWC"), "Pooling pool: layout=NHWC"),
        (pool(layout="NHWC", global_pool=True), "Pooling pool: layout=NHWC"),
        (conv(layout="NHWC"), "Convolution conv: layout=NHWC"),
        (pool(kernel=(2, 2), stride=(4, 1), pooling_convention="full"), "Pooling pool: a window with nothing but"),
        (S.SoftmaxOutput(DATA, name="softmax"), "SoftmaxOutput softmax: 4 axes without"),
        (S.BatchNorm(DATA, axis=3, name="bn"), "BatchNorm bn: axis=3"),
        (S.Dropout(DATA, mode="always", name="drop"), "Dropout drop: mode=always"),
        (S.LeakyReLU(DATA, act_type="rrelu", name="act")[0], "LeakyReLU act: act_type=rrelu"),
        (S.LeakyReLU(DATA, S.exp(S.Variable("x_gamma", shape=(4,))), act_type="prelu", name="act"), "LeakyReLU act: a"),
        (prelu(slopes=(3,)), "LeakyReLU relu: 3 slopes for 4 channels"),
        (S.BatchNorm(DATA, output_mean_var=True, name="bn")[1], "BatchNorm bn: its output number 1"),
        (S.BatchNorm(DATA, output_mean_var=True, name="bn")[2] * 2, "BatchNorm bn: its output number 2"),
        (S.softmax(DATA, S.max(DATA, axis=3), use_length=True, name="softmax"), "softmax softmax: use_length"),
        (S.Group([DATA * 2, DATA * 3]), "one output"),
        (S.Variable("image") * 2, "input called data"),
    ],
)
def test_what_has_no_counterpart_is_refused(symbol, message):
    model = drawn(symbol, SHAPE) if "data" in symbol.list_arguments() else model_of(symbol)
    with pytest.raises(InputError) as caught:
        convert(model, SHAPE)
    assert re.search(message, caught.value.reason)
    assert "\n" not in str(caught.value)


def test_shapes_that_do_not_follow_are_refused(recwarn):
    with refused("do not follow", SHAPE):
        convert(model_of(S.broadcast_add(DATA, S.zeros((0, 4, 1, 1)))), SHAPE)
    assert not [warning for warning in recwarn if warning.category is UserWarning]


@pytest.mark.parametrize("shape", [(4, 7, 6), (0, 4, 7, 6), (1, 4, 7, 6, 5)])
def test_input_shapes_other_than_pictures_are_refused(shape):
    with refused("input_shape", shape):
        convert(model_of(DATA * 2), shape)


@pytest.mark.parametrize("opset", [16, 999])
def test_opsets_out_of_range_are_refused(opset):
    with refused("17 to", option="opset"):
        convert(model_of(DATA * 2), SHAPE, opset=opset)


def test_missing_parameters_are_named():
    model = drawn(CASES["bn"], SHAPE)
    del model.arguments["bn_beta"], model.auxiliary["bn_moving_var"]
    with refused("bn_beta, bn_moving_var"):
        convert(model, SHAPE)


def test_parameters_that_do_not_fit_are_refused(capfd):
    with refused("(2, 4, 9, 9)", "fc") as caught:
        convert(drawn(CASES["fc"], SHAPE), (2, 4, 9, 9))
    assert "\n" not in str(caught.value)
    model = drawn(CASES["bn"], SHAPE)
    model.auxiliary["bn_moving_mean"] = np.ones(5, np.float32)
    with refused("bn_moving_mean", "(5,)", "(4,)"):
        convert(model, SHAPE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_cure(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with refused(f"pip install {package}"):
        export(model_of(S.Flatten(DATA)), SHAPE, tmp_path / "model.onnx")


def test_export_keeps_what_agrees(tmp_path, d63):
    symbol = d63(net_output="GAP", net_act="prelu")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an older model")
    given = drawn(symbol, FACE)
    report = export(given, FACE, path, opset=18, metrics={"lfw": {"threshold": 0.5}})
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert read_metadata(metadata) == (given.fingerprint, {"lfw": {"threshold": 0.5}})
    assert json.loads(metadata["denseface.input"]) == {"image_shape": [32, 32, 3], "order": "RGB", "range": [0, 255]}
    assert json.loads(metadata["denseface.embedding"]) == {"emb_size": 32, "normalize": True, "flip": True}
    assert (report.path, report.opset, report.nodes, report.emb_size) == (path, 18, len(model.graph.node), 32)
    assert 0 <= report.difference < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    data = np.random.RandomState(5).uniform(0, 255, (5, *FACE[1:])).astype(np.float32)
    expected = run_mxnet(given, data)
    assert np.abs(run_onnx(model, data) - expected).max() < 1e-4 * np.abs(expected).max()


def test_export_with_a_fixed_batch(tmp_path):
    path = tmp_path / "model.onnx"
    export(model_of(S.Reshape(DATA, shape=(2, 168))), SHAPE, path, dynamic_batch=False)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_export_drops_what_differs(tmp_path, monkeypatch):
    def double_it(graph, node):
        return graph.add("Add", graph.inputs(node) * 2, node.name)

    path = tmp_path / "model.onnx"
    path.write_bytes(b"an older model")
    monkeypatch.setitem(CONVERTERS, "square", double_it)
    with refused("ONNX Runtime differs from MXNet", path=path):
        export(model_of(S.Flatten(S.square(DATA))), SHAPE, path)
    assert path.read_bytes() == b"an older model"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_export_refuses_a_difference_just_above_the_tolerance(tmp_path, monkeypatch):
    def almost(graph, node):
        return graph.add("Mul", [*graph.inputs(node), graph.constant("factor", 1 + error)], node.name)

    monkeypatch.setitem(CONVERTERS, "_copy", almost)
    error = 0.8e-4
    model = model_of(S.Flatten(S.identity(DATA)))
    assert export(model, SHAPE, tmp_path / "a.onnx").difference == pytest.approx(error, rel=0.01)
    error = 1.2e-4
    with refused("1.2e-04", path=tmp_path / "b.onnx"):
        export(model, SHAPE, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_export_refuses_numbers_that_are_not(tmp_path):
    with refused("NaN or infinity"):
        export(model_of(S.Flatten(S.log(DATA - 1000))), SHAPE, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_export_refuses_a_reshape_that_does_not_add_up(tmp_path):
    """MXNet runs it, on whatever is in memory behind its input."""
    with refused("do not fit") as caught:
        export(model_of(S.Reshape(DATA, shape=(0, 999))), SHAPE, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_export_refuses_a_shape_that_is_not_mxnets(tmp_path):
    """Of one picture MXNet squeezes the batch away as well."""
    with refused("(1, 4)", "(4,)"):
        export(model_of(S.squeeze(CHANNELS)), SHAPE, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_export_names_a_path_it_cannot_write(tmp_path):
    with refused(path=tmp_path / "nowhere" / "model.onnx", cause=FileNotFoundError):
        export(model_of(S.Flatten(DATA)), SHAPE, tmp_path / "nowhere" / "model.onnx")
