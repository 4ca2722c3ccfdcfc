"""Contenders that read a training set, and mirror half of its pictures: what feeds the training."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from bench.race import Contender

_PEOPLE, _EACH = 64, 16
PICTURES = _PEOPLE * _EACH
_SIDE, _BATCH = 112, 64


def contenders(folder: str) -> list[Contender]:
    """A Python iterator over single pictures, MXNet's in C++, and this project's.

    They read the set of :func:`make_set`. Each goes through it once and gives the mean value of every person's
    pictures, which neither order nor mirror images change.
    """
    return [
        Contender("picture by picture in Python", picture_by_picture, (folder,)),
        Contender("ImageRecordIter, 1 thread", image_record_iter, (folder,)),
        Contender("denseface, 1 thread", batch_loader, (folder, 1)),
        Contender("denseface, 2 threads", batch_loader, (folder, 2)),
    ]


def batch_loader(folder, threads):
    """What ``train.py`` reads with."""
    from denseface.data.augment import Augmentation
    from denseface.data.loader import BatchLoader, PictureReader
    from denseface.data.records import FaceRecords

    records = FaceRecords(folder)
    loader = BatchLoader(PictureReader(records, (_SIDE, _SIDE, 3), threads), _BATCH, Augmentation(mirror=True))
    stream = loader.batches()

    def run():
        return _means(next(stream) for _ in range(loader.batches_per_epoch))

    return run


def picture_by_picture(folder):
    """InsightFace's way: one record, one picture, one row of the batch at a time, in MXNet's operators."""
    import denseface  # noqa: F401  makes MXNet importable

    import mxnet as mx

    file = mx.recordio.MXIndexedRecordIO(f"{folder}/train.idx", f"{folder}/train.rec", "r")
    random = np.random.RandomState(0)

    def batch(keys):
        data, label = mx.nd.empty((_BATCH, 3, _SIDE, _SIDE)), mx.nd.empty((_BATCH,))
        for row, key in enumerate(keys):
            header, payload = mx.recordio.unpack(file.read_idx(key))
            picture = mx.image.imdecode(payload)
            if random.rand() < 0.5:
                picture = mx.nd.flip(picture, axis=1)
            data[row][:] = mx.nd.transpose(picture, (2, 0, 1))
            label[row][:] = header.label
        return data.asnumpy(), label.asnumpy()

    def run():
        order = 1 + random.permutation(PICTURES)  # key 0 is that of the header
        return _means(map(batch, order.reshape(-1, _BATCH).tolist()))

    return run


def image_record_iter(folder):
    """MXNet's reader in C++.  It knows no identity records, so it gets the pictures alone."""
    import denseface  # noqa: F401  makes MXNet importable

    import mxnet as mx

    plain = Path(folder, "pictures.rec")
    offsets = dict(map(int, line.split()) for line in Path(folder, "train.idx").read_text().splitlines())
    plain.write_bytes(Path(folder, "train.rec").read_bytes()[offsets[1] : offsets[1 + PICTURES]])
    stream = mx.io.ImageRecordIter(
        path_imgrec=str(plain),
        data_shape=(3, _SIDE, _SIDE),
        batch_size=_BATCH,
        rand_mirror=True,
        shuffle=True,
        preprocess_threads=1,
        verbose=False,
    )

    def run():
        stream.reset()
        return _means((batch.data[0].asnumpy(), batch.label[0].asnumpy()) for batch in stream)

    return run


def make_set(folder: str) -> None:
    """Write a training set: pictures of coarse noise, each person of another brightness."""
    from PIL import Image

    from denseface.data.records import write_face_records

    random = np.random.RandomState(0)

    def picture(person):
        coarse = random.randint(0, 128, (14, 14, 3)) + 2 * person
        image = Image.fromarray(coarse.astype(np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=95)
        return file.getvalue()

    pictures = [(person, picture(person)) for person in range(_PEOPLE) for _ in range(_EACH)]
    write_face_records(folder, pictures, (_SIDE, _SIDE))


def _means(batches):
    sums = np.zeros((2, _PEOPLE))
    for data, label in batches:
        for value, person in zip(data.mean(axis=(1, 2, 3)), label.astype(int)):
            sums[:, person] += value, 1
    return sums[0] / sums[1]
