"""``denseface dataset``: build, inspect and unpack training and verification sets; one module per kind."""

from __future__ import annotations

import argparse
import importlib

KINDS = ("orl", "folder", "pairs", "info", "unpack", "audit")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser("dataset", help="build, inspect and unpack training and verification sets")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name in KINDS:
        importlib.import_module(f"{__name__}.{name}").add_parser(kinds)
