"""Cut the face out of a picture before it is embedded, by landmarks from a file or from a detector.

The detector is one of the insightface package's; it finds the five points that
:func:`denseface.data.align.align` takes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import open_input
from denseface.core.packages import require
from denseface.data.align import align, read_landmarks
from denseface.data.pictures import decode

_PACKS = Path("~/.insightface/models")
_DETECTORS = ("det_*.onnx", "scrfd_*.onnx")  # what insightface's packs call them


class LandmarkFile:
    """The landmarks of pictures as a file tells them.

    Parameters
    ----------
    path : path-like
        As :func:`denseface.data.align.read_landmarks` takes it.
    folder : path-like
        The folder below which the file's pictures are.

    Attributes
    ----------
    description : dict
        ``landmarks``, the file's name, and ``sha256`` of its content.

    Raises
    ------
    InputError
        If the file is missing or broken.
    """

    def __init__(self, path: str | Path, folder: str | Path = "."):
        self._landmarks = read_landmarks(path)
        self._folder = PurePosixPath(folder)
        self.description = {"landmarks": Path(path).name, "sha256": _sha256(path)}

    def __call__(self, name: str, picture: np.ndarray) -> np.ndarray:
        """Return the landmarks, (5, 2), of the picture with this path; an InputError if the file has none."""
        path = PurePosixPath(name)
        if self._folder in path.parents:
            path = path.relative_to(self._folder)
        if str(path) not in self._landmarks:
            raise InputError("it has no landmarks")
        return self._landmarks[str(path)]


class Detector:
    """A detector of the insightface package, on the CPU; nothing is downloaded.

    Parameters
    ----------
    name : str
        A file ``.onnx``, or a model pack: a folder in ``~/.insightface/models``, with the detector that it holds.

    Attributes
    ----------
    description : dict
        ``detector``, the file's name, and ``sha256`` of its content.

    Raises
    ------
    InputError
        If the package or the file is missing, or the file is no detector that finds landmarks.
    """

    def __init__(self, name: str = "buffalo_l"):
        insightface = require("insightface")
        path = _detector_file(name)
        self.description = {"detector": path.name, "sha256": _sha256(path)}
        try:
            self._model = insightface.model_zoo.get_model(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has its own for each way that a file is broken
            raise InputError(f"{path}: insightface cannot load it; get the file anew") from error
        if getattr(self._model, "taskname", None) != "detection" or not self._model.use_kps:
            raise InputError(f"{path}: it is no face detector of insightface's that finds landmarks")
        self._model.prepare(ctx_id=-1)

    def __call__(self, name: str, picture: np.ndarray) -> np.ndarray:
        """Return the landmarks, (5, 2), of the largest face in an RGB picture; an InputError if there is no face."""
        bgr = np.ascontiguousarray(picture[:, :, ::-1])
        try:
            boxes, landmarks = self._model.detect(bgr)
        except MemoryError:
            raise
        except Exception as error:  # OpenCV has its own, for a picture too narrow to be scaled down, say
            raise InputError("the detector cannot take a picture of this shape") from error
        if not len(boxes):
            raise InputError("no face is found in it")
        left, top, right, bottom = boxes[:, :4].T
        return landmarks[((right - left) * (bottom - top)).argmax()]


class Cropper:
    """Cuts faces out of pictures, for networks of one input shape.

    Parameters
    ----------
    locate : LandmarkFile or Detector
        What finds the landmarks.
    image_shape : tuple (height, width, channels)
        What the network takes.

    Attributes
    ----------
    description : dict
        How the faces are cropped; embeddings of faces cropped in another way are others.

    Raises
    ------
    InputError
        If height and width differ.
    """

    def __init__(self, locate: LandmarkFile | Detector, image_shape: tuple[int, int, int]):
        height, width, _ = image_shape
        if height != width:
            raise InputError(f"the network takes pictures of {height} x {width}; faces are only cropped to squares")
        self.description = locate.description
        self._locate = locate
        self._size = height

    def __call__(self, name: str, payload: bytes) -> np.ndarray:
        """Crop the face of a picture.

        Parameters
        ----------
        name : str
            The picture's path.
        payload : bytes
            A JPEG, PNG, BMP, PGM, PPM or WebP file.  It is turned upright first, as its EXIF data say.

        Returns
        -------
        ndarray of shape (height, width, 3), uint8, RGB

        Raises
        ------
        InputError
            If the picture is broken, has no face, or cannot be aligned.
        """
        picture = decode(payload)
        return align(picture, self._locate(name, picture), self._size)


def _detector_file(name):
    if name.endswith(".onnx"):
        return Path(name)
    pack = _PACKS.expanduser() / name
    found = sorted(path for pattern in _DETECTORS for path in pack.glob(pattern))
    if not found:
        raise InputError(
            f"{pack}: there is no {' or '.join(_DETECTORS)}; put insightface's model pack {name} there, or give "
            "--detector FILE.onnx"
        )
    return found[0]


def _sha256(path):
    digest = hashlib.sha256()
    with open_input(path) as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
