"""The fit loop: exact resume, nothing lost on a signal, nothing saved from a run that diverged."""

import csv
import dataclasses
import json
import math
import os
import signal

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.core.signals import SIGNALS
from denseface.evaluation.metrics import score_pairs
from denseface.models import checkpoint
from denseface.training.log import RunLog
from denseface.training.plan import Keep
from support import class_losses
from support.class_losses import adaface
from support.refusals import refused
from support.tiny_runs import CLASSES, assert_same_state, make_run

import mxnet as mx


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("stop, accumulate", [(1, 1), (3, 1), (4, 1), (7, 1), (3, 2)])
def test_resuming_repeats_the_run_that_was_never_stopped(records, tmp_path, stop, accumulate):
    whole = make_run(records, tmp_path / "whole", accumulate=accumulate)
    assert whole.fit()
    first = make_run(records, tmp_path / "parts", accumulate=accumulate, steps=stop)
    assert first.fit()
    second = make_run(records, tmp_path / "parts", accumulate=accumulate)
    second.resume()
    assert second.fit()
    assert_same_state(whole, second)
    assert checkpoint.complete_steps(tmp_path / "parts") == [10]
    for kind in ("params", "states"):
        one, other = ((tmp_path / f"{name}-0010.{kind}").read_bytes() for name in ("whole", "parts"))
        assert one == other


@pytest.mark.parametrize("stop", [2, 7])
def test_frozen_parts_resume(records, tmp_path, stop):
    settings = {"freeze": {"conv_weight", "bn_moving_mean"}, "ema": 0.9}
    whole = make_run(records, tmp_path / "whole", **settings)
    start = whole.learner.state.parameters()
    whole.fit()
    make_run(records, tmp_path / "parts", steps=stop, **settings).fit()
    resumed = make_run(records, tmp_path / "parts", **settings)
    resumed.resume()
    resumed.fit()
    assert_same_state(whole, resumed)
    for one, other in zip(whole.averages.values(), resumed.averages.values()):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    arguments, auxiliary = whole.learner.state.parameters()
    np.testing.assert_array_equal(arguments["conv_weight"], start[0]["conv_weight"])
    np.testing.assert_array_equal(whole.averages.values()[0]["conv_weight"], start[0]["conv_weight"])
    np.testing.assert_array_equal(auxiliary["bn_moving_var"], start[1]["bn_moving_var"])
    assert (
        not np.array_equal(arguments["bn_beta"], start[0]["bn_beta"])
        and "conv_weight" not in resumed.learner.state.momenta()
    )


@pytest.mark.parametrize("option, value", [("ema", 0.9), ("ema", 0.5)])
def test_an_option_that_a_resumed_run_has_to_repeat_is_named(records, tmp_path, option, value):
    make_run(records, tmp_path / "model", steps=4, options={"ema": 0.99}).fit()
    with refused(value, 0.99, option=option):
        make_run(records, tmp_path / "model", options={option: value}).resume()
    with refused("not set", 0.99, option="ema"):
        make_run(records, tmp_path / "model").resume()
    assert make_run(records, tmp_path / "model", options={"ema": 0.99}).resume()


