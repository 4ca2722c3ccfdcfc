import numpy as np
import pytest

from denseface.evaluation.influence import METRICS, compare, measure_intervals, order_people, tar_intervals
from denseface.evaluation.intervals import SharedPeople, clopper_pearson, difference_interval, t_quantile, wilson
from denseface.evaluation.metrics import score_pairs
from denseface.evaluation.operating_points import measure_at
from denseface.evaluation.people import all_pairs, find_people
from research import coverage
from support.refusals import refused


def a_set(seed=0, people=12, pictures=4):
    owners, issame, scores = coverage.simulate(np.random.default_rng(seed), people, pictures)
    return owners, issame, scores, order_people(owners, issame)


def test_the_variance_adds_up_all_pairs_of_pairs_that_share_people():
    random = np.random.default_rng(0)
    people = random.integers(0, 9, (150, 2))
    contributions = random.normal(size=150)
    contributions -= contributions.mean()
    contributions += 5 * np.isin(people, [3]).any(axis=1)  # a person whose pairs agree
    share = [[len({*one} & {*other}) > 0 for other in people] for one in people]
    expected = contributions @ np.array(share) @ contributions * 9 / 7
    found = SharedPeople(people * 10).spread(contributions)
    assert found.variance == pytest.approx(expected)
    assert found.people == 9 and 1 <= found.freedom <= 8


def test_pairs_that_share_nobody_are_independent():
    contributions = np.random.default_rng(1).normal(size=400)
    contributions -= contributions.mean()
    found = SharedPeople(np.arange(800).reshape(400, 2)).spread(contributions)
    assert found.variance == pytest.approx(np.sum(contributions**2), rel=0.01)


