"""Networks by name: the library's only access to ``config`` and ``symbol``, which are files beside ``train.py``.

Files of network families read a global, ``config.config``. The library itself passes options as arguments, and writes
to the global only to build a network.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from denseface.core.errors import InputError
from denseface.core.files import read_input
from denseface.models import losses, plugins
from denseface.models.adaface import adaface_margin
from denseface.models.graph import Graph
from denseface.models.symbol_file import infer_shapes
from denseface.options import insightface
from denseface.options.names import Names, Tables, fill, resolve
from denseface.options.spec import RunSpec

import mxnet as mx

_MAX_SCRIPT_SIZE = 1 << 24  # bytes of a file of a network family
_CHECKOUT = Path(__file__).resolve().parents[2]
_MODULES = {"config": "config.py", "symbol_utils": "symbol_utils.py", "symbol": "symbol/__init__.py"}


def configure(names: Names, assignments: Collection[str] = (), networks_file: str | Path | None = None) -> RunSpec:
    """Make the options that names in ``config.py`` and single keys stand for.

    Parameters
    ----------
    names : Names
        Network, data set, loss and recipe.
    assignments : collection of str
        ``key=value`` texts that override single keys.
    networks_file : str or Path, optional
        JSON file of more networks.

    Raises
    ------
    InputError
        As :func:`denseface.options.names.resolve` does; or without a checkout.
    """
    return resolve(tables(), names, assignments, networks_file)


def tables() -> Tables:
    """Return the tables of ``config.py``."""
    return _module("config").tables()


def embedding_symbol(spec: RunSpec) -> mx.sym.Symbol:
    """Build a network.

    Parameters
    ----------
    spec : RunSpec
        From :func:`configure`. In ``network.symbol_path``, a folder of network files from elsewhere, a file named after
        the family is preferred to this project's own; see :func:`denseface.models.plugins.build`.

    Returns
    -------
    Symbol
        ``fc1_output``, the embedding of the input ``data``.

    Raises
    ------
    InputError
        For an unknown family, depth, activation or head, or a file in the folder that does not work.
    """
    family, folder = spec.network.net_name, spec.network.symbol_path
    own, shared = _module("symbol"), _module("config")
    files = plugins.python_files(folder) if folder else {}
    fill(shared.config, shared.default, spec)
    if family in files:
        for key, absent in insightface.KEYS.items():  # which InsightFace's own network files read
            shared.config.setdefault(key, absent.usual)
        return plugins.build(files[family])
    if folder and family not in own.FAMILIES:
        there = [name for name, path in files.items() if b"get_symbol" in read_input(path, _MAX_SCRIPT_SIZE)]
        raise InputError(
            f"net_name: no network family {family!r}; there are {', '.join(own.FAMILIES)}, "
            f"and in {folder} {', '.join(there) or 'none'}"
        )
    try:
        return own.get_symbol(family)
    except ValueError as error:
        raise InputError(str(error)) from error


def training_symbol(spec: RunSpec, embedding: mx.sym.Symbol, num_classes: int | None = None) -> mx.sym.Symbol:
    """Put the loss on an embedding; that of a teacher is not part of it.

    Parameters
    ----------
    spec : RunSpec
        From :func:`configure`.
    embedding : Symbol
        The network.
    num_classes : int, optional
        Number of classes of a softmax; by default that of the data set.

    Returns
    -------
    Symbol
        Group of embedding, prediction and loss; see :mod:`denseface.models.losses`.

    Raises
    ------
    InputError
        If the network does not work on pictures of the data set's shape.
    """
    loss = spec.loss
    if loss.loss_name == "triplet":
        return losses.triplet(embedding, alpha=loss.triplet_alpha)
    if loss.loss_name == "atriplet":
        return losses.angular_triplet(embedding, alpha=loss.triplet_alpha)
    centers = losses.ClassCenters(
        num_classes or spec.data.num_classes,
        embedding_size(embedding, spec.data.image_shape),
        k=loss.loss_k if loss.loss_name == "margin_softmax" else 1,
        lr_mult=loss.fc7_lr_mult,
        wd_mult=loss.fc7_wd_mult,
    )
    if loss.loss_name == "softmax":
        return losses.softmax(embedding, centers, no_bias=loss.fc7_no_bias, ce_loss=loss.ce_loss)
    if loss.loss_name == "margin_softmax":
        margin = losses.combined_margin(loss.loss_m1, loss.loss_m2, loss.loss_m3)
    else:
        margin = adaface_margin(embedding, m=loss.loss_m, h=loss.loss_h, t_alpha=loss.loss_t_alpha)
    threshold = loss.interclass_filtering_threshold
    return losses.cosine_softmax(
        embedding, centers, s=loss.loss_s, margin=margin, filter_threshold=threshold, ce_loss=loss.ce_loss
    )


def embedding_size(embedding: mx.sym.Symbol, image_shape: tuple[int, int, int]) -> int:
    """Number of values in one embedding.

    Parameters
    ----------
    embedding : Symbol
        The network.
    image_shape : tuple (height, width, channels)
        Of its pictures.

    Raises
    ------
    InputError
        If the network does not work on such pictures.
    """
    height, width, channels = image_shape
    what = f"image_shape: the network does not work on pictures of {height}x{width}x{channels}"
    graph = Graph(embedding)
    infer_shapes(graph, what, data=(1, channels, height, width))
    return math.prod(graph.shapes[graph.heads[0]][1:])


def initializer(family: str) -> mx.init.Initializer:
    """Return what a family's parameters start from: its module's ``initializer``, or else uniform by fan-in."""
    own = importlib.import_module(f"symbol.{family}") if family in _module("symbol").FAMILIES else None
    return getattr(own, "initializer", None) or mx.init.Xavier(rnd_type="uniform", factor_type="in", magnitude=2)


def _module(name: str) -> ModuleType:
    """Load ``config``, ``symbol_utils`` and ``symbol`` from the checkout, by their paths, and return one of them.

    They are importable by these names afterwards, because the families' files import each other so. Modules of these
    names that are found elsewhere, as on PYTHONPATH or in the current folder, are not run.
    """
    missing = [file for file in _MODULES.values() if not (_CHECKOUT / file).is_file()]
    if missing:
        raise InputError(
            f"networks by name need {', '.join(missing)} beside the package, as in a checkout: {_CHECKOUT} has none; "
            "run from a checkout"
        )
    for module, file in _MODULES.items():
        path = _CHECKOUT / file
        if module not in sys.modules:
            spec = importlib.util.spec_from_file_location(module, path)
            assert spec and spec.loader  # as for any file .py
            sys.modules[module] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[module])
        loaded = getattr(sys.modules[module], "__file__", None)
        if loaded is None or not path.samefile(loaded):
            raise InputError(f"{loaded or module}: refused: a module {module} is loaded that is not {path}; rename it")
    return sys.modules[name]
