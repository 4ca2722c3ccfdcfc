"""Charts are held to the numbers that they are made of, read back from the figure."""

import json
import re
from statistics import NormalDist

import numpy as np
import pytest

from denseface import cli
from denseface.data.pairs import PairSet, write_pairs
from denseface.evaluation.groups import Group, GroupRates
from denseface.evaluation.influence import Rate, tar_intervals
from denseface.evaluation.metrics import score_pairs
from denseface.report.charts import draw_comparison, draw_groups, draw_run, draw_verification
from denseface.report.comparison import Measured
from denseface.report.plotting import save_figure
from denseface.report.summary import Costs
from denseface.training.log import RunLog, TrainingRow
from denseface.verification.verify import VerificationReport
from support.refusals import refused
from support.tiny_models import TINY_SHAPE, as_ndarrays, encode, pictures, tiny_model

import mxnet as mx

HEAD = "step,epoch,learning_rate,loss,accuracy,images_per_second,gradient_norm\n"


def measured(name, size, training=None, **accuracies):
    costs = Costs(layers=1, parameters=size * 10**6, auxiliary=0, macs=size * 10**9, flops=0, memory=size << 20)
    return Measured(name, costs, latency=size, throughput=size, training=training, accuracies=accuracies)


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}


def test_comparison_has_a_panel_for_every_figure():
    found = panels(draw_comparison([measured("d121", 3, training=2.0), measured("a/model,1", 1, orl=0.9)]))
    assert list(found) == [
        "parameters, millions", "GMACs per picture", "activations per picture, MiB", "latency of one picture, ms",
        "embeddings per second, batches of 8", "pictures per second in training, batches of 8", "accuracy on orl",
    ]  # fmt: skip
    widths = {title: [bar.get_width() for bar in axes.patches] for title, axes in found.items()}
    assert widths["GMACs per picture"] == [3, 1]
    assert widths["accuracy on orl"] == [0, 0.9]
    assert found["accuracy on orl"].get_xlim()[0] == 0.5 and found["GMACs per picture"].get_xlim()[0] == 0
    assert [text.get_text() for text in found["accuracy on orl"].texts] == ["-", "0.900"]
    names = [label.get_text() for label in found["parameters, millions"].get_yticklabels()]
    assert names == ["d121", "a/model,1"]


def test_names_are_text_and_not_formulas(tmp_path):
    name = "s$^$_\x1b[2J"
    drawn = draw_comparison([measured(name, 3, **{name: 0.9}), measured("b", 1)])
    scores, issame = np.array([0.9, 0.2, 0.8, 0.1]), np.array([True, False] * 2)
    pair_set = PairSet([bytes([number]) for number in range(1, 9)], issame, name)
    report = VerificationReport(name, None, score_pairs(scores, issame, folds=2), pair_set)
    for number, figure in enumerate((drawn, draw_verification({name: report}))):
        save_figure(figure, tmp_path / f"{number}.png")
        assert any(r"s$^$_\x1b[2J" in axes.get_title(loc="left") for axes in figure.axes)


def test_sets_whose_names_end_alike_have_a_panel_each():
    names = ("a" + "x" * 50, "b" + "x" * 50)
    figure = draw_comparison([measured("d15", 1, **dict.fromkeys(names, 0.9))])
    assert [axes.get_title(loc="left")[:11] for axes in figure.axes if axes.axison][-2:] == ["accuracy on"] * 2


def test_comparison_leaves_out_what_was_not_measured():
    found = panels(draw_comparison([measured("d121", 3)]))
    assert "pictures per second in training, batches of 8" not in found
    assert len(found) == 5


