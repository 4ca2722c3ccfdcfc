"""Losses against plain NumPy in float64: values, gradients, and what happens where formulas break off."""

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.models import losses
from support import class_losses
from support.helpers import relative_error
from support.symbols import cross_entropy, log_softmax, numeric_gradient, run, unit

import mxnet as mx

CLASSES, SIZE = 5, 6
MARGINS = {
    "nsoftmax": {"s": 64.0},
    "arcface": {"s": 64.0, "m2": 0.5},
    "cosface": {"s": 64.0, "m3": 0.35},
    "combined": {"s": 64.0, "m2": 0.3, "m3": 0.2},
    "all margins": {"s": 16.0, "m1": 0.9, "m2": 0.4, "m3": 0.15},
    "SphereFace, mild": {"s": 64.0, "m1": 1.35},
    "SphereFace": {"s": 16.0, "m1": 4.0},
}
EXTRAS = {
    "sub-centers": {"s": 16.0, "m2": 0.5, "k": 3},
    "filter": {"s": 16.0, "m2": 0.5, "filter_threshold": 0.2},
    "both, without margin": {"s": 16.0, "k": 2, "filter_threshold": 0.4},
}
TRIPLETS = {"triplet": losses.triplet, "atriplet": losses.angular_triplet}


def margin_symbol(num_classes=CLASSES, size=SIZE, **margins):
    return class_losses.margin_softmax(mx.sym.Variable("embedding"), size, num_classes, **margins)


def margin_logits(embedding, weight, label, s, m1=1.0, m2=0.0, m3=0.0, k=1, filter_threshold=0.0):
    """SphereFace's piecewise psi on ArcFace's combined margin, of the nearest of k centers; and the filter."""
    centers = unit(weight).reshape(-1, k, embedding.shape[1])
    logits = np.einsum("nd,ckd->nck", unit(embedding), centers).max(axis=2)
    if filter_threshold:
        filtered = logits > filter_threshold
        filtered[np.arange(len(label)), label] = False
        logits = np.where(filtered, -np.inf, logits)
    for row, column in enumerate(label):
        angle = m1 * np.arccos(logits[row, column]) + m2
        turns = int(angle // np.pi)
        logits[row, column] = (-1) ** turns * np.cos(angle) - 2 * turns - m3
    return s * logits


def triplet_loss(embedding, alpha):
    anchor, positive, negative = np.split(unit(embedding), 3)
    excess = ((anchor - positive) ** 2).sum(axis=1) - ((anchor - negative) ** 2).sum(axis=1) + alpha
    return np.maximum(excess, 0).mean()


def angular_triplet_loss(embedding, alpha):
    anchor, positive, negative = np.split(unit(embedding), 3)
    excess = np.arccos((anchor * positive).sum(axis=1)) - np.arccos((anchor * negative).sum(axis=1)) + alpha
    return np.maximum(excess, 0).mean()


@pytest.fixture
def problem():
    """Embedding, class weights and labels; the last face is nearly opposite to its class, so that margins pass pi."""
    random = np.random.default_rng(3)
    embedding, weight = random.standard_normal((7, SIZE)), random.standard_normal((CLASSES, SIZE))
    label = random.integers(0, CLASSES, 7)
    embedding[-1] = -2 * weight[label[-1]] + 0.1 * embedding[-1]
    return embedding, weight, label


@pytest.mark.parametrize("no_bias", [False, True])
def test_softmax_against_numpy(problem, no_bias):
    embedding, weight, label = problem
    bias = np.linspace(-1, 1, CLASSES) * (not no_bias)
    symbol = class_losses.softmax(mx.sym.Variable("embedding"), SIZE, CLASSES, no_bias=no_bias)
    inputs = {"embedding": embedding, "fc7_weight": weight, "softmax_label": label}
    if not no_bias:
        inputs["fc7_bias"] = bias
    outputs, gradients = run(symbol, **inputs)

    def loss(embedding=embedding, weight=weight, bias=bias):
        return cross_entropy(embedding @ weight.T + bias, label)

    assert_classifies(outputs, embedding, embedding @ weight.T + bias, label)
    assert relative_error(gradients["embedding"], numeric_gradient(lambda x: loss(embedding=x), embedding)) < 1e-4
    assert relative_error(gradients["fc7_weight"], numeric_gradient(lambda x: loss(weight=x), weight)) < 1e-4
    if not no_bias:
        assert relative_error(gradients["fc7_bias"], numeric_gradient(lambda x: loss(bias=x), bias)) < 1e-4


@pytest.mark.parametrize("margins", [*MARGINS.values(), *EXTRAS.values()], ids=[*MARGINS, *EXTRAS])
def test_margins_against_numpy(problem, margins):
    embedding, weight, label = problem
    if margins.get("k", 1) > 1:
        others = np.random.default_rng(4).standard_normal((CLASSES, margins["k"] - 1, SIZE))
        weight = np.concatenate([weight[:, np.newaxis], others], axis=1)
    outputs, gradients = run(margin_symbol(**margins), embedding=embedding, fc7_weight=weight, softmax_label=label)

    def loss(embedding=embedding, weight=weight):
        return cross_entropy(margin_logits(embedding, weight, label, **margins), label)

    assert_classifies(outputs, embedding, margin_logits(embedding, weight, label, **margins), label)
    assert relative_error(gradients["embedding"], numeric_gradient(lambda x: loss(embedding=x), embedding)) < 1e-4
    assert relative_error(gradients["fc7_weight"], numeric_gradient(lambda x: loss(weight=x), weight)) < 1e-4


def assert_classifies(outputs, embedding, logits, label):
    """Embedding, probabilities, mean cross-entropy, in this order."""
    found_embedding, probabilities, ce_loss = outputs
    np.testing.assert_array_equal(found_embedding, embedding.astype("float32"))
    np.testing.assert_allclose(probabilities, np.exp(log_softmax(logits)), rtol=1e-3, atol=1e-6)
    assert ce_loss.shape == (1,)
    assert ce_loss[0] == pytest.approx(cross_entropy(logits, label), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "reference", "alpha"),
    [("triplet", triplet_loss, 0.3), ("atriplet", angular_triplet_loss, 0.35)],
)
def test_triplets_against_numpy(name, reference, alpha):
    embedding = np.random.default_rng(5).standard_normal((24, SIZE))
    embedding[8:12] = embedding[:4] + 0.1 * embedding[8:12]  # four positives so near that their triplets are done
    label = np.arange(24.0)
    symbol = TRIPLETS[name](mx.sym.Variable("embedding"), alpha=alpha)
    (found_embedding, found_label, loss), gradients = run(symbol, embedding=embedding, softmax_label=label)
    np.testing.assert_array_equal(found_embedding, embedding.astype("float32"))
    np.testing.assert_array_equal(found_label, label)
    assert loss.shape == (1,)
    assert loss[0] == pytest.approx(reference(embedding, alpha), rel=1e-5)
    expected = numeric_gradient(lambda x: reference(x, alpha), embedding)
    done = [row for row in range(8) if not expected[[row, row + 8, row + 16]].any()]
    assert 0 < len(done) < 8
    assert relative_error(gradients["embedding"], expected) < 1e-4
    assert not gradients["embedding"][done].any()


