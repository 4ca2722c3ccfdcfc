"""Which part of the library may import which: data flows one way."""

import ast
from pathlib import Path

import pytest

import denseface

ROOT = Path(denseface.__file__).parent
MAY_IMPORT = {
    "core": "",
    "data": "core",
    "options": "core data",
    "rewrites": "core models",
    "models": "core options",
    "distributed": "core",
    "evaluation": "core",
    "export": "core rewrites models",
    "embedding": "core data models rewrites export",
    "importing": "core models embedding",
    "galleries": "core data embedding",
    "verification": "core data evaluation embedding galleries",
    "deciding": "core data models evaluation embedding galleries verification",
    "training": "core data options rewrites models distributed embedding importing evaluation",
    "datasets": "core data",
    "report": "core data models rewrites embedding evaluation verification training",
    "cli": "core data options models rewrites distributed export embedding importing galleries evaluation verification "
    "deciding training datasets report",
}
SCRIPTS = {"__init__", "__main__", "_compat"}
LIGHT = ("core", "data", "options", "datasets")


def imports_of(folder):
    """Every module that a wing imports, at its top or inside a function, with the file that does."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield path.relative_to(ROOT), f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    yield path.relative_to(ROOT), alias.name


def test_every_folder_is_a_wing():
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(MAY_IMPORT)
    assert {path.stem for path in ROOT.glob("*.py")} == SCRIPTS


@pytest.mark.parametrize("wing", MAY_IMPORT)
def test_imports_go_one_way(wing):
    allowed = {wing, "__version__", *MAY_IMPORT[wing].split()}
    wrong = [
        f"{path}: {module}"
        for path, module in imports_of(wing)
        if module.startswith("denseface.") and module.split(".")[1] not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("wing", LIGHT)
def test_pictures_and_records_need_no_mxnet(wing):
    assert [f"{path}: {module}" for path, module in imports_of(wing) if module.split(".")[0] == "mxnet"] == []
