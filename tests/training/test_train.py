"""train.py as a user calls it: flags, where a run starts, what it says, what it leaves."""

import io
import json
import logging
import os
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from denseface.core.errors import InputError
from denseface.core.lock import locked
from denseface.data.pairs import write_pairs
from denseface.data.records import write_face_records
from denseface.importing.onnx import import_onnx
from denseface.models import checkpoint
from denseface.options.spec import RunSpec
from denseface.rewrites.native import bfloat16_instructions
from support.tiny_models import as_model, as_ndarrays
from support.torch_like import iresnet

import mxnet as mx

ROOT = Path(train.__file__).parent
SIZE = 32
# In the place of fdensenet, whose many layers would take most of the time.
NETWORK = """
import mxnet as mx
from config import config


def get_symbol():
    data = mx.sym.Variable("data") * (1 / 255)
    body = mx.sym.Convolution(data, num_filter=config.num_layers // 8, kernel=(3, 3), stride=(2, 2), name="conv")
    body = mx.sym.BatchNorm(body, fix_gamma=False, name="bn")
    return mx.sym.FullyConnected(body, num_hidden=config.emb_size, name="fc1")
"""
REAL = ("--symbol-path", "")  # fdensenet itself


def picture(rng):
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    write_face_records(folder, [(label, picture(rng)) for label in range(3) for _ in range(8)], (SIZE, SIZE))
    write_pairs(folder / "orl.bin", [picture(rng) for _ in range(40)], [True, False] * 10)
    (folder / "fdensenet.py").write_text(NETWORK)
    return folder


@pytest.fixture(autouse=True)
def quiet_root():
    """Leave logging as it was: train.main sets it up for a process of its own."""
    level = logging.getLogger("denseface").level
    yield
    logging.getLogger("denseface").setLevel(level)


def flags(data, models, *more, keys=("net_output=GAP", "emb_size=16")):
    keys = (f"dataset_path={data}", f"image_shape={SIZE},{SIZE},3", *keys)
    return [
        "--network", "d15", "--dataset", "orl", "--loss", "arcface", "--models-root", str(models),
        *(word for key in keys for word in ("--set", key)), "--per-batch-size", "4", "--lr", "0.01", "--frequent", "1",
        "--symbol-path", str(data), *more,
    ]  # fmt: skip


def prefix(models, name="d15-arcface-orl"):
    return str(Path(models, name, "model"))


def test_a_run_is_trained_verified_saved_refused_and_resumed(data, tmp_path, caplog, capsys):
    assert train.main(flags(data, tmp_path, "--max-steps", "3", "--verbose", "2")) == 0
    assert "24 images of 3 identities" in caplog.text
    assert "3 steps of 4 images (0.5 epochs) on cpu(0)" in caplog.text
    assert "step 2, orl: balanced accuracy" in caplog.text and "done" in caplog.text
    saved = json.loads(Path(prefix(tmp_path) + "-config.json").read_text())
    assert saved["config"]["num_classes"] == 3 and saved["config"]["emb_size"] == 16
    assert saved["arguments"]["per_batch_size"] == 4
    model = checkpoint.load_model(prefix(tmp_path))
    assert model.step == 3 and "fc7_weight" not in model.arguments
    assert checkpoint.complete_steps(prefix(tmp_path)) == [3]

    assert train.main(flags(data, tmp_path, "--max-steps", "5")) == 1
    assert "contains a run at step 3; continue it with --resume" in capsys.readouterr().err

    assert train.main(flags(data, tmp_path, "--max-steps", "5", "--resume")) == 0
    assert "at step 3 of 5" in caplog.text
    assert checkpoint.complete_steps(prefix(tmp_path)) == [5]


