"""Training losses as MXNet symbols, put on top of an embedding.

Each function returns a group of three outputs in InsightFace's order: the embedding, the prediction, the loss. The
embedding and a softmax's cross-entropy are there to be read; they send no gradient back.
"""

from __future__ import annotations

import math

import numpy as np

from denseface.core.errors import InputError

import mxnet as mx

_COS_LIMIT = 1 - 1e-6  # arccos has no finite slope at 1


def softmax(
    embedding: mx.sym.Symbol,
    embedding_size: int,
    num_classes: int,
    *,
    no_bias: bool = False,
    lr_mult: float = 1.0,
    wd_mult: float = 1.0,
    ce_loss: bool = True,
) -> mx.sym.Symbol:
    """Softmax over a fully connected layer ``fc7``.

    Parameters
    ----------
    embedding : Symbol
        (N, embedding_size); longer shapes are flattened.
    embedding_size : int
        Values of one embedding.
    num_classes : int
        Number of identities; labels run from 0 to ``num_classes - 1``.
    no_bias : bool
        Leave out ``fc7_bias``.
    lr_mult, wd_mult : float
        Factors on the learning rate and the weight decay of ``fc7_weight``.
    ce_loss : bool
        Add the third output.

    Returns
    -------
    Symbol
        Group of the embedding (N, embedding_size), the probabilities (N, num_classes), and the mean cross-entropy (1,)
        in nats. The input for labels is ``softmax_label``, (N,).
    """
    weight = _class_weight(num_classes, embedding_size, lr_mult, wd_mult)
    bias = {} if no_bias else {"bias": mx.sym.Variable("fc7_bias", lr_mult=2.0, wd_mult=0.0)}
    fc7 = mx.sym.FullyConnected(embedding, weight=weight, num_hidden=num_classes, no_bias=no_bias, name="fc7", **bias)
    return _with_cross_entropy(embedding, fc7, mx.sym.Variable("softmax_label"), ce_loss)


def margin_softmax(
    embedding: mx.sym.Symbol,
    embedding_size: int,
    num_classes: int,
    *,
    s: float,
    m1: float = 1.0,
    m2: float = 0.0,
    m3: float = 0.0,
    lr_mult: float = 1.0,
    wd_mult: float = 1.0,
    ce_loss: bool = True,
) -> mx.sym.Symbol:
    r"""Softmax over cosines, with a margin on the true class.

    The logit of class j is s cos(theta_j), and that of the true class y is

    .. math:: s (\psi(m_1 \theta_y + m_2) - m_3), \quad \psi(t) = (-1)^k \cos t - 2k, \; k = \lfloor t / \pi \rfloor

    (Deng et al. 2019, ArcFace, eq. 4). psi is the cosine up to pi and keeps falling beyond it (Liu et al. 2017,
    SphereFace, section 3.2), so that a larger angle is never rewarded.

    Parameters
    ----------
    embedding, embedding_size, num_classes, lr_mult, wd_mult, ce_loss
        As for :func:`softmax`.
    s : float
        Scale of the logits.
    m1, m2, m3 : float
        Margins: a factor on the angle (SphereFace), a term on the angle in radians (ArcFace), a term on the cosine
        (CosFace).

    Returns
    -------
    Symbol
        As for :func:`softmax`.
    """
    label = mx.sym.Variable("softmax_label")
    weight = mx.sym.L2Normalization(_class_weight(num_classes, embedding_size, lr_mult, wd_mult), mode="instance")
    direction = mx.sym.L2Normalization(mx.sym.Flatten(embedding), mode="instance", name="fc1n")
    fc7 = mx.sym.FullyConnected(direction * s, weight=weight, num_hidden=num_classes, no_bias=True, name="fc7")
    if (m1, m2, m3) != (1.0, 0.0, 0.0):
        cosine = mx.sym.pick(fc7, label, axis=1) / s  # (N,)
        change = _margin_cosine(cosine, m1, m2) - m3 - cosine
        on_target = mx.sym.one_hot(label, depth=num_classes)
        fc7 = fc7 + mx.sym.broadcast_mul(on_target, mx.sym.expand_dims(change * s, axis=1))
    return _with_cross_entropy(embedding, fc7, label, ce_loss)


