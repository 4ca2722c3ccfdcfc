"""Unpack a training set to folders of pictures."""

from __future__ import annotations

from pathlib import Path

from denseface.core.errors import InputError
from denseface.data.pictures import usual_suffix
from denseface.data.records import FaceRecords
from denseface.datasets.output import Progress, fresh_folder, no_progress, replacing_csv


def unpack(folder: str | Path, out: str | Path, on_progress: Progress = no_progress) -> tuple[int, int]:
    """Write each picture of a training set to a file ``LABEL/KEY.jpg`` (or the suffix of its format), byte for byte.

    Labels and keys are padded with zeros, so that names sort as numbers do and `denseface.datasets.folder` builds the
    same set from them. Records that cannot be read are listed in ``bad.csv``, with their keys and the reasons.

    Parameters
    ----------
    folder : path-like
        The training set.
    out : path-like
        The folder to make. It may exist if it is empty.
    on_progress : callable
        Called with the number of pictures that are done, and of all.

    Returns
    -------
    num_images, num_bad : int
        The numbers of pictures written and of records listed.

    Raises
    ------
    InputError
        If the training set cannot be read, or ``out`` cannot be made.
    """
    bad: list[tuple[int, str]] = []
    with FaceRecords(folder) as records, fresh_folder(out) as aside:
        label_digits = len(str(records.num_classes - 1))
        key_digits = len(str(records.keys.max()))
        for done, key in enumerate(records.keys.tolist(), 1):
            try:
                label, payload = records.read_image(key)
                suffix = usual_suffix(payload)
                if suffix is None:
                    raise InputError("its first bytes are not those of a picture")
            except InputError as error:
                bad.append((key, str(error)))
            else:
                person = aside / f"{label:0{label_digits}}"
                person.mkdir(exist_ok=True)
                (person / f"{key:0{key_digits}}{suffix}").write_bytes(payload)
            on_progress(done, len(records))
        if bad:
            with replacing_csv(aside / "bad.csv", ("key", "reason")) as table:
                table.writerows(bad)
    return len(records) - len(bad), len(bad)