@pytest.mark.parametrize("loss", ["softmax", "arcface"])
def test_a_share_of_the_classes_is_trained_on_and_a_run_goes_on_with_another(loss, data, tmp_path, caplog):
    settings = ["--loss", loss, "--per-batch-size", "2", "--set", "ckpt_embedding=false"]
    assert train.main(flags(data, tmp_path, "--max-steps", "1", "--sample-rate", "0.1", *settings)) == 0
    assert "a step trains on 2 of the 3 classes" in caplog.text
    model = checkpoint.load_model(prefix(tmp_path, f"d15-{loss}-orl"))
    assert model.arguments["fc7_weight"].shape == (3, 16)
    assert model.symbol.infer_shape(data=(2, 3, SIZE, SIZE))[1][1] == (2, 3)
    assert train.main(flags(data, tmp_path, "--max-steps", "2", "--resume", *settings)) == 0
    assert caplog.text.count("a step trains on") == 1
    assert train.main(flags(data, tmp_path, "--max-steps", "3", "--resume", "--sample-rate", "0.4", *settings)) == 0


def test_schedule_clipping_and_averages_are_chosen_by_flags(data, tmp_path, caplog, capsys):
    options = ("--lr-schedule", "cosine", "--warmup-epochs", "0.5", "--clip-norm", "2", "--ema", "0.9")
    assert train.main(flags(data, tmp_path, "--max-steps", "6", *options)) == 0
    rows = Path(prefix(tmp_path) + "-training.csv").read_text().splitlines()[1:]
    rates = [float(row.split(",")[2]) for row in rows]  # 3 steps of warm-up, then 1, 1/4 and 3/4 of the way down
    assert rates == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01, 0.0075, 0.0025])
    assert "step 6, orl: balanced accuracy" in caplog.text and "step 6, orl-ema: balanced accuracy" in caplog.text
    one, other = (checkpoint.load_model(prefix(tmp_path) + stem) for stem in ("", "-ema"))
    assert one.arguments.keys() == other.arguments.keys()
    assert not np.array_equal(one.arguments["conv_weight"], other.arguments["conv_weight"])
    assert train.main(flags(data, tmp_path, "--max-steps", "8", "--resume")) == 1
    assert "--ema: not set: the run to resume was started with 0.9; repeat that" in capsys.readouterr().err


def test_a_run_in_bfloat16_is_resumed_exactly_and_stays_near_float32(data, tmp_path, caplog):
    if not bfloat16_instructions():
        pytest.skip("this processor computes in float32")
    runs = {"whole": [3], "parts": [2, 3], "float32": [3]}
    for name, ends in runs.items():
        for end in ends:
            options = ("--max-steps", str(end), "--resume", "--lr", "0.001", *REAL, "--set", "ckpt_embedding=false")
            options += ("--network", "d63")  # with dense blocks to compute in bfloat16
            dtype = "float32" if name == "float32" else "bfloat16"
            assert train.main(flags(data, tmp_path / name, *options, "--dtype", dtype)) == 0
    assert caplog.text.count("4 dense blocks compute in bfloat16") == 3
    prefixes = [prefix(tmp_path / name, "d63-arcface-orl") for name in runs]
    whole, parts, plain = map(checkpoint.load_model, prefixes)
    logs = [Path(f"{one}-training.csv").read_text().splitlines() for one in prefixes]
    losses = [[float(row.split(",")[3]) for row in rows[1:]] for rows in logs]
    for saved in ("arguments", "auxiliary"):
        for name, array in getattr(whole, saved).items():
            np.testing.assert_array_equal(array, getattr(parts, saved)[name])
            assert array.dtype == np.float32
    assert losses[0] == losses[1] != losses[2]
    assert losses[0][0] == pytest.approx(losses[2][0], rel=0.02)
    assert not np.array_equal(whole.arguments["fc7_weight"], plain.arguments["fc7_weight"])


