"""MobileFaceNet is InsightFace's: names, shapes and numbers."""

from symbol import fmobilefacenet

import numpy as np
import pytest

from support.helpers import (
    bind,
    golden_input,
    golden_outputs,
    golden_parameters,
    gradients_of,
    nodes_of,
    output,
    parameter_shapes,
    relative_error,
)

NETWORKS = golden_parameters("fmobilefacenet")["networks"]


@pytest.fixture
def build(configured):
    def build(network="y1", **settings):
        configured(network)
        fmobilefacenet.config.update(settings)  # as another tree may have it, unchecked
        return fmobilefacenet.get_symbol()

    return build


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_insightfaces(build, name):
    golden = NETWORKS[name]
    symbol = build(name)
    arguments, auxiliary = parameter_shapes(symbol)
    assert arguments == golden["args"]
    assert auxiliary == golden["aux"]
    assert symbol.infer_shape(data=(1, 3, 112, 112))[1] == [tuple(golden["output"])]
    assert sum(np.prod(shape) for _, shape in arguments) == golden["params"]


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_insightfaces(build, name):
    found = output(build(name), golden_input(), gain=0.25)
    assert relative_error(found, golden_outputs("fmobilefacenet")[name]) < 1e-4


def test_every_call_gives_the_same_symbol(build):
    first = build(net_output="E").tojson()
    assert [fmobilefacenet.get_symbol().tojson() == first for _ in range(3)] == [True] * 3


def test_input_is_normalized_first(build):
    data, minus, times = nodes_of(build())[:3]
    assert (data["op"], data["name"]) == ("null", "data")
    assert (minus["name"], float(minus["attrs"]["scalar"])) == ("_minusscalar0", 127.5)
    assert (times["name"], float(times["attrs"]["scalar"])) == ("_mulscalar0", 0.0078125)


@pytest.mark.parametrize("network", ["y1", "y2"])
def test_every_parameter_learns(build, network):
    """With the moving averages in use, one step moves every parameter but the scale that is fixed at 1."""
    symbol = build(network, emb_size=16, image_shape=(32, 32, 3))
    random = np.random.default_rng(0)
    data = random.uniform(0, 255, (2, 3, 32, 32)).astype("float32")
    executor = bind(symbol, {"data": data}, grad_req="write")
    gradients = gradients_of(executor, random.standard_normal((2, 16)))
    assert [name for name, gradient in gradients.items() if not np.isfinite(gradient).all()] == []
    assert {name for name, gradient in gradients.items() if not gradient.any()} == {"fc1_gamma"}


@pytest.mark.parametrize("blocks", [[1, 0, 0, 0], [3, 1, 2, 1]])
def test_blocks_are_counted_by_stage(build, blocks):
    names = build(net_blocks=blocks).list_arguments()
    for stage, count in zip((2, 3, 4, 5), blocks):
        residual = {f"res_{stage}_block{index}_conv_sep_conv2d_weight" for index in range(count)}
        found = {name for name in names if name.startswith(f"res_{stage}") and name.endswith("_sep_conv2d_weight")}
        assert found == (set() if (stage, count) == (2, 1) else residual)
    assert ("conv_2_dw_conv2d_weight" in names) == (blocks[0] == 1)


def test_settings_reach_every_layer(build):
    symbol = build(bn_mom=0.75, net_act="tanh")
    assert {float(node["attrs"]["momentum"]) for node in nodes_of(symbol, "BatchNorm")} == {0.75}
    activations = nodes_of(symbol, "Activation")
    # first, depthwise and last layer; two in every bottleneck: 4 + 6 + 2 residual and 3 that halve the picture
    assert [node["attrs"]["act_type"] for node in activations] == ["tanh"] * (3 + 2 * 15)


@pytest.mark.parametrize("head", ["E", "GAP", "GDC", "GNAP", "SFC"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 112), (224, 224)])
def test_other_sizes_of_pictures(build, head, height, width):
    symbol = build(net_output=head, image_shape=(height, width, 3))
    assert symbol.infer_shape(data=(2, 3, height, width))[1] == [(2, 128)]


@pytest.mark.parametrize("blocks", [[1, 4, 6], [1, 4, 6, 2, 1], [1, 4, -6, 2], [1, 4, 6.5, 2], []])
def test_blocks_are_four_whole_numbers(build, blocks):
    with pytest.raises(ValueError, match=r"^net_blocks: \[.*\] is not four numbers from 0, as in \[1, 4, 6, 2\]$"):
        build(net_blocks=blocks)


def test_unknown_activation_is_answered_with_those_there_are(build):
    with pytest.raises(ValueError, match=r"^net_act: no activation 'swish'; there are relu, .*, prelu$"):
        build(net_act="swish")
