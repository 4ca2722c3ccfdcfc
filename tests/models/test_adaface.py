"""AdaFace against NumPy: values, gradients, its statistics, and where its formulas break off."""

import numpy as np
import pytest

from support.class_losses import adaface
from support.helpers import relative_error
from support.symbols import cross_entropy, numeric_gradient, run, unit

import mxnet as mx

CLASSES, SIZE = 5, 6
MARGINS = {"s": 16.0, "m": 0.4, "h": 0.333}
NAMES = ("adaface_norm_mean", "adaface_norm_deviation")


def symbol_of(num_classes=CLASSES, **changes):
    return adaface(mx.sym.Variable("embedding"), SIZE, num_classes, **{**MARGINS, **changes})


def statistics_of(embedding):
    lengths = np.clip(np.linalg.norm(embedding, axis=1), 0.001, 100)
    return np.array([lengths.mean(), lengths.std()])


def logits_of(embedding, weight, label, statistics, lengths, s=16.0, m=0.4, h=0.333):
    mu, sigma = statistics
    quality = np.clip(h * (lengths - mu) / (sigma + 1e-3), -1, 1)
    logits = unit(embedding) @ unit(weight).T
    for row, column in enumerate(label):
        angle = max(np.arccos(logits[row, column]) - m * quality[row], 0)
        turns = int(angle // np.pi)
        logits[row, column] = (-1) ** turns * np.cos(angle) - 2 * turns - (m * quality[row] + m)
    return s * logits


@pytest.fixture
def problem():
    """Lengths on both sides of the limits; one face nearly at its class, and one nearly opposite."""
    random = np.random.default_rng(3)
    embedding, weight = unit(random.standard_normal((8, SIZE))), random.standard_normal((CLASSES, SIZE))
    label = random.integers(0, CLASSES, 8)
    embedding[0] = unit(weight[label[0]] + 0.1 * embedding[0])
    embedding[1] = unit(-weight[label[1]] + 0.1 * embedding[1])
    return embedding * np.array([9, 1, 4, 5, 5, 6, 4.5, 5.2])[:, np.newaxis], weight, label


@pytest.mark.parametrize("t_alpha", [0.01, 1.0])
def test_against_numpy(problem, t_alpha):
    """The statistics are constants: no gradient passes through the length of an embedding."""
    embedding, weight, label = problem
    before = np.array([20.0, 100.0]) if t_alpha == 1 else np.array([5.0, 1.5])
    outputs, gradients, after = run(
        symbol_of(t_alpha=t_alpha), dict(zip(NAMES, before)),
        embedding=embedding, fc7_weight=weight, softmax_label=label,
    )  # fmt: skip
    statistics = t_alpha * statistics_of(embedding) + (1 - t_alpha) * before
    np.testing.assert_allclose([after[name] for name in NAMES], statistics[:, np.newaxis], rtol=1e-5)
    lengths = np.linalg.norm(embedding, axis=1)

    def loss(embedding=embedding, weight=weight):
        return cross_entropy(logits_of(embedding, weight, label, statistics, lengths), label)

    assert outputs[2][0] == pytest.approx(loss(), rel=1e-4)
    assert relative_error(gradients["embedding"], numeric_gradient(lambda x: loss(embedding=x), embedding)) < 1e-3
    assert relative_error(gradients["fc7_weight"], numeric_gradient(lambda x: loss(weight=x), weight)) < 1e-3
    assert np.ptp(np.clip(0.333 * (lengths - statistics[0]) / statistics[1], -1, 1)) > 1


def test_the_averages_follow_the_batches_and_start_as_in_the_authors_release():
    symbol = symbol_of(t_alpha=0.25)
    attributes = symbol.attr_dict()
    assert [attributes[name]["__init__"] for name in NAMES] == [
        mx.init.Constant(20.0).dumps(), mx.init.Constant(100.0).dumps(),
    ]  # fmt: skip
    executor = symbol.simple_bind(mx.cpu(), embedding=(4, SIZE), softmax_label=(4,))
    expected = np.array([20.0, 100.0])
    for name, value in zip(NAMES, expected):
        executor.aux_dict[name][:] = value
    random = np.random.default_rng(0)
    for _ in range(5):
        embedding = random.standard_normal((4, SIZE))
        executor.forward(is_train=True, embedding=mx.nd.array(embedding))
        executor.backward()
        mx.nd.waitall()
        expected = 0.25 * statistics_of(embedding) + 0.75 * expected
    np.testing.assert_allclose([executor.aux_dict[name].asscalar() for name in NAMES], expected, rtol=1e-5)


@pytest.mark.parametrize("rows, num_classes", [(1, CLASSES), (4, 1), (1, 1)])
@pytest.mark.parametrize("length", [0.0, 1e-6, 1.0, 1e4])
def test_one_face_one_class_and_any_length_are_finite(rows, num_classes, length):
    random = np.random.default_rng(1)
    embedding = length * random.standard_normal((rows, SIZE))
    inputs = {"embedding": embedding, "fc7_weight": random.standard_normal((num_classes, SIZE))}
    outputs, gradients, after = run(
        symbol_of(num_classes), dict.fromkeys(NAMES, 1.0), softmax_label=np.zeros(rows), **inputs
    )
    assert all(np.isfinite(array).all() for array in [*outputs, *gradients.values(), *after.values()])


def test_short_embeddings_have_the_margin_of_arcface_and_usual_ones_that_of_cosface():
    from support.class_losses import margin_softmax

    random = np.random.default_rng(5)
    weight, label = random.standard_normal((CLASSES, SIZE)), np.arange(4)
    for length, margin in ((0.5, {"m2": 0.4}), (5.0, {"m3": 0.4})):
        embedding = length * unit(random.standard_normal((4, SIZE)))
        inputs = {"embedding": embedding, "fc7_weight": weight, "softmax_label": label}
        outputs, gradients, _ = run(symbol_of(t_alpha=1e-9), {NAMES[0]: 5.0, NAMES[1]: 0.1}, **inputs)
        same = margin_softmax(mx.sym.Variable("embedding"), SIZE, CLASSES, s=16.0, **margin)
        expected, expected_gradients = run(same, **inputs)
        np.testing.assert_allclose(outputs[2], expected[2], rtol=1e-4)
        for name in gradients:
            np.testing.assert_allclose(gradients[name], expected_gradients[name], rtol=1e-3, atol=1e-5)
