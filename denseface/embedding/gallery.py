"""Files of embeddings, ``.npz``, written and searched in memory that does not grow with their number.

Such a file holds ``embeddings``, float32 (N, emb_size); ``names``, text (N,); and ``model``, JSON text that says which
model they come from.  ``numpy.load`` reads it.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import replacing
from denseface.core.vectors import normalize

_BLOCK = 1 << 20
_CELLS = 1 << 22  # numbers in one array of a search
_MAX_SIDE = 4096
_MAX_SIZE = 1 << 20  # values of an embedding, and bytes of a name
_MAX_MODEL = 1 << 20


def write_gallery(
    path: str | Path, rows: BinaryIO, shape: tuple[int, int], names: Iterable[str], name_width: int, model: dict
) -> None:
    """Write embeddings to a file, which appears whole or not at all.

    Parameters
    ----------
    path : path-like
        The file.
    rows : binary file
        The embeddings one after the other, little-endian float32.
    shape : tuple (N, emb_size)
        How many there are.
    names : iterable of str, of length N
        A name for each.
    name_width : int
        Characters in the longest.
    model : dict
        Which model they come from.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        with _member(archive, "embeddings", zipfile.ZIP_STORED) as member:
            _write_header(member, "<f4", shape)
            for block in iter(lambda: rows.read(_BLOCK), b""):
                member.write(block)
        with _member(archive, "names", zipfile.ZIP_DEFLATED) as member:
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


class Gallery:
    """A file of embeddings.

    Parameters
    ----------
    path : path-like
        The file.

    Attributes
    ----------
    shape : tuple (N, emb_size)
        How many embeddings there are, and how long one is.
    model : dict
        Which model they come from: ``prefix``, ``epoch``, ``sha256``, and how they were computed: ``engine``, ``flip``,
        ``image_shape`` (height, width, channels), and ``crop`` if faces were cut out of the pictures.

    Raises
    ------
    InputError
        If it is missing, broken, or not such a file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with self._open("model") as member:
            self.model = json.loads(_read_text(member))
        with self._open("embeddings") as member:
            self.shape, dtype = _read_header(member)
        with self._open("names") as member:
            names_shape, names_dtype = _read_header(member)
        if dtype != np.dtype("<f4") or len(self.shape) != 2 or names_dtype.kind != "U" or not names_dtype.itemsize:
            raise InputError(f"{path}: embeddings must be float32 (N, emb_size) and names text; make it again")
        if not (self.shape[0] >= 0 and 1 <= self.shape[1] <= _MAX_SIZE and names_dtype.itemsize <= _MAX_SIZE):
            raise InputError(f"{path}: {self.shape} embeddings with names of {names_dtype} cannot be; make it again")
        if names_shape != self.shape[:1]:
            raise InputError(f"{path}: {self.shape[0]} embeddings need as many names, not {names_shape}; make it again")
        if not _says_how(self.model):
            raise InputError(f"{path}: it does not say how its embeddings were computed; make it with denseface embed")

    def __len__(self) -> int:
        return self.shape[0]

    def nearest(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the embeddings that are most similar to others.

        Parameters
        ----------
        queries : ndarray of shape (q, emb_size), float32
            Normalised embeddings.
        count : int
            How many to find for each, if there are as many.

        Returns
        -------
        places : ndarray of shape (q, count), int64
            Most similar first.
        scores : ndarray of shape (q, count), float32
            Cosine similarities.

        Raises
        ------
        InputError
            If the file is broken, or an embedding in it is not finite.
        """
        places = np.empty((len(queries), 0), np.int64)
        scores = np.empty((len(queries), 0), np.float32)
        step = max(1, _CELLS // max(self.shape[1], len(queries)))
        for start, rows in self._chunks(step):
            found = queries @ normalize(rows).astype(np.float32).T
            places = np.hstack([places, np.broadcast_to(np.arange(start, start + len(rows)), found.shape)])
            scores = np.hstack([scores, found])
            best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            places, scores = np.take_along_axis(places, best, 1), np.take_along_axis(scores, best, 1)
        return places, scores

    def names(self, places: Iterable[int]) -> dict[int, str]:
        """Return the names of the embeddings at some places."""
        found = {}
        with self._open("names") as member:
            _, dtype = _read_header(member)
            start = member.tell()
            for place in sorted({int(place) for place in places}):
                member.seek(start + place * dtype.itemsize)
                found[place] = str(np.frombuffer(member.read(dtype.itemsize), dtype)[0])
        return found

    @contextlib.contextmanager
    def _open(self, name):
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as member:
                yield member
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"{self.path}: there is no such file; denseface embed writes it") from error
        except Exception as error:  # zipfile, zlib, NumPy and json have many for a broken file
            raise InputError(
                f"{self.path}: it is not a file that denseface embed wrote, or broken; make it anew"
            ) from error

    def _chunks(self, step):
        """Read the embeddings, `step` at a time, with the place of the first."""
        n, emb_size = self.shape
        with self._open("embeddings") as member:
            _read_header(member)
            for start in range(0, n, step):
                count = min(step, n - start)
                rows = np.frombuffer(member.read(4 * emb_size * count), "<f4")
                if rows.size != emb_size * count or not np.isfinite(rows).all():
                    raise InputError(f"{self.path}: it is broken behind embedding {start}; make it again")
                yield start, rows.reshape(count, emb_size)


def _read_header(member):
    """The shape and type of an array, from the start of its member."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(member)
    if fortran_order:
        raise ValueError("an array is in Fortran's order")
    return shape, dtype


def _read_text(member):
    shape, dtype = _read_header(member)
    if shape != () or dtype.kind != "U" or dtype.itemsize > _MAX_MODEL:
        raise ValueError("model is not a text")
    return str(np.frombuffer(member.read(dtype.itemsize), dtype)[0])


def _says_how(model):
    if not isinstance(model, dict) or type(model.get("flip")) is not bool or not isinstance(model.get("sha256"), str):
        return False
    shape = model.get("image_shape")
    return type(shape) is list and len(shape) == 3 and all(type(s) is int and 1 <= s <= _MAX_SIDE for s in shape)
