"""Networks by name: the library's only access to ``config`` and ``symbol``, which are files beside ``train.py``.

Files of network families read a global, ``config.config``. The library itself passes configurations as arguments, and
writes to the global only to build a network.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from easydict import EasyDict

from denseface.core.errors import InputError
from denseface.core.files import read_input
from denseface.models import losses, plugins
from denseface.models.adaface import adaface
from denseface.models.distillation import with_teacher
from denseface.models.graph import Graph
from denseface.models.symbol_file import infer_shapes

import mxnet as mx

_MAX_SCRIPT_SIZE = 1 << 24  # bytes of a file of a network family
_EXTRAS = (
    ("loss_k", 1, ("margin_softmax",)),
    ("interclass_filtering_threshold", 0, ("margin_softmax", "adaface")),
)
_CHECKOUT = Path(__file__).resolve().parents[2]
PRETRAINED = "pretrained"  # in place of a network's name: the graph is that of a pretrained model
_NETWORK_KEYS = (
    "emb_size", "num_layers", "net_act", "net_output", "net_multiplier", "net_blocks", "net_input", "net_se",
    "net_unit", "densenet_dropout", "bn_mom", "workspace",
)  # fmt: skip
_MODULES = {"config": "config.py", "symbol_utils": "symbol_utils.py", "symbol": "symbol/__init__.py"}


def configure(
    network: str,
    dataset: str,
    loss: str,
    assignments: Collection[str] = (),
    networks_file: str | Path | None = None,
) -> tuple[EasyDict, EasyDict]:
    """Resolve the configuration for one network, data set and loss.

    Parameters
    ----------
    network, dataset, loss : str
        Names in the tables of ``config.py``; or ``PRETRAINED`` for a network that is not built from keys.
    assignments : collection of str
        ``key=value`` texts that override single keys.
    networks_file : str or Path, optional
        JSON file of more networks; see :func:`denseface.models.plugins.read_networks`.

    Returns
    -------
    config, default : EasyDict
        The configuration that networks and losses are built from, and the defaults of the command line's flags.

    Raises
    ------
    InputError
        For an unknown name or key, a value that does not fit its key, or an invalid file of networks.
    """
    configuration = _module("config")
    networks = {}
    if networks_file:
        tables = (*configuration.loss.values(), *configuration.dataset.values(), *configuration.PRISTINE)
        known = {key: value for table in tables for key, value in table.items()}
        networks = plugins.read_networks(networks_file, known, configuration.BOUNDS, configuration.ABSENT_KEYS)
        for name in networks.keys() & configuration.network.keys():
            raise InputError(f"{networks_file}: {name} is a network of config.py; choose another name")
    if network == PRETRAINED:
        networks[PRETRAINED] = {"net_name": PRETRAINED}
        for key in (assignment.partition("=")[0] for assignment in assignments):
            if key in _NETWORK_KEYS:
                raise InputError(f"{key}: the pretrained model's network is what it is; leave it out", option="set")
    configuration.generate_config(network, dataset, loss, networks)
    configuration.override(assignments)
    return copy.deepcopy(configuration.config), copy.deepcopy(configuration.default)


def embedding_symbol(config: EasyDict, folder: str | Path | None = None) -> mx.sym.Symbol:
    """Build a network.

    Parameters
    ----------
    config : EasyDict
        From :func:`configure`.
    folder : str or Path, optional
        Folder of network files from elsewhere; a file named after the family is preferred to this project's own.
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
    families = _module("symbol")
    files = plugins.python_files(folder) if folder else {}
    if config.net_name in files:
        absent = _module("config").ABSENT_KEYS  # which InsightFace's own network files read
        _share({**{key: usual for key, (usual, _) in absent.items()}, **config})
        return plugins.build(files[config.net_name])
    if folder and config.net_name not in families.FAMILIES:
        there = [name for name, path in files.items() if b"get_symbol" in read_input(path, _MAX_SCRIPT_SIZE)]
        raise InputError(
            f"net_name: no network family {config.net_name!r}; there are {', '.join(families.FAMILIES)}, "
            f"and in {folder} {', '.join(there) or 'none'}"
        )
    _share(config)
    try:
        return families.get_symbol(config.net_name)
    except ValueError as error:
        raise InputError(str(error)) from error


