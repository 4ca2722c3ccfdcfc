import json
import tracemalloc

import numpy as np
import pytest

from denseface.core.vectors import normalize
from denseface.evaluation.metrics import pair_scores, score_pairs
from support.refusals import refused


def accuracy_at(threshold, scores, issame):
    return np.mean([(score >= threshold) == same for score, same in zip(scores, issame)])


def balanced_accuracy_at(threshold, scores, issame):
    accepted = np.asarray(scores) >= threshold
    issame = np.asarray(issame)
    return (np.mean(accepted[issame]) + np.mean(~accepted[~issame])) / 2


def candidates(scores):
    """Every threshold that can make a difference, highest first."""
    return [np.max(scores) + 1, *sorted(set(scores), reverse=True)]


def best_threshold(measure, scores, issame):
    return max(candidates(scores), key=lambda threshold: measure(threshold, scores, issame))


def crossing(points):
    """Where a line through points (FMR, FNMR) meets FMR = FNMR."""
    for (false, miss), (next_false, next_miss) in zip(points, points[1:]):
        if next_false >= next_miss:
            step = (miss - false) / (miss - false + next_false - next_miss)
            return false + step * (next_false - false)


def brute_force(scores, issame, folds, fars):
    scores, issame = list(scores), list(issame)
    n_genuine, n_impostor = issame.count(True), issame.count(False)
    accuracies = []
    for fold in np.array_split(np.arange(len(scores)), folds):
        rest = [i for i in range(len(scores)) if i not in fold]
        threshold = best_threshold(accuracy_at, [scores[i] for i in rest], [issame[i] for i in rest])
        accuracies.append(accuracy_at(threshold, [scores[i] for i in fold], [issame[i] for i in fold]))
    genuine = [score for score, same in zip(scores, issame) if same]
    impostor = [score for score, same in zip(scores, issame) if not same]
    points = [(sum(s >= t for s in impostor), sum(s >= t for s in genuine)) for t in candidates(scores)]
    return {
        "accuracy": np.mean(accuracies),
        "accuracy_std": np.std(accuracies),
        "best_accuracy": max(accuracy_at(t, scores, issame) for t in candidates(scores)),
        "balanced_accuracy": max(balanced_accuracy_at(t, scores, issame) for t in candidates(scores)),
        "auc": np.mean([(g > i) + (g == i) / 2 for g in genuine for i in impostor]),
        "tar": {
            far: max(true for false, true in points if false <= round(far * n_impostor, 9)) / n_genuine
            if round(far * n_impostor, 9) >= 1
            else None
            for far in fars
        },
        "eer": crossing([(false / n_impostor, 1 - true / n_genuine) for false, true in points]),
        "roc": (
            [false / n_impostor for false, _ in points],
            [true / n_genuine for _, true in points],
        ),
    }


@pytest.mark.parametrize("decimals", [0, 1, 2, 9], ids=lambda d: f"{d}-decimals")
@pytest.mark.parametrize(("n_pairs", "folds"), [(10, 10), (37, 10), (60, 10), (101, 4), (40, 2)])
def test_agrees_with_trying_every_threshold(n_pairs, folds, decimals):
    random = np.random.RandomState(n_pairs + decimals)
    issame = random.rand(n_pairs) < 0.4
    issame[:2] = True, False
    scores = np.round(random.normal(issame * 0.8, 0.5), decimals)
    fars = (0.5, 0.1, 0.05, 0.01)
    result, expected = score_pairs(scores, issame, folds, fars), brute_force(scores, issame, folds, fars)

    for name in ("accuracy", "accuracy_std", "balanced_accuracy", "auc", "eer"):
        assert getattr(result, name) == pytest.approx(expected[name], abs=1e-12), name
    assert accuracy_at(result.threshold, scores, issame) == expected["best_accuracy"]
    assert balanced_accuracy_at(result.balanced_threshold, scores, issame) == pytest.approx(result.balanced_accuracy)
    assert result.tar == pytest.approx(expected["tar"], abs=1e-12)
    assert np.allclose(result.roc.far, expected["roc"][0], rtol=0, atol=1e-12)
    assert np.allclose(result.roc.tar, expected["roc"][1], rtol=0, atol=1e-12)
    assert result.roc.thresholds[1:].tolist() == candidates(scores)[1:] and result.roc.thresholds[0] > max(scores)
    assert (result.n_genuine, result.n_impostor) == (issame.sum(), (~issame).sum())


