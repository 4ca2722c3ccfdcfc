import json
from pathlib import Path

import pytest

from denseface import cli
from denseface.data.pairs import write_pairs
from denseface.report import comparison
from denseface.report.comparison import measure
from support.tiny_models import TINY_SHAPE, as_ndarrays, encode, pictures, tiny_model, tiny_symbol

import mxnet as mx


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(comparison, "_SECONDS", 0)


@pytest.fixture
def model(tmp_path):
    found = tiny_model()
    mx.model.save_checkpoint(str(tmp_path / "tiny"), 1, found.symbol, *as_ndarrays(found))
    return str(tmp_path / "tiny,1")


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def test_measure_takes_medians_of_what_ran(monkeypatch):
    ticks = iter([0, 1, 10, 14, 20, 23] * 3)  # seconds: 1, 4 and 3, each time after one run to warm up
    monkeypatch.setattr(comparison.time, "perf_counter", lambda: next(ticks))
    found = measure(tiny_symbol(), (3, 16, 16), "tiny", accuracies={"orl": 0.9})
    assert (found.latency, found.throughput, found.training) == (3000, 8 / 3, 8 / 3)
    assert found.accuracies == {"orl": 0.9}
    assert found.costs.parameters == 4 * 3 * 16 + 4 + 8 * 64 + 8 + 16


def test_training_can_be_left_out():
    assert measure(tiny_symbol(), (3, 16, 16), "tiny", training=False).training is None


def test_compare_networks_and_models(capsys, configured, model, tmp_path):
    encoded = [encode(picture) for picture in pictures(10)]
    write_pairs(tmp_path / "small.bin", [*encoded, *encoded[::-1]], [True, False] * 5)
    command = ["compare", "y1", "--models", model, "--verify", tmp_path / "small.bin", "--size", "16", "--no-training"]
    code, out, err = run(capsys, *command, "--set", "net_output=E", "-o", tmp_path / "chart.png", "--json")
    assert (code, err) == (0, "")
    first, second = json.loads(out)
    assert (first["name"], first["accuracies"], first["training"]) == ("y1", {}, None)
    assert second["name"] == model
    assert list(second["accuracies"]) == ["small"]
    assert all(row[figure] > 0 for row in (first, second) for figure in ("latency", "throughput"))
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_compare_prints_a_table(capsys, model):
    code, out, _ = run(capsys, "compare", "--models", model, "--size", ",".join(map(str, TINY_SHAPE)))
    assert code == 0
    heading, row = (line.split() for line in out.splitlines())
    assert heading == ["network", "parameters", "GMACs", "activations", "latency", "embeddings/s", "training/s"]
    assert row[:3] == [model, "732", "0.000"]
    assert float(row[-1]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to compare: name networks, or saved models with --models"),
        (["d63", "--verify", "x.bin"], "--verify: networks by name are not trained; name saved models with --models"),
        (["d63", "-o", "x.doc"], "x.doc: the name must end in .png, .pdf, .svg"),
    ],
)
def test_compare_says_what_it_needs(capsys, arguments, message):
    assert run(capsys, "compare", *arguments) == (1, "", f"denseface: error: {message}\n")


def test_the_page_on_networks_shows_commands_that_exist():
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    commands = [line.split()[3:] for line in page.splitlines() if line.startswith("python -m denseface ")]
    assert {command[0] for command in commands} == {"summary", "plot", "compare", "plot-run", "verify"}
    for command in commands:
        assert callable(cli._parser().parse_args(command).run)
