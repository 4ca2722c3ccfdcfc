"""Write folders that appear only when they are complete, and tables in them."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from denseface.core.errors import InputError
from denseface.core.files import naming_errors, replacing, sync_folder
from denseface.core.signals import postponed

Progress = Callable[[int, int], object]  # called with the number of pictures that are done, and of all


def no_progress(done: int, total: int) -> None:
    """Report no progress."""


@contextlib.contextmanager
def fresh_folder(path: str | Path) -> Iterator[Path]:
    """Make a folder ``path`` + ``.partial`` to write to, and rename it to ``path`` when the block ends well.

    Parameters
    ----------
    path : path-like
        The folder to make. It may exist if it is empty. If the block raises, ``path`` + ``.partial`` is removed with
        everything in it.

    Yields
    ------
    Path
        The folder to write to.

    Raises
    ------
    InputError
        If ``path`` or ``path`` + ``.partial`` already exists, or the disk fills up.
    """
    path = Path(os.path.abspath(path))
    aside = path.with_name(path.name + ".partial")
    if os.path.lexists(path) and not _is_empty_folder(path):
        raise InputError(f"{path}: already exists; remove it, or name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = False
    try:
        with postponed():
            aside.mkdir()
            made = True
        with naming_errors(path):
            yield aside
            sync_folder(aside)
        os.rename(aside, path)
        sync_folder(path.parent)
    except BaseException as error:
        if made:
            shutil.rmtree(aside, ignore_errors=True)
        elif isinstance(error, FileExistsError):
            raise InputError(
                f"{aside}: in use by another run, or left by one that was killed; if none runs, remove it"
            ) from error
        raise


@contextlib.contextmanager
def replacing_csv(path: str | Path, columns: Sequence[str]) -> Iterator[Any]:
    """Yield a csv.writer of a UTF-8 file with these columns; `denseface.core.files.replacing` writes the file."""
    with replacing(path) as file:
        # File names that are not UTF-8 keep their bytes.
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        try:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            yield writer
        finally:
            text.detach()


def _is_empty_folder(path):
    return path.is_dir() and not any(path.iterdir())