def test_the_threshold_at_a_rate_accepts_no_more_and_the_next_one_does():
    random = np.random.RandomState(7)
    issame = random.rand(300) < 0.3
    result = score_pairs(np.round(random.normal(issame * 0.8, 0.5), 2), issame)
    genuine, impostor = result.scores
    for far in (0.5, 0.1, 0.02, 1.0):
        threshold, tar = result.threshold_at(far), result.tar_at(far)
        assert np.mean(impostor >= threshold) <= far and np.mean(genuine >= threshold) == tar
        below = np.concatenate(result.scores)
        below = below[below < threshold]
        assert far == 1.0 or np.mean(impostor >= below.max()) > far
    assert result.threshold_at(1e-3) is result.tar_at(1e-3) is None


def test_rates_agree_with_scikit_learn():
    library = pytest.importorskip("sklearn.metrics")
    random = np.random.RandomState(8)
    issame = random.rand(2000) < 0.3
    scores = np.round(random.normal(issame * 0.8, 0.5), 2)
    result = score_pairs(scores, issame)
    false, misses, _ = library.det_curve(issame, scores)
    ours = {(round(a, 9), round(1 - b, 9)) for a, b in zip(result.roc.far, result.roc.tar)}
    assert {(round(a, 9), round(b, 9)) for a, b in zip(false, misses)} <= ours
    assert result.auc == pytest.approx(library.roc_auc_score(issame, scores))
    assert result.eer == pytest.approx(np.interp(0, misses - false, false), abs=1e-9)


def test_d_prime_of_normal_scores():
    random = np.random.RandomState(0)
    issame = np.arange(20000) % 2 > 0
    scores = np.where(issame, random.normal(2, 1, 20000), random.normal(0, 0.5, 20000))
    assert score_pairs(scores, issame).d_prime == pytest.approx(2 / 0.625**0.5, rel=0.02)
    assert score_pairs([1, 0] * 10, [True, False] * 10).d_prime is None


def test_separable_pairs_are_all_right():
    result = score_pairs([0.9, 0.1, 0.8, 0.2, 0.8, 0.2], [True, False] * 3, folds=3)
    assert (result.accuracy, result.accuracy_std, result.auc, result.balanced_accuracy) == (1, 0, 1, 1)
    assert result.threshold == result.balanced_threshold == 0.8


def test_the_score_equal_to_the_threshold_is_accepted():
    scores = [0.5, 0.5, 0.1, 0.1]
    result = score_pairs(scores, [True, True, False, False], folds=2)
    assert result.threshold == 0.5


def test_equal_scores_tell_nothing():
    result = score_pairs([0.3] * 20, [True, False] * 10, fars=(0.5, 1.0))
    assert (result.accuracy, result.auc, result.balanced_accuracy) == (0.5, 0.5, 0.5)
    assert result.tar == {0.5: 0.0, 1.0: 1.0}
    assert (result.roc.far.tolist(), result.roc.tar.tolist()) == ([0, 1], [0, 1])


def test_of_equally_good_thresholds_the_strictest_is_taken():
    """At 0.9 and at 0.7 three of four are right."""
    result = score_pairs([0.9, 0.8, 0.7, 0.6], [True, False, True, False], folds=2)
    assert result.threshold == result.balanced_threshold == 0.9


def test_rejecting_everything_has_a_finite_threshold():
    result = score_pairs([0.9, 0.8, 0.7, 0.1], [False, False, False, True], folds=2)
    assert 0.9 < result.threshold < 0.9001


def test_the_threshold_of_a_fold_comes_from_the_other_folds():
    """Each fold alone is separable, but at a threshold that is wrong for the other."""
    issame = [True, True, False, False] * 2
    result = score_pairs([0.9, 0.9, 0.8, 0.8, 0.2, 0.2, 0.1, 0.1], issame, folds=2)
    assert result.accuracy == 0.5


def test_folds_are_contiguous():
    """Accuracies of 1/2 and 1: the two bad pairs are in the first fold, which interleaved folds would share."""
    scores = [0.1, 0.9, 0.9, 0.1] + [0.9, 0.1] * 6
    result = score_pairs(scores, [True, False] * 8, folds=4)
    assert (result.accuracy, result.accuracy_std) == (pytest.approx(0.875), pytest.approx(np.std([0.5, 1, 1, 1])))


def test_tar_is_none_where_impostors_are_too_few():
    issame = np.arange(200) < 100
    result = score_pairs(np.linspace(1, 0, 200), issame)
    assert result.tar == {1e-1: 1, 1e-2: 1, 1e-3: None, 1e-4: None, 1e-5: None, 1e-6: None}