def test_a_resumed_run_sees_the_same_pictures_and_computes_as_before(data, tmp_path, caplog, capsys):
    start = flags(data, tmp_path, "--seed", "5", "--accumulate", "2", "--dtype", "bfloat16", "--max-steps", "1")
    again = flags(data, tmp_path, "--seed", "5", "--accumulate", "2", "--dtype", "bfloat16", "--max-steps", "2")
    assert train.main(start) == 0
    for more, told in (
        (("--dtype", "float32"), "--dtype: float32: the run to resume was started with bfloat16; repeat that"),
        (("--seed", "6"), "--seed: 6: the run to resume was started with 5"),
        (
            ("--accumulate", "3"),
            "--per-batch-size: 12 pictures per step: the run to resume was started with 8 pictures",
        ),
    ):
        assert train.main([*again, *more, "--resume"]) == 1
        assert told in capsys.readouterr().err
    assert checkpoint.complete_steps(prefix(tmp_path)) == [1]
    assert train.main([*again, "--resume", "--accumulate", "1", "--per-batch-size", "8"]) == 0
    assert (
        "other options than before: max_steps 2 (was 1); per_batch_size 8 (was 4); accumulate 1 (was 2)" in caplog.text
    )


def test_a_resumed_run_says_which_other_options_are_new(data, tmp_path, caplog):
    options = ("--max-steps", "1", "--clip-norm", "2", "--set", "loss_m2=0.3")
    assert train.main(flags(data, tmp_path, *options)) == 0
    assert train.main(flags(data, tmp_path, *options, "--resume")) == 0
    assert "other options" not in caplog.text
    assert train.main(flags(data, tmp_path, *options[:2], "--lr", "0.005", "--resume")) == 0
    told = "other options than before: loss_m2 0.5 (was 0.3); lr 0.005 (was 0.01); clip_norm 0.0 (was 2.0)"
    assert told in caplog.text
    for damaged in (b"[]", b"\xff", None):
        path = Path(prefix(tmp_path) + "-config.json")
        path.write_bytes(damaged) if damaged else path.unlink()
        assert train.main(flags(data, tmp_path, *options, "--resume")) == 0
    assert caplog.text.count("other options") == 1


def test_bfloat16_says_where_it_changes_nothing(data, tmp_path, caplog):
    assert train.main(flags(data, tmp_path, "--max-steps", "1", "--dtype", "bfloat16")) == 0
    assert "training in float32: " in caplog.text


@pytest.fixture
def stranger(tmp_path):
    """A model that MXNet saved, of a network that is none of ours."""
    data = mx.sym.Variable("data") * (1 / 255)
    body = mx.sym.BatchNorm(mx.sym.Convolution(data, num_filter=4, kernel=(5, 5), name="entry"), name="entry_norm")
    symbol = mx.sym.FullyConnected(body, num_hidden=6, name="vector")
    model = as_model(symbol, (1, 3, SIZE, SIZE))
    mx.model.save_checkpoint(str(tmp_path / "stranger"), 0, symbol, *as_ndarrays(model))
    return model, f"{tmp_path / 'stranger'},0"


def test_the_network_of_another_model_is_fine_tuned(data, stranger, tmp_path, caplog, capsys):
    model, name = stranger
    options = (
        "--network", "pretrained", "--pretrained", name, "--warm-centers", "--freeze", "entry*",
        "--lr-mult", "vec*=2",
    )  # fmt: skip
    assert train.main(flags(data, tmp_path, "--max-steps", "2", *options, keys=())) == 0
    for told in ("1 start fresh: fc7_weight", "class centers start at", "6 parameters and batch statistics are frozen"):
        assert told in caplog.text
    trained = checkpoint.load_model(prefix(tmp_path, "pretrained-arcface-orl"))
    assert trained.symbol.tojson() == model.symbol.tojson()
    np.testing.assert_array_equal(trained.arguments["entry_weight"], model.arguments["entry_weight"])
    np.testing.assert_array_equal(trained.auxiliary["entry_norm_moving_var"], model.auxiliary["entry_norm_moving_var"])
    assert not np.array_equal(trained.arguments["vector_weight"], model.arguments["vector_weight"])
    again = flags(data, tmp_path, "--max-steps", "3", "--resume", *options, keys=())
    assert train.main([*again[:-1], "vec*=3"]) == 1
    assert "--lr-mult: [['vec*', 3.0]]: the run to resume was started with [['vec*', 2.0]]" in capsys.readouterr().err
    (tmp_path / "stranger-symbol.json").write_text(mx.sym.Activation(model.symbol, act_type="relu").tojson())
    assert train.main(again) == 1
    assert "--network: pretrained (graph " in capsys.readouterr().err


