"""From names and tables to values: network, data set, loss, recipe, and single keys."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from denseface.core.errors import InputError
from denseface.core.option import Option
from denseface.data.records import read_property
from denseface.options import insightface
from denseface.options.networks_file import read_networks
from denseface.options.spec import BY_KEY, BY_NAME, GROUPS, OPTIONS, PRETRAINED, RunSpec

Table = Mapping[str, Mapping[str, Any]]


class Tables(NamedTuple):
    """The tables of ``config.py``: entries by name, each with values by key; ``usual`` is one such entry."""

    network: Table
    dataset: Table
    loss: Table
    recipe: Table
    usual: Mapping[str, Any]


class Names(NamedTuple):
    """Names in the tables; None for that of the recipe, or else the usual one.

    ``dataset`` may be the path of a folder, and ``network`` may be ``PRETRAINED``, for one that is not built from keys.
    """

    network: str | None = None
    dataset: str | None = None
    loss: str | None = None
    recipe: str | None = None


def resolve(
    tables: Tables, names: Names, assignments: Iterable[str] = (), networks_file: str | Path | None = None
) -> RunSpec:
    """Make the options that names and single keys stand for.

    Where tables disagree, the later one counts: the usual values, loss, network, data set, recipe, assignments. What a
    recipe says of its network or its loss holds for these alone.

    Parameters
    ----------
    tables : Tables
        Where names are looked up.
    names : Names
        What is chosen.
    assignments : iterable of str
        ``key=value`` texts.
    networks_file : str or Path, optional
        JSON file of more networks; see :func:`denseface.options.networks_file.read_networks`.

    Raises
    ------
    InputError
        For an unknown name or key, a value that does not fit its key, or an invalid file of networks.
    """
    values = {each.name: each.default for each in OPTIONS}
    _apply(values, tables.usual, "usual")
    recipe = dict(_entry("recipe", names.recipe, tables.recipe)) if names.recipe else {}
    network, dataset, loss = (
        name or recipe.get(kind) or values[kind]
        for kind, name in zip(("network", "dataset", "loss"), names)
    )  # fmt: skip
    networks = {**tables.network, PRETRAINED: {"net_name": PRETRAINED}, **_more_networks(networks_file, tables.network)}
    entries = {
        "loss": _entry("loss", loss, tables.loss),
        "network": _entry("network", network, networks),
        "dataset": _entry("dataset", dataset, tables.dataset)
        if dataset in tables.dataset
        else _folder(dataset, tables),
    }
    for kind, name in (("network", network), ("loss", loss)):
        if recipe.get(kind, name) != name:
            recipe = {key: value for key, value in recipe.items() if BY_KEY.get(key) not in GROUPS[kind]}
    for kind, entry in {**entries, "recipe": recipe}.items():
        _apply(values, entry, kind)
    values.update(network=network, loss=loss, dataset=entries["dataset"].get("dataset", dataset))
    for assignment in assignments:
        _assign(values, assignment, network)
    return RunSpec.of(values)


def fill(config: dict[str, Any], default: dict[str, Any], spec: RunSpec) -> None:
    """Put options on the globals of ``config.py``, in place: files of networks have imported these very objects.

    This is InsightFace's contract with such files, ``from config import config``. Nothing else reads them.
    """
    keys = spec.by_key()
    flagged = {each.key for each in OPTIONS if each.flag}
    for table, values in (config, keys), (default, {key: keys[key] for key in keys if key in flagged}):
        for key in list(table):
            table.pop(key)  # not clear(), which leaves an EasyDict its attributes
        table.update(values)


def _entry(kind: str, name: str, table: Table) -> Mapping[str, Any]:
    if name in table:
        return table[name]
    if kind == "network" and name in insightface.NETWORKS:
        raise InputError(
            f"{name} needs InsightFace's network files: name their folder as symbol_path, and a networks file with the "
            "entries in docs/networks.md",
            option=kind,
        )
    there = ", ".join(each for each in table if each != PRETRAINED)
    raise InputError(f"there is no {name!r}; there are {there}", option=kind)


def _folder(path: str, tables: Tables) -> Mapping[str, Any]:
    """Describe the data set in a folder; its name is the folder's, and it is verified on every set beside it."""
    if not Path(path).is_dir():
        names = ", ".join(tables.dataset)
        raise InputError(f"there is no {path!r}; there are {names}, and folders by their path", option="dataset")
    num_classes, height, width = read_property(path)
    return {
        "dataset": Path(path).resolve().name,
        "dataset_path": path,
        "num_classes": num_classes,
        "image_shape": (height, width, 3),
        "val_targets": sorted(file.stem for file in Path(path).glob("*.bin")),
    }


def _more_networks(path: str | Path | None, own: Table) -> Table:
    networks = read_networks(path) if path else {}
    for name in networks.keys() & own.keys():
        raise InputError(f"{name} is a network of config.py; choose another name", path=path)
    return networks


def _apply(values: dict[str, Any], entry: Mapping[str, Any], where: str) -> None:
    """Set values by an entry of a table; what is no option's key is the network's own."""
    for key, value in entry.items():
        option = BY_KEY.get(key)
        try:
            values[option.name if option else key] = option.checked(value) if option else value
        except ValueError as error:
            raise InputError(f"config.py: {where}: {key}: {error}") from error


def _assign(values: dict[str, Any], assignment: str, network: str) -> None:
    """Set one value by a ``key=value`` text."""
    key, equals, text = assignment.partition("=")
    if not equals:
        raise InputError(f"{assignment}: write it as key=value", option="set")
    option = BY_KEY.get(key)
    if option is None and key in values:  # a key of the network's own file
        option = _like(key, values[key])
    if option is None and key in insightface.KEYS:
        usual, advice = insightface.KEYS[key]
        if _read(_like(key, usual), text) != usual:
            raise InputError(f"{key}={text}: not supported: {advice}; leave it out", option="set")
        return
    if option is None:
        there = [each.key for each in OPTIONS if each.key and each.is_of(values["loss_name"])]
        own = [name for name in values if name not in BY_NAME]
        near = difflib.get_close_matches(key, [*there, *own], n=3, cutoff=0.5)
        raise InputError(f"{key}: no such key" + (f"; nearest: {', '.join(near)}" if near else ""), option="set")
    if option.chosen:
        raise InputError(f"{key}: {option.chosen}", option="set")
    if not option.is_of(values["loss_name"]):
        raise InputError(f"{key}: the loss {values['loss']} does not have it; leave it out", option="set")
    if network == PRETRAINED and option in GROUPS["network"]:
        raise InputError(f"{key}: the pretrained model's network is what it is; leave it out", option="set")
    value = _read(option, text)
    values[option.name] = list(value) if isinstance(values.get(key), list) else value


def _like(key: str, value: Any) -> Option:
    """An option of a key that takes values like this one."""
    many = isinstance(value, (list, tuple))
    sample = (value[0] if value else "") if many else value
    kind = type(sample) if type(sample) in (bool, int, float, str) else str
    return Option(field=key, key=key, default=value, help="", kind=kind, many=many)


def _read(option: Option, text: str) -> Any:
    try:
        return option.read(text)
    except ValueError as error:
        raise InputError(f"{option.key}={text}: {error}", option="set") from error
