"""Every embedding head on every body: shapes, numbers, and a gradient at every parameter."""

import functools
from symbol import fdensenet

import numpy as np
import pytest

import symbol_utils
from support.helpers import bind, gradients_of, nodes_of, output, parameter_shapes, value_of

import mxnet as mx

HEADS = ["E", "F", "FC", "G", "H", "I", "J", "Z", "GAP", "GDC", "GNAP", "SFC"]
CHANNELS = {63: 258, 121: 1024, 161: 2208, 169: 1664, 201: 1920}
SMALL = 6  # channels of the small body


@functools.cache
def body_of(depth):
    densenet = fdensenet.DenseNet(
        *fdensenet.DENSENETS[depth], dropout=0.0, act_type="relu", bn_mom=0.9, prefix="densenet0_"
    )
    assert densenet.channels == CHANNELS[depth]
    return densenet(mx.sym.Variable("data"))


def small_head(head, emb_size=5):
    """A head on three colors made six channels, positions as many as the picture's."""
    body = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=SMALL, kernel=(1, 1), no_bias=True, name="body")
    return symbol_utils.get_fc1(body, emb_size, head, input_channel=SMALL)


def faces(count=4, side=7, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, side, side)).astype("float32")


@pytest.mark.parametrize("emb_size", [64, 512, 1024])
@pytest.mark.parametrize("depth", CHANNELS)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_fits_every_body(configured, head, depth, emb_size):
    configured()
    symbol = symbol_utils.get_fc1(body_of(depth), emb_size, head, input_channel=CHANNELS[depth])
    assert symbol.list_outputs() == ["fc1_output"]
    (shape,) = symbol.infer_shape(data=(3, 3, 112, 112))[1]
    assert shape == ((3, CHANNELS[depth], 7, 7) if head == "Z" else (3, emb_size))


def test_there_are_no_other_heads():
    assert list(symbol_utils.HEADS) == HEADS


def test_unknown_head_is_answered_with_those_there_are(configured):
    configured()
    with pytest.raises(ValueError, match=rf"^net_output: no head 'gap'; there are {', '.join(HEADS)}$"):
        small_head("gap")


@pytest.mark.parametrize("depth", CHANNELS)
@pytest.mark.parametrize(("head", "layer", "kernel"), [("GDC", "conv_6dw7_7_conv2d", (7, 7)), ("SFC", "convf", (3, 3))])
def test_gdc_and_sfc_are_depthwise(configured, head, layer, kernel, depth):
    configured()
    symbol = symbol_utils.get_fc1(body_of(depth), 512, head, input_channel=CHANNELS[depth])
    (node,) = (node for node in nodes_of(symbol, "Convolution") if node["name"] == layer)
    assert int(node["attrs"]["num_group"]) == CHANNELS[depth]
    shapes = dict(map(tuple, parameter_shapes(symbol)[0]))
    assert shapes[f"{layer}_weight"] == [CHANNELS[depth], 1, *kernel]


@pytest.mark.parametrize(("height", "width"), [(96, 96), (128, 128), (112, 96), (100, 100), (111, 127)])
@pytest.mark.parametrize("head", [head for head in HEADS if head != "Z"])
def test_other_sizes_of_pictures(configured, head, height, width):
    configured(image_shape=(height, width, 3))
    symbol = symbol_utils.get_fc1(body_of(63), 32, head, input_channel=CHANNELS[63])
    assert symbol.infer_shape(data=(2, 3, height, width))[1] == [(2, 32)]


@pytest.mark.parametrize(("height", "width"), [(96, 112), (100, 100), (111, 127), (128, 16)])
def test_gdc_covers_every_position(configured, height, width):
    """Its kernel is the body's output, so that one value a channel is left, also where a side is no multiple of 16."""
    configured(image_shape=(height, width, 3))
    symbol = symbol_utils.get_fc1(body_of(63), 32, "GDC", input_channel=CHANNELS[63])
    shapes = dict(map(tuple, parameter_shapes(symbol, (1, 3, height, width))[0]))
    (positions,) = body_of(63).infer_shape(data=(1, 3, height, width))[1]
    assert shapes["conv_6dw7_7_conv2d_weight"] == [CHANNELS[63], 1, *positions[2:]]
    assert shapes["pre_fc1_weight"] == [32, CHANNELS[63]]


