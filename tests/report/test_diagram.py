"""What the parts of a network are, and that a picture of them can be read."""

import itertools
import os
import sys

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from denseface import cli
from denseface.models import families
from denseface.report.diagram import draw_graph, draw_parts
from denseface.report.plotting import new_figure, save_figure
from denseface.report.structure import parts_of
from denseface.report.summary import summarize
from support.refusals import refused

import mxnet as mx

SHAPE = (3, 112, 112)


def parts_of_symbol(symbol, shape=SHAPE):
    return parts_of(summarize(symbol, shape), shape)


@pytest.fixture
def parts(configured):
    """Parts of a network by name, with single keys of the configuration."""

    def build(network, **settings):
        config = configured(network, "emore", **settings)
        return parts_of_symbol(families.embedding_symbol(config))

    return build


def test_a_densenet_has_dense_blocks_between_transitions(parts):
    found = parts("d121", net_act="relu", net_output="GAP")
    assert [part.title for part in found] == [
        "Stem", "Dense block 1", "Transition 1", "Dense block 2", "Transition 2", "Dense block 3", "Transition 3",
        "Dense block 4", "Head",
    ]  # fmt: skip
    assert [part.output for part in found] == [
        (64, 56, 56), (256, 56, 56), (128, 28, 28), (512, 28, 28), (256, 14, 14), (1024, 14, 14), (512, 7, 7),
        (1024, 7, 7), (512,),
    ]  # fmt: skip
    assert [part.lines[0] for part in found if part.kind == "dense block"] == [
        "6 layers, growth 32, 64 to 256 channels",
        "12 layers, growth 32, 128 to 512 channels",
        "24 layers, growth 32, 256 to 1024 channels",
        "16 layers, growth 32, 512 to 1024 channels",
    ]
    assert found[1].lines[1] == "each: conv 1x1, 128 → conv 3x3, 32"
    assert found[1].widths == [96, 128, 160, 192, 224, 256]
    assert found[2].lines == ["BN → relu → conv 1x1, 128 → mean pool 2x2 /2"]
    assert found[-1].lines == ["BN → relu → BN → relu → global mean pool → FC 512 → BN"]


@pytest.mark.parametrize("settings", [{"net_unit": 1}, {"net_unit": 2}, {"net_unit": 3}, {"net_se": 1}])
def test_a_resnet_has_residual_blocks_and_nothing_between(parts, settings):
    found = parts("r18", **settings)
    assert [part.title for part in found] == ["Stem", *(f"Residual block {n}" for n in (1, 2, 3, 4)), "Head"]
    assert [part.lines[0] for part in found[1:-1]] == [
        f"2 units, {channels} channels, the first with a stride" for channels in (64, 128, 256, 512)
    ]
    assert ("global mean pool" in found[1].lines[1]) == ("net_se" in settings)


def test_a_mobilefacenet_has_transitions_without_pooling(parts):
    found = parts("y2")
    assert [part.kind for part in found] == ["stem", *["residual block", "transition"] * 3, "residual block", "head"]
    assert [part.lines[0] for part in found if part.kind == "residual block"] == [
        "2 units, 64 channels", "8 units, 64 channels", "16 units, 128 channels", "4 units, 128 channels",
    ]  # fmt: skip


@pytest.mark.parametrize("head", ["GNAP", "SFC"])
def test_parts_are_the_whole_network_in_order(configured, head):
    config = configured("d63", "emore", net_output=head)
    summary = summarize(families.embedding_symbol(config), SHAPE)
    found = parts_of(summary, SHAPE)
    assert [part.input for part in found] == [SHAPE, *(part.output for part in found[:-1])]
    assert found[-1].output == summary.layers[-1].output
    for figure in ("layers", "parameters", "macs", "memory"):
        assert sum(getattr(part.costs, figure) for part in found) == getattr(summary.total, figure)


def test_a_chain_is_cut_by_size():
    data = mx.sym.Variable("data")
    body = mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), pad=(1, 1))
    body = mx.sym.Pooling(mx.sym.relu(body), kernel=(2, 2), stride=(2, 2))
    found = parts_of_symbol(mx.sym.FullyConnected(body, num_hidden=5), (3, 8, 8))
    assert [(part.title, part.lines) for part in found] == [
        ("Stage 1", ["conv 3x3, 4 → relu"]),
        ("Stage 2", ["max pool 2x2 /2"]),
        ("Head", ["FC 5"]),
    ]