def test_classifiers_call_their_outputs_the_same():
    for symbol in (class_losses.softmax(mx.sym.Variable("embedding"), SIZE, CLASSES), margin_symbol(s=64.0, m2=0.5)):
        assert symbol.list_outputs()[1:] == ["softmax_output", "ce_loss_output"]
        assert symbol.infer_shape(embedding=(3, SIZE))[1] == [(3, SIZE), (3, CLASSES), (1,)]


def test_ce_loss_can_be_left_out(problem):
    embedding, weight, label = problem
    inputs = {"embedding": embedding, "fc7_weight": weight, "softmax_label": label}
    for build, more in (
        (class_losses.softmax, {"no_bias": True}),
        (class_losses.margin_softmax, {"s": 64.0, "m2": 0.5}),
    ):
        with_loss, without = (
            run(build(mx.sym.Variable("embedding"), SIZE, CLASSES, ce_loss=ce_loss, **more), **inputs)
            for ce_loss in (True, False)
        )
        assert len(with_loss[0]) == 3 and len(without[0]) == 2
        for one, other in zip(with_loss[0], without[0]):
            np.testing.assert_array_equal(one, other)
        for name in with_loss[1]:
            np.testing.assert_array_equal(with_loss[1][name], without[1][name])


def test_class_weights_carry_their_settings():
    for build, more in ((class_losses.softmax, {}), (class_losses.margin_softmax, {"s": 64.0})):
        symbol = build(mx.sym.Variable("embedding"), SIZE, CLASSES, lr_mult=0.5, wd_mult=10.0, **more)
        attributes = symbol.attr_dict()
        assert (attributes["fc7_weight"]["__lr_mult__"], attributes["fc7_weight"]["__wd_mult__"]) == ("0.5", "10.0")
        assert attributes["fc7_weight"]["__init__"] == mx.init.Normal(0.01).dumps()
        assert dict(zip(symbol.list_arguments(), symbol.infer_shape(embedding=(2, SIZE))[0]))["fc7_weight"] == (
            CLASSES,
            SIZE,
        )
    bias = class_losses.softmax(mx.sym.Variable("embedding"), SIZE, CLASSES).attr_dict()["fc7_bias"]
    assert (bias["__lr_mult__"], bias["__wd_mult__"]) == ("2.0", "0.0")


