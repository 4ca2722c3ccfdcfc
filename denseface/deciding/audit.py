"""Find pictures of a data set that are probably in the wrong folder, by a network's embeddings.

Each person has a center: the mean of the half of their pictures that lie closest together, which some wrong pictures
hardly move. How similar pictures are to their own center and to another person's decides, by a logistic fit, how likely
it is that a picture belongs to a person; the fit leaves out the tails in which faults are to be expected. Memory grows
with the number of people, by one embedding each, and with that of pictures by 16 bytes each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from denseface.core.errors import InputError
from denseface.core.vectors import normalize
from denseface.evaluation.calibration import fit
from denseface.galleries.gallery import Gallery
from denseface.galleries.people import Templates

if TYPE_CHECKING:
    from denseface.evaluation.calibration import Calibration

UNREADABLE, FAR, NO_FACE, DUPLICATE, OTHER, TWO, SPLIT, HELD_OUT = KINDS = (
    "cannot be read",
    "far from its person",
    "no face",
    "duplicate",
    "another person",
    "two people in one folder",
    "one person in two folders",
    "in training too",
)

_WRONG_SHARE = 0.1  # of pictures with a wrong label, the prior
_GENUINE_TAIL, _IMPOSTOR_TAIL = 0.2, 0.01  # left out of fits
_SECOND_PERSON = 0.2  # least share of a folder's pictures that are a second person, not single mistakes
_ALIKE = 0.95  # similarity from which on two pictures are compared pixel by pixel
_TENTH = 1.2816  # standard deviations from the median of a normal variable to its last tenth
_LEAST_DEVIATION = 0.02  # of similarities of centers, where few people agree by chance
_STEP = 1 << 14
_MOST_ASKED = 200  # pictures of a person that propose a center
_SHIFTS = 20  # pairs of people per person that are as good as drawn at random


class Suspect(NamedTuple):
    """A picture that is probably a mistake.

    Attributes
    ----------
    name : str
    kind : str
        One of ``KINDS``.
    reason : str
    probability : float
        That the picture belongs where it is, by the network; for a duplicate the similarity of the two; for one that is
        far from its person the angle in degrees.
    """

    name: str
    kind: str
    reason: str
    probability: float


class _Set:
    """A set with what is measured of it: centers, and for each picture the similarity to its own and to other ones."""

    def __init__(self, gallery: Gallery, shown: Callable[[str], str], on_progress: Callable[[int], object]):
        self.shown = shown
        self.gallery, self.templates = gallery, Templates(gallery, folder=owner_of)
        count, pictures = self.templates.count, len(gallery)
        self.owner = np.repeat(np.arange(count), np.diff(self.templates.starts))
        self.centers = np.empty((count, gallery.shape[1]), np.float32)
        self.own = np.full(pictures, np.nan, np.float32)  # similarity to the center of the person's other pictures
        for first, person, rows in self.people():
            central, self.own[first : first + len(rows)] = _leave_one_out(rows)
            self.centers[person] = normalize(rows[central].sum(axis=0)[None])[0]
            on_progress(len(rows))
        # The nearest other center, and one that is as good as drawn at random.
        self.nearest, self.other, self.random = (np.zeros(pictures, kind) for kind in (np.int64, "f4", "f4"))
        for start, rows in gallery.blocks(_STEP):
            part = slice(start, start + len(rows))
            scores = normalize(rows).astype(np.float32) @ self.centers.T
            index, owner = np.arange(len(rows)), self.owner[part]
            self.random[part] = scores[index, (owner + 1 + (start + index) % max(count - 1, 1)) % count]
            scores[index, owner] = -1
            self.nearest[part] = scores.argmax(axis=1)
            self.other[part] = scores.max(axis=1)
            on_progress(len(rows))

    def people(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield the row of the first picture, the number, and the normalized embeddings of each person."""
        for first, starts, rows in self.templates.blocks(_STEP):
            ends = [*starts[1:].tolist(), len(rows)]
            for person, start, end in zip(range(first, first + len(starts)), starts.tolist(), ends):
                yield int(self.templates.starts[person]), person, normalize(rows[start:end])

    def person(self, number: int) -> str:
        """Return the name of a person."""
        row = int(self.templates.starts[number])
        return owner_of(self.shown(self.gallery.names([row])[row]))


