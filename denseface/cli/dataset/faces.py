"""Options and progress of the kinds that read or write many pictures."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from denseface.cli.console import print_line
from denseface.cli.options import add_face_options, add_provider, load_cropper, positive
from denseface.core.cpus import usable_cpus
from denseface.core.text import counted

if TYPE_CHECKING:
    from denseface.datasets.faces import Encoding

_ADVICE = {
    "face": "; --face center or --face largest chooses one",
    "landmarks": "; --landmarks takes what you or another detector found",
    "min_score": "; a lower --min-score takes it",
    "min_size": "; a lower --min-size takes it",
}


def add_encoding_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `load_encoding` reads."""
    add_face_options(parser, default=None)
    add_provider(parser, "where ONNX Runtime finds faces")
    parser.add_argument(
        "--size", type=positive, default=112, metavar="N", help="height and width in pixels (default: 112)"
    )
    parser.add_argument("--quality", type=positive, default=95, metavar="N", help="JPEG quality, 1 to 95 (default: 95)")
    add_processes(parser)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add ``--processes``."""
    parser.add_argument(
        "--processes",
        type=positive,
        default=usable_cpus(),
        metavar="N",
        help="number of processes; the result does not depend on it (default: one per CPU that may be used)",
    )


def load_encoding(args: argparse.Namespace) -> Encoding:
    """Return how faces are cut and encoded, according to the options."""
    from denseface.datasets.faces import Encoding

    return Encoding(args.size, args.quality, load_cropper(args), args.processes)


def print_reasons(reasons: Mapping[tuple[str, str | None], int]) -> None:
    """Print how many files have the same kind of fault, a line for each kind, with the option that helps."""
    for (kind, remedy), count in reasons.items():
        print_line(f"{counted(count, 'file')}: {kind}{_ADVICE.get(remedy or '', '')}")


@contextlib.contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar if stderr is a terminal; yield the function to call with the numbers of done and all."""
    from denseface.core.progress_bar import ProgressBar

    with ProgressBar(unit="picture") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