def test_a_network_from_onnx_is_fine_tuned_and_resumed(data, tmp_path, caplog):
    file = tmp_path / "face.onnx"
    proto = iresnet(False, blocks=(1,), side=SIZE)
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"  # which image_shape then decides
    file.write_bytes(proto.SerializeToString())
    options = ("--network", "pretrained", "--pretrained", str(file), "--freeze", "conv1*", "--freeze", "bn1*")
    assert train.main(flags(data, tmp_path, "--max-steps", "2", *options, keys=())) == 0
    assert "1 start fresh: fc7_weight" in caplog.text
    assert caplog.text.count("the insightface package's rule") == 1  # it is read once
    given = import_onnx(file, input_shape=(3, SIZE, SIZE))
    for model, moved in ((given, False), (checkpoint.load_model(prefix(tmp_path, "pretrained-arcface-orl")), True)):
        changed = [name for name, array in model.arguments.items() if (array != given.arguments[name]).any()]
        assert ("fc.weight" in changed) == moved and "conv1.weight" not in changed
    assert (model.auxiliary["bn1.running_var"] == given.auxiliary["bn1.running_var"]).all()
    assert (model.auxiliary["bn2.running_var"] != given.auxiliary["bn2.running_var"]).any()
    assert train.main(flags(data, tmp_path, "--max-steps", "3", "--resume", *options, keys=())) == 0
    assert checkpoint.Checkpoint.newest(prefix(tmp_path, "pretrained-arcface-orl")).step == 3


def test_resume_without_a_run_starts_one(data, tmp_path):
    assert train.main(flags(data, tmp_path, "--max-steps", "1", "--resume", *REAL)) == 0
    assert checkpoint.complete_steps(prefix(tmp_path)) == [1]


def test_epochs_and_accumulation_count_in_steps(data, tmp_path, caplog):
    assert train.main(flags(data, tmp_path, "--epochs", "1", "--accumulate", "2")) == 0
    assert "3 steps of 8 images (1.0 epochs)" in caplog.text


def test_a_missing_verification_set_is_named_and_the_model_saved(data, tmp_path, caplog):
    assert train.main(flags(data, tmp_path, "--max-steps", "1", "--set", "val_targets=lfw")) == 0
    assert "lfw.bin: no such file" in caplog.text
    assert checkpoint.load_model(prefix(tmp_path)).step == 1


def test_another_loss_starts_from_a_model(data, tmp_path, caplog):
    assert train.main(flags(data, tmp_path, "--max-steps", "1")) == 0
    start = ("--pretrained", f"{prefix(tmp_path)},1", "--max-steps", "1", "--lr", "0")
    softmax = [flag if flag != "arcface" else "softmax" for flag in flags(data, tmp_path, *start)]
    assert train.main(softmax) == 0
    assert "parameters loaded" in caplog.text and "2 start fresh: fc7_weight, fc7_bias" in caplog.text
    one, other = (checkpoint.load_model(prefix(tmp_path, f"d15-{loss}-orl")) for loss in ("arcface", "softmax"))
    for name in one.arguments:
        np.testing.assert_array_equal(one.arguments[name], other.arguments[name], err_msg=name)


