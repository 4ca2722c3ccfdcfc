"""What is saved of the options of a run, what a resumed run has to repeat, and what it says of the others."""

import json

import pytest

from denseface.core.errors import InputError
from denseface.options.spec import RateFactor, RunSpec
from denseface.training.saved_options import check_repeated, repeated, save_options
from support.refusals import refused

SPEC = RunSpec().replace(lr=0.05, ema=0.9, lr_mult=(RateFactor("fc7*", 2.0),), pretrained="a,1")


def test_only_what_changed_and_matters_to_a_resumed_run_is_told(tmp_path):
    path = str(tmp_path / "model-config.json")
    assert save_options(path, SPEC) == []
    assert save_options(path, SPEC) == []
    changed = SPEC.replace(lr=0.01, data_blur=2.0, pretrained="b,2", resume=True)
    assert save_options(path, changed) == ["data_blur 2.0 (was 0.0)", "lr 0.01 (was 0.05)"]


def test_the_file_has_insightfaces_keys_and_the_flags(tmp_path):
    path = tmp_path / "model-config.json"
    save_options(str(path), SPEC.replace(stub_width=3))
    saved = json.loads(path.read_text())
    assert saved["config"]["lr_steps"] == "100000,160000,220000" and saved["config"]["stub_width"] == 3
    assert saved["arguments"]["lr_mult"] == [["fc7*", 2.0]] and "emb_size" not in saved["arguments"]


def test_a_file_with_other_options_than_there_are_is_compared_in_those_that_there_are(tmp_path):
    path = tmp_path / "model-config.json"
    old = {"config": {"emb_size": 64, "lr": 0.1, "gone": 1}, "arguments": {"lr": 0.05, "head_steps": 3, "set": []}}
    path.write_text(json.dumps(old))
    assert save_options(str(path), SPEC) == ["emb_size 512 (was 64)"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"config": 1, "arguments": {}}', b"[" * 100_000])
def test_a_damaged_file_is_written_again(tmp_path, content):
    path = tmp_path / "model-config.json"
    path.write_bytes(content)
    assert save_options(str(path), SPEC) == []
    assert json.loads(path.read_text())["arguments"]["lr"] == 0.05


def test_what_is_set_and_decides_a_step_has_to_be_repeated():
    found = repeated(SPEC)
    assert found["ema"] == 0.9 and found["lr_mult"] == [["fc7*", 2.0]] and found["dtype"] == "float32"
    assert not {"freeze", "teacher", "lr"} & {*found}
    check_repeated(found, found, step=4)
    with pytest.raises(InputError) as caught:
        check_repeated(found, {**found, "ema": 0.99}, step=4)
    assert caught.value.option == "ema"


def test_a_run_beyond_the_steps_that_trained_its_head_alone_goes_on():
    check_repeated({"head_steps": 3}, {}, step=3)
    with refused("3 steps"):
        check_repeated({"head_steps": 3}, {}, step=2)