def audit(
    gallery: Gallery,
    *,
    is_duplicate: Callable[[str, str], bool],
    has_face: Callable[[str], bool] | None = None,
    held_out: Gallery | None = None,
    shown: Callable[[str], str] = lambda name: name,
    on_progress: Callable[[int], object] = lambda done: None,
) -> list[Suspect]:
    """Find the suspects of a set.

    Parameters
    ----------
    gallery : Gallery
        The embeddings of at least two people, with names ``PERSON/PICTURE``, the pictures of a person together.
    is_duplicate : callable
        Whether two pictures, by their names, have nearly equal pixels.
    has_face : callable, optional
        Whether there is a face in a picture; asked of suspects only.
    held_out : Gallery, optional
        Embeddings of pictures whose people should not be in the set.
    shown : callable
        Returns the ``PERSON/PICTURE`` by which reasons name a picture of the gallery.
    on_progress : callable
        Called with numbers of pictures, which add up to twice those of the set.

    Returns
    -------
    list of Suspect
        Each picture at most once, in the order of the set; then those held out.

    Raises
    ------
    InputError
        If there are fewer than two people with two pictures each, or a file is broken.
    """
    measured = _Set(gallery, shown, on_progress)
    known = measured.own[~np.isnan(measured.own)]
    if measured.templates.count < 2 or len(known) < 4:
        raise InputError("an audit needs two people, and several pictures of each", path=gallery.path)
    line = _fitted(known, measured.random)
    suspects: dict[int, Suspect] = {}
    for row, suspect in _wrong(measured, line):
        suspects[row] = suspect
    for row, suspect in _split(measured, set(suspects)):
        suspects.setdefault(row, suspect)
    for row, suspect in _duplicates(measured, set(suspects), is_duplicate):
        suspects[row] = suspect
    if has_face is not None:
        for row, suspect in suspects.items():
            if suspect.kind in (OTHER, TWO) and not has_face(suspect.name):
                suspects[row] = suspect._replace(kind=NO_FACE, reason="no face is found in it")
    return [suspects[row] for row in sorted(suspects)] + list(_in_training(measured, line, held_out))


def owner_of(name: str) -> str:
    """Return the person of a picture's name in an audit: what is before the first slash."""
    return name.partition("/")[0]