@pytest.mark.parametrize("loss", ["teacher", "arcface", "triplet"])
def test_a_network_is_taught_beside_its_loss_or_without_one(loss, data, tmp_path, caplog, capsys):
    assert train.main(flags(data, tmp_path, "--max-steps", "1", "--set", "emb_size=24")) == 0
    more = ["--loss", loss, "--teacher", prefix(tmp_path), "--teacher-weight", "8", "--per-batch-size", "6"]
    assert train.main(flags(data, tmp_path / "taught", "--max-steps", "2", *more)) == 0
    assert "24 values per embedding" in caplog.text
    student = checkpoint.load_model(prefix(tmp_path / "taught", f"d15-{loss}-orl"))
    assert student.arguments.keys() == {"conv_weight", "conv_bias", "bn_gamma", "bn_beta", "fc1_weight", "fc1_bias"}
    assert train.main(flags(data, tmp_path / "taught", "--max-steps", "3", "--resume", *more)) == 0
    lighter = [*more, "--max-steps", "4", "--resume", "--teacher-weight", "4"]
    assert train.main(flags(data, tmp_path / "taught", *lighter)) == 1
    assert "--teacher-weight: 4.0: the run to resume was started with 8.0; repeat that" in capsys.readouterr().err
    more[3] = prefix(tmp_path / "taught", f"d15-{loss}-orl")
    assert train.main(flags(data, tmp_path / "taught", "--max-steps", "4", "--resume", *more)) == 1
    assert "--teacher: sha256 " in capsys.readouterr().err


def test_pictures_of_one_identity_are_for_a_teacher_alone(data, tmp_path, capsys):
    rng = np.random.default_rng(0)
    write_face_records(tmp_path / "one", [(0, picture(rng)) for _ in range(6)], (SIZE, SIZE))
    (tmp_path / "one" / "fdensenet.py").symlink_to(data / "fdensenet.py")
    assert train.main(flags(data, tmp_path, "--max-steps", "1")) == 0
    settings = flags(tmp_path / "one", tmp_path / "taught", "--max-steps", "1", "--teacher", prefix(tmp_path))
    assert train.main(settings) == 1
    assert "--loss: arcface tells identities apart, but " in capsys.readouterr().err
    assert train.main([*settings, "--loss", "teacher", "--set", "data_mix=0.5"]) == 0


def test_mixtures_of_people_are_for_a_teacher_alone(data, tmp_path, capsys):
    assert train.main(flags(data, tmp_path, "--max-steps", "1", "--set", "data_mix=0.5")) == 1
    assert "--set: data_mix: a mixture of two people has no identity; take the loss teacher" in capsys.readouterr().err


