"""What commands print."""

import ast
import logging
import sys
from pathlib import Path

import pytest

import denseface.cli
from denseface.cli.console import print_line, print_table
from denseface.core.streams import log_to

LINES = [("layer", "output"), ("densenet0_stage1_conv0_fwd", "64x56x56"), ("fc1",)]


def test_columns_are_aligned_and_nothing_is_cut_in_a_file(capsys):
    print_table(LINES)
    assert capsys.readouterr().out == (
        "layer                       output\ndensenet0_stage1_conv0_fwd  64x56x56\nfc1\n"
    )


def test_a_narrow_terminal_keeps_the_end_of_names(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "29")
    print_table(LINES)
    assert capsys.readouterr().out.splitlines() == [
        "layer                output",
        "...stage1_conv0_fwd  64x56x56",
        "fc1",
    ]


def test_one_module_prints():
    """So that no name from a file reaches a terminal unescaped."""
    folder = Path(denseface.cli.__file__).parent
    printing = {
        path.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    assert printing == {"console.py"}


def test_a_name_forges_no_second_line(capsys, monkeypatch):
    print_line("a\n\x1b]0;b\x07")
    monkeypatch.setattr(logging.root, "handlers", [])
    log_to(sys.stderr, "denseface: %(levelname)s: %(message)s")
    logging.getLogger("denseface").warning("skipped: %s", "a\ndenseface: error: b\x1b[2J")
    printed = capsys.readouterr()
    assert printed.out == "a\\n\\x1b]0;b\\x07\n"
    assert printed.err == "denseface: WARNING: skipped: a\\ndenseface: error: b\\x1b[2J\n"


@pytest.mark.parametrize(
    ("arguments", "usage", "error"),
    [
        (["embed", "a", "-o", "b", "--model", "m", "--imagesize", "3"], "denseface embed", "; is it --image-size?"),
        (["dataset", "folder", "a", "b", "--hold-out=3"], "denseface dataset folder", "; is it --holdout?"),
        (["match", "a", "b", "c", "--model", "m"], "denseface match", "unknown argument c"),
    ],
)
def test_an_unknown_argument_is_told_with_the_usage_of_its_command(capsys, arguments, usage, error):
    with pytest.raises(SystemExit) as ended:
        denseface.cli.main(arguments)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.startswith(f"usage: {usage} ") and printed.rstrip().endswith(error)
