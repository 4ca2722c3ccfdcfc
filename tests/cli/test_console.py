"""What commands print."""

import os
import sys

from denseface.cli.console import print_table

LINES = [("layer", "output"), ("densenet0_stage1_conv0_fwd", "64x56x56"), ("fc1",)]


def test_columns_are_aligned_and_nothing_is_cut_in_a_file(capsys):
    print_table(LINES)
    assert capsys.readouterr().out == (
        "layer                       output\ndensenet0_stage1_conv0_fwd  64x56x56\nfc1\n"
    )


def test_a_narrow_terminal_keeps_the_end_of_names(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((29, 20)))
    print_table(LINES)
    assert capsys.readouterr().out.splitlines() == [
        "layer                output",
        "...stage1_conv0_fwd  64x56x56",
        "fc1",
    ]
