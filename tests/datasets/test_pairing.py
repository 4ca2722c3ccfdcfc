import itertools

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.datasets import pairing
from denseface.datasets.pairing import draw_pairs

OWNERS = np.repeat([2, 3, 5, 6], [3, 1, 4, 2])


def kinds(pairs):
    return [OWNERS[first] == OWNERS[second] for first, second in pairs.tolist()]


def test_all_pairs_are_every_pair_once():
    pairs, issame = draw_pairs(OWNERS)
    assert sorted(map(tuple, pairs.tolist())) == list(itertools.combinations(range(10), 2))
    assert issame.dtype == bool
    assert issame.tolist() == kinds(pairs)
    assert issame.sum() == 3 + 6 + 1


def insightface_folds(issame):
    """Genuine and impostor pairs in each test fold, as scikit-learn's KFold(10, shuffle=False) cuts them."""
    sizes = np.full(10, len(issame) // 10)
    sizes[: len(issame) % 10] += 1
    ends = np.cumsum(sizes)
    folds = [issame[end - size : end] for size, end in zip(sizes, ends)]
    return np.array([[fold.sum(), (~fold).sum()] for fold in folds])


def val_and_far(scores, issame, threshold):
    """InsightFace's `calculate_val_far`, which divides by both counts of a fold."""
    accepted = scores > threshold
    true_accept, false_accept = int((accepted & issame).sum()), int((accepted & ~issame).sum())
    return float(true_accept) / int(issame.sum()), float(false_accept) / int((~issame).sum())


@pytest.mark.parametrize("num_people", [5, 12, 31])
@pytest.mark.parametrize("max_pairs", [10, 11, 19, 25, None])
def test_every_fold_has_its_share_of_both_kinds(num_people, max_pairs):
    _, issame = draw_pairs(np.repeat(np.arange(num_people), 3), max_pairs)
    counts = insightface_folds(issame)
    for kind, total in zip(counts.T, counts.sum(0)):
        assert set(kind.tolist()) <= {total // 10, -(-total // 10)}
    assert counts.min() > 0
    for fold in np.array_split(np.arange(len(issame)), 10):
        assert val_and_far(np.zeros(len(fold)), issame[fold], 1) == (0, 0)


def test_few_pairs_are_spread_as_well():
    for owners in ([0, 0, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]):
        counts = insightface_folds(draw_pairs(np.array(owners))[1])
        assert (np.ptp(counts, axis=0) <= 1).all()


def test_other_numbers_of_folds_are_mixed_too():
    _, issame = draw_pairs(np.repeat(np.arange(30), 4), 150)
    assert all(abs(part.sum() - len(part) / 2) <= 1 for folds in (3, 5, 20) for part in np.array_split(issame, folds))


def test_pairs_of_a_kind_are_shuffled():
    pairs, issame = draw_pairs(np.repeat(np.arange(30), 4), 150)
    for kind in (pairs[issame], pairs[~issame]):
        assert abs(np.corrcoef(kind[:, 1], np.arange(len(kind)))[0, 1]) < 0.25


@pytest.mark.parametrize(("limit", "counts"), [(1, (1, 1)), (7, (7, 7)), (20, (10, 20)), (1000, (10, 35))])
def test_a_limit_holds_for_each_kind(limit, counts):
    pairs, issame = draw_pairs(OWNERS, limit)
    assert (issame.sum(), (~issame).sum()) == counts
    assert len({tuple(pair) for pair in pairs.tolist()}) == sum(counts)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert issame.tolist() == kinds(pairs)


def test_every_pair_is_as_likely():
    counts = np.zeros((10, 10))
    for seed in range(1000):
        pairs, _ = draw_pairs(OWNERS, 1, seed)
        np.add.at(counts, tuple(pairs.T), 1)
    same = OWNERS[:, None] == OWNERS
    above = np.triu(np.ones((10, 10), bool), 1)
    assert (np.abs(counts[same & above] - 100) < 43).all()
    assert (np.abs(counts[~same & above] - 1000 / 35) < 24).all()


def test_the_seed_decides():
    (first, _), (again, _), (other, _) = (draw_pairs(OWNERS, 5, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_many_pictures_need_no_list_of_all_pairs():
    pairs, issame = draw_pairs(np.repeat(np.arange(50_000), 4), 10)
    assert len(pairs) == 20
    assert issame.sum() == 10


@pytest.mark.parametrize("owners", [[], [1], [1, 1, 1], [1, 2, 3]])
def test_a_kind_without_pairs_is_refused(owners):
    with pytest.raises(InputError) as caught:
        draw_pairs(np.array(owners, int))
    assert caught.value.option == "holdout"


def test_too_many_pairs_are_refused(monkeypatch):
    monkeypatch.setattr(pairing, "_MOST_PAIRS", 44)
    with pytest.raises(InputError) as caught:
        draw_pairs(OWNERS)
    assert caught.value.option == "pairs"
    assert len(draw_pairs(OWNERS, 30)[0]) == 40
