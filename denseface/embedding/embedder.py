"""From pictures to embeddings of the faces in them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from denseface.core.errors import InputError, is_out_of_memory, reason_of
from denseface.core.threads import finished_before_exit
from denseface.core.vectors import normalize as normalized
from denseface.data.cropping import Crop, Cropper
from denseface.data.faces import CutPicture, Face, check_finite, compute_batches, cut_ahead, usable
from denseface.data.pictures import Picture, PictureShape, filled, is_picture_form, open_photograph
from denseface.embedding.engines import INPUT_SHAPE, Engine, make_engine
from denseface.embedding.engines.choice import default_engines
from denseface.embedding.engines.onnx_model import read_onnx
from denseface.embedding.scaling import make_scaling, scaled

if TYPE_CHECKING:
    from denseface.embedding.engines.onnx_model import OnnxModel
    from denseface.models.checkpoint import Model

    import mxnet as mx


logger = logging.getLogger(__name__)


class Embeddings(NamedTuple):
    """What is computed from a batch of n faces.

    Attributes
    ----------
    rows : ndarray of shape (n, emb_size), float32
        As :meth:`Embedder.embed` returns them.
    plain : ndarray of shape (n, emb_size), float32
        Of the faces alone, as the network computes them.
    summed : ndarray of shape (n, emb_size), float32
        With those of the mirror images added, not normalized; without `flip` the same as `plain`.
    """

    rows: np.ndarray
    plain: np.ndarray
    summed: np.ndarray


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
        The library that computes, one of :data:`denseface.embedding.engines.ENGINES`. By default ``onnxruntime`` for an
        ONNX file, and for other models the fastest that is installed and computes in float32; see
        :func:`denseface.embedding.engines.choice.default_engines`.
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
        Where MXNet computes; the CPU by default.
    provider : str, optional
        Where ONNX Runtime computes, one of :data:`denseface.core.providers.PROVIDERS`; the CPU by default. It makes
        ``onnxruntime`` the default engine.

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
        provider: str | None = None,
    ):
        if batch_size < 1:
            raise InputError(f"must be at least 1, not {batch_size}", option="batch_size")
        if image_shape is not None and image_shape[2] not in (1, 3):
            raise InputError(f"channels must be 1 (gray) or 3 (RGB), not {image_shape[2]}", option="image_shape")
        self.model = model
        self.flip = flip
        self.normalize = normalize
        self.crop = crop or Cropper()
        self.provider = provider
        engine = engine or (None if provider is None else "onnxruntime")
        input_shape = image_shape and PictureShape(*image_shape).nchw(1)[1:]
        self.engine, self._engine = _make_engine(engine, model, batch_size, input_shape, context, provider)
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
        **options: Any,
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
            shape = options.get("image_shape")
            return cls(read_onnx(text, scaling, shape and PictureShape(*shape).nchw(1)[1:]), **options)
        from denseface.models.checkpoint import load_model, parse_model

        return cls(scaled(load_model(*parse_model(text)), scaling), **options)

    @property
    def fingerprint(self) -> dict:
        """Identify the model."""
        return self.model.fingerprint

    @property
    def precision(self) -> str:
        """``float32``, ``bfloat16``, ``int8``, or ``int8 and bfloat16``: the numbers that the layers compute with.

        ``float32 on cuda``, say, if an accelerator's float32 is not that of the CPU.
        """
        kinds = [kind for kind in (self.model.precision, self._engine.precision) if kind != "float32"]
        return " and ".join(kinds) or "float32"

    def describe(self) -> dict:
        """Describe everything that decides an embedding, as a gallery records it.

        Returns
        -------
        dict
            ``prefix``, ``epoch`` and ``sha256`` of the model, ``engine``, ``precision``, ``flip``, ``normalize``,
            ``image_shape`` (height, width, channels), and ``crop``, how faces are cut out of pictures; ``scaling``
            (mean, scale, bgr) if the network leaves it to its caller, and ``provider`` if it is not the CPU.
        """
        return {
            **self.fingerprint,
            **({"scaling": list(self.model.scaling)} if self.model.scaling else {}),
            "engine": self.engine,
            **({"provider": self.provider} if self.provider not in (None, "cpu") else {}),
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
            A picture is a uint8 array, RGB of shape (H, W, 3) or gray of shape (H, W); a PIL image; a path; the bytes
            of a picture file, or an open file. One of exactly the network's size is an aligned face; of any other, one
            face is cut out by `crop`. An iterable is read as it is needed.

        Returns
        -------
        ndarray of shape (N, emb_size), float32

        Raises
        ------
        PictureError
            If a picture is broken, has no face, or an array is of another type or shape.
        """
        is_one = is_picture_form(images) or not isinstance(images, Iterable)
        numbered = enumerate(cast("Iterable[Picture]", [images] if is_one else images))
        ahead, threads = 2 * self.batch_size, 0 if is_one else None  # starting threads would take longer
        parts = [np.empty((0, self.emb_size), np.float32)]
        with cut_ahead(self._cut_one, numbered, ahead, threads) as pictures:
            batches = compute_batches(self.compute, usable(pictures), self.batch_size, self.image_shape)
            parts += [embeddings.rows for _, embeddings in batches]
        return np.concatenate(parts)

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
        photograph = open_photograph(picture)
        if not isinstance(picture, (str, os.PathLike)):
            if self.crop.landmarks is not None:
                raise InputError("landmarks from a file are found by a picture's path; give the path")
            return self.crop(photograph, self.image_shape)
        try:
            return self.crop(photograph, self.image_shape, self.crop.locate(picture))
        except InputError as error:
            raise InputError(f"{picture}: {error}") from error

    def compute(self, batch: np.ndarray) -> Embeddings:
        """Embed pictures that have the network's shape.

        A picture and its mirror image stand side by side in the batches that the engine computes.

        Parameters
        ----------
        batch : ndarray of shape (n, C, H, W), float32
            RGB or gray, 0 to 255; any number of pictures.

        Returns
        -------
        Embeddings

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
        plain = summed = embeddings
        if self.flip:
            plain = np.ascontiguousarray(embeddings[::2])
            with np.errstate(over="ignore", invalid="ignore"):
                summed = plain + embeddings[1::2]
        check_finite(summed, "check the parameters of the model")
        return Embeddings(normalized(summed).astype(np.float32) if self.normalize else summed, plain, summed)

    def _run(self, rows: np.ndarray) -> np.ndarray:
        """Let the engine compute up to a batch, filled up with zeros."""
        try:
            with finished_before_exit():
                embeddings = self._engine(np.ascontiguousarray(filled(rows, self.batch_size)))
        except Exception as error:  # each engine has its own
            raise self._failure(error) from error
        if embeddings.shape != (self.batch_size, self.emb_size):
            raise InputError(f"{self.model.name}: it computes {embeddings.shape} of {self.batch_size} pictures")
        return embeddings

    def _failure(self, error: Exception) -> InputError:
        reason = reason_of(error)
        if is_out_of_memory(error):
            return InputError(
                f"{self.engine} has no memory for {self.batch_size} pictures at a time ({reason}); take fewer",
                option="batch_size",
            )
        return InputError(f"{self.model.name}: {self.engine} cannot compute it: {reason}")

    def _cut_one(self, numbered: tuple[int, Picture]) -> CutPicture[int]:
        """Cut the only face out of one picture for :meth:`embed`."""
        position, picture = numbered
        name, file = f"picture {position}", ""
        if isinstance(picture, (str, os.PathLike)):
            file = os.fspath(picture)
            name = f"{name}: {file}"
        try:
            crop, *_ = self.cut(picture)
            if crop.suffix:
                raise InputError("all is more than one row per picture; cut() returns them all", option="face")
        except InputError as error:
            return CutPicture(position, [Face.failed(name, error, file)])
        return CutPicture(position, [Face(name, crop.pixels)])


def _make_engine(
    name: str | None,
    model: Model | OnnxModel,
    batch_size: int,
    input_shape: tuple[int, int, int] | None,
    context: mx.Context | None,
    provider: str | None,
) -> tuple[str, Engine]:
    """Return the engine of a name, or the best one that can compute a model, with its name."""
    *names, last = (name,) if name else default_engines(model, input_shape or INPUT_SHAPE, context)
    for better in names:
        try:
            return better, make_engine(better, model, batch_size, input_shape, context, provider)
        except InputError as error:  # so is every network that cannot be exported
            logger.info("computing with another engine than %s (%s)", better, error)
    return last, make_engine(last, model, batch_size, input_shape, context, provider)
