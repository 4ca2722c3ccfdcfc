"""Partial FC: the sample, what it changes, and that all classes in the sample are the full layer."""

import numpy as np
import pytest

from denseface.data.loader import Batch
from denseface.models import checkpoint
from denseface.training.partial_fc import CLASS_PARAMETERS, draw_sample, sample_size
from support import class_losses, tiny_runs
from support.class_losses import adaface
from support.learners import learner_of
from support.refusals import refused
from support.tiny_runs import assert_same_state, embedding_symbol, make_run

import mxnet as mx

CLASSES, EMBEDDING, SHAPE = 40, 5, (8, 3, 6, 6)
CPU = (mx.cpu(),)
LOSSES = {
    "softmax": {},
    "softmax without bias": {"no_bias": True},
    "nsoftmax": {"s": 16.0},
    "arcface": {"s": 16.0, "m2": 0.5},
    "cosface": {"s": 16.0, "m3": 0.35},
    "combined": {"s": 16.0, "m2": 0.3, "m3": 0.2},
    "subcenter": {"s": 16.0, "m2": 0.5, "k": 3},
    "arcface, filtered": {"s": 16.0, "m2": 0.5, "filter_threshold": 0.2},
    "adaface": {"s": 16.0},
}


def symbol_of(loss, classes):
    body = mx.sym.Convolution(mx.sym.Variable("data") * (1 / 255), num_filter=4, kernel=(3, 3), name="conv")
    embedding = mx.sym.FullyConnected(mx.sym.Dropout(body, p=0.2), num_hidden=EMBEDDING, name="fc1")
    build = {"softmax": class_losses.softmax, "adaface": adaface}.get(loss.split()[0], class_losses.margin_softmax)
    return build(embedding, EMBEDDING, classes, **LOSSES[loss])


def make_learner(size, loss="arcface", contexts=CPU, num_classes=CLASSES, **settings):
    settings = {"momentum": 0.9, "wd": 0.01, **settings}
    learner = learner_of(symbol_of(loss, size), SHAPE, contexts, sampled_from=num_classes, **settings)
    learner.state.initialize(mx.init.Xavier(), seed=3)
    return learner


def make_batches(count, classes=CLASSES, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Batch(
            rng.uniform(0, 255, SHAPE).astype(np.float32), rng.integers(0, classes, SHAPE[0]).astype(np.float32)
        )
        for _ in range(count)
    ]  # fmt: skip


def copies(learner):
    """Parameters and momenta by name, as they are now."""
    arguments, momenta = learner.state.parameters()[0], learner.state.momenta()
    return {**{n: a.copy() for n, a in arguments.items()}, **{f"{n} momentum": a.copy() for n, a in momenta.items()}}


def assert_same(one, other, tolerance=0.0):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("rate", "images", "size"), [(0.1, 4, 10), (0.101, 4, 11), (0.01, 16, 16), (1, 16, 100), (0.5, 400, 100)]
)
def test_a_sample_has_a_fixed_size(rate, images, size):
    assert sample_size(100, rate, images) == size


@pytest.mark.parametrize("labels", [[], [0], [99], [3, 3, 3], [0, 1, 2, 97, 98, 99], list(range(20))])
@pytest.mark.parametrize("size", [20, 99, 100])
def test_a_sample_holds_the_labels_and_others_once(labels, size):
    sample = draw_sample(np.array(labels, np.float32), 100, size, seed=1)
    assert sample.shape == (size,) and sample.dtype == np.int64
    assert (np.diff(sample) > 0).all() and sample[0] >= 0 and sample[-1] < 100
    assert set(labels) <= set(sample.tolist())


def test_a_sample_depends_on_its_seed_alone():
    labels, large = np.array([5, 7], np.float32), 2**64 * 10**6
    np.testing.assert_array_equal(draw_sample(labels, 100, 20, large), draw_sample(labels, 100, 20, large))
    assert not np.array_equal(draw_sample(labels, 100, 20, 1), draw_sample(labels, 100, 20, 2))


