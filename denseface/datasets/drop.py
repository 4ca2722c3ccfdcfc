"""Copy a training set without some of its pictures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from denseface.core.errors import InputError
from denseface.data.recordio import RecordError
from denseface.data.records import FaceRecords, write_face_records
from denseface.datasets.manifest import read_manifest, write_manifest
from denseface.datasets.output import fresh_folder, replacing_csv


class Kept(NamedTuple):
    """What `write_without` has written: the numbers of pictures, of people, and of people that lost all pictures."""

    num_images: int
    num_classes: int
    num_lost: int


def write_without(
    records: FaceRecords, dropped: Mapping[int, tuple[str, str]], out: str | Path, measure: str = "angle"
) -> Kept:
    """Write a training set with the other pictures, byte for byte.

    Labels are numbered again, because people may have lost all of their pictures. ``dropped.csv`` lists what was
    dropped, and ``manifest.csv``, if the set has one, what was kept. The verification sets in the folder are copied.

    Parameters
    ----------
    records : FaceRecords
        The training set.
    dropped : mapping of int to (number, reason)
        Keys of the pictures to drop, and two texts for ``dropped.csv``.
    out : path-like
        The folder to make. It may exist if it is empty.
    measure : str
        What the number is.

    Raises
    ------
    InputError
        If no picture is left, or ``out`` cannot be made.
    """
    entries = read_manifest(records.folder, records.keys.tolist())
    labels = {key: records.label(records.reader.read(key)) for key in records.keys.tolist() if key not in dropped}
    if not labels:
        raise InputError("no picture would be left; drop fewer", path=records.folder)
    numbers = {label: number for number, label in enumerate(sorted({*labels.values()}))}
    kept = sorted(labels, key=lambda key: (labels[key], key))

    with fresh_folder(out) as folder:
        images = ((numbers[labels[key]], records.read_image(key)[1]) for key in kept)
        written = write_face_records(folder, images, records.image_shape)
        if entries:
            with write_manifest(folder) as manifest:
                for number, key in enumerate(kept, 1):
                    if key in entries:
                        manifest.writerow((number, numbers[labels[key]], entries[key].person, entries[key].file))
        for path in sorted(path for path in Path(records.folder).iterdir() if path.suffix == ".bin"):
            for file in (path, path.with_suffix(".people.csv"), path.with_suffix(".csv")):
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)
        with replacing_csv(folder / "dropped.csv", ("key", "label", measure, "reason", "file")) as table:
            for key in sorted(dropped):
                table.writerow(
                    (key, _label_of(records, key), *dropped[key], entries[key].file if key in entries else "")
                )
    return Kept(len(kept), written.num_classes, records.num_classes - written.num_classes)


def _label_of(records: FaceRecords, key: int) -> int | str:
    try:
        return int(records.reader.read_labels(key)[0])
    except RecordError:
        return ""
