"""AdaFace: the margin of a face depends on the length of its embedding, which stands for the picture's quality."""

from __future__ import annotations

from denseface.models.graph import Node, make_symbol
from denseface.models.losses import Margin, angle_of, psi

import mxnet as mx

# Names of the averages' states, and their values before the first step: those of the authors' release, with which the
# margins of all pictures are alike at first.
_MEAN = ("adaface_norm_mean", 20.0)
_DEVIATION = ("adaface_norm_deviation", 100.0)
_SHORTEST, _LONGEST = 0.001, 100.0
_EPS = 0.001


def adaface_margin(embedding: mx.sym.Symbol, *, m: float = 0.4, h: float = 0.333, t_alpha: float = 0.01) -> Margin:
    r"""Return a margin that adapts to the picture, as a function of cosines (Kim et al. 2022, AdaFace).

    The cosine of the true class becomes cos(theta + g_angle) - g_add, with

    .. math:: g_{angle} = -m \hat z, \quad g_{add} = m \hat z + m, \quad
        \hat z = \left[ \frac{|z| - \mu}{\sigma / h} \right]_{-1}^{1}

    mu and sigma are exponential moving averages of the mean and the standard deviation of the lengths \|z\| of a batch.
    A short embedding, of a picture that shows little, gets ArcFace's margin (z = -1: m on the angle, 0 on the cosine),
    one of usual length CosFace's (z = 0: 0 and m), and a long one is drawn by -m on the angle and 2m on the cosine
    (z = 1): hard faces count more in clear pictures than in poor ones. No gradient passes through the lengths.

    The defaults of m, h and t_alpha, the cut of lengths to 0.001 ... 100 and the first values of the averages are those
    of the authors' release. Three things differ from it. The angle with its margin stays above 0 as there, but beyond
    pi it continues as in :func:`denseface.models.losses.combined_margin` instead of stopping. The deviation is that of
    the population, not of a sample, so that a batch of one has it too: 0. Several devices and workers each measure
    their own share of a batch, and the averages are averaged after the step.

    Parameters
    ----------
    embedding : Symbol
        (N, size); longer shapes are flattened.
    m : float
        Margin.
    h : float
        How fast the margin changes with the length: it is at its limits from a distance of sigma / h to mu.
    t_alpha : float
        Weight of a batch in the moving averages, 0 to 1. The paper gives the momentum, 0.99.

    Returns
    -------
    callable
        For :func:`denseface.models.losses.cosine_softmax`. mu and sigma are the auxiliary states
        ``adaface_norm_mean`` and ``adaface_norm_deviation``, (1,); every forward pass updates them.
    """
    squared = mx.sym.sum(mx.sym.square(mx.sym.Flatten(embedding)), axis=1)
    length = mx.sym.BlockGrad(mx.sym.clip(mx.sym.sqrt(squared), _SHORTEST, _LONGEST))  # (N,)
    mean = mx.sym.mean(length)
    deviation = mx.sym.sqrt(mx.sym.mean(mx.sym.square(mx.sym.broadcast_sub(length, mean))))
    mu = _moving_average(mean, t_alpha, *_MEAN)
    sigma = _moving_average(deviation, t_alpha, *_DEVIATION)
    scaled = mx.sym.broadcast_div(mx.sym.broadcast_sub(length, mu), sigma + _EPS) * h
    quality = mx.sym.clip(scaled, -1, 1)

    def margin(cosine: mx.sym.Symbol) -> mx.sym.Symbol:
        angle = mx.sym.maximum(angle_of(cosine) - m * quality, 0)
        return psi(angle) - (m * quality + m)

    return margin


def _moving_average(value: mx.sym.Symbol, weight: float, name: str, first: float) -> mx.sym.Symbol:
    """Move the state of this name towards a batch's value, (1,), in every forward pass, and return it.

    MXNet's update of SGD with momentum is the one operator that keeps such an average: with zeros for the parameter it
    sets state = momentum * state - rate * value, and returns the state. Its inputs have no names, which symbols'
    functions need, so the operator is made as a node.
    """
    averaged, state = Node("null", "value"), Node("null", "state")
    zeros = Node("zeros_like", f"{name}_zeros", {}, [(averaged, 0)])
    attrs = {"lr": str(-weight), "momentum": str(1 - weight), "wd": "0"}
    update = Node("sgd_mom_update", f"{name}_next", attrs, [(zeros, 0), (averaged, 0), (state, 0)])
    average = make_symbol([(update, 0)])
    kept = mx.sym.Variable(name, shape=(1,), init=mx.init.Constant(first), stype="default")
    return mx.sym.BlockGrad(average(value=value, state=kept))