@pytest.fixture
def run_folder(tmp_path):
    """A run of three steps as the trainer writes it, its accuracy missing once."""
    log = RunLog(tmp_path / "model", start_step=0, verified_step=0)
    for step, (loss, accuracy) in enumerate([(4.0, 0.1), (3.0, None), (2.0, 0.5)], start=1):
        log.training(TrainingRow(step, 0.1 * step, 0.01, loss, accuracy, 5.0, 7.0 * step))
    for step in (2, 3):
        for name, share in (("orl", 0.3), ("orl-ema", 0.25)):
            figures = {"accuracy": share * step, "balanced_accuracy": 0.5, "auc": 0.5, "tar": {"0.1": 0.2}}
            log.verification(step, name, figures)
    log.close()
    return tmp_path


def test_run_shows_what_the_files_hold(run_folder):
    found = panels(draw_run(run_folder))
    assert list(found) == [
        "loss", "accuracy in training", "learning rate", "gradient norm", "accuracy in verification",
    ]  # fmt: skip
    lines = {title: [line.get_xydata().tolist() for line in axes.lines] for title, axes in found.items()}
    assert lines["loss"] == [[[1, 4], [2, 3], [3, 2]]]
    assert lines["learning rate"] == [[[1, 0.01], [2, 0.01], [3, 0.01]]]
    assert lines["gradient norm"] == [[[1, 7], [2, 14], [3, 21]]]
    assert np.array_equal(lines["accuracy in training"][0], [[1, 0.1], [2, np.nan], [3, 0.5]], equal_nan=True)
    assert np.allclose(lines["accuracy in verification"], [[[2, 0.6], [3, 0.9]], [[2, 0.5], [3, 0.75]]])
    assert legend(found["accuracy in verification"]) == ["orl", "orl-ema"]


def test_the_legend_names_every_set(tmp_path):
    names = ["_hidden", "", "$^$", "<b>", "a\nb", "a\x1b[2J", "\udcff", "x" * 60, "\x1b" * 40]
    log = RunLog(tmp_path / "model", start_step=0, verified_step=0)
    for name in names:
        log.verification(1, name, {"accuracy": 0.6, "balanced_accuracy": 0.5, "auc": 0.5, "tar": {"0.1": 0.2}})
    log.close()
    figure = draw_run(tmp_path)
    save_figure(figure, tmp_path / "run.png")
    assert legend(panels(figure)["accuracy in verification"]) == [
        "_hidden", "", "$^$", "<b>", r"a\nb", r"a\x1b[2J", r"\udcff", "..." + "x" * 39, "..." + (r"\x1b" * 40)[-39:],
    ]  # fmt: skip


def test_the_axes_of_groups_have_short_names():
    rates = {"best": GroupRates(Rate(0.1, (0.0, 0.3)), Rate(0.2, (0.1, 0.4)), None, None)}
    figure = draw_groups({"g" * 60: Group(3, 3, 3, rates)}, "_a\n$^$" + "c" * 90)
    assert {axes.get_xlabel() for axes in figure.axes} == {"..." + "c" * 39}
    assert {axes.get_xticklabels()[0].get_text() for axes in figure.axes} == {"..." + "g" * 21 + "\n3 people"}


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_plot_run(capsys, run_folder):
    (run_folder / "model-verification.csv").unlink()
    path = run_folder / "run.png"
    assert cli.main(["plot-run", str(run_folder), "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("step,loss\n1,2\n", 2),
        ("HEAD1,2,3,4,5,6,7\n1,2,x,4,5,6,7\n", 3),
        ("HEAD1,2,3\n", 2),
        ("HEAD1,2,3,4,5\n", 2),
        ("HEAD1,2,3,4,5,6,7,8\n", 2),
        ("HEAD1,2,3,4,5,6\n", 2),
    ],
)
def test_a_damaged_run_is_named(tmp_path, content, line):
    (tmp_path / "m-training.csv").write_text(content.replace("HEAD", HEAD))
    with refused(f"line {line}", path=tmp_path / "m-training.csv"):
        draw_run(tmp_path)


