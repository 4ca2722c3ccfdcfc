"""Files of embeddings, ``.npz``, written and searched in memory that does not grow with their number.

Such a file contains ``embeddings``, float32 (N, emb_size); ``names``, text (N,); and ``model``, JSON text that says how
they were computed. ``numpy.load`` reads it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import replacing
from denseface.data.cropping import cut_alike, way_of
from denseface.galleries.array_file import ArrayFile
from denseface.galleries.nearest import Found, nearest

_CELLS = 1 << 22  # numbers read at a time in a search
_MAX_SIDE = 4096
_MAX_SIZE = 1 << 20  # values of an embedding, or bytes of a name


def write_gallery(
    path: str | Path,
    blocks: Iterable[np.ndarray],
    shape: tuple[int, int],
    names: Iterable[str],
    name_width: int,
    model: dict,
) -> None:
    """Write embeddings to a file, which appears whole or not at all.

    Parameters
    ----------
    path : path-like
        The file.
    blocks : iterable of ndarray of shape (n, emb_size), float32
        The embeddings, some at a time.
    shape : tuple (N, emb_size)
        Number of embeddings, and length of one.
    names : iterable of str, of length N
        The name of each.
    name_width : int
        Characters in the longest name.
    model : dict
        How they were computed, as :class:`Gallery` requires it.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        with _member(archive, "embeddings", zipfile.ZIP_STORED) as member:
            _write_header(member, "<f4", shape)
            for rows in blocks:
                member.write(np.ascontiguousarray(rows, "<f4"))
        # A name that is not compressed is found at once; compression pays for names that are mostly padding.
        is_short = name_width <= shape[1]
        with _member(archive, "names", zipfile.ZIP_STORED if is_short else zipfile.ZIP_DEFLATED) as member:
            _write_header(member, f"<U{name_width}", shape[:1])
            for name in names:
                member.write(name.encode("utf-32-le", "surrogatepass").ljust(4 * name_width, b"\0"))
        with _member(archive, "model", zipfile.ZIP_STORED) as member:
            np.lib.format.write_array(member, np.array(json.dumps(model)))


def _member(archive, name, compression):
    info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, so that the same embeddings give the same file
    info.compress_type = compression
    return archive.open(info, "w", force_zip64=True)


def _write_header(member, descr, shape):
    np.lib.format.write_array_header_1_0(member, {"descr": descr, "fortran_order": False, "shape": shape})


class Match(NamedTuple):
    """An embedding of a gallery that is similar to another.

    Attributes
    ----------
    name : str
        The picture's.
    score : float
        Cosine similarity, -1 to 1.
    """

    name: str
    score: float