def taught_symbol(
    config: EasyDict, embedding: mx.sym.Symbol, teacher_size: int, weight: float, num_classes: int | None = None
) -> mx.sym.Symbol:
    """Put the loss that the configuration describes on an embedding, and the distance to a teacher's.

    Parameters
    ----------
    config, embedding, num_classes
        As for :func:`training_symbol`; the ``loss_name`` teacher has no loss beside the teacher's.
    teacher_size : int
        Values in an embedding of the teacher.
    weight : float
        Factor on its loss.

    Returns
    -------
    Symbol
        As of :func:`denseface.models.distillation.with_teacher`.
    """
    class_loss = None if config.loss_name == "teacher" else training_symbol(config, embedding, num_classes)
    size = embedding_size(embedding, config.image_shape)
    return with_teacher(embedding, size, teacher_size, weight=weight, class_loss=class_loss)


def training_symbol(config: EasyDict, embedding: mx.sym.Symbol, num_classes: int | None = None) -> mx.sym.Symbol:
    """Put the loss that the configuration describes on an embedding.

    Parameters
    ----------
    config : EasyDict
        From :func:`configure`.
    embedding : Symbol
        The network.
    num_classes : int, optional
        Number of classes of a softmax; by default that of the configuration.

    Returns
    -------
    Symbol
        Group of embedding, prediction and loss; see :mod:`denseface.models.losses`.

    Raises
    ------
    InputError
        For an unknown ``loss_name``, or an ``image_shape`` that does not fit the network.
    """
    for key, usual, takers in _EXTRAS:
        if config[key] != usual and config.loss_name not in takers:
            raise InputError(f"{key}: the loss {config.loss} does not have it; leave it out", option="set")
    if config.loss_name == "teacher":
        raise InputError("the loss teacher needs a model that teaches; name it", option="teacher")
    if config.loss_name == "triplet":
        return losses.triplet(embedding, alpha=config.triplet_alpha)
    if config.loss_name == "atriplet":
        return losses.angular_triplet(embedding, alpha=config.triplet_alpha)
    classifier = {
        "embedding_size": embedding_size(embedding, config.image_shape),
        "num_classes": num_classes or config.num_classes,
        "lr_mult": config.fc7_lr_mult,
        "wd_mult": config.fc7_wd_mult,
        "ce_loss": config.ce_loss,
    }
    if config.loss_name == "softmax":
        return losses.softmax(embedding, no_bias=config.fc7_no_bias, **classifier)
    filtering = {"filter_threshold": config.interclass_filtering_threshold}
    if config.loss_name == "margin_softmax":
        margins = {name: config[f"loss_{name}"] for name in ("s", "m1", "m2", "m3", "k")}
        return losses.margin_softmax(embedding, **margins, **filtering, **classifier)
    if config.loss_name == "adaface":
        margins = {name: config[f"loss_{name}"] for name in ("s", "m", "h", "t_alpha")}
        return adaface(embedding, **margins, **filtering, **classifier)
    raise InputError(
        f"loss_name: no loss {config.loss_name!r}; there are softmax, margin_softmax, adaface, triplet and atriplet"
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


def initializer(config: EasyDict) -> mx.init.Initializer:
    """InsightFace's choice for the family: normal by fan-out for two of them, uniform by fan-in for all others."""
    if config.net_name in ("fresnet", "fmobilefacenet"):
        return mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)
    return mx.init.Xavier(rnd_type="uniform", factor_type="in", magnitude=2)


def _share(values: dict) -> None:
    """Put a configuration on the global that the families' files read."""
    shared, values = _module("config").config, copy.deepcopy(dict(values))  # a copy: they may be the same object
    for key in list(shared):
        shared.pop(key)
    shared.update(values)


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
