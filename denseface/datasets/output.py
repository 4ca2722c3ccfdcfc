"""Write folders that appear only when they are complete, and tables in them."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from denseface.core.errors import InputError
from denseface.core.files import naming_errors, open_own, replacing, sync_folder
from denseface.core.signals import postponed
from denseface.core.system_lock import hold

_MARK = ".denseface-unfinished"
Progress = Callable[[int, int], object]  # called with the number of pictures that are done, and of all


def no_progress(done: int, total: int) -> None:
    """Report no progress."""


@contextlib.contextmanager
def fresh_folder(path: str | Path) -> Iterator[Path]:
    """Make a folder ``path`` + ``.partial`` to write to, and rename it to ``path`` when the block ends well.

    A hidden file marks it as long as it is unfinished, and is locked as long as the process lives. By that a run knows
    what a killed run has left, and removes it.

    Parameters
    ----------
    path : path-like
        The folder to make. It may exist if it is empty, or be a link to an empty folder. If the block raises, ``path``
        + ``.partial`` is removed with everything in it.

    Yields
    ------
    Path
        The folder to write to.

    Raises
    ------
    InputError
        If ``path`` already exists or cannot be replaced, another process writes it, ``path`` + ``.partial`` exists
        without the mark, or the disk fills up.
    """
    given = Path(os.path.abspath(path))
    path = Path(os.path.realpath(given)) if given.is_dir() else given
    aside = path.with_name(path.name + ".partial")
    if os.path.lexists(path):
        _check_replaceable(path, given)
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = None
    try:
        with postponed():
            mark = _make_marked(aside)
        with naming_errors(given):
            yield aside
            sync_folder(aside)
        with postponed():
            os.rename(aside, path)
            sync_folder(path.parent)
            (path / _MARK).unlink()
    except BaseException:
        if mark is not None:
            _remove_marked(aside)
        raise
    finally:
        if mark is not None:
            mark.close()


def _check_replaceable(path: Path, given: Path) -> None:
    """Refuse a folder that is not empty, or cannot be replaced, such as a mounted one, before any work is done."""
    if (path / _MARK).exists():  # left by a process that was killed right after it had finished the folder
        (path / _MARK).unlink()
    if not path.is_dir() or any(path.iterdir()):
        raise InputError("already exists; remove it, or name another folder", path=given)
    try:
        mode = path.stat().st_mode
        path.rmdir()
        path.mkdir()
        path.chmod(mode)
    except OSError as error:
        raise InputError(f"it cannot be replaced ({error.strerror}); name a new folder in it", path=given) from error


def _make_marked(folder: Path) -> BinaryIO:
    """Make a folder, or remove it first if a killed run has left it; return its mark, open and locked."""
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            _remove_left(folder)
            continue
        mark = open_own(folder / _MARK)
        with contextlib.suppress(BlockingIOError):
            hold(mark, mark.name)
            if (folder / _MARK).exists():  # else another process has taken it for one that was left
                return mark
        mark.close()


def _remove_left(folder: Path) -> None:
    """Remove a folder that a killed run has left.

    Raises
    ------
    InputError
        If a running process writes it, or it is not known to be left by one.
    """
    mark = folder / _MARK
    if not folder.is_symlink() and folder.is_dir() and mark.is_file():
        with open_own(mark) as file:
            try:
                is_left = hold(file, mark)
            except BlockingIOError as error:
                message = "another run is writing there; wait for it to finish, or write elsewhere"
                raise InputError(message, path=folder) from error
            if is_left:
                _remove_marked(folder)
                return
    try:
        folder.rmdir()  # killed before it was marked
    except OSError as error:
        reason = f"in use by another run, or in the way ({error.strerror}); if none runs, remove it"
        raise InputError(reason, path=folder) from error


def _remove_marked(folder: Path) -> None:
    """Remove a folder, its mark last: if that is interrupted, it is known to be unfinished."""
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if entry.name == _MARK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        (folder / _MARK).unlink(missing_ok=True)
        folder.rmdir()


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