def test_a_model_that_hardly_fits_is_refused(data, tmp_path, capsys):
    assert train.main(flags(data, tmp_path, "--max-steps", "1")) == 0
    other = tmp_path / "other"
    wide = [flag if flag != "d15" else "d161" for flag in flags(data, other, "--pretrained", prefix(tmp_path))]
    assert train.main([*wide, "--max-steps", "1"]) == 1
    assert "fits only 1 of 9 parameters; check the network" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, message",
    [
        (["--network", "d64"], "--network: there is no 'd64'; there are d15, d63"),
        (["--dataset", "lfw"], "--dataset: there is no 'lfw'"),
        (["--loss", "arc"], "--loss: there is no 'arc'"),
        (["--set", "emb_sise=3"], "--set: emb_sise: no such key; nearest: emb_size"),
        (["--set", "loss_name=triplet"], "--set: loss_name: each loss has keys of its own; choose a loss by its name"),
        (["--set", "dataset_path=a\0b"], r"a\x00b/property: it cannot be read (embedded null byte)"),
        (["--accumulate", "1000", "--epochs", "1"], "--accumulate: 1000: the run has only 6 batches"),
        (["--set", "emb_size=many"], "--set: emb_size=many: expected a whole number"),
        (["--set", "lr_steps=soon"], "--set: lr_steps=soon: expected values, each a whole number"),
        (["--set", "lr_schedule=linear"], "--set: lr_schedule=linear: there is no 'linear'; there are step, cosine"),
        ([*REAL, "--set", "net_output=Q"], "net_output: no head 'Q'; there are E, F, FC"),
        (["--set", "dataset_path=nowhere"], "nowhere"),
        (["--gpus", "0"], "--gpus: 0: MXNet finds 0 GPUs"),
        (["--gpus", "first"], "--gpus: first: write it as numbers"),
        (["--models-root", "/dev/null"], "train.py: error: /dev/null/d15-arcface-orl: Not a directory"),
        (["--networks", "/dev"], "/dev: it cannot be read (Is a directory)"),
        (["--pretrained", "nowhere/model"], "nowhere/model-NNNN.params"),
        (["--pretrained", "nowhere/model", "--set", "pretrained_epoch=1"], "nowhere/model-0001.params"),
        (["--pretrained", "nowhere/model,7"], "nowhere/model-0007.params"),
        (["--pretrained", "nowhere/model", "--pretrained-epoch", "7"], "nowhere/model-0007.params"),
        (["--freeze", "conv9*"], "--freeze: conv9*: no parameter has such a name; nearest: conv_"),
        (["--lr-mult", "fc8_weight=2"], "--lr-mult: fc8_weight: no parameter has such a name; nearest: fc7_weight"),
        (["--network", "pretrained", "--pretrained", "a,7"], "net_output: the pretrained model's network is what it"),
        (
            ["--loss", "triplet", "--per-batch-size", "3", "--freeze", "*"],
            "--freeze: the loss triplet has no parameters of its own",
        ),
        (["--pretrained", "a,7", "--pretrained-epoch", "8"], "--pretrained-epoch: a,7: its epoch is 7, not 8"),
        ([*REAL, "--set", "net_output=Z"], "this network could not be verified, so it is not trained: "),
        (
            ["--loss", "triplet", "--per-batch-size", "3", "--sample-rate", "0.5"],
            "--sample-rate: the loss triplet has no classes",
        ),
        (["--loss", "teacher"], "--teacher: the loss teacher needs a model that teaches; name it"),
        (["--teacher", "nowhere/model"], "--teacher: nowhere/model-NNNN.params"),
        (["--teacher", "nowhere.onnx"], "--teacher: nowhere.onnx"),
        (["--loss", "teacher", "--teacher", "a", "--sample-rate", "0.5"], "--sample-rate: the loss teacher has no"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_it(data, tmp_path, capsys, more, message):
    assert train.main(flags(data, tmp_path, "--max-steps", "1", *more)) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("train.py: error: ") and message in error and "\n" not in error


def test_cuda_visible_devices_decides_without_gpus(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert train.main(flags(data, tmp_path, "--max-steps", "1")) == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert train.main(flags(data, tmp_path, "--max-steps", "2", "--resume")) == 1
    assert "CUDA_VISIBLE_DEVICES=0,1: MXNet finds 0 GPUs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        "--per-batch-size 0", "--per-batch-size 1000000000", "--per-batch-size many", "--ckpt 7", "--no-such-flag",
        "--lr nan", "--lr -1", "--lr inf", "--wd nan", "--wd -1", "--mom 1.5", "--mom nan", "--seed -1",
        f"--seed {2**64}", "--max-bad -1", "--frequent 0", "--frequent -5", "--verbose 0", "--epochs 0",
        "--sample-rate 0", "--sample-rate 1.1", "--sample-rate nan",
        "--max-steps -2", "--warmup-steps -1", "--accumulate 0", "--pretrained-epoch -1", "--lr-steps soon",
        "--lr-steps 5,-1", "--warmup-steps 1 --warmup-epochs 1", "--teacher-weight 0", "--teacher-weight nan",
        "--worker-id 0", "--extra-model-name x", "--fp16-scale 1.0", "--lr " + "9" * 5000,
    ],
)  # fmt: skip
def test_wrong_flags_are_usage_errors_that_name_them(data, tmp_path, capsys, wrong):
    with pytest.raises(SystemExit) as exit:
        train.main(flags(data, tmp_path, *wrong.split()))
    assert exit.value.code == 2
    assert wrong.split()[0] in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flag, advice",
    [
        ("--worker-id 3", "the launcher numbers workers"),
        ("--extra-model-name x", "give another --models-root"),
        ("--fp16-scale 1.0", "needs no scale"),
        ("--per-batch-size 0", "0 is InsightFace's way to ask for 128"),
        ("--pretrained-epoch 3", "Name it with --pretrained"),
    ],
)
def test_what_insightface_users_type_is_answered_by_what_to_do(data, tmp_path, capsys, flag, advice):
    with pytest.raises(SystemExit):
        train.main(flags(data, tmp_path, *flag.split()))
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {flag.split()[0]}: " in line and advice in line