def _leave_one_out(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the half of a person's pictures that lie closest together, and all similarities to the others of it."""
    count = len(rows)
    if count == 1:
        return np.array([0]), np.full(1, np.nan, np.float32)
    # Each picture proposes those nearest to it; the picture whose proposal is the most alike is in the middle.
    size = max(2, (count + 1) // 2)
    asked = rows[np.linspace(0, count - 1, min(count, _MOST_ASKED)).astype(int)]
    scores = asked @ rows.T
    middle = np.argmax(-np.partition(-scores, size - 1, axis=1)[:, :size].mean(axis=1))
    central = np.argsort(-scores[middle], kind="stable")[:size]
    others = np.repeat(rows[central].sum(axis=0)[None], count, axis=0)
    others[central] -= rows[central]
    return np.sort(central), np.einsum("ij,ij->i", normalize(others), rows).astype(np.float32)


def _fitted(genuine: np.ndarray, impostor: np.ndarray) -> Calibration:
    """Fit probabilities without the tails in which mistakes are: genuine ones that are not, and impostors that are."""
    genuine, impostor = np.sort(genuine), np.sort(impostor)
    return fit(
        genuine[int(len(genuine) * _GENUINE_TAIL) :], impostor[: len(impostor) - int(len(impostor) * _IMPOSTOR_TAIL)]
    )


def _wrong(measured: _Set, line: Calibration) -> Iterator[tuple[int, Suspect]]:
    """Find pictures that are not of the person of most pictures in their folder."""
    # Three ways that it can be: of this person, of the nearest other one, of nobody in the set. A score's ratio of
    # likelihoods, genuine to impostor, is what the line has for equal priors.
    ratios = [np.exp(line.slope * scores.astype(np.float64) + line.offset) for scores in (measured.own, measured.other)]
    own, other = (1 - _WRONG_SHARE) * ratios[0], _WRONG_SHARE / measured.templates.count * ratios[1]
    belongs = own / (own + other + _WRONG_SHARE)
    is_other = other > _WRONG_SHARE
    for first, _, rows in measured.people():
        chosen = np.flatnonzero(belongs[first : first + len(rows)] < 0.5)
        if not len(chosen):
            continue
        names = measured.gallery.names((first + chosen).tolist())
        strangers = [index for index in chosen.tolist() if not is_other[first + index]]
        second = _second_person(rows, strangers, line)
        for index in chosen.tolist():
            row = first + index
            if index in second:
                kind, reason = TWO, f"{len(second)} of {len(rows)} pictures are of a second person"
            elif is_other[row]:
                kind, reason = OTHER, f"looks like {measured.person(int(measured.nearest[row]))}"
            else:
                kind, reason = OTHER, "looks like nobody in the set"
                if line.probability(measured.other[row]) >= 0.5:
                    nearest = measured.person(int(measured.nearest[row]))
                    reason = f"another person; nearest {nearest}, {measured.other[row]:.2f}"
            yield row, Suspect(names[row], kind, reason, float(belongs[row]))


def _second_person(rows: np.ndarray, strangers: np.ndarray, line: Calibration) -> set[int]:
    """Return those of a person's wrong pictures that are of one other person, if they are a good part of all."""
    if len(strangers) < 2:
        return set()
    _, scores = _leave_one_out(rows[strangers])
    alike = {strangers[index] for index in np.flatnonzero(line.probability(scores) >= 0.5).tolist()}
    return alike if len(alike) >= max(2, _SECOND_PERSON * len(rows)) else set()


def _split(measured: _Set, wrong: set[int]) -> Iterator[tuple[int, Suspect]]:
    """Find people who are in two folders: the pictures of the smaller one."""
    centers, halves = _refined(measured, wrong)
    count = measured.templates.count
    if len(halves) < 4:
        return
    random = np.concatenate(
        [np.einsum("ij,ij->i", centers, np.roll(centers, shift, axis=0)) for shift in range(1, min(count, _SHIFTS))]
    )
    sizes = np.diff(measured.templates.starts)
    for start in range(0, count, _STEP):
        scores = centers[start : start + _STEP] @ centers.T
        same = _probability(scores, halves, random, 1 / count) > 0.5
        for one, other in zip(*np.nonzero(same)):
            one = int(one) + start
            if (sizes[one], -one) < (sizes[other], -int(other)):
                probability = 1 - float(_probability(scores[one - start, other], halves, random, 1 / count))
                rows = [row for row in range(*measured.templates.starts[one : one + 2].tolist()) if row not in wrong]
                names = measured.gallery.names(rows)
                reason = f"the same person as {measured.person(int(other))}"
                yield from ((row, Suspect(names[row], SPLIT, reason, probability)) for row in rows)


def _refined(measured: _Set, wrong: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return centers of all pictures that are not suspects, and the similarities of those of two halves of a person."""
    centers, halves = measured.centers.copy(), []
    for first, person, rows in measured.people():
        kept = rows[[first + index not in wrong for index in range(len(rows))]]
        if len(kept):
            centers[person] = normalize(kept.sum(axis=0)[None])[0]
        if len(kept) >= 4:
            one, other = normalize(np.stack([kept[::2].sum(axis=0), kept[1::2].sum(axis=0)]))
            halves.append(float(one @ other))
    return centers, np.array(halves)


def _probability(scores: np.ndarray, genuine: np.ndarray, impostor: np.ndarray, prior: float) -> np.ndarray:
    """Return how likely scores are genuine, both kinds being normal; people may be too few for a logistic fit.

    Medians stand for means, and tenths for deviations, which the mistakes that are looked for hardly move: the lowest
    tenth of the genuine scores, whose tail is longer there, and the highest of the impostors'. Beyond the medians
    nothing becomes less likely.
    """
    ratios = np.full(np.shape(scores), np.log(prior / (1 - prior)))
    centers = [float(np.median(values)) for values in (genuine, impostor)]
    inside = np.clip(scores, min(centers), max(centers))
    for values, center, tenth, sign in ((genuine, centers[0], 0.1, 1), (impostor, centers[1], 0.9, -1)):
        deviation = max(abs(float(np.quantile(values, tenth)) - center) / _TENTH, _LEAST_DEVIATION)
        ratios -= sign * (np.log(deviation) + 0.5 * ((inside - center) / deviation) ** 2)
    return 0.5 * (1 + np.tanh(0.5 * ratios))


def _duplicates(
    measured: _Set, wrong: set[int], is_duplicate: Callable[[str, str], bool]
) -> Iterator[tuple[int, Suspect]]:
    """Find pictures that an earlier one of the person repeats."""
    for first, _, rows in measured.people():
        names: dict[int, str] = {}
        for start in range(0, len(rows), _MOST_ASKED):
            scores = rows[start : start + _MOST_ASKED] @ rows[: start + _MOST_ASKED].T
            later, earlier = np.nonzero((scores >= _ALIKE) & np.tri(*scores.shape, start - 1, dtype=bool))
            found: set[int] = set()
            for row, other in zip((start + later).tolist(), earlier.tolist()):
                if row in found or {first + row, first + other} & wrong:
                    continue
                names = names or measured.gallery.names(range(first, first + len(rows)))
                if is_duplicate(names[first + row], names[first + other]):
                    found.add(row)
                    reason = f"nearly the same pixels as {measured.shown(names[first + other])}"
                    yield first + row, Suspect(names[first + row], DUPLICATE, reason, float(scores[row - start, other]))


def _in_training(measured, line, held_out):
    for start, rows in held_out.blocks(_STEP) if held_out else ():
        scores = normalize(rows).astype(np.float32) @ measured.centers.T
        nearest = scores.argmax(axis=1)
        same = line.probability(scores.max(axis=1), prior=1 / measured.templates.count)
        chosen = np.flatnonzero(same > 0.5)
        names = held_out.names((start + chosen).tolist())
        for index in chosen.tolist():
            reason = f"looks like {measured.person(int(nearest[index]))}"
            yield Suspect(names[start + index], HELD_OUT, reason, 1 - float(same[index]))
