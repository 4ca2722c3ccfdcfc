"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from denseface.embedding import Embedder


def add_example(parser: argparse.ArgumentParser, *lines: str) -> None:
    """Show commands as they are typed at the end of a command's help."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n  ".join(["example:" if len(lines) == 1 else "examples:", *lines])


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`load_embedder` reads."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="PREFIX,EPOCH",
        help="PREFIX-symbol.json and PREFIX-EPOCH.params; PREFIX alone means the newest",
    )
    parser.add_argument(
        "--image-size",
        type=_image_size,
        default=(112, 112, 3),
        metavar="H,W[,C]",
        help="height, width and channels (1 gray, 3 RGB) of the network's input (default: 112,112,3)",
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=8, metavar="N", help="pictures computed at a time (default: 8)"
    )
    parser.add_argument("--no-flip", action="store_true", help="leave out mirror images, which takes half the time")
    parser.add_argument("--gpu", type=int, metavar="N", help="compute on this GPU instead of the CPU")


def load_embedder(args: argparse.Namespace) -> Embedder:
    """Make the embedder that the options describe."""
    from denseface.embedding import Embedder

    import mxnet as mx

    return Embedder.load(
        args.model,
        batch_size=args.batch_size,
        flip=not args.no_flip,
        image_shape=args.image_size,
        context=None if args.gpu is None else mx.gpu(args.gpu),
    )


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def _image_size(text):
    try:
        numbers = [int(number) for number in text.split(",")]
        height, width, channels = numbers if len(numbers) == 3 else [*numbers, 3]
    except ValueError:
        raise argparse.ArgumentTypeError(f"write {text!r} as height,width or height,width,channels") from None
    if height < 1 or width < 1 or channels not in (1, 3):
        raise argparse.ArgumentTypeError("height and width must be at least 1, and channels 1 or 3")
    return height, width, channels
