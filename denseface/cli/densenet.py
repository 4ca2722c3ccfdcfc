"""``python symbol/fdensenet.py``: DenseNet-121 as a picture, and the sums of its stages."""

from __future__ import annotations

import argparse

from denseface import cli
from denseface.cli.console import OK, print_line
from denseface.cli.network_options import add_build_options, network_by_name
from denseface.cli.options import add_example
from denseface.cli.plot import draw
from denseface.cli.summary import print_stages


def main() -> int:
    """Draw a network of the command line's arguments, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python symbol/fdensenet.py",
        description="Draw DenseNet-121 as the configuration has it, and print its stages: the layers that work on "
        "pictures of one size, their parameters and multiply-accumulates (MACs), and the memory of their outputs.",
    )
    parser.add_argument("network", nargs="?", default="d121", help="another network of config.py (default: d121)")
    add_build_options(parser)
    parser.add_argument("-o", "--out", metavar="FILE", help="picture to write: .png, .pdf or .svg (default: d121.png)")
    parser.add_argument("--graph", action="store_true", help="draw every operator (needs Graphviz's program dot)")
    add_example(
        parser,
        "python symbol/fdensenet.py",
        "python symbol/fdensenet.py --set net_act=relu --set net_output=GAP --set emb_size=512",
        "python symbol/fdensenet.py d169 -o d169.svg --graph",
    )
    parser.set_defaults(run=_run)
    return cli.run(parser)


def _run(args: argparse.Namespace) -> int:
    out = args.out or f"{args.network}.png"
    print_stages(draw(network_by_name(args.network, args), out, args.graph))
    print_line(out)
    return OK