def test_no_run_and_several_runs_are_refused(tmp_path):
    with refused("no training run", path=tmp_path):
        draw_run(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}-training.csv").touch()
    with refused("a-training.csv, b-training.csv", path=tmp_path):
        draw_run(tmp_path)


def test_roc_det_scores_and_probabilities():
    scores, issame = np.array([0.9, 0.2, 0.8, 0.1, 0.3, 0.7]), np.array([True, False, True, False, True, False])
    result = score_pairs(scores, issame, folds=2)
    pair_set = PairSet([bytes([number]) for number in range(1, 13)], issame, "made")
    report = VerificationReport("made", None, result, pair_set)
    figure = draw_verification({"new": report, "old": report})
    roc, det, reliability, *histograms = figure.axes
    assert roc.get_xscale() == "log"
    none = 0.5 / 3  # half of one of three impostor pairs
    assert "logarithmic" in roc.get_xlabel() and roc.get_title(loc="left")
    for line in roc.lines[::2]:
        assert np.allclose(line.get_xdata(), [none, none, none, 1 / 3, 1 / 3, 2 / 3, 1])
        assert np.allclose(line.get_ydata(), [0, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1])
    band = roc.collections[0].get_paths()[0].vertices
    low, high = tar_intervals(result, [1.0], report.shared)[1.0]
    assert band[:, 1].max() == high and low in band[:, 1]
    point = roc.lines[1]
    assert (point.get_xdata().item(), point.get_ydata().item()) == (none, pytest.approx(2 / 3))
    assert point.get_label() == f"threshold {result.threshold:.3f}"
    misses = [NormalDist().cdf(miss) for miss in det.lines[0].get_ydata()]
    assert np.allclose(sorted(set(np.round(misses, 9))), [1 / 3])  # no rate of 0 or 1 has a place on these axes
    assert list(reliability.lines[-1].get_xdata()) == [0, 1]
    assert reliability.get_xlabel() and reliability.get_ylabel()
    titles = [axes.get_title(loc="left") for axes in histograms]
    assert titles == [f"{name}: AUC {result.auc:.4f}" for name in ("new", "old")]
    genuine = [bar for bar in histograms[0].patches[:49] if bar.get_height()]
    assert [bar.get_x() <= score <= bar.get_x() + bar.get_width() for bar, score in zip(genuine, (0.3, 0.8, 0.9))]
    assert result.scores[0].tolist() == [0.9, 0.8, 0.3]


def test_verify_several_models_with_a_plot(capsys, tmp_path):
    for name, shift in (("old", 0.0), ("new", 1.0)):
        model = tiny_model()
        model.arguments["conv0_bias"][:] += shift
        mx.model.save_checkpoint(str(tmp_path / name), 1, model.symbol, *as_ndarrays(model))
    encoded = [encode(picture) for picture in pictures(10)]
    write_pairs(tmp_path / "small.bin", [*encoded, *encoded[::-1]], [True, False] * 5)
    size = ",".join(map(str, TINY_SHAPE))
    command = ["verify", "small.bin", "--model", "new", "--against", "old", "--image-size", size, "--out", "roc.png"]
    command = [str(tmp_path / part) if part in ("small.bin", "new", "old", "roc.png") else part for part in command]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert out.index(f"small, {tmp_path}/new,1\n") < out.index(f"small, {tmp_path}/old,1\n")
    assert re.search(
        rf"small, {tmp_path}/new,1 minus {tmp_path}/old,1\n +difference  95 % interval\naccuracy over", out
    )
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*command, "--json"]) == 0
    new, old = json.loads(capsys.readouterr().out)
    auc, (low, high) = old["sets"][0]["first_minus_this"]["auc"]
    assert low <= auc <= high and auc == new["sets"][0]["flip"]["auc"] - old["sets"][0]["flip"]["auc"]
    assert cli.main([*command[:-1], str(tmp_path / "roc.doc")]) == 1
    assert capsys.readouterr().out == ""
