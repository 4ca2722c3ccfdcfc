import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.core.lock import locked
from denseface.data.pairs import PairSet
from denseface.deciding.thresholds import find_threshold, find_threshold_of_search, read_metrics, save_metrics
from denseface.evaluation.metrics import score_pairs
from denseface.verification.verify import VerificationReport
from support.refusals import refused


@pytest.fixture
def embedder(tmp_path):
    fingerprint = {"prefix": "m", "epoch": 1, "sha256": "00"}
    model = SimpleNamespace(metrics_path=tmp_path / "m.json", metrics={}, fingerprint=fingerprint, name="m,1")
    return SimpleNamespace(model=model, flip=False, fingerprint=fingerprint)


def measured(name, impostors, seed=0):
    """A set of as many genuine as impostor pairs, of two pictures each."""
    random = np.random.default_rng(seed)
    issame = np.arange(2 * impostors) % 2 == 0
    scores = random.normal(issame * 0.5, 0.2).clip(-1, 1)
    images = [f"{name} {seed} {number}".encode() for number in range(4 * impostors)]
    return VerificationReport(name, None, score_pairs(scores, issame), PairSet(images, issame, name))


def test_the_default_is_a_rate_that_the_set_supports(embedder):
    small, large = measured("small", 50), measured("large", 1200)
    save_metrics(embedder, {"a/small.bin": small})
    found = find_threshold(embedder)
    assert (found.name, found.far, found.value) == ("small", 0.1, small.plain.threshold_at(0.1))
    save_metrics(embedder, {"a/large.bin": large})
    found = find_threshold(embedder)
    assert (found.name, found.far, found.value) == ("large", 1e-3, large.plain.threshold_at(1e-3))
    assert found.fmr == np.mean(large.plain.scores.impostor >= found.value)
    assert (found.fmr_interval, found.probability) == (
        large.points["plain"][1e-3].fmr_interval, large.calibrations["plain"],
    )  # fmt: skip
    assert find_threshold(embedder, far=1e-2).value == large.plain.threshold_at(1e-2)
    assert find_threshold(embedder, "small").value == small.plain.threshold_at(0.1)


def test_rates_that_cannot_be_had_are_refused(embedder):
    save_metrics(embedder, {"few.bin": measured("few", 9), "more.bin": measured("more", 90)})
    with refused(0.1, "10 impostor pairs", "few has 9", "5 people", option="far"):
        find_threshold(embedder, "few")
    for far, facts in ((1e-3, [0.001, "1000 impostor pairs", "more has 90"]), (0.02, ["0.1, 0.01"])):
        with refused(*facts, option="far"):
            find_threshold(embedder, far=far)


def test_the_threshold_of_a_search_bounds_its_false_positives(embedder):
    report = measured("set", 12000)
    save_metrics(embedder, {"set.bin": report})
    assert find_threshold_of_search(embedder, 10, 0.1).far == 1e-2
    assert find_threshold_of_search(embedder, 11, 0.1).far == 1e-3
    assert find_threshold_of_search(embedder, 1000, 0.1).far == 1e-4
    for size, fpir in ((100_000, 0.1), (10_000_000, 0.01)):
        with pytest.raises(InputError) as caught:
            find_threshold_of_search(embedder, size, fpir)
        assert caught.value.option == "fpir"


def test_sets_that_share_a_name_do_not_replace_each_other(embedder):
    for folder in ("a/1", "b/1", "b/2"):
        save_metrics(embedder, {f"{folder}/holdout.bin": measured("holdout", 20, seed=ord(folder[0]) + ord(folder[2]))})
    assert list(read_metrics(embedder.model)) == ["holdout", "1/holdout", "2/holdout"]
    save_metrics(embedder, {"b/1/holdout.bin": measured("holdout", 30)})
    assert read_metrics(embedder.model)["1/holdout"]["plain"]["n_genuine"] == 30


def test_processes_that_save_at_once_lose_nothing(embedder):
    names = [f"set{number}" for number in range(8)]
    threads = [
        threading.Thread(target=save_metrics, args=(embedder, {f"{name}.bin": measured(name, 20)})) for name in names
    ]
    with locked(embedder.model.metrics_path):
        for thread in threads:
            thread.start()
        threads[0].join(0.2)
        assert not embedder.model.metrics_path.exists()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(embedder.model.metrics_path.read_text())["sets"]) == names
