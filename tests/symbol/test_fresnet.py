"""The residual networks are InsightFace's: names, shapes and numbers for every kind of unit."""

from symbol import fresnet

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

NETWORKS = golden_parameters("fresnet")["networks"]
DEPTHS = [int(depth) for depth in golden_parameters("fresnet")["units"]]
ACTIVATIONS = ["relu", "sigmoid", "tanh", "softrelu", "softsign", "leaky", "elu", "selu", "gelu", "prelu"]


@pytest.fixture
def build(configured):
    def build(network="r18", **settings):
        configured(network)
        fresnet.config.update(settings)  # as another tree may have it, unchecked
        return fresnet.get_symbol()

    return build


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_insightfaces(build, name):
    golden = NETWORKS[name]
    symbol = build(**golden["config"])
    arguments, auxiliary = parameter_shapes(symbol)
    assert arguments == golden["args"]
    assert auxiliary == golden["aux"]
    assert symbol.infer_shape(data=(1, 3, 112, 112))[1] == [tuple(golden["output"])]
    assert sum(np.prod(shape) for _, shape in arguments) == golden["params"]


@pytest.mark.parametrize("name", golden_outputs("fresnet"))
def test_outputs_are_insightfaces(build, name):
    found = output(build(**NETWORKS[name]["config"]), golden_input(), gain=0.25)
    assert relative_error(found, golden_outputs("fresnet")[name]) < 1e-4


@pytest.mark.parametrize("depth", DEPTHS)
def test_units_of_every_depth_are_insightfaces(build, depth):
    names = build(num_layers=depth).list_arguments()
    expected = {
        f"stage{stage}_unit{unit}_conv1_weight"
        for stage, units in enumerate(golden_parameters("fresnet")["units"][str(depth)], start=1)
        for unit in range(1, units + 1)
    }
    assert {name for name in names if name.startswith("stage") and name.endswith("_conv1_weight")} == expected


def test_there_are_no_other_depths():
    assert sorted(fresnet.UNITS) == sorted(DEPTHS)


@pytest.mark.parametrize(
    ("network", "golden"),
    [("r18", "r18"), ("r34", "r34"), ("r50", "r50"), ("r50fc", "r50fc"), ("r100", "r100"), ("r100fc", "r100")],
)
def test_networks_of_the_table_are_insightfaces(build, network, golden):
    arguments, auxiliary = parameter_shapes(build(network))
    assert (arguments, auxiliary) == (NETWORKS[golden]["args"], NETWORKS[golden]["aux"])


def test_r50v1_has_the_original_unit(build):
    names = build("r50v1").list_arguments()
    assert "stage3_unit14_relu3_gamma" in names and "stage3_unit14_bn3_gamma" not in names


@pytest.mark.parametrize(("network", "dropouts"), [("r50", 1), ("r50fc", 0), ("r100fc", 0)])
def test_fc_networks_have_no_dropout(build, network, dropouts):
    assert len(nodes_of(build(network), "Dropout")) == dropouts


@pytest.mark.parametrize("settings", [{}, {"net_unit": 1, "net_se": 1}, {"net_unit": 2}])
def test_every_call_gives_the_same_symbol(build, settings):
    first = build(**settings).tojson()
    assert [fresnet.get_symbol().tojson() == first for _ in range(3)] == [True] * 3


def test_input_is_normalized_first(build):
    data, minus, times = nodes_of(build())[:3]
    assert (data["op"], data["name"]) == ("null", "data")
    assert (minus["name"], float(minus["attrs"]["scalar"])) == ("_minusscalar0", 127.5)
    assert (times["name"], float(times["attrs"]["scalar"])) == ("_mulscalar0", 0.0078125)


@pytest.mark.parametrize(("unit", "stem", "se"), [(1, 0, 0), (1, 1, 1), (2, 1, 0), (2, 0, 1), (3, 1, 0), (3, 1, 1)])
def test_every_kind_learns(build, unit, stem, se):
    """With the moving averages in use, one step moves every parameter but the scale that is fixed at 1."""
    symbol = build(net_unit=unit, net_input=stem, net_se=se, net_output="FC", emb_size=16)
    random = np.random.default_rng(0)
    data = random.uniform(0, 255, (2, 3, 32, 32)).astype("float32")
    executor = bind(symbol, {"data": data}, grad_req="write", gain=0.25)
    gradients = gradients_of(executor, random.standard_normal((2, 16)))
    assert [name for name, gradient in gradients.items() if not np.isfinite(gradient).all()] == []
    assert {name for name, gradient in gradients.items() if not gradient.any()} == {"fc1_gamma"}


def test_settings_reach_every_layer(build):
    symbol = build(bn_mom=0.75, workspace=64, net_act="tanh", net_se=1)
    assert {float(node["attrs"]["momentum"]) for node in nodes_of(symbol, "BatchNorm")} == {0.75}
    assert {node["attrs"]["workspace"] for node in nodes_of(symbol, "Convolution")} == {"64"}
    assert {node["attrs"]["act_type"] for node in nodes_of(symbol, "Activation")} == {"tanh", "sigmoid"}
    sigmoids = [node["name"] for node in nodes_of(symbol, "Activation") if node["attrs"]["act_type"] == "sigmoid"]
    assert len(sigmoids) == 8 and all(name.endswith("_se_sigmoid") for name in sigmoids)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_builds(build, act):
    assert build(net_act=act).infer_shape(data=(1, 3, 112, 112))[1] == [(1, 512)]


@pytest.mark.parametrize("head", ["E", "GAP", "GDC", "GNAP", "SFC"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 112), (224, 224)])
def test_other_sizes_of_pictures(build, head, height, width):
    symbol = build(net_output=head, image_shape=(height, width, 3), emb_size=128)
    assert symbol.infer_shape(data=(2, 3, height, width))[1] == [(2, 128)]


@pytest.mark.parametrize(
    ("setting", "choices"),
    [
        ({"num_layers": 51}, DEPTHS),
        ({"num_layers": "50"}, DEPTHS),
        ({"net_input": 2}, [0, 1]),
        ({"net_unit": 4}, [1, 2, 3]),
        ({"net_se": 2}, [0, 1]),
        ({"net_act": "swish"}, ACTIVATIONS),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(build, setting, choices):
    ((key, value),) = setting.items()
    with pytest.raises(ValueError, match=rf"^{key}: .*{value}.*; there are [\w, ]+$") as caught:
        build(**setting)
    listed = str(caught.value).split("there are ")[1].split(", ")
    assert sorted(listed) == sorted(map(str, choices))
