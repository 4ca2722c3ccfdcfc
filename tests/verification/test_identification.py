from statistics import NormalDist

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.core.vectors import normalize
from denseface.galleries import people as templates
from denseface.verification.identification import identify
from support.galleries import made
from support.refusals import refused


def people_named(counts, prefix="p"):
    return [f"all/{prefix}{person:03}/{number}.png" for person, count in enumerate(counts) for number in range(count)]


@pytest.fixture
def sets(tmp_path):
    """People with 1 to 5 pictures; probes of some of them and of others."""
    random = np.random.default_rng(0)
    counts = random.integers(1, 6, 60)
    names = people_named(counts)
    rows = random.normal(size=(len(names), 6))
    probe_names = [f"x/p{person:03}/0.png" for person in random.integers(0, 80, 150)]
    probes = random.normal(size=(150, 6))
    return names, rows, probe_names, probes


def plainly(names, rows, probe_names, probes, fusion):
    """All similarities at once."""
    people = [name.split("/")[1] for name in names]
    scores = normalize(probes) @ normalize(rows).T
    of_person = {}
    for person in dict.fromkeys(people):
        own = [index for index, other in enumerate(people) if other == person]
        mean = normalize(normalize(rows)[own].mean(axis=0, keepdims=True))
        of_person[person] = scores[:, own].max(axis=1) if fusion == "max" else (normalize(probes) @ mean.T)[:, 0]
    found = []
    for index, name in enumerate(probe_names):
        row = {person: values[index] for person, values in of_person.items()}
        mate = row.pop(name.split("/")[1], None)
        rank = None if mate is None else 1 + sum(score >= mate for score in row.values())
        found.append((mate, rank, max([*row.values(), *([mate] if mate is not None else [])])))
    return found


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("cells", [1 << 22, 900])
def test_searches_agree_with_all_similarities(tmp_path, sets, fusion, cells, monkeypatch):
    monkeypatch.setattr(templates, "_CELLS", cells)  # the smaller makes blocks of six pictures
    names, rows, probe_names, probes = sets
    found = identify(
        made(tmp_path / "g.npz", names, rows), made(tmp_path / "p.npz", probe_names, probes), fusion=fusion
    )
    expected = plainly(*sets, fusion)
    mated = [(score, rank) for score, rank, _ in expected if rank is not None]
    others = [top for _, rank, top in expected if rank is None]
    assert (found.num_people, found.num_pictures) == (60, len(names))
    assert np.allclose(found.mate_scores, [score for score, _ in mated], atol=1e-6)
    assert np.allclose(found.top_scores, others, atol=1e-6)
    assert found.ranks.tolist() == [rank for _, rank in mated]
    assert [found.cmc()[rank - 1] for rank in (1, 5, 60)] == [np.mean(found.ranks <= rank) for rank in (1, 5, 60)]


def test_a_tie_counts_against_the_mate(tmp_path):
    gallery = made(tmp_path / "g.npz", people_named([1, 1, 1]), np.ones((3, 5)))
    probes = made(tmp_path / "p.npz", people_named([1, 1, 1]), 2 * np.ones((3, 5)))
    assert identify(gallery, probes).ranks.tolist() == [3, 3, 3]


@pytest.mark.parametrize("rows", [np.eye(4), np.random.default_rng(0).normal(size=(4, 5))])
def test_probes_that_are_enrolled_are_left_out_and_counted(tmp_path, rows):
    gallery = made(tmp_path / "g.npz", people_named([2, 2]), rows)
    with pytest.raises(InputError) as caught:
        identify(gallery, gallery)
    assert caught.value.option == "probes"
    probes = made(tmp_path / "p.npz", ["x/p000/a", "x/p001/b", "y/z/c"], [rows[1], rows[1] + 0.01, rows[0]])
    found = identify(gallery, probes, made(tmp_path / "u.npz", ["z/q/1", "z/q/2"], [rows[3], -rows[3]]))
    assert (found.num_enrolled, len(found.ranks), len(found.top_scores)) == (3, 1, 1)
    assert identify(gallery, probes).num_enrolled == 2 and not len(identify(gallery, probes).top_scores)


