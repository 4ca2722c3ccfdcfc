"""Groups of people in a file, and their error rates on a set."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from denseface.core.errors import InputError
from denseface.core.files import open_input
from denseface.evaluation import groups as evaluation
from denseface.evaluation.groups import Group
from denseface.verification.verify import VerificationReport

GROUP_FARS = (1e-2, 1e-3)


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
                    "the first line must name a column person and one or more others, to group by", path=path
                )
            groups: dict[str, dict[str, str]] = {column: {} for column in columns}
            seen: set[str] = set()
            for row in rows:
                if row["person"] in seen or None in row or None in row.values():
                    raise InputError(
                        f"line {rows.line_num}: a row needs {len(columns) + 1} cells, and a person one row", path=path
                    )
                seen.add(row["person"])
                for column in columns:
                    if row[column]:
                        groups[column][row["person"]] = row[column]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a CSV file in UTF-8 ({error})", path=path) from error
    return groups


def measure_groups(
    report: VerificationReport, way: str, groups: dict[str, str], fars: tuple[float, ...] = GROUP_FARS
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
    result = report.ways[way]
    if report.people.names is None:
        raise InputError(
            f"nobody says who is in {report.name}, so it cannot be grouped; {report.name}.people.csv does, which "
            "denseface dataset writes",
            option="groups",
        )
    at_rates = {f"FAR {far:g}": result.threshold_at(far) for far in fars}
    thresholds = {"best accuracy": result.threshold, **{title: at for title, at in at_rates.items() if at is not None}}
    try:
        return evaluation.measure_groups(result, report.people, report.pair_set.issame, groups, thresholds)
    except InputError as error:
        raise InputError(f"{report.name}: {error.args[0]}", option=error.option) from error
