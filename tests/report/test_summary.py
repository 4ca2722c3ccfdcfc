"""Costs are held to counts made by hand, and to the papers' own description of their families."""

import json

import pytest

from denseface import cli
from denseface.models import families
from denseface.report.summary import summarize
from support.refusals import refused
from support.tiny_models import as_ndarrays, tiny_model

import mxnet as mx

DATA = mx.sym.Variable("data")
SHAPE = (4, 6, 5)  # C, H, W
VALUES = 4 * 6 * 5

# symbol, shape of its output, parameters, states, MACs, FLOPs, bytes of the last layer
CASES = {
    "convolution": (
        mx.sym.Convolution(DATA, num_filter=8, kernel=(3, 3), pad=(1, 1), no_bias=True),
        (8, 6, 5), 8 * 4 * 9, 0, 8 * 30 * 4 * 9, 2 * 8 * 30 * 4 * 9, 4 * 8 * 30,
    ),
    "convolution with bias and stride": (
        mx.sym.Convolution(DATA, num_filter=8, kernel=(2, 1), stride=(2, 2)),
        (8, 3, 3), 8 * 4 * 2 + 8, 0, 8 * 9 * 4 * 2, 2 * 8 * 9 * 4 * 2 + 8 * 9, 4 * 8 * 9,
    ),
    "convolution in groups": (
        mx.sym.Convolution(DATA, num_filter=8, num_group=2, kernel=(3, 3), no_bias=True),
        (8, 4, 3), 8 * 2 * 9, 0, 8 * 12 * 2 * 9, 2 * 8 * 12 * 2 * 9, 4 * 8 * 12,
    ),
    "depthwise convolution": (
        mx.sym.Convolution(DATA, num_filter=4, num_group=4, kernel=(6, 5), no_bias=True),
        (4, 1, 1), 4 * 30, 0, 4 * 30, 2 * 4 * 30, 4 * 4,
    ),
    "deconvolution": (
        mx.sym.Deconvolution(DATA, num_filter=3, kernel=(2, 2), stride=(2, 2), no_bias=True),
        (3, 12, 10), 4 * 3 * 4, 0, VALUES * 3 * 4, 2 * VALUES * 3 * 4, 4 * 360,
    ),
    "fully connected": (
        mx.sym.FullyConnected(DATA, num_hidden=7), (7,), 7 * VALUES + 7, 0, 7 * VALUES, 2 * 7 * VALUES + 7, 4 * 7,
    ),
    "fully connected at each place": (
        mx.sym.FullyConnected(DATA, num_hidden=7, flatten=False, no_bias=True),
        (4, 6, 7), 7 * 5, 0, 4 * 6 * 7 * 5, 2 * 4 * 6 * 7 * 5, 4 * 4 * 6 * 7,
    ),
    "product of matrices": (
        mx.sym.batch_dot(mx.sym.mean(DATA, axis=1), mx.sym.max(DATA, axis=1), transpose_a=True),
        (5, 5), 0, 0, 5 * 5 * 6, 2 * 5 * 5 * 6 + 2 * VALUES, 4 * 25,
    ),
    "batch normalization": (mx.sym.BatchNorm(DATA), SHAPE, 8, 8, 0, 2 * VALUES, 4 * VALUES),
    "activation": (mx.sym.Activation(DATA, act_type="tanh"), SHAPE, 0, 0, 0, VALUES, 4 * VALUES),
    "leaky": (mx.sym.LeakyReLU(DATA, act_type="leaky"), SHAPE, 0, 0, 0, VALUES, 4 * VALUES),
    "prelu": (mx.sym.LeakyReLU(DATA, act_type="prelu"), SHAPE, 4, 0, 0, VALUES, 4 * VALUES),
    "pooling": (
        mx.sym.Pooling(DATA, kernel=(3, 2), stride=(3, 2), pool_type="max"), (4, 2, 2), 0, 0, 0, 4 * 4 * 6, 4 * 16,
    ),
    "global pooling": (
        mx.sym.Pooling(DATA, kernel=(7, 7), global_pool=True, pool_type="avg"), (4, 1, 1), 0, 0, 0, VALUES, 4 * 4,
    ),
    "concatenation": (mx.sym.Concat(DATA, DATA, DATA, dim=1), (12, 6, 5), 0, 0, 0, 0, 4 * 3 * VALUES),
    "sum of two": (DATA + DATA, SHAPE, 0, 0, 0, VALUES, 4 * VALUES),
    "sum of three": (mx.sym.add_n(DATA, DATA, DATA), SHAPE, 0, 0, 0, 2 * VALUES, 4 * VALUES),
    "scalar": (DATA * 0.5, SHAPE, 0, 0, 0, VALUES, 4 * VALUES),
    "broadcast": (
        mx.sym.broadcast_mul(DATA, mx.sym.mean(DATA, axis=(2, 3), keepdims=True)),
        SHAPE, 0, 0, 0, VALUES + VALUES, 4 * VALUES,
    ),
    "reduction": (mx.sym.sum(DATA, axis=1, keepdims=True), (1, 6, 5), 0, 0, 0, VALUES, 4 * 30),
    "root": (mx.sym.sqrt(DATA), SHAPE, 0, 0, 0, VALUES, 4 * VALUES),
    "softmax": (mx.sym.softmax(mx.sym.Flatten(DATA)), (VALUES,), 0, 0, 0, 3 * VALUES, 4 * VALUES),
    "unit length": (mx.sym.L2Normalization(DATA), SHAPE, 0, 0, 0, 3 * VALUES, 4 * VALUES),
    "split": (mx.sym.SliceChannel(DATA, num_outputs=2), (2, 6, 5), 0, 0, 0, 0, 4 * VALUES),
    "flatten": (mx.sym.Flatten(DATA), (VALUES,), 0, 0, 0, 0, 0),
    "dropout": (mx.sym.Dropout(DATA, p=0.4), SHAPE, 0, 0, 0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_costs_counted_by_hand(case):
    symbol, *expected = CASES[case]
    summary = summarize(symbol, SHAPE)
    total, last = summary.total, summary.layers[-1]
    assert [last.output, total.parameters, total.auxiliary, total.macs, total.flops, last.memory] == expected
    assert not summary.unknown


def test_an_unknown_operator_is_named_and_not_called_free():
    summary = summarize(mx.sym.LRN(mx.sym.relu(DATA), nsize=3, name="lrn0"), SHAPE)
    assert summary.unknown == {"LRN": ["lrn0"]}
    assert (summary.layers[1].macs, summary.layers[1].flops) == (None, None)
    assert summary.total.flops == VALUES
    assert summary.to_dict()["unknown_operators"] == {"LRN": ["lrn0"]}


def test_a_shared_parameter_counts_once():
    weight = mx.sym.Variable("shared")
    first = mx.sym.Convolution(DATA, weight=weight, num_filter=4, kernel=(1, 1), no_bias=True)
    second = mx.sym.Convolution(first, weight=weight, num_filter=4, kernel=(1, 1), no_bias=True)
    assert [layer.parameters for layer in summarize(second, SHAPE).layers] == [16, 0]


def test_layers_of_one_name_are_told_apart():
    small = mx.sym.Pooling(DATA, kernel=(2, 2), stride=(2, 1), name="same")
    assert [layer.output for layer in summarize(mx.sym.Flatten(small, name="same"), SHAPE).layers] == [(4, 3, 4), (48,)]


def test_stages_follow_the_size_and_what_has_none_follows_its_use():
    stem = mx.sym.relu(DATA)
    weights = mx.sym.sigmoid(mx.sym.Pooling(stem, global_pool=True, kernel=(1, 1), pool_type="avg"))
    excited = mx.sym.broadcast_mul(stem, weights)
    small = mx.sym.Pooling(excited, kernel=(2, 2), stride=(2, 2))
    summary = summarize(mx.sym.FullyConnected(mx.sym.Dropout(small), num_hidden=2), SHAPE)
    assert {name: figures.layers for name, figures in summary.stages.items()} == {"6x5": 4, "3x2": 2, "head": 1}
    assert sum(figures.flops for figures in summary.stages.values()) == summary.total.flops


def densenet121_macs():
    """By Table 1 of the paper, with a 3x3 stem of stride 1, for 112x112 pictures and 512 values."""
    macs, channels = 3 * 9 * 64 * 112**2, 64
    for side, layers in ((56, 6), (28, 12), (14, 24), (7, 16)):
        for _ in range(layers):
            macs += side**2 * (channels * 128 + 128 * 9 * 32)
            channels += 32
        if side > 7:
            macs += side**2 * channels * channels // 2
            channels //= 2
    return macs + channels * 512


def test_densenet_121(configured):
    config = configured("d121", "emore", net_act="relu", net_output="GAP")
    summary = summarize(families.embedding_symbol(config), (3, 112, 112))
    assert summary.total.parameters == 7_474_048
    assert summary.total.macs == densenet121_macs() == 2_737_324_032
    assert list(summary.stages) == ["112x112", "56x56", "28x28", "14x14", "7x7", "head"]
    assert not summary.unknown


@pytest.mark.parametrize(
    ("network", "settings"),
    [
        ("r18", {"net_se": 1, "net_output": "GNAP"}),
        ("r18", {"net_unit": 1, "net_output": "SFC"}),
        ("y1", {}),
        ("d63", {"net_act": "gelu", "net_output": "Z"}),
    ],
)
def test_every_operator_of_our_networks_is_known(configured, network, settings):
    config = configured(network, "emore", **settings)
    summary = summarize(families.embedding_symbol(config), (3, 112, 112))
    assert not summary.unknown
    assert all(layer.flops >= 2 * layer.macs for layer in summary.layers)


def test_pictures_that_do_not_fit_are_refused():
    with refused("small", "data=(1, 4, 1, 1)"):
        summarize(mx.sym.Convolution(DATA, num_filter=1, kernel=(3, 3)), (4, 1, 1), "small")


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def test_summary_of_a_network_by_name(capsys, configured):
    options = ("d63", "--size", "32", "--set", "emb_size=16")
    code, out, err = run(capsys, "summary", *options, "--layers")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["layer", "kind", "output", "params", "MACs", "memory"]
    assert lines[3][:8] == ["densenet0_conv0_fwd", "conv", "3x3,", "32", "32x32x32", "864", "885", "k"]  # 864 * 32 * 32
    first_cells = [line[0] for line in lines[lines.index([]) + 1 :]]
    assert first_cells == ["stage", "32x32", "16x16", "8x8", "4x4", "2x2", "head", "total"]
    _, short, _ = run(capsys, "summary", *options)
    assert out.endswith("\n\n" + short)


def test_summary_of_a_model(capsys, tmp_path):
    model = tiny_model()
    mx.model.save_checkpoint(str(tmp_path / "tiny"), 1, model.symbol, *as_ndarrays(model))
    code, out, _ = run(capsys, "summary", "--model", tmp_path / "tiny,1", "--size", "16,16,3", "--json")
    assert code == 0
    figures = json.loads(out)
    assert (figures["network"], figures["image_shape"]) == (f"{tmp_path}/tiny,1", [16, 16, 3])
    assert figures["total"]["parameters"] == sum(value.size for value in model.arguments.values())
    assert figures["total"]["macs"] == 4 * 16 * 48 + 8 * 64


def test_what_cannot_be_summed_up_is_named(capsys, caplog, tmp_path):
    assert run(capsys, "summary", "d1")[2].startswith("denseface: error: --network: there is no 'd1'; there are d15,")
    assert run(capsys, "summary", "--model", tmp_path / "none,1")[0] == 1
    symbol = mx.sym.FullyConnected(mx.sym.LRN(DATA, nsize=3, name="lrn0"), num_hidden=2, name="fc1")
    parameters = {"fc1_weight": mx.nd.zeros((2, 27)), "fc1_bias": mx.nd.zeros(2)}
    mx.model.save_checkpoint(str(tmp_path / "lrn"), 1, symbol, parameters, {})
    code, out, _ = run(capsys, "summary", "--model", tmp_path / "lrn", "--size", "3", "--layers")
    assert code == 0
    assert out.splitlines()[1].split() == ["lrn0", "lrn", "3x3x3", "0", "?", "0.000", "MiB"]
    assert "not counted: operator LRN, in lrn0" in caplog.text


@pytest.mark.parametrize("arguments", [[], ["d63", "--model", "x"], ["d63", "--size", "large"]])
def test_summary_takes_one_network(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(["summary", *arguments])
    assert caught.value.code == 2