def test_wilson_and_student_agree_with_tables():
    assert wilson(0.1, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    table = {1: 12.7062, 1.5: 6.01666, 2: 4.30265, 2.7: 3.39215, 3: 3.18245, 9: 2.26216, 30: 2.04227, 1e9: 1.95996}
    assert [t_quantile(freedom) for freedom in table] == pytest.approx(list(table.values()), rel=1e-5)
    assert clopper_pearson(0.0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
    assert clopper_pearson(0.1, 10) == pytest.approx((0.0025, 0.4450), abs=1e-4)
    assert clopper_pearson(1.0, 10) == pytest.approx((0.6915, 1), abs=1e-4)


def test_contributions_predict_what_leaving_a_person_out_does():
    """The jackknife's estimate of the variance is nearly that of the contributions."""
    owners, issame, scores, shared = a_set(people=30, pictures=3)
    result = score_pairs(scores, issame, 2)
    without = [(owners != person).all(axis=1) for person in range(30)]
    others = [score_pairs(scores[kept], issame[kept], 2) for kept in without]
    for metric in METRICS.keys() - {"accuracy"}:  # for which folds change too
        value, contributions, _ = METRICS[metric](result, shared)
        assert value == getattr(result, metric)
        assert abs(contributions.sum()) < 1e-9
        jackknife = np.var([getattr(other, metric) for other in others]) * 29
        assert shared.spread(contributions).variance == pytest.approx(jackknife, rel=0.5), metric


def test_intervals_contain_the_value_and_lower_bounds_never_fall():
    _, issame, scores, shared = a_set()
    result = score_pairs(scores, issame)
    found = measure_intervals(result, shared)
    for name in METRICS:
        assert 0 <= getattr(found, name).low < getattr(result, name) < getattr(found, name).high <= 1, name
    for far, tar in result.tar.items():
        assert (found.tar[far] is None) if tar is None else found.tar[far].low <= tar <= found.tar[far].high
    rates = np.geomspace(1e-3, 1, 30).tolist()
    lows = [interval.low for interval in tar_intervals(result, rates, shared).values()]
    assert lows == sorted(lows)


def test_no_errors_do_not_mean_certainty():
    """What few people show without an error is as uncertain as few people are, however many pairs they have."""
    _, issame, scores, shared = a_set(people=10, pictures=10)
    result = score_pairs(scores + 2 * issame, issame)
    assert result.tar[0.1] == 1
    assert 0.6 < measure_intervals(result, shared).tar[0.1].low < 0.95
    assert (
        measure_intervals(result, order_people(np.arange(2 * len(scores)).reshape(-1, 2), issame)).tar[0.1].low > 0.99
    )


def test_a_model_compared_with_itself_is_not_different():
    _, issame, scores, shared = a_set()
    result = score_pairs(scores, issame)
    differences = compare(result, result, shared)
    assert all(getattr(differences, name) == (0, (0, 0)) for name in METRICS)
    better = score_pairs(scores + 0.3 * issame, issame)
    value, interval = compare(better, result, shared).eer
    assert value == better.eer - result.eer < 0 and interval.low < value < interval.high < 0


def test_a_paired_comparison_is_sharper_than_two_intervals():
    _, issame, scores, shared = a_set(people=40)
    noise = np.random.default_rng(5).normal(0, 0.01, len(scores))
    one, other = (score_pairs(each, issame) for each in (scores, scores + noise))
    _, interval = compare(one, other, shared).auc
    alone = measure_intervals(one, shared).auc
    assert interval.high - interval.low < (alone.high - alone.low) / 2


def test_intervals_cover_and_a_bootstrap_over_pairs_does_not():
    found = coverage.cover(40, 3, 80, seed=2, bootstrapped=15)
    for name in coverage.truths():
        assert found["denseface"][name] >= 88, found
        assert found["bootstrap over pairs"][name] <= 85, found


def test_intervals_of_chosen_thresholds_cover_and_those_of_independent_pairs_do_not():
    found = coverage.cover_thresholds(40, 3, 20_000, 150, seed=3)
    assert found["denseface"]["FAR 0.1"] >= 88 and found["denseface"]["FAR 0.01"] >= 88, found
    assert found["independent pairs"]["FAR 0.1"] <= 60 and found["independent pairs"]["FAR 0.01"] <= 60, found


@pytest.mark.torture
def test_intervals_cover_95_percent():
    found = coverage.cover(100, 3, 500, seed=0)["denseface"]
    print(found)
    assert all(93 <= percentage <= 97 for percentage in found.values()), found


def test_genuine_pairs_tell_people_apart():
    pairs = np.array([[4, 1], [1, 0], [2, 3], [0, 2], [5, 6]])
    numbers, names = find_people(pairs, np.array([True, True, True, False, False]))
    assert numbers.tolist() == [[0, 0], [0, 0], [2, 2], [0, 2], [5, 6]] and names is None


def test_names_are_people_and_must_fit_the_pairs():
    pairs, issame = np.array([[0, 1], [0, 2]]), np.array([True, False])
    numbers, names = find_people(pairs, issame, ["anna", "anna", "bert"])
    assert numbers.tolist() == [[0, 0], [0, 1]] and names == ["anna", "bert"]
    with refused("pair 1", "anna and anna"):
        find_people(pairs, issame, ["anna"] * 3)


def test_all_pairs_are_of_all_pictures():
    people = np.random.default_rng(0).integers(0, 9, 60)
    pairs, issame = all_pairs(people)
    assert len(np.unique(pairs, axis=0)) == len(pairs) == 60 * 59 // 2 and (pairs[:, 0] < pairs[:, 1]).all()
    assert (issame == (people[pairs[:, 0]] == people[pairs[:, 1]])).all()
    drawn = all_pairs(people, most=700)
    assert len(np.unique(drawn.pairs, axis=0)) == len(drawn.pairs) == 700
    assert (drawn.issame == (people[drawn.pairs[:, 0]] == people[drawn.pairs[:, 1]])).all()
    assert drawn.issame.sum() == issame.sum() and (drawn.pairs[:, 0] < drawn.pairs[:, 1]).all()
    of_two = all_pairs(np.arange(3000) // 1500, most=1000)  # nearly all genuine
    assert of_two.issame.sum() == 500 and len(of_two.pairs) == 1000


def test_a_threshold_from_elsewhere_is_measured():
    _, issame, scores, shared = a_set()
    found = measure_at(score_pairs(scores, issame), shared, 0.15)
    accepted = scores >= 0.15
    assert found.threshold == 0.15
    assert found.accuracy.value == np.mean(accepted == issame)
    assert found.fmr.value == np.mean(accepted[~issame]) and found.fnmr.value == np.mean(~accepted[issame])
    assert found.balanced_accuracy.value == pytest.approx(1 - (found.fmr.value + found.fnmr.value) / 2)
    for rate in found[1:]:
        assert rate.interval.low <= rate.value <= rate.interval.high


def test_a_difference_without_variance_has_no_width():
    assert difference_interval(0.0, np.zeros(4), SharedPeople(np.arange(8).reshape(4, 2))) == (0, 0)
