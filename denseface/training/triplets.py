"""Batches of triplets, mined with the current network (Schroff et al. 2015, FaceNet, section 3.2).

A bag contains a few pictures each of many identities. They are embedded once. For every pair of one identity, an anchor
and a positive, a semi-hard negative is then looked for: further from the anchor than the positive, but by less than
the margin. The triplets found are used up before the next bag is mined.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Generator, Iterator
from typing import Callable, NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.parallel import ordered_map
from denseface.core.progress_bar import ProgressBar
from denseface.core.vectors import normalize
from denseface.data.augment import Augmentation
from denseface.data.faces import check_finite, compute_batches, usable
from denseface.data.loader import Batch, PictureReader
from denseface.data.pictures import as_batch, filled
from denseface.distributed.workers import OneWorker, Workers

_PAIRS_AT_A_TIME = 512
_MAX_POOR_BAGS = 10
_ORDER, _CHOICE, _MINING, _AUGMENTATION = range(4)  # kinds of draws, each from its own stream

logger = logging.getLogger("denseface")


class Metric(NamedTuple):
    """A distance of two embeddings as a function of their cosine, and its inverse.

    Attributes
    ----------
    distance : callable
        Takes an array of cosines; decreasing.
    cosine : callable
        Takes an array of distances; below -1 where no two embeddings are that far apart.
    """

    distance: Callable[[np.ndarray], np.ndarray]
    cosine: Callable[[np.ndarray], np.ndarray]


SQUARED_EUCLIDEAN = Metric(lambda cosine: 2 - 2 * cosine, lambda distance: 1 - distance / 2)
ANGLE = Metric(
    lambda cosine: np.arccos(np.clip(cosine, -1, 1)), lambda angle: np.where(angle > np.pi, -np.inf, np.cos(angle))
)

# By loss_name.
METRICS = {"triplet": SQUARED_EUCLIDEAN, "atriplet": ANGLE}


class Mining(NamedTuple):
    """How triplets are mined.

    Attributes
    ----------
    metric : Metric
        The distance of the loss.
    alpha : float
        Its margin (``triplet_alpha``), above 0.
    bag_size : int
        Pictures per bag, at most (``triplet_bag_size``).
    images_per_identity : int
        Pictures per identity in a bag, at most; 2 or more.
    max_ap : float
        The largest distance of anchor and positive; 0 for no limit (``triplet_max_ap``).
    """

    metric: Metric
    alpha: float
    bag_size: int
    images_per_identity: int
    max_ap: float = 0.0

    def check(self) -> None:
        """Raise InputError if a value is out of its range."""
        if not self.alpha > 0:
            raise InputError(f"triplet_alpha must be above 0, not {self.alpha}")
        if not self.max_ap >= 0:
            raise InputError(f"triplet_max_ap must be 0 (no limit) or more, not {self.max_ap}")
        if self.images_per_identity < 2:
            raise InputError(f"images_per_identity must be at least 2, not {self.images_per_identity}")
        if self.bag_size < 2 * self.images_per_identity:
            raise InputError(
                f"triplet_bag_size {self.bag_size} is too small for two identities of images_per_identity "
                f"{self.images_per_identity} pictures"
            )


def mine(
    embeddings: np.ndarray,
    labels: np.ndarray,
    mining: Mining,
    rng: np.random.Generator,
) -> np.ndarray:
    """Find a semi-hard negative for each pair of one identity.

    A negative n of another identity fits the anchor a and the positive p if d(a, p) < d(a, n) < d(a, p) + alpha; one
    of those that fit is drawn. Of the two pictures of a pair, the earlier one is the anchor.

    Parameters
    ----------
    embeddings : ndarray of shape (N, emb_size)
        Normalized or not.
    labels : ndarray of shape (N,)
        The identity of each.
    mining : Mining
        Metric d, margin alpha, and max_ap: pairs with d(a, p) above it are left out, as InsightFace does.
    rng : numpy.random.Generator
        Source of every draw.

    Returns
    -------
    ndarray of shape (T, 3), int64
        Rows of anchor, positive and negative, shuffled; a pair without such a negative is left out.

    Raises
    ------
    InputError
        If an embedding is not finite.
    """
    if not np.isfinite(embeddings).all():
        raise InputError("the embeddings are no longer finite; try a lower learning rate")
    directions = normalize(embeddings).astype(np.float32)
    pairs = _pairs(labels)
    triplets = [np.empty((0, 3), np.int64)]
    for start in range(0, len(pairs), _PAIRS_AT_A_TIME):
        anchor, positive = pairs[start : start + _PAIRS_AT_A_TIME].T
        anchors, row_of_pair = np.unique(anchor, return_inverse=True)
        cosine = (directions[anchors] @ directions.T)[row_of_pair]  # (pairs, N)
        nearest = cosine[np.arange(len(anchor)), positive]
        distance = mining.metric.distance(nearest)
        furthest = mining.metric.cosine(distance + mining.alpha)
        fits = (cosine < nearest[:, None]) & (cosine > furthest[:, None]) & (labels[anchor][:, None] != labels)
        if mining.max_ap > 0:
            fits[distance > mining.max_ap] = False
        row, negative = _draw_one_a_row(fits, rng)
        triplets.append(np.column_stack([anchor[row], positive[row], negative]))
    return rng.permutation(np.concatenate(triplets))


def check_share(pictures: int) -> None:
    """Raise InputError if so many pictures of a batch on one device are not whole triplets."""
    if pictures % 3:
        near = pictures - pictures % 3 or 3
        raise InputError(f"triplets need a multiple of 3, such as {near}, not {pictures}", option="per_batch_size")


class StepShape(NamedTuple):
    """How many pictures a step has, and who takes which.

    Attributes
    ----------
    batch_size : int
        Pictures per batch of this worker.
    num_devices : int
        The number of equal shares of each batch of this worker. A share consists of T anchors, then their T
        positives, then their T negatives.
    accumulate : int
        Batches per step.
    workers : OneWorker or ServerWorkers
        The processes that train together; by default this one alone.
    """

    batch_size: int
    num_devices: int = 1
    accumulate: int = 1
    workers: Workers = OneWorker()


class TripletLoader:
    """Batches of semi-hard triplets, in an order that depends on the seed and on the network alone.

    A pass goes through all identities in a new order, in bags of about the same number of identities. A bag takes
    up to ``images_per_identity`` pictures of each identity, embeds them without augmentation, and is mined; its
    triplets then make as many whole steps as they can. A bag that does not fill one step is skipped. Pictures
    are augmented when they go into a batch, each time differently.

    The triplets of a bag depend on the network at its start, so they are part of :meth:`state`; with it, batches can
    start anywhere within the bag. Bags are mined between steps only, so the state between steps is always enough.

    Several workers embed a share of each bag, and all of them mine the whole bag in the same way; each takes its
    shares of a step. Together they see what one worker with all their devices sees.

    Parameters
    ----------
    reader : PictureReader
        Reads the training set. Unreadable pictures are left out of their bag.
    embed : callable
        Takes ``batch_size`` pictures, float32 (N, C, H, W), and returns their embeddings, (N, emb_size), by the network
        as it is then: :meth:`denseface.training.learner.Learner.embed`.
    mining : Mining
        How triplets are mined.
    step : StepShape
        How many pictures a step has, and who takes which.
    augmentation : Augmentation
        Random changes to each picture.
    seed : int
        Of everything random, 0 or more.

    Attributes
    ----------
    batch_size : int
        As in the shape of a step.
    batches_per_epoch : int
        Batches with as many pictures as the training set. How many of them a bag makes differs from bag to bag.

    Raises
    ------
    InputError
        An argument is out of its range, or a share of a batch not a multiple of 3.
    """

    def __init__(
        self,
        reader: PictureReader,
        embed: Callable[[np.ndarray], np.ndarray],
        mining: Mining,
        step: StepShape,
        augmentation: Augmentation,
        seed: int = 0,
    ):
        check_share(step.batch_size // step.num_devices)
        mining.check()
        self.reader = reader
        self.embed = embed
        self.mining = mining
        self.batch_size, self.num_devices, self.accumulate, self.workers = step
        self.augmentation = augmentation
        self.seed = seed
        self.batches_per_epoch = max(1, len(reader.records.keys) // self._step_size)
        self._identities = reader.records.keys_by_identity()
        self._bags_per_pass = -(-len(self._identities) // (mining.bag_size // mining.images_per_identity))
        self._bag = -1
        self._first_step = 0
        self._triplets = np.empty((0, 3), np.int64)  # keys; whole steps of them

    def state(self) -> dict:
        """Return what :meth:`restore` needs to continue within the bag of the last batch, as plain values."""
        return {"bag": self._bag, "first_step": self._first_step, "triplets": self._triplets.ravel().tolist()}

    def restore(self, state: dict) -> None:
        """Restore what :meth:`state` returned.

        Raises
        ------
        InputError
            If it is something else, of another training set, or for batches of another size.
        """
        try:
            self._bag, self._first_step = int(state["bag"]), int(state["first_step"])
            self._triplets = np.array(state["triplets"], np.int64).reshape(-1, 3)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError("it contains no triplets to continue with") from error
        if self._bag < -1 or not np.isin(self._triplets, self.reader.records.keys).all():
            raise InputError(f"its triplets are not of the pictures in {self.reader.records.folder}")
        if self._triplets.size % (self._step_size * self.accumulate):
            raise InputError(
                "its triplets do not make whole steps: keep the batch size per device and the batches per step; with "
                "another number of workers, the number of pictures per step"
            )

    def batches(self, start_batch: int = 0) -> Generator[Batch, None, None]:
        """Yield batches without end; the next bag is mined when the batch after the last one is asked for.

        Parameters
        ----------
        start_batch : int
            The first batch, in the bag of :meth:`restore` or at its end; 0 without one.

        Raises
        ------
        InputError
            ``start_batch`` is outside the bag; ten bags in a row make no step; more than ``max_bad`` pictures are
            unreadable; a label is not one of the classes; or the network's embeddings are not finite.
        """
        start = (start_batch - self._first_step) * self._step_size
        if not 0 <= start <= self._triplets.size:
            raise InputError(
                f"batch {start_batch} is not in the bag that was saved: keep the batch size per device and the batches "
                "per step"
            )
        while True:
            for batch in self._batches_of_bag(start):
                yield batch
                start_batch += 1
            self._next_bag(start_batch)
            start = 0

    @property
    def _step_size(self) -> int:
        """Pictures in a batch of all workers."""
        return self.batch_size * self.workers.size

    def _batches_of_bag(self, start: int) -> Iterator[Batch]:
        """Yield the batches of the bag from a position, counted in pictures, to the end."""
        shares = self._triplets.reshape(-1, self.batch_size // self.num_devices // 3, 3)
        keys = shares.transpose(0, 2, 1).reshape(-1, self.workers.size, self.batch_size)
        positions = np.arange(keys.size).reshape(keys.shape)
        own = slice(start // self._step_size, None), self.workers.rank
        numbered = zip(positions[own].ravel().tolist(), keys[own].ravel().tolist())
        with ordered_map(self._augmented, numbered, self.reader.threads, ahead=2 * self.batch_size) as pictures:
            while rows := list(itertools.islice(pictures, self.batch_size)):
                labels, images = zip(*rows)
                yield Batch(as_batch(images, self.reader.image_shape), np.array(labels, np.float32))

    def _augmented(self, numbered: tuple[int, int]) -> tuple[int, np.ndarray]:
        position, key = numbered
        record, picture = self.reader.read(key)
        rng = self._rng(_AUGMENTATION, self._bag, position)
        return self.reader.records.label(record), self.augmentation(picture, rng)

    def _next_bag(self, first_step: int) -> None:
        """Mine bags until one makes a step."""
        needed = self._step_size // 3 * self.accumulate
        for bag in range(self._bag + 1, self._bag + 1 + _MAX_POOR_BAGS):
            started = time.perf_counter()
            keys, labels, embeddings = self._embed_bag(bag)
            mined = mine(embeddings, labels, self.mining, self._rng(_MINING, bag))
            steps = len(mined) // needed
            logger.info(
                "bag %d: %d pictures gave %d triplets, enough for %d steps, in %.1f s%s", bag, len(keys), len(mined),
                steps, time.perf_counter() - started, "" if steps else "; on to the next",
            )  # fmt: skip
            if steps:
                self._triplets = keys[mined[: steps * needed]]
                self._bag, self._first_step = bag, first_step
                return
        raise InputError(
            f"{_MAX_POOR_BAGS} bags in a row gave fewer than the {needed} triplets of a step: either the network has "
            "learned this set, or it needs a larger triplet_bag_size or triplet_alpha, or smaller batches"
        )

    def _embed_bag(self, bag: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return keys, classes and embeddings of the readable pictures of a bag."""
        drawn = self._keys_of_bag(bag)
        failure, rows = None, []
        try:
            rows = self._embed_keys(bag, np.array_split(drawn, self.workers.size)[self.workers.rank])
        except InputError as error:
            failure = error
        self.workers.check(failure)
        keys, labels, embeddings = self._gather(rows)
        return keys.astype(np.int64), labels, embeddings.astype(np.float32)

    def _embed_keys(self, bag: int, drawn: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
        """Return key, class and embedding of the readable ones of these pictures."""
        embedded: list[tuple[int, int, np.ndarray]] = []
        bar = ProgressBar(total=len(drawn), desc=f"bag {bag}", unit="picture", leave=False)
        with self.reader.cut_ahead(drawn, ahead=2 * self.batch_size) as pictures, bar:
            readable = usable(pictures, self.reader.note)
            for batch, rows in compute_batches(self._embed_batch, readable, self.batch_size, self.reader.image_shape):
                embedded += [(*picture.key, row) for picture, row in zip(batch, rows)]
                bar.update(len(batch))
        return embedded

    def _embed_batch(self, batch: np.ndarray) -> np.ndarray:
        rows = self.embed(filled(batch, self.batch_size))[: len(batch)]
        check_finite(rows, "try a lower learning rate")
        return rows

    def _gather(self, rows: list[tuple[int, int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Join the rows of all workers, in the order of their ranks."""
        width = len(rows[0][2]) if rows else 0
        rank = self.workers.rank
        counts, widths = np.zeros((2, self.workers.size))
        counts[rank], widths[rank] = len(rows), width
        counts, widths = self.workers.sum([counts, widths]).astype(int)
        table = np.zeros((counts.sum(), 2 + widths.max()))
        for row, (key, label, embedding) in enumerate(rows, start=counts[:rank].sum()):
            table[row] = key, label, *embedding
        table = self.workers.sum(table)
        return table[:, 0], table[:, 1], table[:, 2:]

    def _keys_of_bag(self, bag: int) -> np.ndarray:
        """Draw the bag's share of identities in this pass, and pictures of each, one identity after the other."""
        number_of_pass, number = divmod(bag, self._bags_per_pass)
        order = self._rng(_ORDER, number_of_pass).permutation(len(self._identities))
        rng = self._rng(_CHOICE, bag)
        chosen = [
            rng.permutation(self._identities[identity])[: self.mining.images_per_identity]
            for identity in np.array_split(order, self._bags_per_pass)[number]
        ]
        return np.concatenate(chosen)

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *stream))


def _pairs(labels: np.ndarray) -> np.ndarray:
    """Indices (P, 2) of all pairs with equal labels, the smaller one first, sorted by it."""
    order = np.argsort(labels, kind="stable")
    pairs = [np.empty((0, 2), np.int64)]
    for distance in range(1, len(labels)):
        first, second = order[:-distance], order[distance:]
        same = labels[first] == labels[second]
        if not same.any():
            break
        pairs.append(np.column_stack([first[same], second[same]]))
    pairs = np.concatenate(pairs)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def _draw_one_a_row(fits: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one of the true columns of each row; return the rows that have any, and the columns drawn."""
    counts = fits.sum(axis=1)
    rows = np.flatnonzero(counts)
    columns = np.nonzero(fits)[1]  # of all rows, one after the other
    starts = np.cumsum(counts) - counts
    return rows, columns[starts[rows] + rng.integers(counts[rows])]
