"""Find the pictures of people in a folder of folders."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from denseface.core.errors import InputError
from denseface.core.files import read_lines
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

    Hidden files and folders, and folders of thumbnails, are skipped. Links are followed that stay in the folder and do
    not lead in a circle. No picture is decoded.

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
        raise InputError("not a folder", path=source)
    root = os.path.realpath(source)
    people: dict[str, list[str]] = {}
    left_out: dict[str, str] = {}
    for file, entry, error in walk(source, links=True):
        name, below, _ = ("", True, file) if unlabeled else file.partition("/")
        if below:
            people.setdefault(name, [])
        fault = _fault(file, entry, root, error) or (None if below else "not in a person's folder")
        if fault:
            left_out[file] = fault
        elif not file.endswith("/"):
            people[name].append(file)
    if not any(people.values()):
        example = "".join(f"; {file}: {fault}" for file, fault in list(left_out.items())[:1])
        what = "contains no picture" if unlabeled else "contains no picture in a folder below it; make one per person"
        raise InputError(f"{what}{example}", path=source)
    return [Person(*item) for item in people.items()], left_out


def read_names(path: str | Path, people: Iterable[str]) -> tuple[list[str], list[str]]:
    """Read a list of people.

    Parameters
    ----------
    path : path-like
        The list, in UTF-8, with a name per line, which may end in a slash or, for all names that start so, in a star. A
        number of pictures may follow it, as in LFW's ``peopleDevTrain.txt``, and so may the first lines be numbers of
        people: of all, or of folds and of each fold's people. Lines that are empty are skipped.
    people : iterable of str
        The names that there are. They are compared in Unicode's composed form.

    Returns
    -------
    found : list of str
        Those of the people who are in the list, sorted.
    absent : list of str
        The names in the list that nobody has.

    Raises
    ------
    InputError
        If the list cannot be read, or has not as many names as it announces.
    """
    known = {unicodedata.normalize("NFC", name): name for name in people}
    found: set[str] = set()
    absent: list[str] = []
    numbers: list[int] = []
    count = 0
    for _, line in read_lines(path):
        name = unicodedata.normalize("NFC", line.strip())
        if not name:
            continue
        if name not in known and re.fullmatch("[0-9]{1,9}", name):
            numbers.append(int(name))
            continue
        count += 1
        if name not in known:
            *before, last = name.rsplit(None, 1)
            name = (before[0] if before and last.isdecimal() else name).removesuffix("/")
        chosen = [one for one in known if one.startswith(name[:-1])] if name.endswith("*") else [name] * (name in known)
        found.update(known[one] for one in chosen)
        if not chosen:
            absent.append(name)
    announced = sum(numbers[1:]) if numbers[1:] else (numbers or [count])[0]
    if announced != count:
        raise InputError(f"announces {announced} people, but has {count} names", path=path)
    if not count:
        raise InputError("contains no name; write one per line", path=path)
    return sorted(found), absent


def _fault(file: str, entry: os.DirEntry, root: str, error: OSError | None) -> str | None:
    """Return why a file cannot be used or a folder not be read, or None."""
    if error:
        return f"cannot be read ({error.strerror})"
    if file.endswith("/"):
        return None
    if entry.is_symlink():
        try:
            os.stat(entry.path)
        except OSError as error:
            return f"a link that cannot be followed ({error.strerror})"
        target = os.path.join(os.path.realpath(entry.path), "")
        if not target.startswith(os.path.join(root, "")):
            return "a link that leaves the folder of all people; these are not followed"
        if entry.is_dir():
            return "a link to a folder around it; these are not followed"
    if not entry.is_file():
        return "not a regular file"
    if not is_picture(entry.path):
        return "not a picture" if os.access(entry.path, os.R_OK) else "cannot be read (Permission denied)"
    return None
