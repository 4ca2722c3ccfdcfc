"""Class centers that start where a pretrained network puts the pictures of their class."""

from __future__ import annotations

import logging

import numpy as np

from denseface.core.errors import InputError
from denseface.core.progress_bar import ProgressBar
from denseface.core.vectors import normalize
from denseface.data.faces import PictureError, check_finite, compute_batches, usable
from denseface.data.loader import PictureReader
from denseface.data.pictures import filled
from denseface.models.losses import CLASS_CENTERS
from denseface.training.learner import Learner

logger = logging.getLogger("denseface")


def warm_centers(learner: Learner, reader: PictureReader, batch_size: int) -> None:
    """Set every class center to the normalized mean of its pictures' embeddings (imprinting, Qi et al. 2018, eq. 4-6).

    The embedding of a picture is the normalized sum of its own and that of its mirror image, without augmentation,
    by the learner's present network. Classes without a readable picture keep the center that they have. Of several
    centers per class, the first one starts there: equal centers would stay equal.

    Parameters
    ----------
    learner : Learner
        With centers of all classes, on its devices or, for Partial FC, in main memory.
    reader : PictureReader
        Reads the training set.
    batch_size : int
        Pictures per batch of the learner on this worker.

    Raises
    ------
    InputError
        If the loss has no class centers, too many pictures are unreadable, or an embedding is not finite.
    """
    parameters, statistics = learner.state.parameters()
    centers = parameters.get(CLASS_CENTERS)
    num_classes = reader.records.num_classes
    if centers is None:
        raise InputError("this loss has no class centers; leave it out", option="warm_centers")
    shape = centers.shape
    centers = centers.reshape(num_classes, -1, centers.shape[-1]).copy()  # (classes, centers of each, emb_size)
    sums = np.zeros((num_classes, centers.shape[-1]), np.float32)
    bar = ProgressBar(total=len(reader.records.keys), desc="class centers", unit="picture", leave=False)

    def embed(batch: np.ndarray) -> np.ndarray:
        whole = filled(batch, batch_size)
        embeddings = (learner.embed(whole) + learner.embed(whole[..., ::-1]))[: len(batch)]
        check_finite(embeddings, "check the pretrained network, or leave this out")
        return embeddings

    try:
        with reader.cut_ahead(reader.records.keys, ahead=2 * batch_size) as pictures, bar:
            readable = usable(pictures, reader.note)
            for batch, embeddings in compute_batches(embed, readable, batch_size, reader.image_shape):
                np.add.at(sums, np.array([picture.key.label for picture in batch]), normalize(embeddings))
                bar.update(len(batch))
    except PictureError as error:
        error.option = "warm_centers"
        raise
    seen = np.abs(sums).max(axis=1) > 0
    centers[seen, 0] = normalize(sums[seen])
    # The statistics, too: a loss may have measured the embeddings.
    learner.state.set_parameters({CLASS_CENTERS: centers.reshape(shape)}, statistics)
    cold = num_classes - int(seen.sum())
    logger.info(
        "class centers start at the mean embeddings of their pictures%s",
        f"; {cold} of {num_classes} have no readable picture and start fresh" if cold else "",
    )