def test_all_others_are_drawn_equally_often():
    labels, draws = np.array([0, 4, 5, 9]), 4000
    counts = sum(np.bincount(draw_sample(labels, 10, 6, seed), minlength=10) for seed in range(draws))
    others = np.delete(counts, labels)
    assert (counts[labels] == draws).all()
    # Of 6 others 2 are drawn: a binomial distribution with a deviation of 30.
    np.testing.assert_allclose(others, draws / 3, atol=5 * np.sqrt(draws * 2 / 9))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_sample_of_all_classes_is_the_full_layer(loss):
    full, sampled = make_learner(CLASSES, loss, num_classes=None), make_learner(CLASSES, loss)
    assert_same(copies(full), copies(sampled))
    for step, batch in enumerate(make_batches(3)):
        assert full.step([batch], 0.1, step) == sampled.step([batch], 0.1, step)
        for name, gradient in full._executors[0].grad_dict.items():
            if gradient is not None:
                np.testing.assert_array_equal(sampled._executors[0].grad_dict[name].asnumpy(), gradient.asnumpy(), name)
    assert_same(copies(full), copies(sampled))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_is_that_of_a_network_with_the_sampled_classes_alone(loss):
    learner = make_learner(12, loss)
    small = make_learner(12, loss, num_classes=None)
    (first, batch) = make_batches(2)
    learner.step([first], 0.1, seed=0)  # so that there are momenta
    before = copies(learner)
    sample = draw_sample(batch.label, CLASSES, 12, seed=7)
    rows = {name: array[sample] if name.startswith("fc7") else array for name, array in before.items()}
    auxiliary = learner.state.parameters()[1]
    small.state.set_parameters({name: array for name, array in rows.items() if "momentum" not in name}, auxiliary)
    small.state.set_momenta({name.split()[0]: array for name, array in rows.items() if "momentum" in name})
    positions = np.array([list(sample).index(label) for label in batch.label], np.float32)
    assert learner.step([batch], 0.1, seed=7) == small.step([Batch(batch.data, positions)], 0.1, seed=7)
    after, expected = copies(learner), copies(small)
    for name, array in after.items():
        if name.startswith("fc7"):
            np.testing.assert_array_equal(array[sample], expected[name], err_msg=name)
            assert (array[sample] != before[name][sample]).any(axis=tuple(range(1, array.ndim))).all(), name
        else:
            np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_rows_that_are_not_sampled_neither_move_nor_decay_and_go_on_with_their_momentum():
    learner = make_learner(12)
    batches = make_batches(6, classes=4)
    left_alone = 0
    for step, batch in enumerate(batches):
        before = copies(learner)
        learner.step([batch], 0.1, step)
        after = copies(learner)
        sample = draw_sample(batch.label, CLASSES, 12, step)
        others = np.setdiff1d(np.arange(CLASSES), sample)
        for name in ("fc7_weight", "fc7_weight momentum"):
            np.testing.assert_array_equal(after[name][others], before[name][others])
            assert (after[name][sample] != before[name][sample]).any(axis=1).all()
        left_alone += np.count_nonzero(before["fc7_weight momentum"][others].any(axis=1))
    assert left_alone > 20  # some had been sampled before
    # Without a gradient or decay, a sampled row goes on by its momentum, however long ago it was sampled last.
    still = make_learner(12, wd=0.0)
    momentum = np.zeros((CLASSES, EMBEDDING), np.float32)
    momentum[30:] = 1
    arguments, _ = still.state.parameters()
    far = np.zeros((CLASSES, EMBEDDING), np.float32)
    far[:, 0] = -1e4  # all of one direction: the softmax is even whatever the momentum
    still.state.set_parameters({**arguments, "fc7_weight": far}, {})
    still.state.set_momenta({"fc7_weight": momentum})
    still.step([batches[0]], 0.0, seed=0)
    sample = draw_sample(batches[0].label, CLASSES, 12, seed=0)
    moved = np.isin(np.arange(CLASSES), sample) & (np.arange(CLASSES) >= 30)
    assert moved.any() and not moved[30:].all()
    expected = np.where(moved[:, np.newaxis], 0.9, momentum)
    np.testing.assert_allclose(still.state.momenta()["fc7_weight"], expected, rtol=1e-6)
    np.testing.assert_allclose(
        still.state.parameters()[0]["fc7_weight"] - far, expected * moved[:, np.newaxis], atol=1e-3
    )


def test_accumulated_batches_and_devices_share_a_sample():
    first, second = make_batches(2)
    together = Batch(np.concatenate([first.data, second.data]), np.concatenate([first.label, second.label]))
    settings = {"momentum": 0.9, "wd": 0.01, "sampled_from": CLASSES}
    # Without dropout, which the two batches would share.
    embedding = mx.sym.FullyConnected(mx.sym.Variable("data") * (1 / 255), num_hidden=EMBEDDING, name="fc1")
    plain = class_losses.margin_softmax(embedding, EMBEDDING, 20, s=16.0, m2=0.5)
    wide = (16, *SHAPE[1:])
    one = learner_of(plain, wide, CPU, **settings)
    parts = learner_of(plain, SHAPE, CPU, accumulate=2, **settings)
    devices = learner_of(plain, wide, (mx.cpu(0), mx.cpu(1)), **settings)
    for learner in (one, parts, devices):
        learner.state.initialize(mx.init.Xavier(), seed=3)
    for step in range(3):
        expected = one.step([together], 0.1, step)
        assert parts.step([first, second], 0.1, step).loss == pytest.approx(expected.loss, rel=1e-5)
        assert devices.step([together], 0.1, step).loss == pytest.approx(expected.loss, rel=1e-5)
    assert_same(copies(one), copies(parts), 1e-5)
    assert_same(copies(one), copies(devices), 1e-5)


