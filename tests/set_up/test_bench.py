"""What the measurements are made of; nothing is timed here for its speed."""

import importlib
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from bench import fisherfaces, growth, identities, loader, noise, search
from bench.model import faces, make_model
from bench.race import Contender, fastest, race
from bench.report import markdown, peak
from denseface.report.plotting import save_figure


def constant(name, value):
    """Its output is a matrix of this value; the process imports nothing but NumPy."""
    return Contender(name, partial, (np.full, (2, 3), value))


def test_contenders_that_agree_are_timed_and_the_others_named():
    said = []
    rows = race(
        [
            constant("one", 1.0),
            Contender("peer", importlib.import_module, ("no_such_peer",)),
            constant("nearly", 1.0001),
        ],
        rounds=2,
        log=said.append,
    )
    assert said == ["left out: peer: ModuleNotFoundError: No module named 'no_such_peer'"]
    assert [row["name"] for row in rows] == ["one", "nearly"]
    assert [row["difference"] for row in rows] == pytest.approx([0, 1e-4])
    assert all(0 < row["fastest"] <= row["seconds"] and row["peak_memory"] > 1e6 for row in rows)
    assert rows[1]["cosine"] == pytest.approx(1)


def test_the_fastest_is_found_in_each_precision():
    slow, quick, half = (
        Contender(name, partial, (np.linalg.inv, np.eye(size)), precision=precision)
        for name, size, precision in (("slow", 900, "float32"), ("quick", 2, "float32"), ("half", 900, "bfloat16"))
    )
    said = []
    assert [found.name for found in fastest([slow, half, quick], 3, said.append)] == ["quick", "half"]
    assert [line.split(":")[0] for line in said] == ["slow", "half", "quick"]


def test_contenders_that_compute_something_else_are_not_timed():
    with pytest.raises(RuntimeError, match=r"^other differs from one by 1.0e\+00$"):
        race([constant("one", 1.0), constant("other", 2.0)], rounds=1, log=print)
    with pytest.raises(RuntimeError, match="differs from one by nan"):
        race([constant("one", 1.0), constant("other", np.nan)], rounds=1, log=print)


def test_the_network_is_the_same_in_every_process(configured):
    first, second = make_model("d63", "prelu"), make_model("d63", "prelu")
    assert first.symbol.list_outputs() == ["fc1_output"]
    for name, array in {**first.arguments, **first.auxiliary}.items():
        np.testing.assert_array_equal(array, {**second.arguments, **second.auxiliary}[name])
    np.testing.assert_array_equal(faces(2), faces(2))


def test_the_page_holds_rates_and_ratios():
    row = {
        "precision": "float32",
        "seconds": 0.2,
        "spread": 0.05,
        "fastest": 0.1,
        "difference": 1e-6,
        "cosine": 1.0,
        "peak_memory": 3e8,
    }
    page = markdown(
        {
            "command": "python -m bench inference",
            "machine": {
                "processor": "P",
                "instructions": ["avx2"],
                "cores": 2,
                "memory": "M",
                "load before": 0.0,
                "python": "3.9",
                "packages": {"mxnet": "1.9.1", "torch": None},
            },
            "limits": {
                peak("float32"): (100.0, "GFLOP/s"),
                peak("bfloat16"): (400.0, "GFLOP/s"),
                "copy": (17.6, "GB/s"),
            },
            "races": [
                {
                    "title": "Inference",
                    "done": (8, "pictures"),
                    "rounds": 3,
                    "macs": 5e9,
                    "rows": [
                        {"name": "PyTorch", **row},
                        {"name": "PyTorch compiled", **row, "seconds": 0.1},
                        {"name": "PyTorch, bfloat16", **row, "precision": "bfloat16"},
                        {"name": "denseface", **row, "seconds": 0.05},
                    ],
                },
                {
                    "title": "Starting",
                    "done": (1, "starts"),
                    "rounds": 3,
                    "macs": 0,
                    "rows": [{"name": "peer", **row}, {"name": "ours", **row, "seconds": 0.1}],
                },
            ],
        }
    )
    assert "torch not installed" in page
    assert "- copy: 18 GB/s" in page
    assert "| contender | ms | spread | pictures/s | times the first | of the peak of its precision |" in page
    assert "| PyTorch | 200.0 | 5% | 40.0 | 1.00 | 50% | 1e-06 | 1.00000 | 300 |" in page
    assert "| PyTorch, bfloat16 | 200.0 | 5% | 40.0 | 1.00 | 12% | 1e-06 | 1.00000 | 300 |" in page
    assert "| ours | 100.0 | 5% | 10.0 | 2.00 | 1e-06 | 1.00000 | 300 |" in page
    assert page.count("Fastest in") == 1
    assert "Fastest in float32: PyTorch compiled; denseface, 2.00 times as fast." in page