@pytest.mark.parametrize(
    "loss, margins", [(adaface, {"s": 8, "t_alpha": 0.3}), (class_losses.margin_softmax, {"s": 8, "m2": 0.2, "k": 2})]
)
def test_resuming_repeats_runs_with_sub_centers_and_with_statistics_of_the_loss(records, tmp_path, loss, margins):
    settings = {"loss": loss, "margins": margins}
    whole, second = (make_run(records, tmp_path / name, **settings) for name in ("whole", "parts"))
    assert whole.fit() and make_run(records, tmp_path / "parts", steps=3, **settings).fit()
    assert second.resume() and second.fit()
    assert_same_state(whole, second)
    assert not [name for name in checkpoint.load_model(tmp_path / "parts").auxiliary if "adaface" in name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_finishes_the_step_and_saves(records, tmp_path, number):
    run = make_run(records, tmp_path / "model")
    take_step = run.learner.step

    def step_with_signal(*args, **kwargs):
        if run.step == 5:
            os.kill(os.getpid(), number)
        return take_step(*args, **kwargs)

    run.learner.step = step_with_signal
    handlers = [signal.getsignal(each) for each in SIGNALS]
    assert run.fit() is False
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    assert run.step == 6 and checkpoint.complete_steps(tmp_path / "model") == [6]
    resumed = make_run(records, tmp_path / "model")
    resumed.resume()
    assert resumed.fit()
    undisturbed = make_run(records, tmp_path / "other")
    undisturbed.fit()
    assert_same_state(resumed, undisturbed)


def test_a_second_interrupt_breaks_off_at_once(records, tmp_path):
    run = make_run(records, tmp_path / "model")

    def interrupted_twice(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    run.learner.step = interrupted_twice
    with pytest.raises(KeyboardInterrupt):
        run.fit()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(records, tmp_path):
    run = make_run(records, tmp_path / "model", learning_rate=1.0)
    take_step = run.learner.step

    def diverging(*args, **kwargs):
        result = take_step(*args, **kwargs)
        return result._replace(loss=math.nan) if run.step == 6 else result

    run.learner.step = diverging
    with refused("step 7", "loss", "step 4", "rate of 0.1"):
        run.fit()
    assert checkpoint.complete_steps(tmp_path / "model") == [4]


def test_a_rate_that_diverges_trains_with_clipped_gradients(records, tmp_path):
    settings = {
        "loss": class_losses.softmax,
        "margins": {"no_bias": False},
        "learning_rate": 3,
        "steps": 60,
        "frequent": 1,
    }
    with refused("gradient", "learning rate 3", "clipped"):
        make_run(records, tmp_path / "diverges", **settings).fit()
    assert make_run(records, tmp_path / "trains", clip_norm=0.1, **settings).fit()
    losses_seen = [float(row["loss"]) for row in read_csv(tmp_path / "trains-training.csv")]
    assert losses_seen[0] == pytest.approx(math.log(CLASSES), rel=0.02) and np.mean(losses_seen[-20:]) < losses_seen[0]


def test_parameters_that_are_not_finite_do_not_replace_a_checkpoint(records, tmp_path):
    run = make_run(records, tmp_path / "model")
    take_step = run.learner.step

    def overflowing(*args, **kwargs):
        result = take_step(*args, **kwargs)
        if run.step == 7:
            arguments, auxiliary = run.learner.state.parameters()
            run.learner.state.set_parameters({**arguments, "fc7_weight": arguments["fc7_weight"] * np.inf}, auxiliary)
        return result

    run.learner.step = overflowing
    with refused("step 8", "fc7_weight", "step 4"):
        run.fit()
    assert checkpoint.complete_steps(tmp_path / "model") == [4]


@pytest.mark.parametrize(
    "error, reason, advice",
    [
        (mx.MXNetError("Trace\nMXNetError: Failed to allocate CPU Memory"), "Failed to allocate CPU Memory", True),
        (MemoryError(), "MemoryError", True),
        (mx.MXNetError("Trace\nMXNetError: FP16 gemm on cpu not implemented!"), "FP16 gemm on cpu not", False),
    ],
)
def test_a_step_that_fails_in_mxnet_keeps_the_last_checkpoint(records, tmp_path, error, reason, advice):
    run = make_run(records, tmp_path / "model")
    take_step = run.learner.step

    def failing(*args, **kwargs):
        if run.step == 6:
            raise error
        return take_step(*args, **kwargs)

    run.learner.step = failing
    with refused("step 7", reason, "step 4") as caught:
        run.fit()
    assert ("smaller batch" in caught.value.reason) == advice
    resumed, whole = make_run(records, tmp_path / "model"), make_run(records, tmp_path / "whole")
    resumed.resume()
    assert resumed.fit() and whole.fit()
    assert_same_state(resumed, whole)


@pytest.mark.parametrize("fails_at", [4, 10])
@pytest.mark.parametrize("cause", ["verification", "log"])
def test_a_verification_that_fails_costs_no_step_and_is_done_again(records, tmp_path, monkeypatch, cause, fails_at):
    """Of the two sets, one is in the log already when the log fails."""
    issame = np.arange(200) % 2 == 0

    def start(name):
        def verify(arguments, auxiliary):
            right = np.arange(200) % 100 < 50 + run.step
            return {name: score_pairs(np.where(right == issame, 1.0, 0.0), issame) for name in ("one", "two")}

        run = make_run(records, tmp_path / name, verify)
        run.resume()
        return run

    def files(name):
        kinds = ("verification.csv", "0010.json", "0010.params", "0010.states")
        return [(tmp_path / f"{name}-{kind}").read_bytes() for kind in kinds]

    failing = start("parts")
    with monkeypatch.context() as patch:
        owner, method = (failing, "verify") if cause == "verification" else (RunLog, "verification")
        original = getattr(owner, method)

        def fail(*given):
            if failing.step == fails_at and (cause == "verification" or "two" in given):
                raise InputError("no room")
            return original(*given)

        patch.setattr(owner, method, fail)
        with refused("no room"):
            failing.fit()
    assert checkpoint.complete_steps(tmp_path / "parts") == [fails_at]
    assert start("parts").fit() and start("whole").fit()
    assert files("parts") == files("whole")


@pytest.mark.parametrize(
    "key, value",
    [
        ("best", None),
        ("best", {"step": 1}),
        ("best", {"step": None, "score": math.nan}),
        ("best", {"step": 2, "score": 0.5}),
        ("bests", 3),
        ("bests", ["x"]),
        ("bests", [2]),
        ("patience", {"reference": 0.5}),
        ("patience", {"reference": math.nan, "stale": 0}),
        ("patience", {"reference": 0.5, "stale": 0}),
        ("patience", {"reference": -math.inf, "stale": -1}),
        ("patience", 3),
        ("verified", None),
        ("verified", 3),
        ("window", {"steps": 1}),
        ("window", {"steps": -1, "loss": 0.0, "accuracy": 0.0, "gradient_norm": 0.0}),
        ("window", {"steps": 1.5, "loss": 0.0, "accuracy": 0.0, "gradient_norm": 0.0}),
        ("window", {"steps": 1, "loss": math.nan, "accuracy": 0.0, "gradient_norm": 0.0}),
        ("window", 3),
        ("window", None),
        ("recipe", 3),
    ],
)
def test_progress_that_no_run_has_written_is_refused(records, tmp_path, key, value):
    run = make_run(records, tmp_path / "model", steps=2)
    run.fit()
    path = tmp_path / "model-0002.json"
    manifest = json.loads(path.read_text())
    manifest["progress"][key] = value
    path.write_text(json.dumps(manifest))
    with refused("progress", path=path):
        make_run(records, tmp_path / "model").resume()


def test_a_row_of_figures_that_a_crash_has_torn_is_dropped(records, tmp_path):
    make_run(records, tmp_path / "model", steps=4).fit()
    path = tmp_path / "model-training.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\xff\x00,1\r\n" + "\u00b2,1\r\n".encode() + b"3")
    run = make_run(records, tmp_path / "model", steps=4)
    run.resume()
    run.fit()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("stop", [3, 7])
def test_rows_average_the_same_steps_after_an_interruption(records, tmp_path, stop):
    make_run(records, tmp_path / "whole").fit()
    run = make_run(records, tmp_path / "parts")
    take_step = run.learner.step

    def step_with_signal(*args, **kwargs):
        if run.step == stop - 1:
            signal.raise_signal(signal.SIGTERM)
        return take_step(*args, **kwargs)

    run.learner.step = step_with_signal
    assert not run.fit() and run.step == stop
    resumed = make_run(records, tmp_path / "parts")
    resumed.resume()
    resumed.fit()
    whole, parts = (read_csv(tmp_path / f"{name}-training.csv") for name in ("whole", "parts"))
    for row in (*whole, *parts):
        del row["images_per_second"]
    assert whole == parts and len(whole) == 5


def test_figures_go_to_csv_and_a_resumed_run_does_not_repeat_them(records, tmp_path):
    scores = np.array([0.9, 0.8, 0.3, 0.1] * 5)
    issame = np.array([True, True, False, False] * 5)

    def verify(arguments, auxiliary):
        return {"made": score_pairs(scores, issame)}

    make_run(records, tmp_path / "model", verify, steps=7).fit()
    path = tmp_path / "model-training.csv"
    rows = read_csv(path)
    assert [row["step"] for row in rows] == ["2", "4", "6", "7"]
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    with open(path, "a") as file:
        file.write("9,9,9,9,9,9,9\r\n")  # as left by a run killed after its last checkpoint
    run = make_run(records, tmp_path / "model", verify)
    run.resume()
    run.fit()
    assert [row["step"] for row in read_csv(path)] == ["2", "4", "6", "7", "8", "10"]
    verified = read_csv(tmp_path / "model-verification.csv")
    assert [(row["step"], row["set"]) for row in verified] == [(step, "made") for step in ("4", "7", "8", "10")]
    assert {row["accuracy"] for row in verified} == {"1"} and {row["tar_1e-3"] for row in verified} == {""}


@pytest.mark.parametrize(
    "keep, models, resumable",
    [
        (Keep.NOTHING, [], []),
        (Keep.EVERY_BEST, [2, 4, 10], [10]),
        (Keep.ALL, [2, 4, 6, 8, 10], [10]),
        (Keep.BEST, [4, 10], [10]),
    ],
)
def test_what_is_kept(records, tmp_path, keep, models, resumable):
    qualities = iter([0.5, 0.9, 0.7, 0.9, 0.6])

    def verify(arguments, auxiliary):
        quality = next(qualities)
        issame = np.arange(200) % 2 == 0
        right = np.arange(200) < 200 * quality
        return {"made": score_pairs(np.where(right == issame, 1.0, 0.0), issame)}

    make_run(records, tmp_path / "model", verify, verbose=2, keep=keep).fit()
    assert checkpoint.complete_steps(tmp_path / "model") == resumable
    assert sorted(int(path.stem[-4:]) for path in tmp_path.glob("model-*.params")) == models


@pytest.mark.parametrize("stop", [None, 3])
def test_a_run_ends_after_verifications_without_improvement_after_an_interruption_too(records, tmp_path, stop):
    """From 200 pairs the balanced accuracy has a standard error of 0.02 to 0.03 here; 0.62 is within noise of 0.6."""
    qualities = {1: 0.5, 2: 0.6, 3: 0.62, 4: 0.58, 5: 0.63, 6: 0.9}
    issame = np.arange(200) % 2 == 0

    def start(**changes):
        def verify(arguments, auxiliary):
            right = np.arange(200) % 100 < 100 * qualities[run.step]
            return {"made": score_pairs(np.where(right == issame, 1.0, 0.0), issame)}

        run = make_run(records, tmp_path / "model", verify, verbose=1, stop_after=3, **changes)
        return run

    if stop:
        start(steps=stop).fit()
    run = start()
    assert run.resume() is bool(stop)
    assert run.fit() and run.step == 5
    again = start()
    assert again.resume() and again.fit() and again.step == 5
    longer = start(steps=6)
    longer.plan = dataclasses.replace(longer.plan, stop_after=0)
    assert longer.resume() and longer.fit() and longer.step == 6


def test_without_verification_sets_the_newest_model_is_saved(records, tmp_path):
    make_run(records, tmp_path / "model").fit()
    assert checkpoint.load_model(tmp_path / "model").step == 10


def test_the_whole_network_is_saved_on_request_and_resumes(records, tmp_path):
    make_run(records, tmp_path / "model", whole=True, steps=4).fit()
    assert "fc7_weight" in checkpoint.load_model(tmp_path / "model").arguments
    run = make_run(records, tmp_path / "model", whole=True)
    run.resume()
    run.fit()
    plain = make_run(records, tmp_path / "plain")
    plain.fit()
    assert_same_state(run, plain)


def test_a_run_killed_after_its_last_checkpoint_is_tidied_up(records, tmp_path, monkeypatch):
    run = make_run(records, tmp_path / "model", steps=4, verbose=2)
    monkeypatch.setattr(checkpoint, "keep_only", lambda *args, **kwargs: None)  # as if it had not come to that
    run.fit()
    assert len(list(tmp_path.glob("model-*.params"))) == 2
    monkeypatch.undo()
    run = make_run(records, tmp_path / "model", steps=4)
    run.resume()
    run.fit()
    assert [path.name for path in tmp_path.glob("model-*.params")] == ["model-0004.params"]


def test_a_run_of_another_network_is_not_resumed(records, tmp_path):
    run = make_run(records, tmp_path / "model", steps=4)
    run.fit()

    def of_more_classes(embedding, size, classes, **margins):
        return class_losses.margin_softmax(embedding, size, classes + 1, **margins)

    run = make_run(records, tmp_path / "model", loss=of_more_classes)
    with refused("fc7_weight", path=tmp_path / "model"):
        run.resume()


def test_no_thread_is_left_behind(records, tmp_path):
    import threading

    before = set(threading.enumerate())
    make_run(records, tmp_path / "model").fit()
    assert {thread for thread in threading.enumerate() if thread not in before and not thread.daemon} == set()
