"""Find the pictures of people in a folder of folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from denseface.core.errors import InputError
from denseface.data.folders import walk
from denseface.data.pictures import is_picture


class Person(NamedTuple):
    """A folder of one person.

    Attributes
    ----------
    name : str
        The folder's name.
    files : list of str
        The pictures in it and in its subfolders, as paths below the folder of all people; sorted.
    """

    name: str
    files: list[str]


def find_people(source: str | Path, unlabeled: bool = False) -> tuple[list[Person], dict[str, str]]:
    """List the people of a folder that contains one folder of pictures per person.

    Hidden files and folders are skipped. Links to files in the folder are followed, links to folders or out of it are
    not. No picture is decoded.

    Parameters
    ----------
    source : path-like
        The folder of all people.
    unlabeled : bool
        The pictures in it and in its subfolders have no identities: they all belong to one person without a name.

    Returns
    -------
    people : list of Person
        One for each folder, even without a picture; sorted by name.
    left_out : dict of str to str
        All other files, and folders that cannot be read, with the reasons.

    Raises
    ------
    InputError
        If ``source`` is not a folder, or contains no picture that belongs to a person.
    """
    if not os.path.isdir(source):
        raise InputError(f"{source}: not a folder")
    root = os.path.realpath(source)
    people: dict[str, list[str]] = {}
    left_out: dict[str, str] = {}
    for file, entry, error in walk(source):
        name, below, _ = ("", True, file) if unlabeled else file.partition("/")
        if below:
            people.setdefault(name, [])
        fault = _fault(entry, root, error) or (None if below else "not in a person's folder")
        if fault:
            left_out[file] = fault
        elif not file.endswith("/"):
            people[name].append(file)
    if not any(people.values()):
        example = "".join(f"; {file}: {fault}" for file, fault in list(left_out.items())[:1])
        what = "contains no picture" if unlabeled else "contains no picture in a folder below it; make one per person"
        raise InputError(f"{source}: {what}{example}")
    return [Person(*item) for item in people.items()], left_out


def _fault(entry: os.DirEntry, root: str, error: OSError | None) -> str | None:
    """Return why a file cannot be used or a folder not be read, or None."""
    if error:
        return f"cannot be read ({error.strerror})"
    if entry.is_dir(follow_symlinks=False):
        return None
    if entry.is_symlink():
        try:
            os.stat(entry.path)
        except OSError as error:
            return f"a link that cannot be followed ({error.strerror})"
        if entry.is_dir():
            return "a link to a folder; these are not followed"
        if not os.path.realpath(entry.path).startswith(os.path.join(root, "")):
            return "a link that leaves the folder of all people; these are not followed"
    if not entry.is_file():
        return "not a regular file"
    if not is_picture(entry.path):
        return "not a picture" if os.access(entry.path, os.R_OK) else "cannot be read (Permission denied)"
    return None
