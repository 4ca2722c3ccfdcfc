"""Averaged weights: what they are, that resuming continues them, and that they are a model."""

import csv

import numpy as np
import pytest

from denseface.embedding.embedder import Embedder
from denseface.evaluation.metrics import score_pairs
from denseface.models import checkpoint
from denseface.training.averages import Averages
from denseface.training.plan import Keep
from support.tiny_runs import SIZE, make_run

import mxnet as mx


def test_averages_forget_the_start_and_keep_what_does_not_change():
    changing, constant = mx.nd.array([5.0]), mx.nd.array([0.1, 1e-7, 3e7])
    averages = Averages(0.4, {"w": changing}, {"mean": constant})
    averages.reset()
    expected = 5.0
    for step, value in enumerate([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], start=1):
        changing[:] = value
        averages.update(step)
        decay = min(0.4, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    weights, statistics = averages.values()
    np.testing.assert_allclose(weights["w"], [expected], rtol=1e-6)
    np.testing.assert_array_equal(statistics["mean"], constant.asnumpy())


def test_a_run_averages_the_weights_after_its_steps(records, tmp_path):
    run = make_run(records, tmp_path / "model", steps=3, ema=0.5)
    start = [{**run.learner.state.parameters()[0], **run.learner.state.parameters()[1]}]
    take_step = run.learner.step

    def recorded(*args, **kwargs):
        result = take_step(*args, **kwargs)
        arguments, auxiliary = run.learner.state.parameters()
        start.append({**arguments, **auxiliary})
        return result

    run.learner.step = recorded
    run.fit()
    arguments, auxiliary = run.averages.values()
    assert "fc7_weight" not in arguments
    for name, average in {**arguments, **auxiliary}.items():
        expected = start[0][name]
        for step, values in enumerate(start[1:], start=1):
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * values[name]
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("whole", [False, True])
def test_resuming_continues_the_averages(records, tmp_path, whole):
    settings = {"ema": 0.9, "options": {"ema": 0.9}, "whole": whole}
    undisturbed = make_run(records, tmp_path / "undisturbed", **settings)
    undisturbed.fit()
    make_run(records, tmp_path / "parts", steps=3, **settings).fit()
    resumed = make_run(records, tmp_path / "parts", **settings)
    resumed.resume()
    resumed.fit()
    one, other = (tmp_path / f"{name}-ema-0010.params" for name in ("undisturbed", "parts"))
    assert one.read_bytes() == other.read_bytes()


def test_averages_are_verified_and_saved_as_a_model_beside_the_weights(records, tmp_path):
    issame = np.arange(200) % 2 == 0
    seen = []

    def verify(arguments, auxiliary):
        """Weights are 0.6, their averages 0.9 in the first verification; the other way round in the second."""
        seen.append({**arguments, **auxiliary})
        right = np.arange(200) < 200 * [0.6, 0.9, 0.7, 0.6, 0.8, 0.6][len(seen) - 1]
        return {"made": score_pairs(np.where(right == issame, 1.0, 0.0), issame)}

    run = make_run(records, tmp_path / "model", verify, verbose=4, ema=0.9, keep=Keep.BEST)
    run.fit()
    with open(tmp_path / "model-verification.csv", newline="") as file:
        rows = [(row["step"], row["set"], float(row["accuracy"])) for row in csv.DictReader(file)]
    assert rows == [
        ("4", "made", 0.6), ("4", "made-ema", 0.9), ("8", "made", 0.7), ("8", "made-ema", 0.6),
        ("10", "made", 0.8), ("10", "made-ema", 0.6),
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.glob("*.params")) == [
        "model-0004.params", "model-0010.params", "model-ema-0004.params", "model-ema-0010.params",
    ]  # fmt: skip
    embedder = Embedder.load(f"{tmp_path / 'model-ema'},10", image_shape=(SIZE, SIZE, 3))
    deployed = checkpoint.load_model(tmp_path / "model-ema")
    assert deployed.step == 10 and embedder.model.fingerprint["sha256"] == deployed.fingerprint["sha256"]
    for name, array in {**deployed.arguments, **deployed.auxiliary}.items():
        np.testing.assert_array_equal(array, seen[-1][name])
