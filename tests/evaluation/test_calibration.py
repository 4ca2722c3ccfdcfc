import numpy as np
import pytest

from denseface.evaluation.calibration import Calibration, check, check_on_others, fit


def normal_scores(seed=0, n_genuine=4000, n_impostor=20000, distance=0.5, deviation=0.2):
    random = np.random.default_rng(seed)
    return random.normal(distance, deviation, n_genuine), random.normal(0, deviation, n_impostor)


def test_normal_scores_have_the_line_of_their_densities():
    """The log of the ratio of two normal densities: slope d / s**2, and 0 halfway, whatever the numbers of pairs."""
    found = fit(*normal_scores())
    assert found.slope == pytest.approx(0.5 / 0.04, rel=0.05)
    assert -found.offset / found.slope == pytest.approx(0.25, abs=0.01)


def test_the_fit_has_the_lowest_loss():
    genuine, impostor = normal_scores(n_genuine=50, n_impostor=80)

    def loss(line):
        terms = []
        for scores, target in ((genuine, 51 / 52), (impostor, 1 / 82)):
            odds = line.slope * scores + line.offset
            terms.append(np.mean(np.logaddexp(0, odds) - target * odds))
        return sum(terms)

    best = fit(genuine, impostor)
    for slope, offset in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert loss(best) < loss(Calibration(best.slope + slope, best.offset + offset))


def test_scores_that_do_not_overlap_have_a_finite_slope():
    found = fit(np.full(30, 0.9), np.full(300, 0.1))
    assert np.isfinite(found).all() and 0.9 < found.probability(0.9) < 1
    assert found.probability(0.9, prior=0.001) < found.probability(0.9)
    assert np.isfinite(fit(np.ones(3), np.ones(5))).all()


def test_probabilities_are_checked_on_other_pairs():
    found = check(fit(*normal_scores(0)), *normal_scores(1))
    assert np.allclose(found.predicted, found.observed, atol=0.06)
    assert 0 < found.brier < 0.12
    assert check(Calibration(0.0, 0.0), *normal_scores(1)).brier == pytest.approx(0.25)
    shifted = check(fit(*normal_scores(0)), *(scores + 0.2 for scores in normal_scores(1)))
    assert shifted.brier > found.brier and np.abs(shifted.predicted - shifted.observed).max() > 0.1


def test_nobody_is_in_both_halves():
    """Each person has a score of its own, so that knowing who they are would give probabilities away."""
    people = np.repeat(np.arange(20), 3)
    genuine = np.stack([people, people], axis=1)
    impostor = np.array([[a, b] for a in range(20) for b in range(a)])
    scores = (people % 2).astype(float), np.zeros(len(impostor))  # the halves are alternate people
    found = check_on_others(scores, (genuine, impostor))
    assert found.brier > check(fit(*scores), *scores).brier
    assert check_on_others((scores[0], scores[1][:1]), (genuine, np.array([[0, 1]]))) is None
