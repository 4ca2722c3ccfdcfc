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


def test_the_order_is_shuffled():
    owners = np.repeat(np.arange(30), 4)
    _, issame = draw_pairs(owners, 150)
    assert all(30 < part.sum() < 70 for part in np.split(issame[:300], 3))


@pytest.mark.parametrize(("limit", "counts"), [(1, (1, 1)), (7, (7, 7)), (20, (10, 20)), (1000, (10, 35))])
def test_a_limit_holds_for_each_kind(limit, counts):
    pairs, issame = draw_pairs(OWNERS, limit)
    assert (issame.sum(), (~issame).sum()) == counts
    assert len({tuple(pair) for pair in pairs.tolist()}) == sum(counts)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert issame.tolist() == kinds(pairs)


def test_every_pair_is_as_likely():
    counts = np.zeros((10, 10))
    for seed in range(2000):
        pairs, _ = draw_pairs(OWNERS, 1, seed)
        np.add.at(counts, tuple(pairs.T), 1)
    same = OWNERS[:, None] == OWNERS
    above = np.triu(np.ones((10, 10), bool), 1)
    assert (np.abs(counts[same & above] - 200) < 60).all()
    assert (np.abs(counts[~same & above] - 2000 / 35) < 35).all()


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
    with pytest.raises(InputError, match="holdout: pairs need pictures of two people"):
        draw_pairs(np.array(owners, int))


def test_too_many_pairs_are_refused(monkeypatch):
    monkeypatch.setattr(pairing, "_MOST_PAIRS", 44)
    with pytest.raises(InputError, match="pairs: 45 are more than 44"):
        draw_pairs(OWNERS)
    assert len(draw_pairs(OWNERS, 30)[0]) == 40
