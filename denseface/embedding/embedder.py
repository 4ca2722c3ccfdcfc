"""From pictures to embeddings of the faces in them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from denseface.core.cpus import usable_cpus
from denseface.core.errors import InputError, is_out_of_memory, mxnet_reason
from denseface.core.parallel import ordered_map
from denseface.core.vectors import normalize as normalized
from denseface.data.cropping import Crop, Cropper
from denseface.data.pictures import Picture, PictureShape, load_picture
from denseface.embedding.engines import make_engine
from denseface.embedding.engines.onnx_model import read_onnx
from denseface.embedding.scaling import make_scaling, scaled

if TYPE_CHECKING:
    from denseface.embedding.engines.onnx_model import OnnxModel
    from denseface.models.checkpoint import Model

    import mxnet as mx

_MOST_DECODERS = 4


class PictureError(InputError):
    """One of the pictures cannot be used.

    Attributes
    ----------
    position : int
        Its index among the pictures.
    reason : str
        What is wrong with it.
    """

    def __init__(self, position: int, reason: str):
        super().__init__(f"picture {position}: {reason}")
        self.position = position
        self.reason = reason


class Embedder:
    """Computes embeddings with one network.

    Pictures are computed in batches of one fixed size, the last one filled up with zeros. With the engine ``mxnet`` an
    embedding is the same, bit by bit, whatever pictures are computed with it; with the others, up to rounding.

    Several threads may use one embedder at once: each call returns the embeddings of its own pictures, bit by bit what
    it would return alone. MXNet computes one batch after the other, so threads gain only by reading pictures meanwhile;
    ONNX Runtime and OpenVINO serve every thread with a request of its own.

    Parameters
    ----------
    model : Model or OnnxModel
        The network and its parameters.
    engine : str, optional
        The library that computes, one of :data:`denseface.embedding.engines.ENGINES`. By default ``mxnet``, and for an
        ONNX file ``onnxruntime``.
    batch_size : int
        Pictures computed at a time; a mirror image counts as one. Larger batches are not faster on a CPU, and MXNet
        takes 130 MB per picture with DenseNet-121; on a GPU take 64 or more. An ONNX file made for one batch size keeps
        to it.
    flip : bool
        Add the embedding of the mirrored picture, as InsightFace does: the two are summed, and the sum is normalized.
    normalize : bool
        Scale each embedding to length 1; zeros stay zeros.
    image_shape : tuple (height, width, channels), optional
        Shape of the network's input; channels 1 (gray) or 3 (RGB). By default (112, 112, 3), and for an ONNX file the
        shape that it was made for.
    crop : Cropper, optional
        Makes aligned faces of pictures that have another size than the network's input. By default it cuts out the
        largest face that the installed detector finds.
    context : mxnet.Context, optional
        Where to compute; the CPU by default.

    Attributes
    ----------
    emb_size : int
        Values in an embedding.
    fingerprint : dict
        Identifies the model; see :class:`denseface.models.checkpoint.Model`.

    Raises
    ------
    InputError
        If the parameters do not fit pictures of this shape, or the engine's package is missing.

    Examples
    --------
    >>> embedder = Embedder.load("models/d15-arcface-orl/model")  # doctest: +SKIP
    >>> embedder.embed(["anna.jpg", "another-anna.jpg"]).shape  # doctest: +SKIP
    (2, 128)
    """

    def __init__(
        self,
        model: Model | OnnxModel,
        *,
        engine: str | None = None,
        batch_size: int = 2,
        flip: bool = True,
        normalize: bool = True,
        image_shape: tuple[int, int, int] | None = None,
        crop: Cropper | None = None,
        context: mx.Context | None = None,
    ):
        if batch_size < 1:
            raise InputError(f"must be at least 1, not {batch_size}", option="batch_size")
        if image_shape is not None and image_shape[2] not in (1, 3):
            raise InputError(f"channels must be 1 (gray) or 3 (RGB), not {image_shape[2]}", option="image_shape")
        self.model = model
        self.flip = flip
        self.normalize = normalize
        self.crop = crop or Cropper()
        input_shape = image_shape and PictureShape(*image_shape).nchw(1)[1:]
        self.engine = engine or model.default_engine
        self._engine = make_engine(self.engine, model, batch_size, input_shape, context)
        self.image_shape = PictureShape.from_nchw((1, *self._engine.input_shape))
        self.batch_size = self._engine.batch_size
        self.emb_size = self._engine.emb_size

    @classmethod
    def load(
        cls,
        text: str,
        *,
        input_mean: float | None = None,
        input_scale: float | None = None,
        bgr: bool = False,
        **options: object,
    ) -> Embedder:
        """Load a model and make an embedder of it.

        Parameters
        ----------
        text : str
            ``PREFIX,EPOCH``, ``PREFIX`` for its newest model, or a file ``.onnx``.
        input_mean, input_scale, bgr : float, float and bool, optional
            For a network from elsewhere that leaves it to its caller to scale pixels: it gets (pixel - mean) * scale,
            with blue first if `bgr`. By default pixels as they are, except for an ONNX file from elsewhere, which is
            read by the rule of the insightface package.
        **options
            As for the class.

        Raises
        ------
        InputError
            If there is no such model, or it is damaged.
        """
        scaling = make_scaling(input_mean, input_scale, bgr)
        if text.endswith(".onnx"):
            return cls(read_onnx(text, scaling), **options)
        from denseface.models.checkpoint import load_model, parse_model

        return cls(scaled(load_model(*parse_model(text)), scaling), **options)

    @property
    def fingerprint(self) -> dict:
        """Identify the model."""
        return self.model.fingerprint

    @property
    def precision(self) -> str:
        """``float32``, ``bfloat16``, ``int8``, or ``int8 and bfloat16``: the numbers that the layers compute with."""
        kinds = [] if self.model.precision == "float32" else [self.model.precision]
        kinds += ["bfloat16"] if self.engine.endswith("-bf16") else []
        return " and ".join(kinds) or "float32"

    def describe(self) -> dict:
        """Describe everything that decides an embedding, as a gallery records it.

        Returns
        -------
        dict
            ``prefix``, ``epoch`` and ``sha256`` of the model, ``engine``, ``precision``, ``flip``, ``normalize``,
            ``image_shape`` (height, width, channels), and ``crop``, how faces are cut out of pictures; ``scaling``
            (mean, scale, bgr) if the network leaves it to its caller.
        """
        return {
            **self.fingerprint,
            **({"scaling": list(self.model.scaling)} if self.model.scaling else {}),
            "engine": self.engine,
            "precision": self.precision,
            "flip": self.flip,
            "normalize": self.normalize,
            "image_shape": list(self.image_shape),
            "crop": self.crop.description,
        }

    def embed(self, images: Picture | Iterable[Picture]) -> np.ndarray:
        """Embed pictures.

        Parameters
        ----------
        images : ndarray of shape (N, H, W, 3), uint8, or iterable of pictures, or one picture
            A picture is a uint8 array, RGB of shape (H, W, 3) or gray of shape (H, W); a PIL image; a path; or the
            bytes of a picture file. One of exactly the network's size is an aligned face; of any other, one face is cut
            out by `crop`. An iterable is read as it is needed.

        Returns
        -------
        ndarray of shape (N, emb_size), float32

        Raises
        ------
        PictureError
            If a picture is broken, has no face, or an array is of another type or shape.
        """
        parts = [self.combine(plain, mirrored) for plain, mirrored in self._batches(images, self._only_face)]
        return np.concatenate([np.empty((0, self.emb_size), np.float32), *parts])

    def cut(self, picture: Picture) -> list[Crop]:
        """Cut the faces out of a picture, as :meth:`embed` does before it computes.

        Parameters
        ----------
        picture
            As for :meth:`embed`.

        Returns
        -------
        list of Crop
            One; with ``Cropper(face="all")`` all.

        Raises
        ------
        InputError
            If the picture is broken, or has no face.
        """
        pixels = load_picture(picture)
        if not isinstance(picture, (str, Path)):
            if self.crop.landmarks is not None:
                raise InputError("landmarks from a file are found by a picture's path; give the path")
            return self.crop(pixels, self.image_shape)
        try:
            return self.crop(pixels, self.image_shape, self.crop.locate(picture))
        except InputError as error:
            raise InputError(f"{picture}: {error}") from error

    def combine(self, plain: np.ndarray, mirrored: np.ndarray | None) -> np.ndarray:
        """Make embeddings, float32 (n, emb_size), of what :meth:`compute` returns."""
        embeddings = plain if mirrored is None else plain + mirrored
        return normalized(embeddings).astype(np.float32) if self.normalize else embeddings

    def batches(self, images: Picture | Iterable[Picture]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Embed aligned faces, batch by batch, in memory that does not grow with their number.

        Parameters
        ----------
        images
            Pictures in the forms that :meth:`embed` takes, all of aligned faces; those of another size than the
            network's are resized.

        Yields
        ------
        plain, mirrored : ndarray of shape (n, emb_size), float32
            For up to `batch_size` pictures, as from :meth:`compute`.
        """
        yield from self._batches(images, lambda picture: load_picture(picture, self.image_shape))

    def _batches(self, images, load):
        """Load pictures on other threads, and compute them."""
        load = partial(_load, load)
        if _is_single(images):
            decoding = contextlib.nullcontext(map(load, [(0, images)]))  # starting threads would take longer
        else:
            decoding = ordered_map(load, enumerate(images), usable_cpus(most=_MOST_DECODERS), 2 * self.batch_size)
        first = 0
        with decoding as decoded:
            while loaded := list(itertools.islice(decoded, self.batch_size)):
                names, pictures = zip(*loaded)
                try:
                    yield self.compute(as_batch(pictures, self.image_shape))
                except PictureError as error:
                    raise PictureError(first + error.position, names[error.position] + error.reason) from error
                first += len(pictures)

    def compute(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Embed pictures that have the network's shape.

        A picture and its mirror image stand side by side in the batches that the engine computes.

        Parameters
        ----------
        batch : ndarray of shape (n, C, H, W), float32
            RGB or gray, 0 to 255; any number of pictures.

        Returns
        -------
        plain, mirrored : ndarray of shape (n, emb_size), float32
            Embeddings as the network computes them, not normalized, and those of the mirror images (None without
            `flip`).

        Raises
        ------
        PictureError
            If an embedding is not finite.
        InputError
            If the array has another type or shape, or the engine fails.
        """
        wanted = self.image_shape.nchw(len(batch))
        if batch.dtype != np.float32 or batch.shape != wanted:
            raise InputError(f"a batch must be float32 of shape {wanted}, not {batch.dtype} {batch.shape}")
        rows = np.stack([batch, batch[..., ::-1]], axis=1).reshape(-1, *batch.shape[1:]) if self.flip else batch
        embeddings = np.empty((len(rows), self.emb_size), np.float32)
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            embeddings[start : start + len(part)] = self._run(part)[: len(part)]
        plain, mirrored = (embeddings[::2], embeddings[1::2]) if self.flip else (embeddings, None)
        _check_finite(plain, mirrored)
        return plain, mirrored

    def _run(self, rows):
        """Let the engine compute up to a batch, filled up with zeros."""
        batch = rows
        if len(rows) < self.batch_size:
            batch = np.zeros((self.batch_size, *rows.shape[1:]), np.float32)
            batch[: len(rows)] = rows
        try:
            embeddings = self._engine(np.ascontiguousarray(batch))
        except Exception as error:  # each engine has its own
            raise self._failure(error) from error
        if embeddings.shape != (self.batch_size, self.emb_size):
            raise InputError(f"{self.model.name}: it computes {embeddings.shape} of {self.batch_size} pictures")
        return embeddings

    def _failure(self, error):
        reason = mxnet_reason(error)
        if is_out_of_memory(error):
            return InputError(
                f"{self.engine} has no memory for {self.batch_size} pictures at a time ({reason}); take fewer",
                option="batch_size",
            )
        return InputError(f"{self.model.name}: {self.engine} cannot compute it: {reason}")

    def _only_face(self, picture):
        crop, *_ = self.cut(picture)
        if crop.suffix:
            raise InputError("all is more than one row per picture; cut() returns them all, to embed", option="face")
        return crop.pixels


def _load(load, numbered):
    position, picture = numbered
    name = f"{picture}: " if isinstance(picture, (str, Path)) else ""
    try:
        return name, load(picture)
    except InputError as error:
        raise PictureError(position, str(error)) from error


def as_batch(pictures: Sequence[np.ndarray], image_shape: tuple[int, int, int]) -> np.ndarray:
    """Stack pictures for :meth:`Embedder.compute`.

    Parameters
    ----------
    pictures : sequence of ndarray of shape (height, width, channels), uint8
    image_shape : tuple (height, width, channels)

    Returns
    -------
    ndarray of shape (n, channels, height, width), float32
    """
    stacked = np.array(pictures, np.uint8).reshape(-1, *image_shape)
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2), np.float32)


def _check_finite(plain, mirrored):
    with np.errstate(over="ignore", invalid="ignore"):
        summed = plain if mirrored is None else plain + mirrored
    broken = np.flatnonzero(~np.isfinite(summed).all(axis=1))
    if len(broken):
        raise PictureError(int(broken[0]), "its embedding is not finite; check the parameters of the model")


def _is_single(images):
    return isinstance(images, (str, Path, bytes, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4)
