"""What the tables and charts of the pages are made of; nothing is measured here for its value."""

import numpy as np
import pytest

from denseface.data.records import write_face_records
from denseface.report.plotting import save_figure
from research import fisherfaces, gradients, growth, identities, noise, providers
from support.accelerators import accelerated
from support.tiny_models import encode, pictures, save_model, tiny_model


def test_the_chart_of_growth_has_a_panel_for_each_thing_that_varies():
    points = {
        axis: [
            {"network": network, "batch": batch, "emb_size": length, "macs": 2.7e9, "engines": {"mxnet": 0.03}}
            for network, batch, length in tasks
        ]
        for axis, tasks in growth.AXES.items()
    }
    figure = growth.draw(points, "Some CPU")
    assert [axes.get_xlabel() for axes in figure.axes] == list(growth.AXES)
    for axes, tasks in zip(figure.axes, growth.AXES.values()):
        assert list(axes.lines[0].get_ydata()) == [30.0] * len(tasks)
    assert {axes.get_ylabel() for axes in figure.axes} == {"processor time, ms per picture"}
    assert list(figure.axes[1].lines[0].get_xdata()) == [2.7] * 5


def test_what_grows_is_embedded(configured):
    assert growth.embeddings("mxnet", "d63", 2, 64)().shape == (2, 64)


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


def test_gradients_are_measured_for_every_convolution(tmp_path):
    faces = pictures(6, (112, 112, 3))
    write_face_records(tmp_path, [(label, encode(face)) for label, face in zip([0, 0, 1, 1, 2, 2], faces)], (112, 112))
    for network, convolutions in (("d15", 14), ("d15max", 14)):
        found = gradients.measure(network, tmp_path, batch_size=2, steps=2, seed=0)
        assert len(found) == convolutions and (found > 0).all()
    figure = gradients.draw({"d15": found.tolist()}, "2 steps")
    assert list(figure.axes[0].lines[0].get_ydata()) == found.tolist()


def test_a_provider_is_measured_beside_the_cpu(monkeypatch, tmp_path):
    save_model(tiny_model((112, 112, 3)), tmp_path / "model")
    monkeypatch.setattr(providers, "_REPEATS", 1)
    accelerated(monkeypatch)
    rows = providers.measure(str(tmp_path / "model"), "cuda", [pictures(1, (64, 64, 3))[0]])
    assert [float(difference) for _, _, difference in rows] == pytest.approx([1, 1, 1, 0])
