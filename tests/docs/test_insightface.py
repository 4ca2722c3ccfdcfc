"""docs/insightface.md names every flag and key, and says of each whether InsightFace has it."""

import re
from pathlib import Path

import pytest

import config as tables
from denseface.cli.training_flags import parse
from denseface.options import insightface
from denseface.options.spec import BY_KEY

PAGE = (Path(__file__).parents[2] / "docs" / "insightface.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`(?:--)?([\w-]+)[^`]*`", PAGE))

KEYS = {*BY_KEY}
ENTRY_NAMES = {name for table in (tables.network, tables.dataset, tables.loss) for name in table}


@pytest.mark.parametrize(
    "names",
    [KEYS, ENTRY_NAMES, {*insightface.KEYS}, {*insightface.NETWORKS}],
    ids=["keys", "entries", "absent keys", "networks of InsightFace"],
)
def test_the_page_names_all(names):
    assert names - NAMED == set()


@pytest.mark.usefixtures("configured")
def test_the_page_names_every_flag(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"], "")
    flags = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert "--sample-rate" in flags
    assert {flag for flag in flags | {*insightface.FLAGS} if f"`{flag}`" not in PAGE} == set()