@pytest.mark.parametrize("margins", MARGINS.values(), ids=MARGINS)
@pytest.mark.parametrize("cosine", [1, -1])
def test_exactly_at_and_opposite_the_class_is_finite(margins, cosine):
    """arccos has no slope there, and rounding may even pass 1."""
    weight = np.random.default_rng(7).standard_normal((CLASSES, SIZE))
    label = np.arange(CLASSES)
    for length in (1e-3, 1, 3, 1e3):
        outputs, gradients = run(
            margin_symbol(**margins), embedding=cosine * length * weight, fc7_weight=weight, softmax_label=label
        )
        assert all(np.isfinite(array).all() for array in [*outputs, *gradients.values()])


def test_one_class_of_sub_centers_learns_nothing_and_is_finite():
    weight = np.random.default_rng(7).standard_normal((1, 3, SIZE))
    for embedding in (np.zeros((1, SIZE)), weight[:, 0], -weight[:, 0]):
        outputs, gradients = run(
            margin_symbol(1, s=16.0, m2=0.5, k=3, filter_threshold=0.1),
            embedding=embedding, fc7_weight=weight, softmax_label=np.zeros(1),
        )  # fmt: skip
        assert abs(outputs[-1]) < 1e-5 and not any(gradient.any() for gradient in gradients.values())


def test_where_every_other_class_is_filtered_nothing_is_learned():
    embedding, weight = np.array([[1.0, 1.0]]), np.array([[1.0, 1.1], [1, 0.9], [1.0, 1.0]])
    symbol = margin_symbol(3, 2, s=64.0, m2=0.5, filter_threshold=0.4)
    outputs, gradients = run(symbol, embedding=embedding, fc7_weight=weight, softmax_label=np.zeros(1))
    assert abs(outputs[-1]) < 1e-5 and not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("name", TRIPLETS)
def test_triplets_of_equal_and_opposite_faces_are_finite(name):
    face = np.random.default_rng(7).standard_normal((1, SIZE))
    symbol = TRIPLETS[name](mx.sym.Variable("embedding"), alpha=0.3)
    for signs in ((1, 1, 1), (1, -1, 1), (1, 1, -1), (1, -1, -1)):
        embedding = np.concatenate([sign * face for sign in signs])
        (_, _, loss), gradients = run(symbol, embedding=embedding, softmax_label=np.zeros(3))
        assert np.isfinite(loss).all() and np.isfinite(gradients["embedding"]).all()


@pytest.mark.parametrize(
    "margins", [{"m2": 0.5}, {"m2": 1.5}, {"m1": 1.35}, {"m1": 4.0}, {"m1": 0.9, "m2": 0.4, "m3": 0.15}]
)
def test_loss_rises_with_the_angle_beyond_pi(margins):
    """From the class's own direction to the opposite one; the other class stays at a right angle throughout."""
    angles = np.linspace(0, np.pi, 64)
    embedding = np.stack([np.cos(angles), np.sin(angles), np.zeros(64)], axis=1)
    weight = np.array([[1.0, 0, 0], [0, 0, 1]])
    symbol = margin_symbol(num_classes=2, size=3, s=4.0, **margins)
    found = [
        run(symbol, embedding=face[np.newaxis], fc7_weight=weight, softmax_label=np.zeros(1))[0][2][0]
        for face in embedding
    ]
    assert (np.diff(found) > 0).all()


