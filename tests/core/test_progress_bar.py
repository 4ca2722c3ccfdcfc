import re

import pytest

from denseface.core import progress_bar
from denseface.core.progress_bar import ProgressBar


@pytest.fixture
def clock(monkeypatch):
    """Let the time go by at will."""
    now = [1000.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_comes_every_ten_seconds(capsys, clock):
    with ProgressBar(total=2000, desc="anna\x1b[2J.bin", unit="picture") as bar:
        for _ in range(25):
            clock[0] += 1
            bar.update(60)
    assert capsys.readouterr().err.splitlines() == [
        r"anna\x1b[2J.bin: 600 of 2,000 (30%) pictures, 60 per second",
        r"anna\x1b[2J.bin: 1,200 of 2,000 (60%) pictures, 60 per second",
    ]


def test_it_counts_what_it_iterates_over(capsys, clock):
    seen = []
    for item in ProgressBar(range(21), unit="row"):
        clock[0] += 1
        seen.append(item)
    assert seen == [*range(21)]
    assert capsys.readouterr().err.splitlines() == [
        "10 of 21 (48%) rows, 1 per second",
        "20 of 21 (95%) rows, 1 per second",
    ]


def test_on_a_terminal_it_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress_bar.sys.stderr, "isatty", lambda: True)
    assert [*ProgressBar([1, 2], "embedding", 2, unit="picture")] == [1, 2]
    assert re.search(r"embedding: 100%.*2/2", capsys.readouterr().err)


def test_nothing_is_shown_where_nothing_is_wanted(capsys, clock):
    with ProgressBar(total=2, disable=True) as bar:
        clock[0] += 100
        bar.update()
    assert capsys.readouterr().err == ""
