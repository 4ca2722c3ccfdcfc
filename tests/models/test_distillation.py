"""The loss of a student against NumPy, alone and beside another loss."""

import numpy as np
import pytest

from denseface.models import losses
from denseface.models.distillation import with_teacher
from support import class_losses
from support.helpers import relative_error
from support.symbols import numeric_gradient, run, unit

import mxnet as mx

SIZE = 4
VARIABLE = mx.sym.Variable("embedding")
EMBEDDING = np.random.default_rng(0).standard_normal((5, SIZE))


def problem(teacher_size, **more):
    """Symbol, inputs, and the loss as a function of the same arrays."""
    random = np.random.default_rng(1)
    given = unit(random.standard_normal((5, teacher_size)))
    given[-1] = 0
    inputs = {"embedding": EMBEDDING, "teacher_embedding": given}
    if teacher_size != SIZE:
        inputs["teacher_fc_weight"] = random.standard_normal((teacher_size, SIZE))

    def loss(embedding, layer=None):
        layer = np.eye(SIZE) if layer is None else layer
        return 3.0 * (1 - (unit(embedding @ layer.T) * given).sum(axis=1))[:-1].sum() / 5

    return with_teacher(VARIABLE, SIZE, teacher_size, weight=3.0, **more), inputs, loss


@pytest.mark.parametrize("teacher_size", [3, SIZE, 7])
def test_the_loss_is_the_distance_of_directions(teacher_size):
    """The last picture has no teaching and so no gradient."""
    symbol, inputs, loss = problem(teacher_size)
    layer = inputs.get("teacher_fc_weight", np.eye(SIZE))
    (embedding, label, found), gradients = run(symbol, softmax_label=np.arange(5.0), **inputs)
    np.testing.assert_array_equal(embedding, EMBEDDING.astype("float32"))
    np.testing.assert_array_equal(label, np.arange(5))
    assert found == pytest.approx(loss(EMBEDDING, layer), rel=1e-5)
    expected = numeric_gradient(lambda x: loss(x, layer), EMBEDDING)
    assert relative_error(gradients["embedding"], expected) < 1e-4 and not gradients["embedding"][-1].any()
    if teacher_size != SIZE:
        expected = numeric_gradient(lambda x: loss(EMBEDDING, x), layer)
        assert relative_error(gradients["teacher_fc_weight"], expected) < 1e-4


@pytest.mark.parametrize("ce_loss", [True, False])
def test_beside_a_class_loss_both_gradients_add_up(ce_loss):
    class_loss = class_losses.margin_softmax(VARIABLE, SIZE, 3, s=8.0, m2=0.3, ce_loss=ce_loss)
    more = {"fc7_weight": np.random.default_rng(2).standard_normal((3, SIZE)), "softmax_label": np.arange(5) % 3}
    symbol, inputs, loss = problem(7, class_loss=class_loss)
    outputs, gradients = run(symbol, **inputs, **more)
    class_outputs, class_gradients = run(class_loss, embedding=EMBEDDING, **more)
    taught = run(problem(7)[0], softmax_label=np.zeros(5), **inputs)[1]
    np.testing.assert_array_equal(outputs[1], class_outputs[1])
    np.testing.assert_array_equal(gradients["fc7_weight"], class_gradients["fc7_weight"])
    both = class_gradients["embedding"] + taught["embedding"]
    np.testing.assert_allclose(gradients["embedding"], both, rtol=1e-5, atol=1e-7)
    total = loss(EMBEDDING, inputs["teacher_fc_weight"]) + (class_outputs[2] if ce_loss else 0)
    assert outputs[-1] == pytest.approx(total, rel=1e-5)


def test_an_embedding_of_zeros_is_finite():
    symbol, inputs, _ = problem(7)
    outputs, gradients = run(symbol, softmax_label=np.zeros(5), **{**inputs, "embedding": 0 * EMBEDDING})
    assert all(np.isfinite(array).all() for array in [*outputs, *gradients.values()])


def test_beside_triplets_both_gradients_add_up():
    random = np.random.default_rng(3)
    embedding, label = random.standard_normal((6, SIZE)), np.zeros(6)
    given = unit(random.standard_normal((6, SIZE)))
    triplets = losses.triplet(VARIABLE, alpha=2.0)
    both, one, other = (
        run(symbol, embedding=embedding, softmax_label=label, **more)
        for symbol, more in (
            (with_teacher(VARIABLE, SIZE, SIZE, weight=2.0, class_loss=triplets), {"teacher_embedding": given}),
            (with_teacher(VARIABLE, SIZE, SIZE, weight=2.0), {"teacher_embedding": given}),
            (triplets, {}),
        )
    )
    expected = one[1]["embedding"] + other[1]["embedding"]
    np.testing.assert_allclose(both[1]["embedding"], expected, rtol=1e-5, atol=1e-7)
    assert both[0][-1] == pytest.approx(one[0][-1] + other[0][-1], rel=1e-5)
