"""Training losses as MXNet symbols, put on top of an embedding.

Each function returns a group of three outputs in InsightFace's order: the embedding, the prediction, the loss. The
embedding and a softmax's cross-entropy are there to be read; they send no gradient back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError

import mxnet as mx

CLASS_CENTERS = "fc7_weight"
# Takes the cosines of the true classes, (N,), and returns what takes their place.
Margin = Callable[[mx.sym.Symbol], mx.sym.Symbol]

_COS_LIMIT = 1 - 1e-6  # arccos has no finite slope at 1
_IMPOSSIBLE = -1e6  # a logit whose probability is 0


class ClassCenters(NamedTuple):
    """The classifier's weight ``fc7_weight``: a center for each class, or several.

    Attributes
    ----------
    num_classes : int
        Number of identities; labels run from 0 to ``num_classes - 1``.
    size : int
        Values of one embedding.
    k : int
        Centers per class (Deng et al. 2020, "Sub-center ArcFace"): mislabeled and unusual faces gather at centers of
        their own. A class's cosine is the largest of theirs; where several are equally near, all of them move.
    lr_mult, wd_mult : float
        Factors on the learning rate and the weight decay.
    """

    num_classes: int
    size: int
    k: int = 1
    lr_mult: float = 1.0
    wd_mult: float = 1.0

    def weight(self) -> mx.sym.Symbol:
        """Return the variable: (num_classes, size), or (num_classes, k, size)."""
        return mx.sym.Variable(
            CLASS_CENTERS,
            shape=(self.num_classes, self.size) if self.k == 1 else (self.num_classes, self.k, self.size),
            lr_mult=self.lr_mult,
            wd_mult=self.wd_mult,
            init=mx.init.Normal(0.01),
        )

    def cosines(self, embedding: mx.sym.Symbol, s: float) -> mx.sym.Symbol:
        """Return the cosines of embeddings with classes, multiplied by ``s``: (N, num_classes)."""
        weight = self.weight()
        flat = mx.sym.reshape(weight, (-1, self.size)) if self.k > 1 else weight
        centers = mx.sym.L2Normalization(flat, mode="instance")
        direction = mx.sym.L2Normalization(mx.sym.Flatten(embedding), mode="instance", name="fc1n")
        rows = self.num_classes * self.k
        fc7 = mx.sym.FullyConnected(direction * s, weight=centers, num_hidden=rows, no_bias=True, name="fc7")
        return fc7 if self.k == 1 else mx.sym.max(mx.sym.reshape(fc7, (-1, self.num_classes, self.k)), axis=2)


def softmax(
    embedding: mx.sym.Symbol, centers: ClassCenters, *, no_bias: bool = False, ce_loss: bool = True
) -> mx.sym.Symbol:
    """Softmax over a fully connected layer ``fc7``.

    Parameters
    ----------
    embedding : Symbol
        (N, size); longer shapes are flattened.
    centers : ClassCenters
        Its weight, with k = 1.
    no_bias : bool
        Leave out ``fc7_bias``.
    ce_loss : bool
        Add the third output.

    Returns
    -------
    Symbol
        Group of the embedding (N, size), the probabilities (N, num_classes), and the mean cross-entropy (1,) in nats.
        The input for labels is ``softmax_label``, (N,).
    """
    weight = centers.weight()
    bias = {} if no_bias else {"bias": mx.sym.Variable("fc7_bias", lr_mult=2.0, wd_mult=0.0)}
    classes = centers.num_classes
    fc7 = mx.sym.FullyConnected(embedding, weight=weight, num_hidden=classes, no_bias=no_bias, name="fc7", **bias)
    return _with_cross_entropy(embedding, fc7, mx.sym.Variable("softmax_label"), ce_loss)


def cosine_softmax(
    embedding: mx.sym.Symbol,
    centers: ClassCenters,
    *,
    s: float,
    margin: Margin | None = None,
    filter_threshold: float = 0.0,
    ce_loss: bool = True,
) -> mx.sym.Symbol:
    """Softmax over cosines, with any margin on the true class.

    Parameters
    ----------
    embedding, ce_loss
        As for :func:`softmax`.
    centers : ClassCenters
        What faces are compared with.
    s : float
        Scale of the logits.
    margin : callable, optional
        Takes the cosines of the true classes, (N,), and returns what takes their place. By default nothing does.
    filter_threshold : float
        Other classes whose cosine with a face is larger take no part in its softmax (An et al. 2022, "Killing Two Birds
        with One Stone", with a threshold of 0.4): the face may be one of theirs. InsightFace sets such a cosine to 0
        instead, so that next to nothing of the class is left. 0 turns the filter off.

    Returns
    -------
    Symbol
        As for :func:`softmax`.
    """
    label = mx.sym.Variable("softmax_label")
    fc7 = centers.cosines(embedding, s)
    on_target = mx.sym.one_hot(label, depth=centers.num_classes)
    if filter_threshold:
        filtered = (fc7 > filter_threshold * s) * (1 - on_target)
        fc7 = mx.sym.where(filtered, mx.sym.zeros_like(fc7) + _IMPOSSIBLE, fc7)
    if margin:
        cosine = mx.sym.pick(fc7, label, axis=1) / s  # (N,)
        change = margin(cosine) - cosine
        fc7 = fc7 + mx.sym.broadcast_mul(on_target, mx.sym.expand_dims(change * s, axis=1))
    return _with_cross_entropy(embedding, fc7, label, ce_loss)


def combined_margin(m1: float = 1.0, m2: float = 0.0, m3: float = 0.0) -> Margin | None:
    r"""Return the margin of SphereFace, ArcFace and CosFace together, as a function of cosines; None without any.

    The cosine of the true class y becomes

    .. math:: \psi(m_1 \theta_y + m_2) - m_3, \quad \psi(t) = (-1)^n \cos t - 2n, \; n = \lfloor t / \pi \rfloor

    (Deng et al. 2019, ArcFace, eq. 4). psi is the cosine up to pi and keeps falling beyond it (Liu et al. 2017,
    SphereFace, section 3.2), so that a larger angle is never rewarded.

    Parameters
    ----------
    m1, m2, m3 : float
        A factor on the angle (SphereFace), a term on the angle in radians (ArcFace), a term on the cosine (CosFace).
    """
    if (m1, m2, m3) == (1.0, 0.0, 0.0):
        return None

    def margin(cosine: mx.sym.Symbol) -> mx.sym.Symbol:
        return (cosine if (m1, m2) == (1.0, 0.0) else psi(angle_of(cosine) * m1 + m2)) - m3

    return margin


def angle_of(cosine: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return the angle of a cosine, with a finite slope everywhere: it stops 0.0014 short of 0 and pi."""
    return mx.sym.arccos(mx.sym.clip(cosine, -_COS_LIMIT, _COS_LIMIT))


def psi(angle: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return the cosine of an angle from 0, continued beyond pi so that it keeps falling; see `combined_margin`."""
    turns = mx.sym.floor(angle / math.pi)
    sign = 1 - 2 * (turns - 2 * mx.sym.floor(turns / 2))
    return sign * mx.sym.cos(angle) - 2 * turns


def triplet(embedding: mx.sym.Symbol, *, alpha: float) -> mx.sym.Symbol:
    """Triplet loss on squared distances (Schroff et al. 2015, FaceNet), averaged instead of summed.

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

    def squared_distance(a: mx.sym.Symbol, b: mx.sym.Symbol) -> mx.sym.Symbol:
        return mx.sym.sum(mx.sym.square(a - b), axis=1)

    return _with_triplet_loss(embedding, squared_distance, alpha)


def angular_triplet(embedding: mx.sym.Symbol, *, alpha: float) -> mx.sym.Symbol:
    """Triplet loss on angles, margin ``alpha`` in radians; otherwise as :func:`triplet` (InsightFace's "atriplet")."""

    def angle(a: mx.sym.Symbol, b: mx.sym.Symbol) -> mx.sym.Symbol:
        return angle_of(mx.sym.sum(a * b, axis=1))

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


def _with_cross_entropy(
    embedding: mx.sym.Symbol, logits: mx.sym.Symbol, label: mx.sym.Symbol, ce_loss: bool
) -> mx.sym.Symbol:
    outputs = [
        mx.sym.BlockGrad(embedding),
        mx.sym.SoftmaxOutput(logits, label=label, normalization="valid", name="softmax"),
    ]
    if ce_loss:
        log_probability = mx.sym.pick(mx.sym.log_softmax(logits), label, axis=1)
        outputs.append(mx.sym.BlockGrad(0 - mx.sym.mean(log_probability), name="ce_loss"))
    return mx.sym.Group(outputs)


def _with_triplet_loss(
    embedding: mx.sym.Symbol, distance: Callable[[mx.sym.Symbol, mx.sym.Symbol], mx.sym.Symbol], alpha: float
) -> mx.sym.Symbol:
    direction = mx.sym.L2Normalization(mx.sym.Flatten(embedding), mode="instance", name="fc1n")
    anchor, positive, negative = mx.sym.split(direction, num_outputs=3, axis=0)
    excess = distance(anchor, positive) - distance(anchor, negative) + alpha
    loss = mx.sym.mean(mx.sym.relu(excess))
    label = mx.sym.Variable("softmax_label")
    return mx.sym.Group(
        [mx.sym.BlockGrad(embedding), mx.sym.BlockGrad(label), mx.sym.MakeLoss(loss, name="triplet_loss")]
    )