def test_a_set_that_cannot_be_verified_on_is_refused_before_the_first_step(data, tmp_path, capsys):
    (tmp_path / "few").mkdir()
    for name in ("train.rec", "train.idx", "property", "fdensenet.py"):
        (tmp_path / "few" / name).symlink_to(data / name)
    write_pairs(tmp_path / "few" / "orl.bin", [picture(np.random.default_rng(0)) for _ in range(4)], [True, False])
    assert train.main(flags(tmp_path / "few", tmp_path, "--max-steps", "1")) == 1
    assert "orl.bin: folds: must be 2 to the number of pairs, 2, not 10; leave orl" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.params"))


@pytest.mark.parametrize(
    ("targets", "name", "options"), [("orl,orl", "orl", ()), ("orl,orl-ema", "orl-ema", ("--ema", "0.9"))], ids=str
)
def test_two_results_of_one_name_are_refused(targets, name, options, data, tmp_path, capsys):
    (tmp_path / "sets").mkdir()
    for file in ("train.rec", "train.idx", "property", "fdensenet.py", "orl.bin"):
        (tmp_path / "sets" / file).symlink_to(data / file)
    (tmp_path / "sets" / "orl-ema.bin").symlink_to(data / "orl.bin")
    given = ("--max-steps", "1", "--set", f"val_targets={targets}", *options)
    assert train.main(flags(tmp_path / "sets", tmp_path, *given)) == 1
    assert f"two results would be called {name}; rename the set" in capsys.readouterr().err


def test_a_second_trainer_is_told_who_the_first_is(data, tmp_path, capsys):
    Path(prefix(tmp_path)).parent.mkdir()
    with locked(prefix(tmp_path)):
        assert train.main(flags(data, tmp_path, "--max-steps", "1")) == 1
    assert f"model.lock: locked by process {os.getpid()} on " in capsys.readouterr().err
    assert list(Path(prefix(tmp_path)).parent.iterdir()) == []


def test_a_damaged_run_is_not_started_anew(data, tmp_path, capsys):
    assert train.main(flags(data, tmp_path, "--max-steps", "1")) == 0
    path = Path(prefix(tmp_path) + "-0001.params")
    path.write_bytes(path.read_bytes()[:-1])
    assert train.main(flags(data, tmp_path, "--max-steps", "1", "--resume")) == 1
    assert "model-0001.json: this checkpoint is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["denseface.training.assembly.Learner", "train.verify", "train.pretrained_model"])
def test_mxnet_failing_elsewhere_is_one_line(data, tmp_path, capsys, monkeypatch, place):
    def fail(*args, **kwargs):
        raise train.mx.MXNetError("Traceback\n  somewhere\nMXNetError: no memory")

    monkeypatch.setattr(place, fail)
    more = ("--pretrained", "model") if place == "train.pretrained_model" else ()
    assert train.main(flags(data, tmp_path, "--max-steps", "1", *more)) == 1
    error = capsys.readouterr().err
    assert "train.py: error: MXNet fails: no memory\n" in error and "Traceback" not in error


