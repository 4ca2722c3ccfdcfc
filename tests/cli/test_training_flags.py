"""Flags of train.py that depend on each other, and their help."""

import pytest

from denseface.cli.training_flags import parse


@pytest.mark.parametrize(
    ("flags", "kind", "drops"),
    [
        ([], "cosine", (100000, 160000, 220000)),
        (["--lr-steps", "5,9"], "step", (5, 9)),
        (["--lr-schedule", "poly"], "poly", (100000, 160000, 220000)),
        (["--lr-steps", "5", "--lr-schedule", "step"], "step", (5,)),
    ],
)
def test_steps_of_the_rate_choose_their_schedule(flags, kind, drops):
    optimizer = parse(["--recipe", "small", "--dataset", "orl", *flags], "").optimizer
    assert (optimizer.lr_schedule, optimizer.lr_steps) == (kind, drops)


def test_steps_that_no_rate_can_take_are_refused(capsys):
    with pytest.raises(SystemExit):
        parse(["--dataset", "orl", "--lr-steps", "5", "--lr-schedule", "cosine"], "")
    assert "--lr-schedule cosine has none; leave one of both out" in capsys.readouterr().err


@pytest.mark.parametrize("names", [[], ["--recipe", "small", "--dataset", "orl", "--loss", "triplet"]])
def test_help_shows_defaults_that_are_true_and_names_to_choose_from(capsys, names):
    with pytest.raises(SystemExit) as exit:
        parse([*names, "--help"], "")
    text = " ".join(capsys.readouterr().out.split())
    assert exit.value.code == 0 and "default: None" not in text and "default: )" not in text
    spec = parse(names, "")
    assert f"learning rate (default: {spec.optimizer.lr})" in text
    assert f"batch size per device (default: {spec.optimizer.per_batch_size})" in text
    for name in ("d63", "y2", "emore", "orl", "arcface", "atriplet"):
        assert f"{name}," in text or f"{name} (default" in text
    names = f"--network {spec.network.network} --dataset {spec.data.dataset} --loss {spec.loss.loss}"
    assert f"Defaults are those of {names}" in text


@pytest.mark.parametrize("words", ["--warm-centers", "--network pretrained", "--pretrained-epoch 3"])
def test_what_needs_a_pretrained_model_asks_for_it(words, capsys):
    with pytest.raises(SystemExit):
        parse(words.split(), "")
    assert "Name it with --pretrained" in capsys.readouterr().err


def test_flags_count_before_keys_and_keys_before_recipes():
    words = ["--recipe", "small", "--dataset", "orl", "--set", "lr=0.02", "--set", "wd=0.003"]
    optimizer = parse([*words, "--lr", "0.01"], "").optimizer
    assert (optimizer.lr, optimizer.wd, optimizer.warmup_steps) == (0.01, 0.003, 20)


def test_a_flag_may_be_repeated():
    optimizer = parse(["--freeze", "a*", "--freeze", "b[1,2]", "--lr-mult", "c=2"], "").optimizer
    assert optimizer.freeze == ("a*", "b[1,2]") and optimizer.lr_mult == (("c", 2.0),)