def test_the_parameters_of_all_classes_are_set_adopted_and_checked():
    learner = make_learner(12, "softmax")
    arguments, _ = learner.state.parameters()
    assert arguments["fc7_weight"].shape == (CLASSES, EMBEDDING) and arguments["fc7_bias"].shape == (CLASSES,)
    assert learner.state.momenta()["fc7_weight"].shape == (CLASSES, EMBEDDING)
    assert not arguments["fc7_weight"].flags.writeable
    with refused("fc7_weight", (12, EMBEDDING)):
        learner.state.set_parameters({"fc7_weight": np.zeros((12, EMBEDDING), np.float32)}, {})
    given = np.arange(CLASSES * EMBEDDING, dtype=np.float32).reshape(CLASSES, EMBEDDING)
    loaded, fresh, left_over = learner.state.adopt({"fc7_weight": given, "fc7_bias": np.zeros(12)}, {})
    assert loaded == ["fc7_weight"] and "fc7_bias" in fresh and left_over == ["fc7_bias"]
    np.testing.assert_array_equal(learner.state.parameters()[0]["fc7_weight"], given)
    learner.step(make_batches(1), 0.1, 0)
    assert given[1, 1] == 6  # what was given is not what is trained


def test_without_momentum_there_is_no_state():
    learner = make_learner(12, momentum=0.0)
    learner.step(make_batches(1), 0.1, 0)
    assert learner.state.momenta() == {}
    with refused("fc7_weight"):
        learner.state.set_momenta({"fc7_weight": np.zeros((CLASSES, EMBEDDING), np.float32)})


def test_more_centers_than_mxnet_counts_are_one_line():
    with refused(429496729, 429496730):
        make_learner(12, num_classes=429496730)


def sampled_run(records, prefix, size=8, **changes):
    symbol = class_losses.softmax(embedding_symbol(), 5, size)
    shape = (tiny_runs.BATCH, 3, tiny_runs.SIZE, tiny_runs.SIZE)
    learner = learner_of(symbol, shape, CPU, momentum=0.9, wd=1e-3, sampled_from=CLASSES)
    return make_run(records, prefix, learner=learner, **changes)


@pytest.mark.parametrize(("stop", "large", "files"), [(3, 1 << 29, 1), (4, 300, 14)])
def test_resuming_repeats_the_run_that_was_never_stopped(records, tmp_path, monkeypatch, stop, large, files):
    monkeypatch.setattr(checkpoint, "_LARGE", large)
    whole = sampled_run(records, tmp_path / "whole")
    assert whole.fit()
    assert sampled_run(records, tmp_path / "parts", steps=stop).fit()
    second = sampled_run(records, tmp_path / "parts")
    places = dict(second.learner.state.centers.weights)
    second.resume()
    assert all(second.learner.state.centers.weights[name] is place for name, place in places.items())
    assert second.fit()
    assert_same_state(whole, second)
    assert len(list(tmp_path.glob("parts-0010.states*"))) == files


def test_a_run_is_resumed_with_another_sample_or_the_full_layer(records, tmp_path):
    first = sampled_run(records, tmp_path / "model", steps=4)
    assert first.fit()
    other = sampled_run(records, tmp_path / "model", size=20)
    symbol = class_losses.softmax(embedding_symbol(), 5, CLASSES)
    learner = learner_of(symbol, (4, 3, 8, 8), CPU, momentum=0.9, wd=1e-3)
    full = make_run(records, tmp_path / "model", learner=learner)
    for run in (full, other):
        run.resume()
        assert_same_state(first, run)
    assert other.fit() and other.learner.state.centers.size == 20


def test_the_model_is_the_embedding_alone(records, tmp_path):
    sampled_run(records, tmp_path / "model", steps=2).fit()
    model = checkpoint.load_model(tmp_path / "model")
    assert model.symbol.list_outputs() == ["fc1_output"] and not set(CLASS_PARAMETERS) & set(model.arguments)