def test_cross_entropy_where_the_probability_is_zero():
    """Opposite to the own class and right at the other one: e^-128 is no float32."""
    embedding, weight = np.array([[-1.0, 0]]), np.array([[1.0, 0], [-1, 0]])
    (_, probabilities, ce_loss), gradients = run(
        margin_symbol(num_classes=2, size=2, s=64.0), embedding=embedding, fc7_weight=weight, softmax_label=np.zeros(1)
    )
    np.testing.assert_array_equal(probabilities, [[0, 1]])
    assert ce_loss[0] == pytest.approx(128, rel=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_cross_entropy_where_all_others_have_probability_zero():
    embedding, weight = np.array([[1.0, 0]]), np.array([[1.0, 0], [-1, 0]])
    (_, probabilities, ce_loss), _ = run(
        margin_symbol(num_classes=2, size=2, s=64.0), embedding=embedding, fc7_weight=weight, softmax_label=np.zeros(1)
    )
    np.testing.assert_array_equal(probabilities, [[1, 0]])
    assert ce_loss[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("scale", [1, 1e3, 1e30])
def test_cross_entropy_is_the_exact_log_softmax(scale):
    random = np.random.default_rng(9)
    embedding = random.standard_normal((4, SIZE)).astype("float32")
    weight, label = (scale * random.standard_normal((CLASSES, SIZE))).astype("float32"), np.array([0, 1, 2, 4])
    symbol = class_losses.softmax(mx.sym.Variable("embedding"), SIZE, CLASSES, no_bias=True)
    (_, _, ce_loss), _ = run(symbol, embedding=embedding, fc7_weight=weight, softmax_label=label)
    expected = cross_entropy(embedding.astype("float64") @ weight.T.astype("float64"), label)
    assert ce_loss[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("margins", MARGINS.values(), ids=MARGINS)
def test_embedding_of_zeros_is_finite(problem, margins):
    _, weight, label = problem
    outputs, gradients = run(
        margin_symbol(**margins), embedding=np.zeros((7, SIZE)), fc7_weight=weight, softmax_label=label
    )
    assert all(np.isfinite(array).all() for array in [*outputs, *gradients.values()])


@pytest.mark.parametrize("name", TRIPLETS)
def test_triplet_of_zeros_is_finite(name):
    symbol = TRIPLETS[name](mx.sym.Variable("embedding"), alpha=0.3)
    (_, _, loss), gradients = run(symbol, embedding=np.zeros((3, SIZE)), softmax_label=np.zeros(3))
    assert loss[0] == pytest.approx(0.3) and np.isfinite(gradients["embedding"]).all()


@pytest.mark.parametrize("name", ["softmax", "arcface", *TRIPLETS])
def test_feature_maps_are_flattened(name):
    """A head without an embedding size (Z) gives (N, C, h, w); the loss is that of the C h w values in a row."""
    random = np.random.default_rng(11)
    maps, weight = random.standard_normal((6, 3, 2, 2)), random.standard_normal((CLASSES, 12))
    variable = mx.sym.Variable("embedding")
    inputs = {"softmax_label": np.arange(6) % CLASSES}
    if name in TRIPLETS:
        symbol = TRIPLETS[name](variable, alpha=0.3)
    else:
        inputs["fc7_weight"] = weight
        symbol = (
            class_losses.softmax(variable, 12, CLASSES, no_bias=True)
            if name == "softmax"
            else margin_symbol(size=12, **MARGINS["arcface"])
        )
    outputs, gradients = run(symbol, embedding=maps, **inputs)
    flat_outputs, flat_gradients = run(symbol, embedding=maps.reshape(6, 12), **inputs)
    assert outputs[0].shape == (6, 3, 2, 2)
    np.testing.assert_array_equal(outputs[-1], flat_outputs[-1])
    np.testing.assert_array_equal(gradients["embedding"].reshape(6, 12), flat_gradients["embedding"])


def test_labels_of_every_class_are_accepted():
    losses.check_labels(np.arange(CLASSES, dtype="float32"), CLASSES)
    losses.check_labels(np.array([0, 4, 4, 0]), CLASSES)
    losses.check_labels(np.array([], "float32"), CLASSES)


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (-1, "-1"),
        (CLASSES, "5"),
        (1.5, "1.5"),
        (np.nan, "nan"),
        (np.inf, "inf"),
        (-0.25, "-0.25"),
        (1234567, "1234567"),
    ],
)
def test_labels_without_a_class_are_refused(label, shown):
    with pytest.raises(InputError) as caught:
        losses.check_labels(np.array([0, 1, label, -7], "float32"), CLASSES)
    assert str(caught.value) == f"label {shown} is not one of the 5 classes (0 to 4)"
