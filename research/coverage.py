"""``python -m research.coverage``: how often 95 % intervals contain the true rate, on simulated scores.

The intervals are those of verification, and those of a bootstrap over pairs. Scores are normal. Those of a genuine pair
share a part with all pairs of the person and another with all pairs of each picture; those of an impostor pair share
parts with each person, with the couple, and with each picture. Every rate is therefore known, and so is everything that
pairs share.
"""

from __future__ import annotations

import json
from statistics import NormalDist

import numpy as np

from denseface.evaluation.influence import measure_intervals, order_people
from denseface.evaluation.intervals import clopper_pearson
from denseface.evaluation.metrics import VerificationResult, score_pairs
from denseface.evaluation.operating_points import operating_points
from denseface.evaluation.people import MOST_PAIRS, all_pairs

FARS = (1e-1, 1e-2)
DISTANCE = 2.5  # between the means, in standard deviations
DESIGNS = ((10, 10, 2000), (40, 5, 1000), (100, 3, 500))  # people, pictures of each, sets

THRESHOLD_FARS = (1e-1, 1e-2, 1e-3)
THRESHOLDS = ((10, 10, 20_000), (40, 5, 20_000), (200, 3, 20_000), (2000, 2, 20_000))  # people, pictures, most pairs

_PERSON, _PICTURE = 0.25, 0.2  # shares of the variance of genuine scores: of the person, of each picture
_IMPOSTOR = 0.15  # and of impostor scores: of each person, of the couple, of each picture
_RESAMPLED = 200
_SCALE = 0.125  # brings scores into the range of cosines


def main() -> None:
    """Print a line of percentages, as JSON, for each number of people."""
    for people, pictures, sets in DESIGNS:
        found = cover(people, pictures, sets, seed=0)
        print(json.dumps({"people": people, "pictures": pictures, "sets": sets, **found}), flush=True)
    for people, pictures, most in THRESHOLDS:
        found = cover_thresholds(people, pictures, most, 2000, seed=0)
        print(json.dumps({"people": people, "pictures": pictures, "pairs at most": most, **found}), flush=True)


def cover(people: int, pictures: int, sets: int, seed: int, bootstrapped: int = 100) -> dict[str, dict[str, float]]:
    """Return in what percentage of sets each way's interval contains the truth, by the metric.

    Bootstraps are slow, so only the first `bootstrapped` sets have them.
    """
    random = np.random.default_rng(seed)
    hits: dict[str, dict[str, list[bool]]] = {"denseface": {}, "bootstrap over pairs": {}}
    for number in range(sets):
        owners, issame, scores = simulate(random, people, pictures)
        result = score_pairs(scores, issame, 2, FARS)
        found = measure_intervals(result, order_people(owners, issame))
        of_tar = {f"TAR at FAR {far:g}": interval for far, interval in found.tar.items()}
        ways = {"denseface": {**vars(found), **of_tar}}
        if number < bootstrapped:
            ways["bootstrap over pairs"] = _bootstrap(random, result)
        for way, intervals in ways.items():
            for name, truth in truths().items():
                low, high = intervals[name]
                hits[way].setdefault(name, []).append(low <= truth <= high)
    return {way: {name: 100 * float(np.mean(each)) for name, each in by_name.items()} for way, by_name in hits.items()}


def cover_thresholds(people: int, pictures: int, most: int, sets: int, seed: int) -> dict[str, dict[str, float]]:
    """Return in what percentage of sets the interval of a threshold's false accept rate contains the true one.

    Each set chooses the thresholds at false accept rates. Beside the interval of verification is that of as many
    independent pairs.
    """
    random, normal = np.random.default_rng(seed), NormalDist()
    hits: dict[str, dict[str, list[bool]]] = {"denseface": {}, "independent pairs": {}}
    for _ in range(sets):
        owners, issame, scores = simulate(random, people, pictures, most)
        result = score_pairs(scores, issame, 2, THRESHOLD_FARS)
        for far, point in operating_points(result, order_people(owners, issame), THRESHOLD_FARS).items():
            truth = 1 - normal.cdf(point.threshold / _SCALE)
            naive = clopper_pearson(point.fmr, result.n_impostor)
            for way, (low, high) in (("denseface", point.fmr_interval), ("independent pairs", naive)):
                hits[way].setdefault(f"FAR {far:g}", []).append(low <= truth <= high)
    return {way: {name: 100 * float(np.mean(each)) for name, each in by_name.items()} for way, by_name in hits.items()}


def truths() -> dict[str, float]:
    """Return the metrics of infinitely many people."""
    normal = NormalDist()
    tar = {f"TAR at FAR {far:g}": 1 - normal.cdf(normal.inv_cdf(1 - far) - DISTANCE) for far in FARS}
    return {"auc": normal.cdf(DISTANCE / 2**0.5), "eer": normal.cdf(-DISTANCE / 2), **tar}


def simulate(
    random: np.random.Generator, people: int, pictures: int, most: int = MOST_PAIRS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the people, whether they are the same, and the score, of all pairs of pictures, or of some of very many."""
    owner = np.repeat(np.arange(people), pictures)
    pairs, _ = all_pairs(owner, most, seed=int(random.integers(1 << 30)) if most < MOST_PAIRS else 0)
    first, second = pairs.T
    owners = np.stack([owner[first], owner[second]], axis=1)
    one, other = owners.T
    issame = one == other

    def drawn(share, *shape):
        return share**0.5 * random.normal(size=shape)

    def ends(values):
        return values[first] + values[second]

    genuine = (
        drawn(_PERSON, people)[one] + ends(drawn(_PICTURE, len(owner))) + drawn(1 - _PERSON - 2 * _PICTURE, len(one))
    )
    of_people = drawn(_IMPOSTOR, people)
    couples, couple = np.unique(one * people + other, return_inverse=True)
    impostor = of_people[one] + of_people[other] + drawn(_IMPOSTOR, len(couples))[couple]
    impostor += ends(drawn(_IMPOSTOR, len(owner))) + drawn(1 - 5 * _IMPOSTOR, len(one))
    return owners, issame, _SCALE * np.where(issame, DISTANCE + genuine, impostor)


def _bootstrap(random: np.random.Generator, result: VerificationResult) -> dict[str, tuple[float, float]]:
    """Draw pairs of each kind again and again, as if they were independent."""
    genuine, impostor = result.scores
    order = np.argsort(-np.concatenate(result.scores))
    found = []
    for _ in range(_RESAMPLED):
        drawn = [random.multinomial(len(scores), np.full(len(scores), 1 / len(scores))) for scores in result.scores]
        true, false = (
            np.append(0, np.cumsum(np.concatenate(counts)[order]))
            for counts in ((drawn[0], 0 * drawn[1]), (0 * drawn[0], drawn[1]))
        )
        true, false = true / len(genuine), false / len(impostor)
        area = np.sum(np.diff(false) * true[1:])
        tar = [true[np.searchsorted(false, far, side="right") - 1] for far in FARS]
        found.append((area, false[np.argmax(false >= 1 - true)], *tar))
    return dict(zip(truths(), zip(*np.quantile(found, [0.025, 0.975], axis=0))))


if __name__ == "__main__":
    main()
