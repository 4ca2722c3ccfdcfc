"""The only door to ``config`` and the network families, which live outside the library, beside ``train.py``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path

from easydict import EasyDict

from denseface.core.errors import InputError
from denseface.models import losses, plugins
from denseface.models.symbol_file import infer_shapes

import mxnet as mx

_CHECKOUT = Path(__file__).resolve().parents[2]


# Keys of InsightFace's configuration that no file of this project reads, but InsightFace's own network files do.
_INSIGHTFACE_KEYS = {"fp16": False, "memonger": False}


def configure(
    network: str,
    dataset: str,
    loss: str,
    assignments: Iterable[str] = (),
    networks_file: str | Path | None = None,
) -> tuple[EasyDict, EasyDict]:
    """Fill the configuration for one network, data set and loss.

    Parameters
    ----------
    network, dataset, loss : str
        Names in the tables of ``config.py``.
    assignments : iterable of str
        ``key=value`` texts that override single keys.
    networks_file : str or Path, optional
        JSON file of more networks; see :func:`denseface.models.plugins.read_networks`.

    Returns
    -------
    config, default : EasyDict
        What the model is, and what the command line's flags start from; the same objects at every call.

    Raises
    ------
    InputError
        For an unknown name or key, a value that does not fit its key, or a file of networks that cannot be used.
    """
    configuration = _import("config")
    networks = {}
    if networks_file:
        usual_config, usual_default = configuration.PRISTINE
        networks = plugins.read_networks(networks_file, known={**usual_config, **usual_default})
        for name in networks.keys() & configuration.network.keys():
            raise InputError(f"{networks_file}: {name} is a network of config.py; take another name")
    try:
        configuration.generate_config(network, dataset, loss, networks)
        configuration.override(assignments)
    except ValueError as error:
        raise InputError(str(error)) from error
    return configuration.config, configuration.default


def embedding_symbol(folder: str | Path | None = None) -> mx.sym.Symbol:
    """Build the network that the configuration describes.

    Parameters
    ----------
    folder : str or Path, optional
        Folder of network files from elsewhere; one that is called as the family is taken before this project's own.
        See :func:`denseface.models.plugins.build`.

    Returns
    -------
    Symbol
        ``fc1_output``, the embedding of the input ``data``.

    Raises
    ------
    InputError
        For an unknown family, depth, activation or head, or a file in the folder that does not work.
    """
    config, families = _import("config").config, _import("symbol")
    if folder:
        files = plugins.python_files(folder)
        if config.net_name in files:
            config.update({key: value for key, value in _INSIGHTFACE_KEYS.items() if key not in config})
            return plugins.build(files[config.net_name])
        if config.net_name not in families.FAMILIES:
            there = [name for name, path in files.items() if b"get_symbol" in path.read_bytes()]
            raise InputError(
                f"net_name: no network family {config.net_name!r}; there are {', '.join(families.FAMILIES)}, "
                f"and in {folder} {', '.join(there) or 'none'}"
            )
    try:
        return families.get_symbol(config.net_name)
    except ValueError as error:
        raise InputError(str(error)) from error


def training_symbol(embedding: mx.sym.Symbol, num_classes: int | None = None) -> mx.sym.Symbol:
    """Put the loss that the configuration describes on an embedding.

    Parameters
    ----------
    embedding : Symbol
        The network.
    num_classes : int, optional
        Classes of a softmax; those of the configuration by default.

    Returns
    -------
    Symbol
        Group of embedding, prediction and loss; see :mod:`denseface.models.losses`.

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
        "num_classes": num_classes or config.num_classes,
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
        _, (shape,) = infer_shapes(embedding, "the network", data=(1, channels, height, width))
    except InputError as error:
        raise InputError(
            f"image_shape: the network cannot take pictures of {height}x{width}x{channels}; it is made for 112,112,3"
        ) from error
    return math.prod(shape[1:])


def initializer() -> mx.init.Initializer:
    """InsightFace's choice for the configured family: normal by fan-out for two, uniform by fan-in for all others."""
    if _import("config").config.net_name in ("fresnet", "fmobilefacenet"):
        return mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)
    return mx.init.Xavier(rnd_type="uniform", factor_type="in", magnitude=2)


def _import(name):
    """Import ``config`` or ``symbol`` from the checkout."""
    if not (_CHECKOUT / "config.py").is_file():
        raise InputError("networks by name need config.py and symbol/, which are in a checkout: run from there")
    if str(_CHECKOUT) not in sys.path:
        sys.path.insert(0, str(_CHECKOUT))
    return __import__(name)