def test_a_shortcut_from_the_pictures_and_a_computed_parameter():
    data = mx.sym.Variable("data")
    weight = mx.sym.reshape(mx.sym.Variable("w", shape=(9,)), shape=(3, 3, 1, 1))
    body = mx.sym.Convolution(mx.sym.relu(data), weight=weight, num_filter=3, kernel=(1, 1), no_bias=True)
    (block,) = parts_of_symbol(body + data, (3, 8, 8))
    assert block.lines == ["1 unit, 3 channels", "each: conv 1x1, 3"]


def boxes(figure):
    """Where the texts of a figure are."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    return {text.get_text(): text.get_window_extent(renderer) for text in texts}, figure.bbox


@pytest.mark.parametrize(
    ("network", "settings"),
    [("d63", {"net_output": "GNAP"}), ("y2", {}), ("r18", {"net_se": 1, "net_output": "SFC"})],
)
def test_no_text_is_cut_or_covers_another(parts, network, settings):
    texts, page = boxes(draw_parts(parts(network, **settings), "models/" + 8 * "long-name/" + "model,100"))
    for text, box in texts.items():
        assert page.x0 < box.x0 < box.x1 < page.x1, text
        assert page.y0 < box.y0 < box.y1 < page.y1, text
    for one, other in itertools.combinations(texts, 2):
        assert not texts[one].overlaps(texts[other]), (one, other)


def test_plot_draws_boxes_and_bars(capsys, configured, tmp_path):
    path = tmp_path / "d63.png"
    assert cli.main(["plot", "d63", "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    with Image.open(path) as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert {(0xD6, 0xE6, 0xF4), (0x3F, 0x82, 0xBD), (0xFD, 0xE3, 0xCF), (0xD9, 0x7F, 0x3E)} <= colors


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("SVG", b"<?xml")])
def test_a_picture_is_what_its_ending_says(tmp_path, ending, start):
    path = tmp_path / f"empty.{ending}"
    save_figure(new_figure(1, 1), path)
    assert path.read_bytes().startswith(start)


@pytest.fixture
def dot(monkeypatch, tmp_path):
    """A program called dot that gives back what it reads, or fails."""

    def make(script):
        program = tmp_path / "bin" / "dot"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return make


def test_graph_hands_every_operator_to_dot(dot, capsys, configured, tmp_path):
    dot("cat")
    path = tmp_path / "r18.svg"
    assert cli.main(["plot", "r18", "--set", "net_act=relu", "--graph", "-o", str(path)]) == 0
    text = path.read_text()
    assert text.startswith("digraph")
    operators = summarize(families.embedding_symbol(configured("r18", "emore", net_act="relu")), SHAPE).layers
    assert all(f"\t{layer.name} [" in text for layer in operators)
    assert "64x112x112" in text


def test_graph_without_dot_says_what_to_install(monkeypatch, capsys, configured, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["plot", "d63", "--graph", "-o", str(tmp_path / "d63.pdf")]) == 1
    assert capsys.readouterr().err == (
        "denseface: error: the graph of all operators needs Graphviz's program dot (Debian: apt install graphviz)\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_dot_that_fails_is_named(dot, tmp_path):
    dot("echo broken >&2; exit 3")
    symbol = mx.sym.relu(mx.sym.Variable("data"))
    with refused("dot", path=tmp_path / "d63.pdf"):
        draw_graph(symbol, (3, 8, 8), tmp_path / "d63.pdf")


def test_without_matplotlib_the_package_is_named(monkeypatch, capsys, configured, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["plot", "d63", "-o", str(tmp_path / "d63.png")]) == 1
    assert capsys.readouterr().err == ("denseface: error: this needs the package matplotlib: pip install matplotlib\n")


def test_another_ending_is_refused(capsys, tmp_path):
    assert cli.main(["plot", "d63", "-o", str(tmp_path / "d63.gif")]) == 1
    assert "d63.gif: the name must end in .png, .pdf, .svg" in capsys.readouterr().err