class Gallery:
    """A file of embeddings to search, as ``denseface embed`` writes it.

    Parameters
    ----------
    path : path-like
        The file.

    Attributes
    ----------
    shape : tuple (N, emb_size)
        Number of embeddings, and length of one.
    model : dict
        How the embeddings were computed; see :meth:`denseface.embedding.embedder.Embedder.describe`.

    Raises
    ------
    InputError
        If the file is missing, broken, or not such a file.

    Examples
    --------
    >>> gallery = Gallery("people.npz")  # doctest: +SKIP
    >>> gallery.require_same(embedder.describe())  # doctest: +SKIP
    >>> gallery.search(embedder.embed("anna.jpg"), 1)  # doctest: +SKIP
    [[Match(name='people/anna/1.jpg', score=0.87)]]
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = ArrayFile(path, ("model", "embeddings", "names"))
        self._is_unit = False  # whether a search has found that all rows have the length 1
        described = self._file.text("model")
        try:
            self.model = json.loads(described)
        except (ValueError, RecursionError) as error:
            raise InputError("not a file that denseface embed wrote, or broken; make it again", path=path) from error
        self.shape, dtype = self._file.shape("embeddings"), self._file.dtype("embeddings")
        names_shape, names_dtype = self._file.shape("names"), self._file.dtype("names")
        if dtype != np.dtype("<f4") or len(self.shape) != 2 or names_dtype.kind != "U" or not names_dtype.itemsize:
            raise InputError("embeddings must be float32 (N, emb_size) and names text; make it again", path=path)
        if not (self.shape[0] >= 0 and 1 <= self.shape[1] <= _MAX_SIZE and names_dtype.itemsize <= _MAX_SIZE):
            raise InputError(
                f"{self.shape} embeddings with names of {names_dtype} are impossible; make it again", path=path
            )
        if names_shape != self.shape[:1]:
            raise InputError(
                f"{self.shape[0]} embeddings need as many names, not {names_shape}; make it again", path=path
            )
        if not _says_how(self.model):
            raise InputError(
                "it does not say how its embeddings were computed; make it with denseface embed", path=path
            )

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def name_width(self) -> int:
        """Characters of the longest name."""
        return self._file.dtype("names").itemsize // 4

    @property
    def crop(self) -> dict:
        """How its faces were cut out; see :attr:`denseface.data.cropping.Cropper.description`."""
        return _crop_of(self.model)

    @property
    def roots(self) -> list[str]:
        """The folders that were searched for its pictures; none if nothing is said."""
        said = self.model.get("roots")
        return [root for root in said if isinstance(root, str)] if isinstance(said, list) else []

    @property
    def scaling(self) -> tuple[float, float, bool] | None:
        """How the pixels of a network from elsewhere were scaled (mean, scale, blue first); None if nothing is said."""
        said = self.model.get("scaling")
        kinds = [type(value) for value in said] if isinstance(said, list) else []
        return tuple(said) if kinds == [float, float, bool] else None

    @property
    def provider(self) -> str | None:
        """What ONNX Runtime computed on; None if nothing is said, as on the CPU."""
        said = self.model.get("provider")
        return said if isinstance(said, str) else None

    def require_same(self, description: dict) -> None:
        """Refuse embeddings that were not computed as those of the gallery.

        Parameters
        ----------
        description : dict
            As from :meth:`denseface.embedding.embedder.Embedder.describe`.

        Raises
        ------
        InputError
            If the model or anything else that changes an embedding differs. Engines of the same precision do not.
        """
        theirs, ours = self.model, description
        if theirs["sha256"] != ours["sha256"]:
            if self.scaling is not None and list(self.scaling) != ours.get("scaling"):
                mean, scale, bgr = self.scaling
                raise InputError(
                    f"its network took (pixel - {mean:g}) * {scale:g}{', blue first' if bgr else ''}; "
                    "search with this scaling and this model, or embed the pictures again",
                    path=self.path,
                )
            raise InputError(
                f"its embeddings come from another model, {theirs.get('prefix')},{theirs.get('epoch')}; "
                "search with that model, or embed the pictures again",
                path=self.path,
            )
        if not cut_alike(self.crop, _crop_of(ours)):
            made, wanted = way_of(self.crop), way_of(_crop_of(ours))
            raise InputError(
                f"made with {made}, and this search is with {wanted}, which cuts faces differently; "
                f"search with {made}, or embed the pictures of {self.path} again with {wanted}",
                path=self.path,
            )
        for key in ("flip", "image_shape", "precision"):
            if theirs[key] != ours[key]:
                raise InputError(
                    f"its embeddings were computed with {key} {theirs[key]}, not {ours[key]}; do "
                    "the same, or embed the pictures again",
                    path=self.path,
                )

    def require_fitting(self, queries: np.ndarray) -> None:
        """Refuse queries that have another shape than (q, emb_size), or are not finite."""
        if queries.ndim != 2 or queries.shape[1] != self.shape[1]:
            raise InputError(
                f"its embeddings have {self.shape[1]} values, which does not fit queries of shape {queries.shape}",
                path=self.path,
            )
        if not np.isfinite(queries).all():
            raise InputError("a query is not finite; check the model that it comes from")

    def search(self, embeddings: np.ndarray, count: int = 5) -> list[list[Match]]:
        """Find the pictures that are most similar to others.

        Parameters
        ----------
        embeddings : ndarray of shape (q, emb_size) or (emb_size,)
            Of any length.
        count : int
            How many to find for each.

        Returns
        -------
        list of list of Match
            For each embedding up to `count`, most similar first.

        Raises
        ------
        InputError
            As from :meth:`nearest`.
        """
        found = self.nearest(np.atleast_2d(embeddings), count)
        return matches(self.names(found.numbers.flat), found)

    def nearest(self, queries: np.ndarray, count: int) -> Found:
        """Find the embeddings that are most similar to others, by their rows.

        Parameters
        ----------
        queries : ndarray of shape (q, emb_size)
            Of any length.
        count : int
            How many to find for each, if there are as many.

        Raises
        ------
        InputError
            If the queries have another length, the file is broken, or an embedding in it is not finite.
        """
        self.require_fitting(queries)
        blocks = self._file.blocks("embeddings", max(1, _CELLS // self.shape[1]))
        numbered = ((np.arange(start, start + len(rows)), rows) for start, rows in blocks)
        try:
            found = nearest(queries, numbered, count, are_unit=self._is_unit)
        except InputError:
            raise
        except ValueError as error:
            raise InputError("an embedding in it is not finite; make it again", path=self.path) from error
        self._is_unit = found.are_unit
        return found

    def blocks(self, step: int) -> Iterator[tuple[int, np.ndarray]]:
        """Read all embeddings, `step` at a time.

        Yields
        ------
        start, rows : int, ndarray of shape (n, emb_size), float32
            The number of the first row; the rows are valid until the next are asked for.

        Raises
        ------
        InputError
            If the file is broken, or an embedding in it is not finite.
        """
        for start, rows in self._file.blocks("embeddings", step):
            if not np.isfinite(rows).all():
                raise InputError(f"an embedding behind number {start} is not finite; make it again", path=self.path)
            yield start, rows

    def names(self, rows: Iterable[int]) -> dict[int, str]:
        """Return the names of some embeddings, by their rows."""
        return self._file.texts("names", rows)


def matches(names: Mapping[int, str], found: Found) -> list[list[Match]]:
    """Name what was found, a list for each query."""
    return [
        [Match(names[number], score) for number, score in zip(*of_query)]
        for of_query in zip(found.numbers.tolist(), found.scores.tolist())
    ]


def _crop_of(description: dict) -> dict:
    """How faces were cut out; where nothing is said, the pictures were aligned faces."""
    crop = description.get("crop")
    return crop if isinstance(crop, dict) and isinstance(crop.get("by"), str) else {"by": "aligned"}


def _says_how(model: object) -> bool:
    kinds = {"sha256": str, "engine": str, "precision": str, "flip": bool, "image_shape": list}
    if not isinstance(model, dict) or any(type(model.get(key)) is not kind for key, kind in kinds.items()):
        return False
    shape = model["image_shape"]
    return len(shape) == 3 and all(type(side) is int and 1 <= side <= _MAX_SIDE for side in shape)
