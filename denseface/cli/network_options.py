"""Options of the commands that take a network by its name or from a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

from denseface.cli.options import image_size
from denseface.core.errors import InputError

if TYPE_CHECKING:
    import mxnet as mx


class Network(NamedTuple):
    """What the options describe: a name to show, the embedding network, and the (C, H, W) of its pictures."""

    name: str
    symbol: mx.sym.Symbol
    input_shape: tuple[int, int, int]


def add_network_options(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Add what :func:`load_network` reads; return the group of the options that say which network."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("network", nargs="?", metavar="NETWORK", help="a network of config.py, such as d121")
    which.add_argument(
        "--model", metavar="PREFIX,EPOCH", help="a saved model; PREFIX alone means the newest; or a file .onnx"
    )
    add_build_options(parser)
    return which


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`network_by_name` reads; ``--size`` is for saved models too."""
    parser.add_argument(
        "--size",
        "--image-size",
        type=square_or_image_size,
        metavar="N|H,W[,C]",
        help="side of the pictures, or their height, width and channels (default: 112)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the configuration, for networks by name",
    )
    parser.add_argument("--networks", dest="networks_file", metavar="FILE", help="JSON file of more networks")
    parser.add_argument("--symbol-path", metavar="DIR", help="folder of network files (InsightFace's, say)")


def square_or_image_size(text: str) -> tuple[int, int, int]:
    """Read a side, or what :func:`denseface.cli.options.image_size` reads."""
    return image_size(text if "," in text else f"{text},{text}")


def load_network(args: argparse.Namespace) -> Network:
    """Make the network that the options describe."""
    if args.model:
        return network_of_model(args.model, args.size)
    return network_by_name(args.network, args)


def network_by_name(name: str, args: argparse.Namespace) -> Network:
    """Build a network of ``config.py``, or of the files that the options name."""
    from denseface.data.pictures import PictureShape
    from denseface.models import families
    from denseface.options.names import Names

    if "/" in name or name.endswith(".onnx"):
        raise InputError("a file, not the name of a network; give it as --model", path=name)
    shape = [f"image_shape={','.join(map(str, args.size))}"] if args.size else []
    spec = families.configure(Names(name), [*args.set, *shape], args.networks_file)
    symbol = families.embedding_symbol(spec.replace(symbol_path=args.symbol_path))
    return Network(name, symbol, PictureShape(*spec.data.image_shape).nchw(1)[1:])


def network_of_model(text: str, size: tuple[int, int, int] | None) -> Network:
    """Take the embedding network out of a saved model."""
    from denseface.data.pictures import PictureShape
    from denseface.importing.onnx import import_onnx
    from denseface.models.checkpoint import Model, load_model, parse_model
    from denseface.models.embedding_network import checked_embedding

    shape = PictureShape(*(size or (112, 112, 3))).nchw(1)
    if text.endswith(".onnx"):
        imported = import_onnx(text, input_shape=size and shape[1:])
        shape = shape if size else (1, *imported.file.input_shape)
        model: Model = imported
    else:
        model = load_model(*parse_model(text))
    return Network(model.name, checked_embedding(model, shape).graph.symbol(), shape[1:])