@pytest.mark.parametrize("rank", [1, 5])
def test_fnir_at_fpir_agrees_with_trying_every_threshold(tmp_path, sets, rank):
    names, rows, probe_names, probes = sets
    found = identify(made(tmp_path / "g.npz", names, rows), made(tmp_path / "p.npz", probe_names, probes))
    open_set = found.open_set(rank)
    tried = np.unique(np.concatenate([found.mate_scores, found.top_scores]).astype(float))
    assert 1e-3 not in open_set.points  # too few searches
    fpir = np.array([np.mean(found.top_scores >= threshold) for threshold in tried])
    fnir = np.array([1 - np.mean((found.ranks <= rank) & (found.mate_scores >= threshold)) for threshold in tried])
    point = open_set.points[1e-1]
    assert 1 - point.tar == pytest.approx(fnir[fpir <= 1e-1].min())
    assert np.mean(found.top_scores >= point.threshold) == point.fmr <= 1e-1
    assert point.tar_interval.low <= point.tar <= point.tar_interval.high
    assert point.fmr_interval.low <= point.fmr <= point.fmr_interval.high
    rates = found.rates_at(point.threshold, rank)
    assert (1 - rates.fnir.value, rates.fpir.value) == pytest.approx((point.tar, point.fmr))


def test_independent_scores_have_the_closed_forms(tmp_path):
    """In one dimension beside a constant, scores are ordered like a normal variable; the best of n has its power."""
    normal, random, n = NormalDist(), np.random.default_rng(1), 50
    axes = np.eye(n + 2)
    gallery = made(tmp_path / "g.npz", people_named([1] * n), axes[:n])

    # The score of a probe with person i is its i-th value: independent, all of the same small size.
    def probes(mated, count):
        rows = random.normal(0, 0.01, (count, n + 2))
        rows[:, n] = np.sqrt(1 - (rows[:, :n] ** 2).sum(axis=1))
        rows[:, n + 1] = 0
        who = random.integers(0, n, count)
        if mated:
            rows[np.arange(count), who] += 0.02
        return rows, who

    rows, who = probes(True, 4000)
    mated = made(tmp_path / "m.npz", [f"x/p{person:03}/1" for person in who], rows)
    strangers = made(tmp_path / "s.npz", [f"x/q{person}/1" for person in range(4000)], probes(False, 4000)[0])
    found = identify(gallery, mated, strangers)
    grid = np.linspace(-6, 8, 4001)
    density = np.exp(-((grid - 2) ** 2) / 2) / np.sqrt(2 * np.pi)
    first = np.sum(density * np.array([normal.cdf(x) for x in grid]) ** (n - 1)) * (grid[1] - grid[0])
    assert found.hit_rate(1).value == pytest.approx(first, abs=0.03)
    for fpir in (0.1, 0.01):
        exact = normal.inv_cdf((1 - fpir) ** (1 / n))  # the best of n strangers is above it as often as that
        point = found.open_set(n).points[fpir]
        assert point.threshold == pytest.approx(0.01 * exact, rel=0.1)
        assert 1 - point.tar == pytest.approx(normal.cdf(exact - 2), abs=0.04)


def test_a_mate_beyond_the_rank_is_not_found_at_any_threshold(tmp_path):
    gallery = made(tmp_path / "g.npz", people_named([1, 1]), [[1, 0], [0, 1]])
    probes = made(tmp_path / "p.npz", ["x/p000/1"] * 19 + ["x/p001/1"], [[1, 0.1]] * 20)
    strangers = made(tmp_path / "s.npz", [f"x/s{k}/1" for k in range(20)], [[-1, -1]] * 20)
    found = identify(gallery, probes, strangers)
    assert found.ranks.tolist() == [1] * 19 + [2]
    assert found.open_set(1).points[0.1].tar == pytest.approx(0.95) and found.open_set(2).points[0.1].tar == 1


def test_what_cannot_be_searched_is_refused(tmp_path):
    gallery = made(tmp_path / "g.npz", people_named([1, 1]), np.eye(2))
    with refused("p001", gallery.path, option="unknown"):
        identify(gallery, gallery, made(tmp_path / "u.npz", ["y/p001/9"], [[1, 0]]))
    with refused("another model", path=gallery.path):
        identify(gallery, made(tmp_path / "o.npz", ["y/p001/9"], [[1, 0]], sha256="y"))
    with refused("1.png", "no folder"):
        identify(made(tmp_path / "f.npz", ["1.png"], [[1, 0]]), gallery)
    with refused("x/a", path=tmp_path / "a.npz"):
        identify(made(tmp_path / "a.npz", ["x/a/1", "x/b/1", "x/a/2"], np.ones((3, 2))), gallery)
    closed = identify(gallery, made(tmp_path / "c.npz", people_named([1, 1]), 2 * np.eye(2)))
    assert closed.open_set() is None and closed.ranks.tolist() == [1, 1]