def test_gdc_takes_112_where_no_size_is_configured(configured):
    configured()
    symbol_utils.config.pop("image_shape")
    symbol = symbol_utils.get_fc1(body_of(63), 32, "GDC", input_channel=CHANNELS[63])
    assert symbol.infer_shape(data=(2, 3, 112, 112))[1] == [(2, 32)]


def test_gdc_refuses_pictures_too_small_for_the_body(configured, capfd):
    configured(image_shape=(8, 8, 3))
    with pytest.raises(
        ValueError,
        match=r"^image_shape: the network does not work on pictures of 8x8x3: .*kernel size .* exceeds input",
    ):
        symbol_utils.get_fc1(body_of(63), 32, "GDC", input_channel=CHANNELS[63])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("emb_size", [5, 6, 9])  # below, at and above the body's channels, which is GNAP's rule
@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_has_a_gradient(configured, head, emb_size):
    """With the moving averages in use; the averages of a batch would cancel what only shifts or scales it."""
    configured(net_act="prelu", image_shape=(7, 7, 3))
    executor = bind(small_head(head, emb_size), {"data": faces()}, grad_req="write")
    gradients = gradients_of(executor, np.random.default_rng(1).standard_normal(executor.outputs[0].shape))
    assert [name for name, gradient in gradients.items() if not np.isfinite(gradient).all()] == []
    without = {name for name, gradient in gradients.items() if np.abs(gradient).max() < 1e-4}
    assert without == {name for name in gradients if name in ("fc1_gamma", "bn6f_gamma", "bn6w_gamma")}  # fixed at 1


@pytest.mark.parametrize("head", ["E", "F", "Z"])
def test_dropout_acts_in_training_only(configured, head):
    configured()
    (node,) = nodes_of(small_head(head), "Dropout")
    assert float(node["attrs"]["p"]) == 0.4
    executor = bind(small_head(head), {"data": faces()}, grad_req="write")

    def difference_of_two_runs(is_train):
        first = executor.forward(is_train=is_train)[0].asnumpy()
        return np.abs(executor.forward(is_train=is_train)[0].asnumpy() - first).max()

    assert difference_of_two_runs(is_train=False) == 0
    assert difference_of_two_runs(is_train=True) > 0.1


def test_bn_mom_reaches_every_head(configured):
    configured(bn_mom=0.75, image_shape=(7, 7, 3))
    momenta = [float(n["attrs"]["momentum"]) for h in HEADS for n in nodes_of(small_head(h), "BatchNorm")]
    assert len(momenta) == 21 and set(momenta) == {0.75}


