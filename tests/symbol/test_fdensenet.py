"""The DenseNet symbol is InsightFace's: names, shapes and numbers; and what it adds to it holds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from symbol import fdensenet

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

import mxnet as mx

ROOT = Path(__file__).parents[2]
ACTIVATIONS = ["relu", "sigmoid", "tanh", "softrelu", "softsign", "leaky", "elu", "selu", "gelu", "prelu"]
# In front of a batch normalization a bias moves nothing, and a scale fixed at 1 does not learn.
WITHOUT_GRADIENT = {"pre_fc1_bias", "fc1_gamma"}


@pytest.fixture
def build(configured):
    def build(network="d63", **settings):
        configured(network)
        fdensenet.config.update(settings)  # as another tree may have it, unchecked
        return fdensenet.get_symbol()

    return build


@pytest.mark.parametrize("row", sorted(golden_parameters()["heads"]))
def test_parameters_are_insightfaces(build, row):
    network, act, head = row.split("/")
    symbol = build(network, net_act=act, net_output=head)
    arguments, auxiliary = parameter_shapes(symbol)
    golden_body = golden_parameters()["body"][f"{network}/{act}"]
    golden_head = golden_parameters()["heads"][row]
    assert arguments == golden_body["args"] + golden_head["args"]
    assert auxiliary == golden_body["aux"] + golden_head["aux"]
    assert symbol.infer_shape(data=(1, 3, 112, 112))[1] == [tuple(golden_head["output"])]
    assert sum(np.prod(shape) for _, shape in arguments) == golden_head["params"]


@pytest.mark.parametrize("row", sorted(golden_outputs()))
def test_outputs_are_insightfaces(build, row):
    network, act, head = row.split("-")
    found = output(build(network, net_act=act, net_output=head), golden_input())
    assert relative_error(found, golden_outputs()[row]) < 1e-4


def test_known_number_of_parameters(build):
    arguments, _ = parameter_shapes(build("d121", net_act="relu", net_output="GAP"))
    assert sum(np.prod(shape) for _, shape in arguments) == 7_474_048


def test_every_call_gives_the_same_symbol(build):
    first = build("d63", net_act="prelu", densenet_dropout=0.1).tojson()
    assert [fdensenet.get_symbol().tojson() == first for _ in range(9)] == [True] * 9


def test_symbol_is_the_same_behind_other_networks(build):
    """Neither Gluon blocks nor unnamed nodes built before it shift its names."""
    first = build().tojson()
    mx.gluon.nn.Dense(1)
    mx.gluon.model_zoo.vision.DenseNet(8, 4, [1])
    assert (mx.sym.Variable("x") - 1).name.startswith("_minusscalar")
    assert fdensenet.get_symbol().tojson() == first


def test_input_is_normalized_first(build):
    data, minus, times = nodes_of(build())[:3]
    assert (data["op"], data["name"]) == ("null", "data")
    assert (minus["name"], float(minus["attrs"]["scalar"])) == ("_minusscalar0", 127.5)
    assert (times["name"], float(times["attrs"]["scalar"])) == ("_mulscalar0", 0.0078125)


@pytest.mark.parametrize("depth", sorted(fdensenet.DENSENETS))
def test_depth_counts_the_layers_with_weights(build, depth):
    """Stem, two convolutions a dense layer, transitions, and the classifier that the head stands for."""
    _, _, blocks = fdensenet.DENSENETS[depth]
    assert depth == 1 + 2 * sum(blocks) + len(blocks) - 1 + 1
    symbol = build(f"d{depth}", net_output="GAP")
    assert len(nodes_of(symbol, "Convolution")) + len(nodes_of(symbol, "FullyConnected")) == depth


def test_d63_is_the_compact_network(build):
    arguments, _ = parameter_shapes(build("d63", net_output="GAP"))
    shapes = dict(map(tuple, arguments))
    assert shapes["densenet0_conv0_weight"] == [32, 3, 3, 3]
    for stage, layers in enumerate([3, 6, 12, 8], start=1):
        growing = [n for n in shapes if n.startswith(f"densenet0_stage{stage}_conv") and shapes[n][2:] == [3, 3]]
        assert [shapes[name][0] for name in growing] == [16] * layers


@pytest.mark.parametrize(("net_input", "stem", "positions"), [(0, [32, 3, 7, 7], 14), (1, [32, 3, 3, 3], 28)])
def test_the_stem_decides_how_many_positions_are_left(build, net_input, stem, positions):
    symbol = build("d15", net_input=net_input, net_act="tanh", net_output="GAP")
    assert dict(map(tuple, parameter_shapes(symbol)[0]))["densenet0_conv0_weight"] == stem
    body = symbol.get_internals()["densenet0_relu1_fwd_output"]
    assert body.infer_shape(data=(1, 3, 112, 112))[1] == [(1, 88, positions, positions)]


def test_a_configuration_without_net_input_keeps_the_resolution(build):
    expected = build("d63").tojson()
    del fdensenet.config.net_input
    assert fdensenet.get_symbol().tojson() == expected


@pytest.mark.parametrize("act", ["prelu", "tanh"])
def test_stem_and_end_are_relu(build, act):
    activations = {node["name"]: node.get("attrs", {}) for node in nodes_of(build(net_act=act, net_output="H"))}
    relus = [name for name, attributes in activations.items() if attributes.get("act_type") == "relu"]
    assert relus == ["densenet0_relu0_fwd", "densenet0_relu1_fwd"]
    in_order = [name for name, attributes in activations.items() if "act_type" in attributes]
    assert (in_order[0], in_order[-1]) == tuple(relus)
    assert len(in_order) == 2 + 2 * 29 + 3


def test_bn_mom_reaches_every_layer(build):
    momenta = {float(node["attrs"]["momentum"]) for node in nodes_of(build(bn_mom=0.75), "BatchNorm")}
    assert momenta == {0.75}


@pytest.mark.parametrize(("dropout", "layers"), [(0.0, 0), (0.25, 29)])
def test_dropout_follows_every_dense_layer(build, dropout, layers):
    nodes = nodes_of(build(densenet_dropout=dropout, net_output="GAP"), "Dropout")
    assert [float(node["attrs"]["p"]) for node in nodes] == [dropout] * layers


def test_dropout_keeps_the_names(build):
    plain = parameter_shapes(build(densenet_dropout=0.0))
    assert parameter_shapes(build(densenet_dropout=0.25)) == plain


@pytest.mark.parametrize(
    ("setting", "choices"),
    [
        ({"num_layers": 64}, [15, 63, 121, 161, 169, 201]),
        ({"num_layers": "121"}, [15, 63, 121, 161, 169, 201]),
        ({"net_input": 2}, [0, 1]),
        ({"net_act": "swish"}, ACTIVATIONS),
        ({"net_output": "GAPS"}, ["E", "F", "FC", "G", "H", "I", "J", "Z", "GAP", "GDC", "GNAP", "SFC"]),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(build, setting, choices):
    ((key, value),) = setting.items()
    with pytest.raises(ValueError) as caught:
        build(**setting)
    message = str(caught.value)
    assert message.startswith(f"{key}: ") and str(value) in message and "\n" not in message
    listed = message.split("there are ")[1].replace("'", "").strip("[]").split(", ")
    assert sorted(listed) == sorted(map(str, choices))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"densenet_dropout": 1.0}, "densenet_dropout: 1.0 is not a rate from 0 to below 1"),
        ({"densenet_dropout": -0.1}, "densenet_dropout: -0.1 is not a rate from 0 to below 1"),
        ({"emb_size": 0}, "emb_size: 0 is not a length of an embedding"),
        ({"emb_size": 2**31}, "emb_size: 2147483648 is not a length of an embedding"),
    ],
)
def test_numbers_out_of_range_are_refused(build, setting, message):
    with pytest.raises(ValueError) as caught:
        build(**setting)
    assert str(caught.value) == message


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_learns(build, act):
    symbol = build(net_act=act, net_output="GAP", emb_size=16)
    random = np.random.default_rng(0)
    data = random.uniform(0, 255, (4, 3, 32, 32)).astype("float32")
    executor = bind(symbol, {"data": data}, grad_req="write", is_train=True)
    assert np.isfinite(executor.outputs[0].asnumpy()).all()
    gradients = gradients_of(executor, random.standard_normal((4, 16)), is_train=True)
    assert [name for name, gradient in gradients.items() if not np.isfinite(gradient).all()] == []
    assert {name for name, gradient in gradients.items() if np.abs(gradient).max() < 1e-3} == WITHOUT_GRADIENT


def test_output_is_of_the_configured_length(build):
    symbol = build(emb_size=48)
    assert symbol.list_outputs() == ["fc1_output"]
    assert symbol.infer_shape(data=(5, 3, 112, 112))[1] == [(5, 48)]


def test_symbol_survives_json(build):
    symbol = build(net_act="prelu", net_output="GAP", emb_size=8)
    data = golden_input()[:, :, :32, :32]
    again = mx.sym.load_json(symbol.tojson())
    assert json.loads(again.tojson())["nodes"] == json.loads(symbol.tojson())["nodes"]
    np.testing.assert_array_equal(output(again, data), output(symbol, data))


@pytest.fixture
def program(tmp_path):
    """Run symbol/fdensenet.py in an empty folder."""

    def run(*arguments):
        command = [sys.executable, str(ROOT / "symbol" / "fdensenet.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def test_the_file_run_as_a_program_draws_densenet_121(program, tmp_path):
    done = program("--set", "net_act=relu", "--set", "net_output=GAP")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines[1:]] == [
        "112x112", "56x56", "28x28", "14x14", "7x7", "head", "total", "d121.png",
    ]  # fmt: skip
    assert "7,474,048" in lines[-2]
    assert (tmp_path / "d121.png").read_bytes().startswith(b"\x89PNG")


def test_the_program_has_a_help_of_its_own(program):
    assert program("-h").stdout.startswith("usage: python symbol/fdensenet.py")


def test_the_program_answers_a_wrong_network_in_one_line(program):
    done = program("d122")
    assert (done.returncode, done.stdout) == (1, "")
    assert "'d122'" in done.stderr and done.stderr.count("\n") == 1


def test_alone_in_another_tree_the_program_names_the_package_that_draws(tmp_path):
    (tmp_path / "symbol").mkdir()
    shutil.copy(ROOT / "symbol" / "fdensenet.py", tmp_path / "symbol")
    done = subprocess.run(
        [sys.executable, "-S", "symbol/fdensenet.py"],  # -S: without installed packages
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "install the package denseface" in done.stderr
    assert done.stderr.count("\n") == 1
