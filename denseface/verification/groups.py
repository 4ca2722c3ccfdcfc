"""Error rates of groups of people, at the thresholds of the whole set."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import open_input
from denseface.evaluation.influence import measure_error
from denseface.evaluation.intervals import Interval, SharedPeople
from denseface.verification.verify import VerificationReport


class Group(NamedTuple):
    """The pairs within a group of people.

    Attributes
    ----------
    people, n_genuine, n_impostor : int
        Numbers of people and of their pairs; both people of a pair belong to the group.
    rates : dict of str to tuple
        False match rate and false non-match rate by threshold, each with its 95 % interval; None without such pairs.
    """

    people: int
    n_genuine: int
    n_impostor: int
    rates: dict[str, tuple[tuple[float, Interval] | None, tuple[float, Interval] | None]]


def read_groups(path: str | Path) -> dict[str, dict[str, str]]:
    """Read a table of people: a column ``person``, and one for each way to group them.

    Returns
    -------
    dict of str to dict of str to str
        For each other column the group by the person. An empty cell is no group.

    Raises
    ------
    InputError
        If the file cannot be read, lacks the column, has no other, or names a person twice.
    """
    try:
        with io.TextIOWrapper(open_input(path), "utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            columns = [name for name in rows.fieldnames or () if name != "person"]
            if "person" not in (rows.fieldnames or ()) or not columns:
                raise InputError(
                    f"{path}: the first line must name a column person and one or more others, to group by"
                )
            groups: dict[str, dict[str, str]] = {column: {} for column in columns}
            seen: set[str] = set()
            for row in rows:
                if row["person"] in seen or None in row or None in row.values():
                    raise InputError(
                        f"{path}: line {rows.line_num}: a row needs {len(columns) + 1} cells, and a person one row"
                    )
                seen.add(row["person"])
                for column in columns:
                    if row[column]:
                        groups[column][row["person"]] = row[column]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    return groups


def measure_groups(
    report: VerificationReport, way: str, groups: dict[str, str], fars: tuple[float, ...]
) -> dict[str, Group]:
    """Measure groups of people at the thresholds of all people.

    Parameters
    ----------
    report : VerificationReport
        Its people are named.
    way : {"flip", "plain"}
    groups : dict of str to str
        The group of each person; others are in none.
    fars : tuple of float
        False accept rates on the whole set, which set thresholds beside that of best accuracy.

    Raises
    ------
    InputError
        If nobody says who is in the set, or none of its people is in a group.
    """
    result, names = report.ways[way], report.people.names
    if names is None:
        raise InputError(
            f"nobody says who is in {report.name}, so it cannot be grouped; {report.name}.people.csv does, which "
            "denseface dataset writes",
            option="groups",
        )
    at_rates = {f"FAR {far:g}": result.threshold_at(far) for far in fars}
    thresholds = {"best accuracy": result.threshold, **{title: at for title, at in at_rates.items() if at is not None}}
    numbers, issame = report.people.numbers, report.pair_set.issame
    found = {}
    for group in sorted({groups[name] for name in names if name in groups}):
        members = np.array([groups.get(name) == group for name in names])
        of_pair = members[numbers].all(axis=1)
        genuine, impostor = of_pair[issame], of_pair[~issame]
        shared = [SharedPeople(numbers[kind & of_pair]) for kind in (issame, ~issame)]
        scores = result.scores[0][genuine], result.scores[1][impostor]
        rates = {
            title: (
                measure_error(scores[1] >= threshold, scores[1], shared[1]),
                measure_error(scores[0] < threshold, scores[0], shared[0]),
            )
            for title, threshold in thresholds.items()
        }
        found[group] = Group(int(members.sum()), int(genuine.sum()), int(impostor.sum()), rates)
    if not found:
        raise InputError(f"none of the people in {report.name} is in a group, such as {names[0]}", option="groups")
    return found
