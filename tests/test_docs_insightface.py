"""docs/insightface.md names every flag and key, and says of each whether InsightFace has it."""

import re
from pathlib import Path

import pytest

import config as tables
import train

PAGE = (Path(__file__).parents[1] / "docs" / "insightface.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`(?:--)?([\w-]+)[^`]*`", PAGE))

ENTRIES = [entry for table in (tables.network, tables.dataset, tables.loss) for entry in table.values()]
KEYS = {key for table in (*tables.PRISTINE, *ENTRIES) for key in table}
ENTRY_NAMES = {name for table in (tables.network, tables.dataset, tables.loss) for name in table}


@pytest.mark.parametrize(
    "names",
    [KEYS, ENTRY_NAMES, set(tables.ABSENT_KEYS), set(tables.INSIGHTFACE_NETWORKS)],
    ids=["keys", "entries", "absent keys", "networks of InsightFace"],
)
def test_the_page_names_all(names):
    assert names - NAMED == set()


@pytest.mark.usefixtures("configured")
def test_the_page_names_every_flag(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    flags = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert "--sample-rate" in flags
    assert {flag for flag in flags | set(train.INSIGHTFACE_FLAGS) if f"`{flag}`" not in PAGE} == set()
