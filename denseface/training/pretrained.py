"""Start from another model: its parameters, where they fit, or its whole network."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from denseface.core.errors import InputError
from denseface.data.pictures import PictureShape
from denseface.importing.onnx import import_onnx
from denseface.models.checkpoint import Model, load_model, parse_model
from denseface.models.embedding_network import explain_shape
from denseface.models.graph import Graph
from denseface.models.symbol_file import embedding_output, read_symbol
from denseface.training.learner import Learner

import mxnet as mx

logger = logging.getLogger("denseface")

_WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected")


class Role(NamedTuple):
    """What a parameter is, whatever its name: the operator that reads it, as which input, and its shape."""

    op: str
    operand: int
    shape: tuple[int, ...]


def pretrained_network(pretrained: str, read: Callable[[], Model]) -> mx.sym.Symbol:
    """Read the network of a model, up to its embedding.

    Parameters
    ----------
    pretrained : str
        As for :func:`pretrained_model`.
    read : callable
        Reads the model; called for an ONNX file, whose network is not in a file of its own.
    """
    if pretrained.endswith(".onnx"):
        return embedding_output(read().symbol)
    prefix, _ = parse_model(pretrained)
    return embedding_output(read_symbol(Path(f"{prefix}-symbol.json")))


def pretrained_model(pretrained: str, epoch: int | None, image_shape: tuple[int, int, int] | None = None) -> Model:
    """Read a model.

    Parameters
    ----------
    pretrained : str
        ``PREFIX,EPOCH``, ``PREFIX``, or a file ``.onnx``.
    epoch : int, optional
        EPOCH, where it is not in the text.
    image_shape : tuple (height, width, channels), optional
        Shape of the pictures, for an ONNX file that leaves it open.

    Raises
    ------
    InputError
        If there is no such model, or two epochs are given.
    """
    if pretrained.endswith(".onnx"):
        if epoch is not None:
            raise InputError(f"{pretrained} is one model, without epochs; leave it out", option="pretrained_epoch")
        return import_onnx(pretrained, input_shape=image_shape and PictureShape(*image_shape).nchw(1)[1:])
    prefix, named = parse_model(pretrained)
    if named is not None and epoch not in (None, named):
        raise InputError(f"{pretrained}: its epoch is {named}, not {epoch}; give one", option="pretrained_epoch")
    return load_model(prefix, epoch if named is None else named)


def adopt(learner: Learner, embedding: mx.sym.Symbol, model: Model) -> None:
    """Copy the parameters of a pretrained model that fit the learner, and log what was copied.

    Parameters fit by name and shape, or else by shape and position: see :func:`renamed`.

    Parameters
    ----------
    learner : Learner
        Its parameters are set.
    embedding : Symbol
        The learner's network without its loss.
    model : Model
        The pretrained model.

    Raises
    ------
    InputError
        If less than half of the learner's parameters are among them, or it is in doubt which is which.
    """
    parameters, statistics = learner.state.parameters()
    shapes = {name: array.shape for name, array in {**parameters, **statistics}.items()}
    head = {*shapes} - {*embedding.list_inputs()}
    given = {n: array.shape for n, array in {**model.arguments, **model.auxiliary}.items() if n not in head}
    try:
        names = renamed(roles(embedding, shapes), roles(model.symbol[0], given))
    except InputError as error:
        raise InputError(f"{model.name}: {error}", option="pretrained") from error
    arguments, auxiliary = (
        {names.get(name, name): array for name, array in arrays.items()}
        for arrays in (model.arguments, model.auxiliary)
    )
    loaded, fresh, left_over = learner.state.adopt(arguments, auxiliary)
    logger.info("%s: %d parameters loaded", model.name, len(loaded))
    if names:
        logger.info("  %d have other names there: %s", len(names), _listed([f"{n} is {o}" for o, n in names.items()]))
    for those, fate in ((fresh, "start fresh"), (left_over, "are not used here")):
        if those:
            logger.info("  %d %s: %s", len(those), fate, _listed(those))
    for name in {*fresh} & {*left_over} & {*parameters}:
        logger.info("  %s", explain_shape(name, model.arguments[name].shape, shapes[name]))
    if len(loaded) < len(fresh):
        raise InputError(
            f"{model.name} fits only {len(loaded)} of {len(loaded) + len(fresh)} parameters; check the network",
            option="pretrained",
        )


def roles(embedding: mx.sym.Symbol, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Role]:
    """Return the role of each parameter and batch statistic of a network, in the order in which they are used."""
    found: dict[str, Role] = {}
    for node in Graph(embedding).nodes:
        for index, (source, _) in enumerate(node.inputs):
            if source.op == "null" and source.name in shapes:
                found.setdefault(source.name, Role(node.op, index, shapes[source.name]))
    return found


def renamed(own: Mapping[str, Role], given: Mapping[str, Role]) -> dict[str, str]:
    """Find the parameters of another network that are ours under other names.

    Names that both networks have divide each into sections. A section whose parameters have the same roles, one by one,
    as those of the same section of the other network contains the same parameters.

    Parameters
    ----------
    own, given : mapping of str to Role
        As :func:`roles` returns them.

    Returns
    -------
    dict of str to str
        Our names by theirs.

    Raises
    ------
    InputError
        If a section differs, but one of its weights could be a weight of the other network.
    """
    ours, theirs = _sections(own, given), _sections(given, own)
    found: dict[str, str] = {}
    for before, names in ours.items():
        others = theirs.get(before, [])
        if [own[name] for name in names] == [given[name] for name in others]:
            found.update(zip(others, names))
            continue
        for name in names:
            likely = [other for other in others if given[other] == own[name]]
            if likely and own[name].op in _WEIGHTED and own[name].operand == 1:
                raise InputError(
                    f"{name} could be {' or '.join(likely[:3])}, but the layers around it differ; train the model's "
                    "own network, or rename its parameters"
                )
    return found


def _sections(names: Mapping[str, Role], shared: Mapping[str, Role]) -> dict[str | None, list[str]]:
    """Return the names that are not shared, by the last shared name before them."""
    sections, last = defaultdict(list), None
    for name in names:
        if name in shared:
            last = name
        else:
            sections[last].append(name)
    return sections


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