def test_the_chart_of_growth_has_a_panel_for_each_thing_that_varies():
    points = {
        axis: [
            {"network": network, "batch": batch, "emb_size": length, "macs": 2.7e9, "engines": {"mxnet": 0.03}}
            for network, batch, length in tasks
        ]
        for axis, tasks in growth.AXES.items()
    }
    figure = growth.draw(points)
    assert [axes.get_xlabel() for axes in figure.axes] == list(growth.AXES)
    for axes, tasks in zip(figure.axes, growth.AXES.values()):
        assert list(axes.lines[0].get_ydata()) == [30.0] * len(tasks)
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()][:2] == ["63\n2.7", "121\n2.7"]


def test_what_grows_is_embedded(configured):
    assert growth.embeddings("mxnet", "d63", 2, 64)().shape == (2, 64)


def test_all_readers_go_through_the_same_pictures(tmp_path):
    loader.make_set(str(tmp_path))
    said = []
    rows = race(loader.contenders(str(tmp_path)), rounds=1, log=said.append)
    assert (len(rows), said) == (4, [])
    assert all(row["difference"] < 1e-3 for row in rows)


def test_all_searches_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "_ROWS", 2000)
    monkeypatch.setattr(search, "_BLOCK", 1000)
    path = search.make_gallery(str(tmp_path))
    for loaded in (True, False):
        expected = search.with_numpy(path, 3, loaded)()
        np.testing.assert_allclose(search.with_gallery(path, 3, loaded)(), expected, atol=1e-6)


def test_a_part_that_does_not_exist_is_answered_with_those_that_do():
    found = subprocess.run([sys.executable, "-m", "bench", "gpu"], capture_output=True, text=True)
    assert found.returncode == 2
    known = (
        "inference, latency, training, loader, embed, search, start, centers; and alone growth, identities, fisherfaces"
    )
    assert found.stderr.endswith(f"there is no part gpu; there are {known}\n")


def test_the_chart_of_identities_has_a_line_a_rate(tmp_path):
    rows = [
        {"identities": count, "rate": rate, "processor_seconds": 1 + count * rate, "peak_memory": 1e9 + 1e4 * count}
        for count in identities.COUNTS for rate in identities.RATES if count * rate < 5e5
    ]  # fmt: skip
    figure = identities.draw({"network": "d63", "batch": 16, "rows": rows})
    for axes in figure.axes:
        lines = {line.get_label(): len(line.get_xdata()) for line in axes.get_lines() if len(line.get_xdata()) > 2}
        assert lines == {"full layer": 4, "sample rate 0.1": 5, "sample rate 0.05": 5}
    save_figure(figure, tmp_path / "chart.png")


def test_steps_with_few_identities_are_taken(configured):
    run = identities.steps("d63", 2, 20, rate=0.5)
    first, second = run(), run()
    assert np.isfinite([first, second]).all() and first != second


def test_discriminants_whiten_the_classes_and_tell_them_apart():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    mixing = rng.normal(size=(6, 6))
    vectors = (rng.normal(size=(200, 6)) + 5 * np.eye(6)[labels]) @ mixing
    projected = (vectors - vectors.mean(axis=0)) @ fisherfaces.discriminants(
        vectors - vectors.mean(axis=0), labels, 0.0
    )
    means = np.array([projected[labels == label].mean(axis=0) for label in range(4)])
    within = (projected - means[labels]).T @ (projected - means[labels])
    np.testing.assert_allclose(within, np.eye(3), atol=1e-9)
    nearest = np.square(projected[:, None] - means).sum(axis=2).argmin(axis=1)
    assert (nearest == labels).mean() > 0.95


def test_fisherfaces_know_people_whom_they_have_not_seen():
    rng = np.random.default_rng(1)
    people = rng.normal(size=(40, 1, 8, 8))
    faces = people + 0.5 * rng.normal(size=(40, 10, 8, 8))
    found = fisherfaces.grid(faces, range(1, 31), range(31, 41))
    assert set(found) == {(60, 0.01), (60, 0.1), (60, 1.0)}  # 64 pixels have no more components
    assert all(metrics.balanced_accuracy > 0.9 and metrics.tar_2 > 0.7 for metrics in found.values())


@pytest.mark.parametrize("share", [0.2, 0.4, 1.0])
def test_exchanged_labels_are_wrong_and_as_many_as_before(share):
    labels = np.repeat(np.arange(30), 10)
    exchanged = noise.exchange(labels, share, seed=1)
    assert (exchanged != labels).sum() == round(300 * share)
    np.testing.assert_array_equal(np.sort(exchanged), labels)
    np.testing.assert_array_equal(noise.exchange(labels, share, seed=1), exchanged)
    assert (noise.exchange(labels, share, seed=2) != exchanged).any()


def test_dropped_pictures_are_compared_with_the_wrong_ones():
    assert noise.compare({1, 2, 3, 4}, {3, 4, 5}) == {"precision": 0.5, "recall": pytest.approx(2 / 3)}
    assert noise.compare(set(), {3}) == {"precision": 0, "recall": 0}
