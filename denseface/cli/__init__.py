"""The command line: one module per command, each with ``add_parser(subparsers)`` and ``run(args) -> exit code``.

Modules of commands are imported for their arguments alone, so they import what does the work inside ``run``.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import io
import sys
from collections.abc import Sequence

from denseface import __version__
from denseface.cli.console import FAILED, report_error, report_interrupt
from denseface.core import signals
from denseface.core.errors import InputError
from denseface.core.streams import drop_output, finish_output, log_to
from denseface.core.text import printable

COMMANDS = (
    "dataset", "detect", "verify", "report", "identify", "match", "embed", "gallery", "search", "cluster", "export",
    "summary", "plot", "compare", "plot-run", "launch",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``denseface``; `argv` is its name and its arguments."""
    return run(_parser(), argv)


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Run a command, and tell of its end as every command does.

    Parameters
    ----------
    parser : ArgumentParser
        Sets ``run``, a function of the arguments that returns the exit code.
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        0, or 1 if it failed, or 128 + the number of the signal that ended it: 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        With code 2 for bad usage, and 0 for ``--help`` and ``--version``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # none if it was closed
            stream.reconfigure(errors="backslashreplace")  # for names that are not of its encoding
    log_to(sys.stderr, "denseface: %(levelname)s: %(message)s")
    try:
        args = parser.parse_args(argv)
    except (SystemExit, OSError) as end:  # OSError: from printing the help, up to Python 3.10
        try:
            finish_output(0)
        except BrokenPipeError:  # the reader of the help has seen enough
            pass
        except OSError as error:
            report_error(error)
            return FAILED
        raise (end if isinstance(end, SystemExit) else SystemExit(0)) from None
    try:
        with signals.raise_on_signals():
            return finish_output(args.run(args))
    except BrokenPipeError:  # the reader has seen enough
        drop_output()
        return FAILED
    except (InputError, OSError, ModuleNotFoundError, MemoryError) as error:
        report_error(error)
        with contextlib.suppress(OSError):
            finish_output(FAILED)
        return FAILED
    except signals.Interrupted as error:
        report_interrupt(error)
        return error.exit_code


class _Parser(argparse.ArgumentParser):
    """Refuses an unknown option with the usage of its own command, and names the nearest option."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def,override]
        """Parse arguments; subparsers are of this class, so the innermost one is the first to refuse."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            option = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(option, self._option_string_actions, 1) if option.startswith("-") else []
            self.error(f"unknown argument {printable(unknown[0])}{f'; is it {near[0]}?' if near else ''}")
        return namespace, unknown


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="denseface",
        description="Face recognition with DenseNet: data sets, verification, embeddings and export.",
        epilog="Each command has its own help: denseface COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"denseface {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"denseface.cli.{name.replace('-', '_')}").add_parser(subparsers)
    return parser
