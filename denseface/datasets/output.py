"""Folders that are there whole or not at all, and the tables in them."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from denseface.core.errors import InputError
from denseface.core.files import naming_errors, replacing, sync_folder


@contextlib.contextmanager
def fresh_folder(path: str | Path) -> Iterator[Path]:
    """Make a folder beside ``path`` to write to; it becomes ``path`` when the block ends well.

    Parameters
    ----------
    path : path-like
        The folder to make.  It may be there if it is empty.  What is written goes to ``path`` + ``.partial``, which is
        removed with everything in it if the block raises.

    Yields
    ------
    Path
        The folder to write to.

    Raises
    ------
    InputError
        If there is something at ``path`` already, or at the place beside it, or the disk fills up meanwhile.
    """
    path = Path(os.path.abspath(path))
    aside = path.with_name(path.name + ".partial")
    if os.path.lexists(path) and not _is_empty_folder(path):
        raise InputError(f"{path}: there is something already; remove it, or name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        aside.mkdir()
    except FileExistsError as error:
        raise InputError(f"{aside}: another run writes there, or was killed; if none does, remove it") from error
    try:
        with naming_errors(path):
            yield aside
            sync_folder(aside)
        os.rename(aside, path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextlib.contextmanager
def replacing_csv(path: str | Path, columns: Sequence[str]) -> Iterator[Any]:
    """Yield a csv.writer of a UTF-8 file with these columns, written aside as `denseface.core.files.replacing` does."""
    with replacing(path) as file:
        # Names of files that are not UTF-8 keep their bytes.
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        try:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            yield writer
        finally:
            text.detach()


def _is_empty_folder(path):
    return path.is_dir() and not any(path.iterdir())
