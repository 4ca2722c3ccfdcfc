import numpy as np

from denseface.data.pairs import PairSet
from denseface.evaluation.metrics import score_pairs
from denseface.evaluation.people import PairPeople
from denseface.verification.groups import measure_groups, read_groups
from denseface.verification.verify import VerificationReport
from support.refusals import refused


def report_of(names, numbers, issame, scores):
    report = VerificationReport("made", None, score_pairs(scores, issame), PairSet([], issame, "made"))
    report.__dict__["people"] = PairPeople(numbers, names)  # as if it had been found already
    return report


def test_groups_are_measured_at_the_thresholds_of_all():
    random = np.random.default_rng(0)
    names = [f"p{number}" for number in range(12)]
    groups = {name: "ab"[number % 2] for number, name in enumerate(names[:10])}
    numbers = random.integers(0, 12, (3000, 2))
    numbers[::3, 1] = numbers[::3, 0]
    issame = numbers[:, 0] == numbers[:, 1]
    scores = random.normal(issame * 0.5, 0.2)
    report = report_of(names, numbers, issame, scores)
    found = measure_groups(report, "plain", groups, (1e-2, 1e-9))
    assert list(found) == ["a", "b"] and found["a"].people == 5
    for group, measured in found.items():
        inside = np.array([all(groups.get(names[n]) == group for n in pair) for pair in numbers])
        for title, threshold in (
            ("best accuracy", report.plain.threshold),
            ("FAR 0.01", report.plain.threshold_at(1e-2)),
        ):
            (fmr, fmr_interval), (fnmr, fnmr_interval) = measured.rates[title].fmr, measured.rates[title].fnmr
            assert fmr == np.mean(scores[inside & ~issame] >= threshold)
            assert fnmr == np.mean(scores[inside & issame] < threshold)
            assert fmr_interval.low <= fmr <= fmr_interval.high and fnmr_interval.low <= fnmr <= fnmr_interval.high
        assert (measured.n_genuine, measured.n_impostor) == ((inside & issame).sum(), (inside & ~issame).sum())
        assert list(measured.rates) == ["best accuracy", "FAR 0.01"]


def test_differences_between_groups_allow_for_many_comparisons():
    """Of groups alike, few are said to differ; one that is harder is."""
    wrong, found_harder = 0, 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        numbers = np.stack(np.triu_indices(160, 1), axis=1) // 4  # all pairs of four pictures of forty people
        issame = numbers[:, 0] == numbers[:, 1]
        harder = 1.5 * (np.arange(40) % 4 == 3)
        ease = 0.2 * random.normal(size=40) - harder
        scores = np.where(issame, 2 + ease[numbers[:, 0]], 0) + random.normal(size=len(numbers))
        groups = {str(person): "abcd"[person % 4] for person in range(40)}
        report = report_of([str(person) for person in range(40)], numbers, issame, scores)
        found = measure_groups(report, "plain", groups, (0.1,))
        rates = [group.rates["FAR 0.1"] for group in found.values()]
        wrong += any(not rate.fmr_excess.interval.low <= 0 <= rate.fmr_excess.interval.high for rate in rates)
        found_harder += rates[3].fnmr_excess.interval.low > 0
        assert all(rate.fnmr_excess.interval.high < rates[3].fnmr_excess.value for rate in rates[:3])
    assert wrong <= 4 and found_harder >= 16, (wrong, found_harder)


def test_groups_need_names():
    pairs = np.array([[0, 0], [0, 1]] * 5), np.array([True, False] * 5), np.array([0.9, 0.1] * 5)
    with refused("made", option="groups"):
        measure_groups(report_of(None, *pairs), "plain", {"anna": "f"}, ())
    with refused("made", "carl", option="groups"):
        measure_groups(report_of(["carl", "dora"], *pairs), "plain", {"anna": "f"}, ())
    alone = measure_groups(report_of(["anna", "dora"], *pairs), "plain", {"anna": "f"}, ())["f"]
    assert alone.rates["best accuracy"].fmr is None and alone.rates["best accuracy"].fnmr.value == 0


def test_a_table_of_groups(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text("person,sex,age\nanna,f,30\nbert,m,\n")
    assert read_groups(path) == {"sex": {"anna": "f", "bert": "m"}, "age": {"anna": "30"}}
    for text in ("name,sex\nanna,f\n", "person\nanna\n", "person,sex\nanna\n", "person,sex\nanna,f\nanna,m\n", ""):
        path.write_text(text)
        with refused("line", path=path):
            read_groups(path)
