"""The flags of ``train.py``, made of the list of options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from denseface.core.option import Option
from denseface.models import families
from denseface.options import insightface
from denseface.options.names import Names
from denseface.options.spec import GROUPS, PRETRAINED, RunSpec

_NAMES = ("network", "dataset", "loss", "recipe")  # as of Names
_EXAMPLE = "python train.py --recipe small --dataset datasets/mine"


def parse(argv: Sequence[str] | None, description: str) -> RunSpec:
    """Read the command line of ``train.py``.

    Names, --networks and --set come first: they decide the defaults of the other flags.

    Parameters
    ----------
    argv : sequence of str, optional
        By default that of the process.
    description : str
        What the program does.

    Raises
    ------
    InputError
        For an unknown name or key. Other wrong flags end the process with a usage error.
    """
    names = _names_parser()
    chosen, _ = names.parse_known_args(argv)
    usual = families.configure(Names(*(vars(chosen).get(name) for name in _NAMES)), chosen.set, chosen.networks)
    parser = argparse.ArgumentParser(
        prog="train.py",
        description=description,
        parents=[names],
        allow_abbrev=False,
        epilog=f"Defaults are those of --network {usual.network.network} --dataset {usual.data.dataset} --loss "
        f"{usual.loss.loss}; name others, or a recipe, before --help to see theirs. Example: {_EXAMPLE}",
    )
    values = usual.by_name()
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for each in options:
            if each.flag and each.name not in (*_NAMES, "networks"):
                _add_flag(group, each, values[each.name])
    for name, advice in insightface.FLAGS.items():
        parser.add_argument(name, action=_Refused, advice=advice)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if name not in (*_NAMES, "set")}
    if "lr_steps" in given:
        given.setdefault("lr_schedule", "step")
    spec = usual.replace(**given)
    _check_together(parser, given, spec)
    return spec


def _names_parser() -> argparse.ArgumentParser:
    """Return the parser of what decides the defaults of the other flags."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("names")
    tables, usual = families.tables(), families.configure(Names())
    for name, default, more in (
        ("network", usual.network.network, f", or {PRETRAINED} for that model's own"),
        ("dataset", usual.data.dataset, ", or the path of its folder"),
        ("loss", usual.loss.loss, ""),
        ("recipe", None, ": training as a whole, for a kind of data set; it chooses what is not chosen here"),
    ):
        help = f"one of {', '.join(getattr(tables, name))}{more}" + (f" (default: {default})" if default else "")
        group.add_argument(f"--{name}", help=help)
    group.add_argument("--networks", metavar="FILE", help="JSON file of more networks")
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set a key (docs/training.md lists them)"
    )
    return parser


def _add_flag(group: argparse._ArgumentGroup, option: Option, default: Any) -> None:
    settings: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS, "help": option.help}
    if option.kind is bool:
        settings["action"] = "store_true"
    else:
        shown = option.example(default)
        settings["help"] += f" (default: {shown})" if shown else ""
        settings["type"] = _reader(option)
        settings["metavar"] = f"{{{','.join(map(str, option.choices))}}}" if option.choices else option.metavar or "N"
        if option.repeated:
            settings["action"] = "append"
    group.add_argument(f"--{option.field.replace('_', '-')}", **settings)


def _reader(option: Option) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return option.read_item(text) if option.repeated else option.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text[:80]}: {error}") from None

    return read


def _check_together(parser: argparse.ArgumentParser, given: dict[str, Any], spec: RunSpec) -> None:
    """End with a usage error for flags that exclude or need each other."""
    if "lr_steps" in given and spec.optimizer.lr_schedule != "step":
        parser.error(f"argument --lr-steps: --lr-schedule {spec.optimizer.lr_schedule} has none; leave one of both out")
    if "warmup_steps" in given and "warmup_epochs" in given:
        parser.error("argument --warmup-epochs: --warmup-steps says how long; leave one of both out")
    for name, needs in (
        ("--pretrained-epoch", "pretrained_epoch" in given),
        (f"--network {PRETRAINED}", spec.network.network == PRETRAINED),
        ("--warm-centers", spec.start.warm_centers),
    ):
        if needs and not spec.start.pretrained:
            parser.error(f"argument {name}: of which model? Name it with --pretrained")


class _Refused(argparse.Action):
    """A flag of InsightFace's train.py that this one does not have, answered by what to do instead."""

    def __init__(self, option_strings: list[str], dest: str, advice: str):
        super().__init__(option_strings, argparse.SUPPRESS, nargs="?", help=argparse.SUPPRESS)
        self.advice = advice

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(f"argument {self.option_strings[0]}: {self.advice}")
