"""Options that several commands share."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from denseface.core.errors import InputError
from denseface.embedding.engines import ENGINES

if TYPE_CHECKING:
    from denseface.data.cropping import Cropper
    from denseface.embedding.embedder import Embedder

_MAX_SIDE = 4096


def add_example(parser: argparse.ArgumentParser, *lines: str) -> None:
    """Show commands as they are typed at the end of a command's help."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = textwrap.fill(parser.description, 79)
    parser.epilog = "\n  ".join(["example:" if len(lines) == 1 else "examples:", *lines])


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`load_embedder` reads."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="PREFIX,EPOCH",
        help="PREFIX-symbol.json and PREFIX-EPOCH.params; PREFIX alone means the newest; or a file that export wrote",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        help="what computes (default: mxnet, or onnxruntime for an ONNX file)",
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="H,W[,C]",
        help="height, width and channels (1 gray, 3 RGB) of the network's input (default: 112,112,3; ONNX files know)",
    )
    parser.add_argument(
        "--batch-size",
        type=batch_size,
        default=2,
        metavar="N",
        help="pictures computed at a time (default: 2, which a CPU does as fast as more; take 64 or more on a GPU)",
    )
    parser.add_argument("--gpu", type=gpu_number, metavar="N", help="compute on this GPU instead of the CPU")


def add_no_flip(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-flip``."""
    parser.add_argument("--no-flip", action="store_true", help="leave out mirror images, which takes half the time")


def add_alignment_options(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`load_cropper` reads."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--landmarks",
        metavar="FILE",
        help="cut the faces out by this file; a line is a picture's path and x, y of both eyes, nose, mouth corners",
    )
    choice.add_argument(
        "--detect",
        action="store_true",
        help="cut out the largest face in each picture, found by the insightface package",
    )
    parser.add_argument(
        "--detector",
        metavar="PACK_OR_FILE",
        help="what --detect finds faces with: a pack in ~/.insightface/models, or a file .onnx (default: buffalo_l)",
    )


def load_cropper(args: argparse.Namespace, embedder: Embedder, folder: str | Path = ".") -> Cropper | None:
    """Make what cuts the faces out, if the options ask for it; paths in ``--landmarks`` are those below ``folder``."""
    if args.detector and not args.detect:
        raise InputError("--detector says what --detect finds faces with; give both")
    if not (args.detect or args.landmarks):
        return None
    from denseface.data.cropping import Cropper, Detector, LandmarkFile

    locate = Detector(args.detector or "buffalo_l") if args.detect else LandmarkFile(args.landmarks, folder)
    return Cropper(locate, embedder.image_shape)


def load_embedder(args: argparse.Namespace, flip: bool = True) -> Embedder:
    """Make the embedder that the options describe."""
    from denseface.embedding.embedder import Embedder

    return Embedder.load(
        args.model,
        engine=args.engine,
        batch_size=args.batch_size,
        flip=flip,
        image_shape=args.image_size,
        context=None if args.gpu is None else _gpu(args.gpu),
    )


def _gpu(number):
    import mxnet as mx

    return mx.gpu(number)


def positive(text: str) -> int:
    """Read a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def batch_size(text: str) -> int:
    """Read a number of pictures that MXNet can count the values of."""
    return _within(text, 1, 8192)


def gpu_number(text: str) -> int:
    """Read the number of a GPU."""
    return _within(text, 0, 1023)


def _within(text, low, high):
    number = int(text)
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"it must be from {low} to {high}")
    return number


def image_size(text: str) -> tuple[int, int, int]:
    """Read ``height,width`` or ``height,width,channels``."""
    try:
        numbers = [int(number) for number in text.split(",")]
        height, width, channels = numbers if len(numbers) == 3 else [*numbers, 3]
    except ValueError:
        raise argparse.ArgumentTypeError(f"write {text!r} as height,width or height,width,channels") from None
    if not (1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE and channels in (1, 3)):
        raise argparse.ArgumentTypeError(f"height and width must be from 1 to {_MAX_SIDE}, and channels 1 or 3")
    return height, width, channels
