"""The network that every contender computes: parameters are drawn from their names, or come from a checkpoint."""

from __future__ import annotations

import zlib

import numpy as np

from denseface.models import families, losses
from denseface.models.checkpoint import Model, load_model, parse_model
from denseface.options.names import Names
from denseface.options.spec import RunSpec
from denseface.report.summary import summarize

import mxnet as mx

FACE = (3, 112, 112)
CLASSES = 1000


NETWORKS = ("d15", "d63", "d121", "d161", "d169", "d201", "r18", "r50", "y1")


def head_of(network: str, dense: str) -> str:
    """Return the head of a network: MobileFaceNet's own, which needs no dropout, or the one that is named."""
    return "GDC" if network.startswith("y") else dense


def make_model(network: str, activation: str, head: str | None = None) -> Model:
    """Build a network with parameters of typical sizes, the same in every process; or load a checkpoint.

    Parameters
    ----------
    network : str
        One of ``NETWORKS``; anything else is ``PREFIX`` or ``PREFIX,EPOCH`` of a checkpoint.
    activation : str
        ``relu`` or ``prelu``.
    head : str, optional
        By default E, and for MobileFaceNet its own.
    """
    if network not in NETWORKS:
        return load_model(*parse_model(network))
    head = head or head_of(network, "E")
    symbol = families.embedding_symbol(configured(network, activation, head))
    return random_model(symbol, f"{network} {activation} {head}")


def random_model(symbol: mx.sym.Symbol, name: str) -> Model:
    """Build a model of a symbol with parameters of typical sizes, the same in every process."""
    arguments, _, auxiliary = symbol.infer_shape(data=(1, *FACE))
    return Model(
        symbol,
        {key: _drawn(key, s) for key, s in zip(symbol.list_arguments(), arguments) if key != "data"},
        {key: _drawn(key, s) for key, s in zip(symbol.list_auxiliary_states(), auxiliary)},
        name,
        0,
    )


def macs_of(model: Model) -> int:
    """Multiply-accumulates of one picture's embedding."""
    return summarize(model.symbol, FACE, model.prefix).total.macs


def configured(network: str, activation: str, head: str, emb_size: int = 512) -> RunSpec:
    """Return the options of a network of the table."""
    settings = [f"net_act={activation}", f"net_output={head}", f"emb_size={emb_size}"]
    return families.configure(Names(network, "orl", "softmax"), settings)


def training_symbol(model: Model) -> mx.sym.Symbol:
    """The model with a softmax over ``CLASSES``."""
    return losses.softmax(model.symbol, losses.ClassCenters(CLASSES, 512), no_bias=True)


def class_weights() -> np.ndarray:
    """Weights of the softmax: float32 (CLASSES, 512)."""
    return _drawn("fc7_weight", (CLASSES, 512))


def faces(count: int) -> np.ndarray:
    """Pictures of noise: float32 (count, 3, 112, 112), 0 to 255."""
    return np.random.RandomState(0).randint(0, 256, (count, *FACE)).astype(np.float32)


def labels(count: int) -> np.ndarray:
    """Classes of the pictures: float32 (count,)."""
    return np.random.RandomState(1).randint(0, CLASSES, count).astype(np.float32)


def _drawn(name, shape):
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("_alpha"):
        value = np.full(shape, 0.25)
    elif name == "fc1_gamma":  # fixed at 1
        value = np.ones(shape)
    elif name.endswith(("_gamma", "_var")):
        value = random.uniform(0.5, 1.5, shape)
    elif name.endswith(("_beta", "_bias", "_mean")):
        value = 0.1 * random.standard_normal(shape)
    else:
        value = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return value.astype(np.float32)
