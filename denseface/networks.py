"""The only door to ``config`` and the network families, which live outside the library, beside ``train.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from easydict import EasyDict

from denseface import losses
from denseface.errors import InputError

import mxnet as mx

_CHECKOUT = Path(__file__).resolve().parent.parent


def configure(network: str, dataset: str, loss: str, assignments: Iterable[str] = ()) -> tuple[EasyDict, EasyDict]:
    """Fill the configuration for one network, data set and loss.

    Parameters
    ----------
    network, dataset, loss : str
        Names in the tables of ``config.py``.
    assignments : iterable of str
        ``key=value`` texts that override single keys.

    Returns
    -------
    config, default : EasyDict
        What the model is, and what the command line's flags start from; the same objects at every call.

    Raises
    ------
    InputError
        For an unknown name or key, or a value that does not fit its key.
    """
    configuration = _import("config")
    try:
        configuration.generate_config(network, dataset, loss)
        configuration.override(assignments)
    except ValueError as error:
        raise InputError(str(error)) from error
    return configuration.config, configuration.default


def embedding_symbol() -> mx.sym.Symbol:
    """Build the network that the configuration describes.

    Returns
    -------
    Symbol
        ``fc1_output``, the embedding of the input ``data``.

    Raises
    ------
    InputError
        For an unknown family, depth, activation or head.
    """
    config = _import("config").config
    try:
        return _import("symbol").get_symbol(config.net_name)
    except ValueError as error:
        raise InputError(str(error)) from error


def training_symbol(embedding: mx.sym.Symbol) -> mx.sym.Symbol:
    """Put the loss that the configuration describes on an embedding.

    Returns
    -------
    Symbol
        Group of embedding, prediction and loss; see :mod:`denseface.losses`.

    Raises
    ------
    InputError
        For an unknown ``loss_name``, or pictures of a size that the network cannot take.
    """
    config = _import("config").config
    if config.loss_name == "triplet":
        return losses.triplet(embedding, alpha=config.triplet_alpha)
    if config.loss_name == "atriplet":
        return losses.angular_triplet(embedding, alpha=config.triplet_alpha)
    classifier = {
        "embedding_size": embedding_size(embedding),
        "num_classes": config.num_classes,
        "lr_mult": config.fc7_lr_mult,
        "wd_mult": config.fc7_wd_mult,
        "ce_loss": config.ce_loss,
    }
    if config.loss_name == "softmax":
        return losses.softmax(embedding, no_bias=config.fc7_no_bias, **classifier)
    if config.loss_name == "margin_softmax":
        margins = {"s": config.loss_s, "m1": config.loss_m1, "m2": config.loss_m2, "m3": config.loss_m3}
        return losses.margin_softmax(embedding, **margins, **classifier)
    raise InputError(
        f"loss_name: no loss {config.loss_name!r}; there are softmax, margin_softmax, triplet and atriplet"
    )


def embedding_size(embedding: mx.sym.Symbol) -> int:
    """Number of values in one embedding of a picture of the configured ``image_shape`` (height, width, channels).

    Raises
    ------
    InputError
        If the network cannot take such pictures.
    """
    height, width, channels = _import("config").config.image_shape
    try:
        _, shapes, _ = embedding.infer_shape(data=(1, channels, height, width))
    except mx.MXNetError as error:
        raise InputError(f"image_shape: the network cannot take pictures of {height}x{width}x{channels}") from error
    return int(np.prod(shapes[0][1:]))


def initializer() -> mx.init.Initializer:
    """InsightFace's choice for the configured family: uniform by fan-in for DenseNets, normal by fan-out for others."""
    if _import("config").config.net_name == "fdensenet":
        return mx.init.Xavier(rnd_type="uniform", factor_type="in", magnitude=2)
    return mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)


def _import(name):
    """Import ``config`` or ``symbol`` from the checkout."""
    if not (_CHECKOUT / "config.py").is_file():
        raise InputError("networks by name need config.py and symbol/, which are in a checkout: run from there")
    if str(_CHECKOUT) not in sys.path:
        sys.path.insert(0, str(_CHECKOUT))
    return __import__(name)