def test_tar_does_not_interpolate():
    """Impostors come two at a time, so at a rate of 1 in 4 none may be accepted."""
    scores = [0.9, 0.8, 0.8, 0.7, 0.1, 0.1]
    issame = [True, False, False, True, False, False]
    assert score_pairs(scores, issame, folds=2, fars=(0.25, 0.5)).tar == {0.25: 0.5, 0.5: 1.0}


@pytest.mark.parametrize("hundredths", [7, 28, 29, 57, 58])
def test_a_rate_is_met_exactly_whatever_its_rounding(hundredths):
    """0.29 * 100 is below 29 in floating point; 29 impostors in 100 are a rate of 0.29 all the same."""
    impostors = np.linspace(1, 0, 100)
    genuine = impostors[hundredths - 1] - 0.001
    scores, issame = np.append(impostors, [2.0, genuine]), np.append(np.zeros(100, bool), [True, True])
    fars = (hundredths / 100, (hundredths - 1) / 100)
    assert score_pairs(scores, issame, fars=fars).tar == {fars[0]: 1.0, fars[1]: 0.5}


def test_lists_and_integer_labels_are_taken():
    assert score_pairs([0.9, 0.1, 0.9, 0.2], [1, 0, 1, 0], folds=2).accuracy == 1


def test_to_dict_is_json():
    result = score_pairs(np.float32([0.8, 0.1, 0.8, 0.2]), np.array([1, 0, 1, 0], bool), folds=2, fars=(0.5, 1e-6))
    figures = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert figures == {
        "accuracy": 1.0,
        "accuracy_std": 0.0,
        "threshold": pytest.approx(0.8),
        "fmr": 0.0,
        "fnmr": 0.0,
        "balanced_accuracy": 1.0,
        "balanced_threshold": pytest.approx(0.8),
        "auc": 1.0,
        "tar": {"0.5": 1.0, "1e-06": None},
        "eer": 0.0,
        "eer_threshold": pytest.approx(0.8),
        "d_prime": pytest.approx(0.65 / (0.0025 / 2) ** 0.5),
        "n_genuine": 2,
        "n_impostor": 2,
        "folds": 2,
        "mixed_folds": True,
    }


def test_a_set_in_the_order_of_its_kinds_has_no_accuracy_over_folds():
    scores, issame = np.linspace(1, 0, 60), np.arange(60) < 20
    assert not score_pairs(scores, issame).mixed_folds
    assert score_pairs(np.append(scores, 0.5), np.append(issame, True)[::-1], folds=2).mixed_folds
    assert score_pairs(scores[::-1], issame[np.random.default_rng(0).permutation(60)]).mixed_folds
    assert score_pairs([0.9, 0.8, 0.1, 0.2], [True, True, False, False], folds=4).mixed_folds  # as few as folds


@pytest.mark.parametrize(
    ("arguments", "option", "message"),
    [
        (([0.1, 0.2], [True, True], 2), None, "all of one kind"),
        (([0.1, 0.2], [False, False], 2), None, "all of one kind"),
        (([], [], 2), None, "all of one kind"),
        (([0.1, np.nan], [True, False], 2), None, "NaN"),
        (([0.1, np.inf], [True, False], 2), None, "infinity"),
        (([0.1, 0.2, 0.3], [True, False], 2), None, "one length"),
        (([[0.1, 0.2]], [[True, False]], 2), None, "flat"),
        (([0.1, 0.2], [True, False], 3), "folds", "2 to the number of pairs, 2"),
        (([0.1, 0.2], [True, False], 1), "folds", "2 to the number of pairs, 2"),
        (([0.1, 0.2], [True, False], 2, (0.0,)), "fars", "false accept rate"),
        (([0.1, 0.2], [True, False], 2, (1.5,)), "fars", "false accept rate"),
    ],
)
def test_unusable_pairs_are_refused(arguments, option, message):
    with refused(message, option=option) as caught:
        score_pairs(*arguments)
    assert "\n" not in str(caught.value)


def test_pair_scores_are_cosines():
    random = np.random.RandomState(1)
    embeddings = random.standard_normal((50, 8)).astype(np.float32) * 30
    pairs = random.randint(0, 50, (3000, 2))
    scores = pair_scores(embeddings, pairs)
    a, b = embeddings[pairs[:, 0]].astype(float), embeddings[pairs[:, 1]].astype(float)
    expected = np.sum(a * b, 1) / np.sqrt(np.sum(a * a, 1) * np.sum(b * b, 1))
    assert scores.dtype == np.float64
    assert np.abs(scores - expected).max() < 1e-12
    assert scores.max() <= 1