def start(arguments, **settings):
    """Train in a process of its own."""
    command = [sys.executable, "train.py", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen(command, **{**pipes, **settings})


@pytest.mark.parametrize("threads", ["garbage", "1.5", "1,2", "99999", "0"])
def test_threads_that_mxnet_cannot_have_are_one_line(threads):
    with start([], env={**os.environ, "OMP_NUM_THREADS": threads}) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and output == ""
    assert errors == f"train.py: error: OMP_NUM_THREADS={threads}: MXNet needs one whole number here, from 1 to 1024\n"


@pytest.mark.parametrize("how", ["-P", "-I", "PYTHONSAFEPATH"])
def test_a_safe_path_of_modules_is_enough(how, tmp_path):
    if sys.version_info < (3, 11) and how != "-I":
        pytest.skip("Python 3.11 brought it")
    flags, variables = ([how], {}) if how.startswith("-") else ([], {how: "1"})
    command = [sys.executable, *flags, ROOT / "train.py", "--dataset", str(tmp_path / "none")]
    run = subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True)
    assert (run.returncode, run.stderr.count("\n")) == (1, 1) and "--dataset: there is no" in run.stderr


@pytest.mark.parametrize("limit", [600_000, 900_000])
def test_too_small_an_address_space_is_one_line(limit):
    def lower():
        resource.setrlimit(resource.RLIMIT_AS, (limit << 10, limit << 10))

    with start([], preexec_fn=lower) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and errors.startswith(f"train.py: error: ulimit -v {limit}: MXNet needs")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("redirection", [">&- 2>&-", ">/dev/full 2>/dev/full", "| head -1", "<&- 2>&-"])
def test_a_run_outlives_its_streams(data, tmp_path, redirection):
    words = shlex.join([sys.executable, "train.py", *flags(data, tmp_path, "--max-steps", "3")])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} {redirection}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and "Traceback" not in result.stderr and "Exception" not in result.stderr
    assert checkpoint.complete_steps(prefix(tmp_path)) == [3]
    for path in Path(prefix(tmp_path)).parent.glob("*.csv"):  # nothing is printed into a file with a stream's number
        assert path.read_text().startswith("step,")


def test_a_hangup_saves(data, tmp_path):
    with start(
        flags(data, tmp_path, "--max-steps", "100000"), bufsize=1, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        for line in process.stdout:
            if line.startswith("step 2/"):
                process.send_signal(signal.SIGHUP)
                break
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 129 and "Traceback" not in errors
    assert len(checkpoint.complete_steps(prefix(tmp_path))) == 1


def test_sigterm_saves_and_says_how_to_go_on(data, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-u", "train.py", *flags(data, tmp_path, "--max-steps", "100000")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stdout:
            if line.startswith("step 2/"):
                process.send_signal(signal.SIGTERM)
                break
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in errors
    assert "continue with the same command and --resume" in output
    (step,) = checkpoint.complete_steps(prefix(tmp_path))
    assert step >= 2


def test_weight_decay_follows_the_one_rule(data, tmp_path, monkeypatch, capsys):
    def learner(task, *args, **kwargs):
        attributes = task.symbol.attr_dict()
        names = ("densenet0_batchnorm0_beta", "densenet0_batchnorm0_gamma")
        raise InputError(str([attributes[name]["__wd_mult__"] for name in names]))

    monkeypatch.setattr("denseface.training.assembly.Learner", learner)
    assert train.main(flags(data, tmp_path, "--max-steps", "1", *REAL)) == 1
    assert "['0.0', '1.0']" in capsys.readouterr().err


@pytest.mark.parametrize("batch_size, expected", [(8, 8), (512, 64)])
def test_a_gpu_that_trains_verifies_in_batches(batch_size, expected, monkeypatch):
    monkeypatch.setattr(train, "contexts", lambda gpus: [mx.gpu(1), mx.gpu(0)])
    monkeypatch.setattr(train, "Embedder", lambda model, **settings: settings)
    settings = train.make_embedder(RunSpec.of({"per_batch_size": batch_size}), None)
    assert settings == {"image_shape": (112, 112, 3), "batch_size": expected, "context": mx.gpu(1)}