@pytest.mark.parametrize("emb_size", [5, 6, 9])
def test_gnap_looks_at_one_picture(configured, emb_size):
    """Beside faces a hundred times as strong, or alone: the embedding of a picture stays what it is."""
    configured()
    symbol = small_head("GNAP", emb_size)
    batch = faces() * np.array([1, 100, 0.01, 30], "float32").reshape(-1, 1, 1, 1)
    together = output(symbol, batch)
    for place in range(4):
        np.testing.assert_allclose(output(symbol, batch[place : place + 1])[0], together[place], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("emb_size", [5, 6, 9])
def test_gnap_against_numpy(configured, emb_size):
    configured(net_act="relu")
    data = faces(count=3)
    found = output(small_head("GNAP", emb_size), data)
    np.testing.assert_allclose(found, numpy_gnap(data.astype("float64"), emb_size), rtol=1e-4, atol=1e-5)


def numpy_gnap(data, emb_size):
    """Equations of MobileFaceNets++'s norm-aware pooling, in inference mode."""

    def batch_norm(x, name, fix_gamma):
        gamma, beta, mean, var = (
            value_of(f"{name}_{kind}", x.shape[1]) for kind in ("gamma", "beta", "moving_mean", "moving_var")
        )
        gamma = np.ones_like(gamma) if fix_gamma else gamma
        broad = (slice(None), *[np.newaxis] * (x.ndim - 2))
        return gamma[broad] * (x - mean[broad]) / np.sqrt(var[broad] + 2e-5) + beta[broad]

    def convolution_1x1(x, name, outputs):
        return np.einsum("nchw,oc->nohw", x, value_of(f"{name}_weight", (outputs, x.shape[1], 1, 1))[:, :, 0, 0])

    x = convolution_1x1(data, "body", SMALL)
    if emb_size > SMALL:
        x = np.maximum(batch_norm(convolution_1x1(x, "convx", emb_size), "convx_bn", fix_gamma=False), 0)
    x = batch_norm(x, "bn6f", fix_gamma=True)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x = (x / length * length.mean(axis=(2, 3), keepdims=True)).mean(axis=(2, 3))
    if emb_size < SMALL:
        x = batch_norm(x, "bn6w", fix_gamma=True)
        x = x @ value_of("pre_fc1_weight", (emb_size, SMALL)).T + value_of("pre_fc1_bias", emb_size)
    return batch_norm(x, "fc1", fix_gamma=True)


def test_gnap_bears_a_position_without_length(configured):
    """A zero at every channel, as behind a ReLU, has no direction to scale: value and gradient stay finite."""
    configured(net_act="relu")
    symbol = small_head("GNAP", emb_size=9)
    inputs = {"data": faces(), "convx_bn_beta": np.full(9, -9, "float32"), "bn6f_beta": np.zeros(9, "float32")}
    executor = bind(symbol, inputs, grad_req="write", is_train=True)
    assert np.isfinite(executor.outputs[0].asnumpy()).all()
    gradients = gradients_of(executor, np.ones((4, 9)), is_train=True)
    assert [name for name, gradient in gradients.items() if not np.isfinite(gradient).all()] == []


@pytest.mark.parametrize("act", symbol_utils.SIMPLE_ACTIVATIONS + symbol_utils.LEAKY_ACTIVATIONS)
def test_heads_have_the_activation_of_the_body(act):
    """One name, one function, whether Gluon or a symbol makes it."""
    values = np.linspace(-4, 4, 41, dtype="float32").reshape(1, 1, 41)
    block = fdensenet.activation(act)
    block.initialize()  # a learned slope begins at 0.25
    executor = symbol_utils.Act(mx.sym.Variable("data"), act, "act").simple_bind(mx.cpu(), data=values.shape)
    for array in executor.arg_dict.values():
        array[:] = 0.25
    (found,) = executor.forward(data=mx.nd.array(values))
    np.testing.assert_array_equal(found.asnumpy(), block(mx.nd.array(values)).asnumpy())


def test_linear_is_convolution_and_batch_norm(configured):
    configured(bn_mom=0.75)
    symbol = symbol_utils.Linear(
        mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), stride=(2, 2), pad=(1, 1), num_group=2,
        name="layer", suffix="_end",
    )  # fmt: skip
    arguments, auxiliary = parameter_shapes(symbol, (1, 6, 8, 8))
    assert arguments == [
        ["layer_end_conv2d_weight", [4, 3, 3, 3]],
        ["layer_end_batchnorm_gamma", [4]],
        ["layer_end_batchnorm_beta", [4]],
    ]
    assert [name for name, _ in auxiliary] == ["layer_end_batchnorm_moving_mean", "layer_end_batchnorm_moving_var"]
    assert symbol.infer_shape(data=(1, 6, 8, 8))[1] == [(1, 4, 4, 4)]
    (node,) = nodes_of(symbol, "BatchNorm")
    assert (node["attrs"]["fix_gamma"], float(node["attrs"]["momentum"])) == ("False", 0.75)