def test_order_by_squared_distance_is_the_order_by_score():
    random = np.random.RandomState(2)
    unit = normalize(random.standard_normal((40, 16)))
    pairs = random.randint(0, 40, (500, 2))
    squared_distances = np.sum((unit[pairs[:, 0]] - unit[pairs[:, 1]]) ** 2, axis=1)
    assert np.allclose(squared_distances, 2 - 2 * pair_scores(unit, pairs), atol=1e-12)


def test_an_embedding_of_zeros_stays_zeros():
    embeddings = np.float32([[0, 0], [3, 4]])
    assert normalize(embeddings).tolist() == [[0, 0], [0.6, 0.8]]
    with np.errstate(all="raise"):
        assert pair_scores(embeddings, [[0, 1], [0, 0], [1, 1]]).tolist() == [0, 0, pytest.approx(1)]


def test_no_pairs_no_scores():
    assert pair_scores(np.ones((2, 4)), np.empty((0, 2), int)).shape == (0,)


def test_pair_scores_need_little_memory():
    """6,000 pairs of 512 numbers at once, in double precision, would take 49 MB."""
    embeddings = np.random.RandomState(3).standard_normal((600, 512)).astype(np.float32)
    pairs = np.random.RandomState(4).randint(0, 600, (6000, 2))
    tracemalloc.start()
    pair_scores(embeddings, pairs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32e6


@pytest.mark.parametrize(
    ("embeddings", "pairs", "message"),
    [
        (np.ones(4), [[0, 1]], "shape"),
        (np.ones((2, 4)), [0, 1], "shape"),
        (np.ones((2, 4)), [[0, 1, 1]], "shape"),
        (np.ones((2, 4)), [[0.0, 1.0]], "integers"),
        (np.ones((2, 4)), [[0, 2]], "0 to 1"),
        (np.ones((2, 4)), [[-1, 1]], "0 to 1"),
        ([[1, 2], [1, np.nan]], [[0, 0]], "embedding 1 contains NaN"),
    ],
)
def test_unusable_embeddings_are_refused(embeddings, pairs, message):
    with refused(message) as caught:
        pair_scores(embeddings, pairs)
    assert "\n" not in str(caught.value)


def insightface_accuracy(scores, issame, folds):
    """The accuracy as InsightFace's verification defines it: thresholds in steps, squared distances below them."""
    distances = 2 - 2 * np.asarray(scores)
    thresholds = np.arange(0, 4, 0.01)
    right = np.array([(distances < threshold) == issame for threshold in thresholds])
    accuracies = []
    for fold in np.array_split(np.arange(len(distances)), folds):
        best = np.argmax(np.delete(right, fold, axis=1).mean(axis=1))
        accuracies.append(right[best, fold].mean())
    return [np.mean(accuracies), np.std(accuracies)]


@pytest.mark.parametrize(("n_pairs", "folds"), [(20, 10), (37, 10), (400, 10), (101, 4)])
def test_the_thresholds_of_insightface_give_its_accuracy(n_pairs, folds):
    random = np.random.RandomState(n_pairs)
    issame = random.rand(n_pairs) < 0.5
    scores = random.normal(issame * 0.1, 0.05).clip(-1, 1)
    scores[:3] = 1, -1, 0.995  # at distances 0, 4 and on a threshold
    result = score_pairs(scores, issame, folds, thresholds="insightface")
    assert [result.accuracy, result.accuracy_std] == pytest.approx(insightface_accuracy(scores, issame, folds))
    found, ours = result.to_dict(), score_pairs(scores, issame, folds).to_dict()
    assert {name for name in found if found[name] != ours[name]} <= {"accuracy", "accuracy_std"}


def test_the_thresholds_of_insightface_are_coarser():
    scores, issame = [0.9002, 0.9001, 0.9002, 0.9001], [True, False, True, False]
    assert score_pairs(scores, issame, 2).accuracy == 1
    assert score_pairs(scores, issame, 2, thresholds="insightface").accuracy == 0.5


def test_unknown_thresholds_are_named():
    with refused("lfw", option="thresholds"):
        score_pairs([0.1, 0.9], [False, True], 2, thresholds="lfw")
