"""Every network of config.py, from one training step to an ONNX file."""

import numpy as np
import pytest

import config as configuration
from denseface.data.loader import Batch
from denseface.export import onnx as onnx_export
from denseface.models import checkpoint, families
from denseface.options.names import Names
from denseface.training.descent import Descent
from denseface.training.learner import Learner, Task
from support.helpers import nodes_of
from support.symbols import accelerated

SHAPE = (4, 3, 32, 32)
# What another one has, too, but for its depth and width.
DEEPEST = ("d161", "d169", "d201", "r34", "r50", "r100", "r100fc", "y2")
RATE = 1e-4  # few pictures make for large gradients


def batch(number):
    random = np.random.default_rng(number)
    return Batch(random.uniform(0, 255, SHAPE).astype(np.float32), np.arange(4, dtype=np.float32))


def make_learner(network):
    """Everything as train.py does it, for small pictures and few people."""
    config = families.configure(Names(network, "orl", "arcface"), ["image_shape=32,32,3", "emb_size=64"])
    embedding = families.embedding_symbol(config)
    symbol = accelerated(families.training_symbol(config, embedding, num_classes=4), SHAPE)
    return config, embedding, Learner(Task(symbol), SHAPE, Descent(0.9, 0.0))


def fixed_scales(symbol):
    nodes = nodes_of(symbol)
    return {
        nodes[node["inputs"][1][0]]["name"]
        for node in nodes
        if node["op"] == "BatchNorm" and node["attrs"].get("fix_gamma", "True") == "True"
    }


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    "network",
    [pytest.param(name, marks=pytest.mark.torture if name in DEEPEST else ()) for name in configuration.network],
)
def test_a_network_learns_saves_resumes_and_exports(network, tmp_path):
    config, embedding, learner = make_learner(network)
    learner.state.initialize(families.initializer(config.network.net_name), seed=0)
    assert np.isfinite(learner.step([batch(0)], RATE, seed=0).loss)
    arguments, auxiliary = learner.state.parameters()
    momenta = learner.state.momenta()
    still = {name for name, momentum in momenta.items() if not momentum.any()}
    assert still == fixed_scales(embedding)

    progress = {"best": {}, "bests": [], "loader": {}}
    checkpoint.save(tmp_path / "m", embedding, checkpoint.TrainingState(1, arguments, auxiliary, momenta, progress))
    state = checkpoint.Checkpoint.newest(tmp_path / "m").load()
    *_, resumed = make_learner(network)
    resumed.state.set_parameters(state.arguments, state.auxiliary)
    resumed.state.set_momenta(state.momenta)
    assert resumed.step([batch(1)], RATE, seed=1) == learner.step([batch(1)], RATE, seed=1)
    for found, expected in zip(resumed.state.parameters(), learner.state.parameters()):
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)

    model = checkpoint.load_model(tmp_path / "m")
    report = onnx_export.export(model, (1, *SHAPE[1:]), tmp_path / "m.onnx")
    assert report.difference < 1e-4