def triplet(embedding: mx.sym.Symbol, *, alpha: float) -> mx.sym.Symbol:
    """Triplet loss on squared distances (Schroff et al. 2015, FaceNet, eq. 2), averaged instead of summed.

    Parameters
    ----------
    embedding : Symbol
        (3T, embedding_size): T anchors, then their T positives, then their T negatives.
    alpha : float
        Margin between the squared distances of unit vectors.

    Returns
    -------
    Symbol
        Group of the embedding, the labels (3T,) unchanged, and the loss (1,).
    """

    def squared_distance(a, b):
        return mx.sym.sum(mx.sym.square(a - b), axis=1)

    return _with_triplet_loss(embedding, squared_distance, alpha)


def angular_triplet(embedding: mx.sym.Symbol, *, alpha: float) -> mx.sym.Symbol:
    """Triplet loss on angles, margin ``alpha`` in radians; otherwise as :func:`triplet` (InsightFace's "atriplet")."""

    def angle(a, b):
        return mx.sym.arccos(mx.sym.clip(mx.sym.sum(a * b, axis=1), -_COS_LIMIT, _COS_LIMIT))

    return _with_triplet_loss(embedding, angle, alpha)


def check_labels(label: np.ndarray, num_classes: int) -> None:
    """Refuse labels without a class, before MXNet silently takes the nearest class.

    Raises
    ------
    InputError
        With the first such label's value.
    """
    wrong = label[~((label >= 0) & (label < num_classes) & (label == np.floor(label)))]
    if wrong.size:
        raise InputError(f"label {wrong[0]:.9g} is not one of the {num_classes} classes (0 to {num_classes - 1})")


def _class_weight(num_classes, embedding_size, lr_mult, wd_mult):
    """Class centres, one row per class."""
    return mx.sym.Variable(
        "fc7_weight",
        shape=(num_classes, embedding_size),
        lr_mult=lr_mult,
        wd_mult=wd_mult,
        init=mx.init.Normal(0.01),
    )


def _margin_cosine(cosine, m1, m2):
    """psi(m1 theta + m2) of the cosine of theta."""
    if (m1, m2) == (1.0, 0.0):
        return cosine
    angle = mx.sym.arccos(mx.sym.clip(cosine, -_COS_LIMIT, _COS_LIMIT)) * m1 + m2
    turns = mx.sym.floor(angle / math.pi)
    sign = 1 - 2 * (turns - 2 * mx.sym.floor(turns / 2))
    return sign * mx.sym.cos(angle) - 2 * turns


def _with_cross_entropy(embedding, logits, label, ce_loss):
    outputs = [
        mx.sym.BlockGrad(embedding),
        mx.sym.SoftmaxOutput(logits, label=label, normalization="valid", name="softmax"),
    ]
    if ce_loss:
        log_probability = mx.sym.pick(mx.sym.log_softmax(logits), label, axis=1)
        outputs.append(mx.sym.BlockGrad(0 - mx.sym.mean(log_probability), name="ce_loss"))
    return mx.sym.Group(outputs)


def _with_triplet_loss(embedding, distance, alpha):
    direction = mx.sym.L2Normalization(mx.sym.Flatten(embedding), mode="instance", name="fc1n")
    anchor, positive, negative = mx.sym.split(direction, num_outputs=3, axis=0)
    excess = distance(anchor, positive) - distance(anchor, negative) + alpha
    loss = mx.sym.mean(mx.sym.relu(excess))
    label = mx.sym.Variable("softmax_label")
    return mx.sym.Group(
        [mx.sym.BlockGrad(embedding), mx.sym.BlockGrad(label), mx.sym.MakeLoss(loss, name="triplet_loss")]
    )
