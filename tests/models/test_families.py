"""From names to symbols: every network, head and loss builds, and a wrong word is one line that names it."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import config as configuration
from denseface.models import families
from denseface.options.names import Names
from support.refusals import refused

import mxnet as mx

pytestmark = pytest.mark.usefixtures("configured")  # puts the configuration back


def training_symbol(*names, assignments=()):
    spec = families.configure(Names(*names), assignments)
    return families.training_symbol(spec, families.embedding_symbol(spec))


def test_configurations_do_not_depend_on_each_other():
    spec = families.configure(Names("d63", "orl", "triplet"), ["emb_size=32", "lr=0.25"])
    assert (spec.network.num_layers, spec.data.dataset, spec.loss.loss_name) == (63, "orl", "triplet")
    assert (spec.network.emb_size, spec.optimizer.lr) == (32, 0.25)
    other = families.configure(Names("d121", "orl", "softmax"))
    assert (spec.network.emb_size, other.network.emb_size) == (32, 512)
    for one in (spec, other, spec):  # each is built from what is passed, whatever was configured last
        symbol = families.embedding_symbol(one)
        assert families.embedding_size(symbol, one.data.image_shape) == one.network.emb_size
        assert configuration.config == one.by_key()


@pytest.mark.parametrize("network", configuration.network)
def test_every_network_of_the_table_builds(network):
    spec = families.configure(Names(network, "emore", "arcface"))
    embedding = families.embedding_symbol(spec)
    assert embedding.list_outputs() == ["fc1_output"]
    assert families.embedding_size(embedding, spec.data.image_shape) == spec.network.emb_size


@pytest.mark.parametrize("head", ["E", "GAP", "Z"])
@pytest.mark.parametrize("loss", [name for name in configuration.loss if name != "teacher"])
def test_every_loss_of_the_table_builds(loss, head):
    symbol = training_symbol("d63", "orl", loss, assignments=[f"net_output={head}", "net_act=relu"])
    assert {"data", "softmax_label"} <= set(symbol.list_arguments())
    shapes, outputs, _ = symbol.infer_shape(data=(6, 3, 112, 112), softmax_label=(6,))
    assert outputs[0] == ((6, 258, 7, 7) if head == "Z" else (6, 512))
    if "triplet" in loss:
        assert outputs[1:] == [(6,), (1,)]
    else:
        assert outputs[1:] == [(6, 30), (1,)]
        size = 258 * 7 * 7 if head == "Z" else 512
        assert dict(zip(symbol.list_arguments(), shapes))["fc7_weight"] == (30, *(3,) * (loss == "subcenter"), size)


@pytest.mark.parametrize("loss", [name for name in configuration.loss if name != "teacher"])
def test_every_loss_of_the_table_runs_with_its_figures(loss):
    """The margins, scale and alpha of the table reach the symbol: the loss is the one of the figures by hand."""
    spec = families.configure(Names("d63", "emore", loss), ["image_shape=1,1,4"])
    symbol = families.training_symbol(spec, mx.sym.Flatten(mx.sym.Variable("data"), name="fc1"), num_classes=2)
    data = np.array([[3, 0, 0, 0], [1, 1, 0, 0], [0, 2, 0, 0]], "float32")
    centers = np.eye(2, 4)[:, np.newaxis].repeat(3, axis=1) if loss == "subcenter" else np.eye(2, 4)
    values = {"fc7_weight": centers, "fc7_bias": np.zeros(2), "softmax_label": np.zeros(3)}
    executor = symbol.simple_bind(mx.cpu(), data=(3, 4, 1, 1), softmax_label=(3,))
    for name, array in executor.arg_dict.items():
        array[:] = values[name] if name in values else data.reshape(3, 4, 1, 1)
    found = executor.forward()[-1].asscalar()
    if loss == "softmax":
        differences = np.array([-3, 0, 2])  # the other class's logit over the own one's
        expected = np.log1p(np.exp(differences)).mean()
    elif loss == "triplet":
        expected = max((2 - np.sqrt(2)) - 2 + 0.3, 0)
    elif loss == "adaface":  # the statistics are 0 at first, so that every face counts as clear
        cosines = np.array([1, np.sqrt(0.5), 0])
        differences = 64 * (np.sqrt(1 - cosines**2) - np.cos(np.maximum(np.arccos(cosines) - 0.4, 0)) + 0.8)
        expected = np.log1p(np.exp(differences)).mean()
    elif loss == "atriplet":
        expected = max(np.pi / 4 - np.pi / 2 + 0.35, 0)
    else:
        m2, m3 = {
            "nsoftmax": (0, 0),
            "arcface": (0.5, 0),
            "cosface": (0, 0.35),
            "combined": (0.3, 0.2),
            "subcenter": (0.5, 0),
        }[loss]
        angles = np.array([0, np.pi / 4, np.pi / 2])
        differences = 64 * (np.sin(angles) - np.cos(angles + m2) + m3)
        expected = np.log1p(np.exp(differences)).mean()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("key", "value"), [("fc7_lr_mult", "0.5"), ("fc7_wd_mult", "10.0")])
@pytest.mark.parametrize("loss", ["softmax", "arcface"])
def test_settings_of_the_last_layer_arrive(loss, key, value):
    symbol = training_symbol("d63", "orl", loss, assignments=[f"{key}={value}"])
    assert symbol.attr_dict()["fc7_weight"][f"__{key[4:]}__"] == value


def test_bias_and_ce_loss_can_be_left_out():
    symbol = training_symbol("d63", "orl", "softmax", assignments=["fc7_no_bias=true", "ce_loss=false"])
    assert "fc7_bias" not in symbol.list_arguments() and len(symbol.list_outputs()) == 2
    symbol = training_symbol("d63", "orl", "softmax")
    assert "fc7_bias" in symbol.list_arguments() and len(symbol.list_outputs()) == 3


@pytest.mark.parametrize(
    ("loss", "assignment", "option", "facts"),
    [
        ("arcface", "emb_sise=1", "set", ["emb_sise", "nearest: emb_size"]),
        ("arcface", "emb_size=x", "set", ["emb_size=x", "whole number"]),
        ("arcface", "emb_size", "set", ["emb_size", "key=value"]),
        ("arcface", "emb_size=0", "set", ["emb_size=0", "from 1 to 65536"]),
        ("arcface", "loss_m=0.4", "set", ["loss_m", "the loss arcface"]),
        ("softmax", "loss_k=2", "set", ["loss_k", "the loss softmax"]),
        ("adaface", "loss_k=2", "set", ["loss_k", "the loss adaface"]),
        ("triplet", "interclass_filtering_threshold=0.4", "set", ["interclass_filtering_threshold", "triplet"]),
        ("arcface", "loss_name=hinge", "set", ["loss_name"]),
        ("arcface", "net_name=os", None, ["net_name", "'os'", "fdensenet"]),
        ("arcface", "net_name=../config", None, ["net_name", "'../config'"]),
        ("arcface", "num_layers=64", None, ["num_layers", 64]),
        ("arcface", "net_act=swish", None, ["net_act", "'swish'"]),
        ("arcface", "net_output=Q", None, ["net_output", "'Q'", "E, F"]),
        ("arcface", "densenet_dropout=2", None, ["densenet_dropout", "2.0"]),
        ("arcface", "image_shape=8,8,3", None, ["image_shape", "8x8x3"]),
    ],
)
def test_wrong_settings_are_one_line_that_names_them(loss, assignment, option, facts):
    with refused(*facts, option=option) as caught:
        training_symbol("d63", "orl", loss, assignments=[assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "option", "facts"),
    [
        (("d122", "orl", "arcface"), "network", ["'d122'", "d15, d63"]),
        (("d63", "mnist", "arcface"), "dataset", ["'mnist'", "emore"]),
        (("d63", "orl", "hinge"), "loss", ["'hinge'", "softmax"]),
    ],
)
def test_unknown_names_are_one_line_that_names_them(names, option, facts):
    with refused(*facts, option=option) as caught:
        training_symbol(*names)
    assert "\n" not in str(caught.value)


def test_without_a_checkout_the_reason_is_given(monkeypatch, tmp_path):
    spec = families.configure(Names("d63", "orl", "arcface"))
    monkeypatch.setattr(families, "_CHECKOUT", tmp_path)
    for call in (lambda: families.embedding_symbol(spec), lambda: families.configure(Names("d63", "orl", "arcface"))):
        with refused("config.py, symbol_utils.py, symbol/__init__.py"):
            call()


FOREIGN = "print('run'); config = default = {}"


@pytest.mark.parametrize("how", ["current folder", "PYTHONPATH"])
@pytest.mark.parametrize("name", ["config", "symbol_utils", "symbol"])
def test_modules_of_these_names_from_elsewhere_are_not_run(tmp_path, how, name):
    (tmp_path / f"{name}.py").write_text(FOREIGN)
    paths = [str(Path(__file__).parents[2])]
    if how == "PYTHONPATH":
        paths.insert(0, str(tmp_path))
    run = subprocess.run(
        [sys.executable, "-m", "denseface", "summary", "d63", "--json"],
        cwd=tmp_path if how == "current folder" else None,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["total"]["parameters"] > 1e6


def test_a_module_of_this_name_that_is_loaded_already_is_refused_by_name(monkeypatch, tmp_path):
    foreign = types.ModuleType("config")
    foreign.__file__ = str(tmp_path / "config.py")
    (tmp_path / "config.py").touch()
    monkeypatch.setitem(sys.modules, "config", foreign)
    with refused(tmp_path / "config.py", "config"):
        families.configure(Names("d63", "orl", "arcface"))


@pytest.mark.parametrize(("head", "size"), [("GAP", 48), ("Z", 258 * 6 * 7), ("GDC", 48)])
def test_embedding_size_counts_values(head, size):
    settings = ["emb_size=48", f"net_output={head}", "image_shape=96,112,3"]
    spec = families.configure(Names("d63", "orl", "arcface"), settings)
    assert families.embedding_size(families.embedding_symbol(spec), spec.data.image_shape) == size


def test_densenets_begin_uniform_by_fan_in():
    spec = families.configure(Names("d63", "orl", "arcface"))
    weight = mx.nd.zeros((64, 128, 3, 3))
    mx.random.seed(0)
    families.initializer(spec.network.net_name)(mx.init.InitDesc("conv_weight"), weight)
    bound = np.sqrt(2 / (128 * 3 * 3))
    values = weight.asnumpy()
    assert 0.999 * bound < np.abs(values).max() <= bound
    assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)


def test_other_families_begin_normal_by_fan_out():
    spec = families.configure(Names("d63", "orl", "arcface"), ["net_name=fresnet"])
    weight = mx.nd.zeros((64, 128, 3, 3))
    mx.random.seed(0)
    families.initializer(spec.network.net_name)(mx.init.InitDesc("conv_weight"), weight)
    values = weight.asnumpy()
    assert values.std() == pytest.approx(np.sqrt(2 / (64 * 3 * 3)), rel=0.01)
    assert np.abs(values).max() > 3 * values.std()
