"""The loss of a student that learns a teacher's embeddings, put on an embedding as :mod:`denseface.models.losses`."""

from __future__ import annotations

import mxnet as mx

TEACHER_INPUT = "teacher_embedding"
INPUTS = ("data", "softmax_label", TEACHER_INPUT)  # of training symbols; their other variables are parameters


def with_teacher(
    embedding: mx.sym.Symbol,
    embedding_size: int,
    teacher_size: int,
    *,
    weight: float,
    class_loss: mx.sym.Symbol | None = None,
) -> mx.sym.Symbol:
    r"""Add the distance to a teacher's embedding to a loss, or make it the only one.

    The loss of one picture with embedding e and the teacher's embedding t is

    .. math:: w (1 - \cos(W e, t)) = \frac{w}{2} \left\| \frac{W e}{|W e|} - \frac{t}{|t|} \right\|^2

    This is the squared error of FitNets (Romero et al. 2015, eq. 3, with a linear regressor W), of directions alone,
    because faces are compared by cosines (Wang et al. 2021, "In Defense of Feature Mimicking for Knowledge
    Distillation"). Where student and teacher have the same width there is no W, and a trained student can be compared
    with its teacher's embeddings.

    Parameters
    ----------
    embedding : Symbol
        The student's, (N, embedding_size); longer shapes are flattened.
    embedding_size, teacher_size : int
        Values in an embedding of the student and of the teacher. If they differ, the layer ``teacher_fc`` leads from
        one to the other. It is not part of the embedding.
    weight : float
        The factor w, above 0.
    class_loss : Symbol, optional
        Group of a function in :mod:`denseface.models.losses`, to which this loss is added.

    Returns
    -------
    Symbol
        Group of the embedding, the prediction of ``class_loss`` (without one, the labels (N,) unchanged), the loss of
        ``class_loss`` if it has one, the mean of the loss above, (1,), and last, for reading, the sum of both. The
        input ``teacher_embedding`` is t / |t|, (N, teacher_size); zeros stand for a picture that teaches nothing.
    """
    given = mx.sym.Variable(TEACHER_INPUT)
    mapped = mx.sym.Flatten(embedding)
    if embedding_size != teacher_size:
        mapped = mx.sym.FullyConnected(mapped, num_hidden=teacher_size, no_bias=True, name="teacher_fc")
    direction = mx.sym.L2Normalization(mapped, mode="instance")
    distance = mx.sym.sum(mx.sym.square(given), axis=1) - mx.sym.sum(direction * given, axis=1)
    loss = mx.sym.MakeLoss(mx.sym.mean(distance) * weight, name="teacher_loss")
    if class_loss is None:
        label = mx.sym.Variable("softmax_label")
        return mx.sym.Group([mx.sym.BlockGrad(embedding), mx.sym.BlockGrad(label), loss])
    outputs = list(class_loss)
    if len(outputs) > 2:
        outputs += [loss, mx.sym.BlockGrad(outputs[2] + loss, name="total_loss")]
    else:
        outputs.append(loss)
    return mx.sym.Group(outputs)
