"""Batches of triplets, mined with the network as it is (Schroff et al. 2015, FaceNet, section 3.2).

A bag holds a few pictures each of many identities.  They are embedded once.  Every pair of one identity, an anchor and
a positive, then looks for a negative that is semi-hard: further from the anchor than the positive, but by less than
the margin.  The steps use up what was found before the next bag is mined.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Callable, NamedTuple

import numpy as np
from tqdm import tqdm

from denseface.core.errors import InputError
from denseface.core.parallel import ordered_map
from denseface.core.vectors import normalize
from denseface.data.augment import Augmentation
from denseface.data.loader import Batch, BatchLoader
from denseface.data.recordio import RecordError
from denseface.data.records import FaceRecords
from denseface.distributed.workers import Workers

_PAIRS_AT_A_TIME = 512
_MAX_POOR_BAGS = 10
_ORDER, _CHOICE, _MINING, _AUGMENTATION = range(4)  # what is drawn, each from a stream of its own

logger = logging.getLogger("denseface")


class Metric(NamedTuple):
    """A distance of two embeddings as a function of their cosine, and the way back.

    Attributes
    ----------
    distance : callable
        Of an array of cosines; falls as they rise.
    cosine : callable
        Of an array of distances; below -1 where no two embeddings are that far apart.
    """

    distance: Callable[[np.ndarray], np.ndarray]
    cosine: Callable[[np.ndarray], np.ndarray]


SQUARED_EUCLIDEAN = Metric(lambda cosine: 2 - 2 * cosine, lambda distance: 1 - distance / 2)
ANGLE = Metric(
    lambda cosine: np.arccos(np.clip(cosine, -1, 1)), lambda angle: np.where(angle > np.pi, -np.inf, np.cos(angle))
)

# By the loss that is trained.
METRICS = {"triplet": SQUARED_EUCLIDEAN, "atriplet": ANGLE}


def mine(
    embeddings: np.ndarray,
    labels: np.ndarray,
    metric: Metric,
    alpha: float,
    rng: np.random.Generator,
    max_ap: float = 0.0,
) -> np.ndarray:
    """Find a semi-hard negative for each pair of one identity.

    A negative n of another identity fits the anchor a and the positive p if d(a, p) < d(a, n) < d(a, p) + alpha; one
    of those that fit is drawn.  Of the two pictures of a pair, the earlier one is the anchor.

    Parameters
    ----------
    embeddings : ndarray of shape (N, emb_size)
        Normalised or not.
    labels : ndarray of shape (N,)
        Whose they are.
    metric : Metric
        The distance d.
    alpha : float
        The margin, above 0.
    rng : numpy.random.Generator
        Where every draw comes from.
    max_ap : float
        Pairs with d(a, p) above it are left out, as InsightFace does; 0 keeps all.

    Returns
    -------
    ndarray of shape (T, 3), int64
        Rows of anchor, positive and negative, shuffled.  A pair without such a negative is not among them.

    Raises
    ------
    InputError
        If an embedding is not finite.
    """
    if not np.isfinite(embeddings).all():
        raise InputError("the embeddings are not finite any more; try a smaller --lr")
    directions = normalize(embeddings).astype(np.float32)
    pairs = _pairs(labels)
    triplets = [np.empty((0, 3), np.int64)]
    for start in range(0, len(pairs), _PAIRS_AT_A_TIME):
        anchor, positive = pairs[start : start + _PAIRS_AT_A_TIME].T
        anchors, row_of_pair = np.unique(anchor, return_inverse=True)
        cosine = (directions[anchors] @ directions.T)[row_of_pair]  # (pairs, N)
        nearest = cosine[np.arange(len(anchor)), positive]
        distance = metric.distance(nearest)
        furthest = metric.cosine(distance + alpha)
        fits = (cosine < nearest[:, None]) & (cosine > furthest[:, None]) & (labels[anchor][:, None] != labels)
        if max_ap > 0:
            fits[distance > max_ap] = False
        row, negative = _draw_one_a_row(fits, rng)
        triplets.append(np.column_stack([anchor[row], positive[row], negative]))
    return rng.permutation(np.concatenate(triplets))


class TripletLoader(BatchLoader):
    """Batches of semi-hard triplets, in an order that depends on the seed and on the network alone.

    A pass goes through all identities in a new order, in bags of about the same number of identities.  A bag takes
    up to ``images_per_identity`` pictures of each, embeds them as they are, without augmentation, and is mined; its
    triplets then make as many whole steps as they can.  A bag that does not fill one step is passed over.  Pictures
    are augmented when they go into a batch, each time anew.

    The triplets of a bag depend on the network at its start, so they are part of :meth:`state`; with it, batches can
    start anywhere within the bag.  Bags are mined between steps only, so the state between steps is always enough.

    Several workers embed a share of each bag, and mine the whole of it, all alike; of a step, each takes its shares.
    They thus see what one worker with all their devices sees.

    Parameters
    ----------
    records, batch_size, image_shape, augmentation, seed, threads, max_bad
        As for :class:`BatchLoader`.  Broken pictures are left out of their bag.
    embed : callable
        Takes ``batch_size`` pictures, float32 (N, C, H, W), and gives their embeddings, (N, emb_size), by the network
        as it is then: :meth:`denseface.training.learner.Learner.embed`.
    metric : Metric
        The distance that the loss is about.
    alpha : float
        Its margin (``triplet_alpha``).
    max_ap : float
        The largest distance of anchor and positive; 0 for none (``triplet_max_ap``).
    bag_size : int
        Pictures in a bag, at most (``triplet_bag_size``).
    images_per_identity : int
        Pictures of one identity in a bag, at most; 2 or more.
    num_devices : int
        Into how many equal shares each batch of this worker is split.  A share holds T anchors, then their T
        positives, then their T negatives.
    accumulate : int
        Batches that make a step.
    workers : Workers, optional
        The processes that train together; by default this one alone.

    Attributes
    ----------
    steps_per_epoch : int
        Batches that hold as many pictures as the training set.  How many of them a bag gives differs from bag to bag.

    Raises
    ------
    InputError
        An argument is out of its range, or a share of a batch no multiple of 3.
    """

    def __init__(
        self,
        records: FaceRecords,
        batch_size: int,
        image_shape: tuple[int, int, int],
        augmentation: Augmentation,
        seed: int = 0,
        threads: int = 2,
        max_bad: int | None = None,
        *,
        embed: Callable[[np.ndarray], np.ndarray],
        metric: Metric,
        alpha: float,
        max_ap: float = 0.0,
        bag_size: int,
        images_per_identity: int,
        num_devices: int = 1,
        accumulate: int = 1,
        workers: Workers | None = None,
    ):
        self.workers = workers or Workers()
        super().__init__(
            records, batch_size, image_shape, augmentation, seed, threads, self.workers.size, self.workers.rank, max_bad
        )
        share = batch_size // num_devices
        if share % 3:
            near = share - share % 3 or 3
            raise InputError(f"--per-batch-size {share}: triplets need a multiple of 3, such as {near}")
        if not alpha > 0:
            raise InputError(f"triplet_alpha must be above 0, not {alpha}")
        if not max_ap >= 0:
            raise InputError(f"triplet_max_ap must be 0 (no limit) or more, not {max_ap}")
        if images_per_identity < 2:
            raise InputError(f"images_per_identity must be at least 2, not {images_per_identity}")
        if bag_size < 2 * images_per_identity:
            raise InputError(
                f"triplet_bag_size {bag_size} does not hold two identities of images_per_identity "
                f"{images_per_identity} pictures"
            )
        self.embed = embed
        self.metric = metric
        self.alpha = alpha
        self.max_ap = max_ap
        self.images_per_identity = images_per_identity
        self.num_devices = num_devices
        self.accumulate = accumulate
        self._identities = _keys_by_identity(records)
        self._bags_per_pass = -(-len(self._identities) // (bag_size // images_per_identity))
        self._bag = -1
        self._first_step = 0
        self._triplets = np.empty((0, 3), np.int64)  # keys; whole steps of them

    def state(self) -> dict:
        """What :meth:`restore` needs to start again within the bag that the last batch came from; plain values."""
        return {"bag": self._bag, "first_step": self._first_step, "triplets": self._triplets.ravel().tolist()}

    def restore(self, state: dict) -> None:
        """Take back what :meth:`state` gave.

        Raises
        ------
        InputError
            If it is something else, of another training set, or for batches of another size.
        """
        try:
            self._bag, self._first_step = int(state["bag"]), int(state["first_step"])
            self._triplets = np.array(state["triplets"], np.int64).reshape(-1, 3)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError("it holds no triplets to go on with") from error
        if self._bag < -1 or not np.isin(self._triplets, self.records.keys).all():
            raise InputError(f"its triplets are not of the pictures in {self.records.folder}")
        if self._triplets.size % (self._step_size * self.accumulate):
            raise InputError(
                "its triplets do not make whole steps: leave --per-batch-size and --accumulate as they were or, with "
                "another number of workers, the number of pictures in a step"
            )

    def batches(self, start_step: int = 0) -> Generator[Batch, None, None]:
        """Yield batches without end; the next bag is mined when the batch after the last one is asked for.

        Parameters
        ----------
        start_step : int
            Where to start, in the bag of :meth:`restore` or at its end; 0 without one.

        Raises
        ------
        InputError
            ``start_step`` is not there; ten bags in a row give no step; more than ``max_bad`` pictures are broken; a
            label is not one of the classes; or the network's embeddings are not finite.
        """
        start = (start_step - self._first_step) * self._step_size
        if not 0 <= start <= self._triplets.size:
            raise InputError(
                f"batch {start_step} is not in the bag that was saved: leave --per-batch-size and --accumulate alone"
            )
        while True:
            for batch in self._batches_of_bag(start):
                yield batch
                start_step += 1
            self._next_bag(start_step)
            start = 0

    @property
    def _step_size(self) -> int:
        """Pictures in a batch of all workers."""
        return self.batch_size * self.num_parts

    def _batches_of_bag(self, start: int) -> Iterator[Batch]:
        """Read the batches of the bag from a position, counted in pictures, to the end."""
        shares = self._triplets.reshape(-1, self.batch_size // self.num_devices // 3, 3)
        keys = shares.transpose(0, 2, 1).reshape(-1, self.num_parts, self.batch_size)
        places = np.arange(keys.size).reshape(keys.shape)
        own = slice(start // self._step_size, None), self.part_index
        numbered = zip(places[own].ravel().tolist(), keys[own].ravel().tolist())
        pictures = ordered_map(self._augmented, numbered, self.threads, ahead=2 * self.batch_size)
        with contextlib.closing(pictures):
            while rows := list(itertools.islice(pictures, self.batch_size)):
                labels, images = zip(*rows)
                yield Batch(_stack(images, self.batch_size), np.array(labels, np.float32))

    def _augmented(self, numbered: tuple[int, int]) -> tuple[int, np.ndarray]:
        position, key = numbered
        record, image = self._read(key)
        return self.records.label(record), self.augmentation(image, self._rng(_AUGMENTATION, self._bag, position))

    def _next_bag(self, first_step: int) -> None:
        """Mine bags until one gives a step."""
        needed = self._step_size // 3 * self.accumulate
        for bag in range(self._bag + 1, self._bag + 1 + _MAX_POOR_BAGS):
            started = time.perf_counter()
            keys, labels, embeddings = self._embed_bag(bag)
            mined = mine(embeddings, labels, self.metric, self.alpha, self._rng(_MINING, bag), self.max_ap)
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
            "learned this set, or it needs a larger triplet_bag_size or triplet_alpha, or a smaller --per-batch-size"
        )

    def _embed_bag(self, bag: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys, classes and embeddings of the pictures of a bag that can be read."""
        drawn = self._keys_of_bag(bag)
        failure, rows = None, []
        try:
            rows = self._embed_keys(bag, np.array_split(drawn, self.num_parts)[self.part_index])
        except InputError as error:
            failure = error
        self.workers.check(failure)
        keys, labels, embeddings = self._gather(rows)
        return keys.astype(np.int64), labels, embeddings.astype(np.float32)

    def _embed_keys(self, bag: int, drawn: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
        """Key, class and embedding of each of these pictures that can be read."""
        embedded = []
        pictures = self._readable(drawn)
        bar = tqdm(total=len(drawn), desc=f"bag {bag}", unit="picture", leave=False, disable=None)
        with contextlib.closing(pictures), bar:
            while rows := list(itertools.islice(pictures, self.batch_size)):
                keys, labels, images = zip(*rows)
                embedded += zip(keys, labels, self.embed(_stack(images, self.batch_size)))
                bar.update(len(rows))
        return embedded

    def _gather(self, rows: list[tuple[int, int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Join what all workers have embedded, in the order of the workers."""
        width = len(rows[0][2]) if rows else 0
        counts, widths = np.zeros((2, self.num_parts))
        counts[self.part_index], widths[self.part_index] = len(rows), width
        counts, widths = self.workers.sum([counts, widths]).astype(int)
        table = np.zeros((counts.sum(), 2 + widths.max()))
        first = counts[: self.part_index].sum()
        for place, (key, label, embedding) in enumerate(rows, first):
            table[place] = key, label, *embedding
        table = self.workers.sum(table)
        return table[:, 0], table[:, 1], table[:, 2:]

    def _keys_of_bag(self, bag: int) -> np.ndarray:
        """Draw the bag's share of identities in this pass, and pictures of each, one identity after the other."""
        number_of_pass, number = divmod(bag, self._bags_per_pass)
        order = self._rng(_ORDER, number_of_pass).permutation(len(self._identities))
        rng = self._rng(_CHOICE, bag)
        chosen = [
            rng.permutation(self._identities[identity])[: self.images_per_identity]
            for identity in np.array_split(order, self._bags_per_pass)[number]
        ]
        return np.concatenate(chosen)

    def _readable(self, keys: np.ndarray) -> Generator[tuple[int, int, np.ndarray], None, None]:
        """Yield key, class and picture; a broken picture is named and left out."""
        pictures = ordered_map(self._plain, keys.tolist(), self.threads, ahead=2 * self.batch_size)
        with contextlib.closing(pictures):
            for key, label, picture in pictures:
                if isinstance(picture, RecordError):
                    self._note_bad({key: str(picture)})
                else:
                    yield key, label, picture

    def _plain(self, key: int) -> tuple[int, int, np.ndarray | RecordError]:
        try:
            record, image = self._read(key)
        except RecordError as error:
            return key, -1, error
        return key, self.records.label(record), image

    def _rng(self, *place: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *place))


def _pairs(labels: np.ndarray) -> np.ndarray:
    """Places (P, 2) of all pairs with equal labels, the earlier one first, and sorted by it."""
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
    """Draw one of the columns that are true in each row; give the rows that have any, and the columns drawn."""
    counts = fits.sum(axis=1)
    rows = np.flatnonzero(counts)
    columns = np.nonzero(fits)[1]  # of all rows, one after the other
    starts = np.cumsum(counts) - counts
    return rows, columns[starts[rows] + rng.integers(counts[rows])]


def _keys_by_identity(records: FaceRecords) -> list[np.ndarray]:
    """The keys of each identity's pictures; of a plain file, every label is read."""
    if records.identities is not None:
        counts = records.identities[:, 1] - records.identities[:, 0]
        return np.split(records.keys, np.cumsum(counts)[:-1])
    labels = np.array([_label(records, key) for key in records.keys.tolist()])
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    groups = np.split(records.keys[order], starts)
    return groups[1:] if labels.min() < 0 else groups


def _label(records: FaceRecords, key: int) -> float:
    """The label of a record, or -1 where it cannot be read."""
    try:
        return float(records.reader.read_labels(key)[0])
    except RecordError:
        return -1.0


def _stack(images: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Pictures (H, W, C) as float32 (size, C, H, W), filled up with zeros."""
    height, width, channels = images[0].shape
    data = np.zeros((size, channels, height, width), np.float32)
    data[: len(images)] = np.stack(images).transpose(0, 3, 1, 2)
    return data
