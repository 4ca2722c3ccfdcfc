"""Checkpoints: complete or not there at all, and readable by MXNet's own loader."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from denseface.core import files
from denseface.core.files import open_input
from denseface.models import checkpoint, params_file
from denseface.models.checkpoint import Checkpoint
from support.refusals import refused
from support.tiny_checkpoints import assert_equal_arrays, embedding_symbol, make_state

import mxnet as mx


@pytest.fixture
def prefix(tmp_path):
    return str(tmp_path / "model")


def test_a_state_comes_back_as_it_was(prefix):
    state = make_state(12)
    checkpoint.save(prefix, embedding_symbol(), state)
    back = Checkpoint.newest(prefix).load()
    assert back.step == 12 and back.progress == state.progress
    assert_equal_arrays(back.arguments, state.arguments)
    assert_equal_arrays(back.auxiliary, state.auxiliary)
    assert_equal_arrays(back.momenta, state.momenta)


def test_mxnet_loads_the_model_without_the_classes(prefix):
    state = make_state(12)
    checkpoint.save(prefix, embedding_symbol(), state)
    symbol, arguments, auxiliary = mx.model.load_checkpoint(prefix, 12)
    assert symbol.list_outputs() == ["fc1_output"]
    assert set(arguments) == set(state.arguments) - {"fc7_weight"}
    np.testing.assert_array_equal(arguments["fc1_weight"].asnumpy(), state.arguments["fc1_weight"])
    np.testing.assert_array_equal(auxiliary["bn_moving_var"].asnumpy(), state.auxiliary["bn_moving_var"])


def test_the_whole_network_is_kept_on_request(prefix):
    whole = mx.sym.FullyConnected(embedding_symbol(), num_hidden=5, no_bias=True, name="fc7")
    checkpoint.save(prefix, whole, make_state(1))
    assert "fc7_weight" in checkpoint.load_model(prefix, 1).arguments
    assert Checkpoint.newest(prefix).load().arguments["fc7_weight"].shape == (5, 3)


def test_a_model_that_mxnet_saved_loads(prefix):
    state = make_state(7)
    deployed = {name: mx.nd.array(array) for name, array in state.arguments.items() if name != "fc7_weight"}
    auxiliary = {name: mx.nd.array(array) for name, array in state.auxiliary.items()}
    mx.model.save_checkpoint(prefix, 7, embedding_symbol(), deployed, auxiliary)
    model = checkpoint.load_model(prefix)
    assert (model.step, model.name) == (7, f"{prefix},7")
    np.testing.assert_array_equal(model.arguments["fc1_weight"], state.arguments["fc1_weight"])


def test_the_newest_model_is_the_default(prefix):
    for step in (900, 12000, 1000):
        checkpoint.save(prefix, embedding_symbol(), make_state(step))
    assert checkpoint.load_model(prefix).step == 12000
    assert checkpoint.complete_steps(prefix) == [900, 1000, 12000]


def test_another_prefix_in_the_same_folder_is_left_alone(prefix):
    checkpoint.save(prefix, embedding_symbol(), make_state(1))
    checkpoint.save(prefix + "-b", embedding_symbol(), make_state(5))
    assert checkpoint.complete_steps(prefix) == [1]
    checkpoint.keep_only(prefix, models=[], states=[])
    assert checkpoint.complete_steps(prefix) == []
    assert checkpoint.complete_steps(prefix + "-b") == [5]


def damaged(path, damage):
    content = path.read_bytes()
    path.unlink()
    if damage == "short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "long":
        path.write_bytes(content + b"X")


@pytest.mark.parametrize("name", ["0002.params", "0002.states", "0002.json", "ema-0002.params"])
@pytest.mark.parametrize("damage", ["missing", "short", "long"])
def test_an_incomplete_checkpoint_does_not_count(prefix, name, damage):
    for step in (1, 2):
        checkpoint.save(prefix, embedding_symbol(), make_state(step))
    damaged(Path(f"{prefix}-{name}"), damage)
    assert checkpoint.complete_steps(prefix) == [1]
    assert Checkpoint.newest(prefix).load().step == 1


@pytest.mark.parametrize("name", ["0002.params", "0002.states", "ema-0002.params"])
def test_a_changed_checkpoint_is_refused_while_it_is_read(prefix, name):
    for step in (1, 2):
        checkpoint.save(prefix, embedding_symbol(), make_state(step))
    path = Path(f"{prefix}-{name}")
    content = bytearray(path.read_bytes())
    content[80] ^= 1  # a bit of some value
    path.write_bytes(content)
    with refused("CRC-32", path=path):
        Checkpoint.newest(prefix).load()
    os.unlink(f"{prefix}-0002.json")  # as the message advises
    assert Checkpoint.newest(prefix).load().step == 1


def test_resuming_opens_every_file_once(prefix, monkeypatch):
    checkpoint.save(prefix, embedding_symbol(), make_state(3))
    opened = []

    def opening(path):
        opened.append(Path(path).suffix)
        return open_input(path)

    for module in (files, params_file):
        monkeypatch.setattr(module, "open_input", opening)
    Checkpoint.newest(prefix).load()
    assert sorted(opened) == [".json", ".params", ".params", ".states"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["fc1_weight", "bn_moving_mean", "bn_moving_var"])
def test_a_model_that_is_not_of_finite_numbers_is_refused(prefix, name, value):
    state = make_state(1)
    array = {**state.arguments, **state.auxiliary}[name]
    array.flat[-1] = value
    checkpoint.save(prefix, embedding_symbol(), state)
    with refused(name, "finite", path=f"{prefix}-0001.params"):
        checkpoint.load_model(prefix)


def test_a_variance_below_zero_is_refused(prefix):
    state = make_state(1)
    state.auxiliary["bn_moving_var"][5] = -1e-5
    checkpoint.save(prefix, embedding_symbol(), state)
    with refused("bn_moving_var", 0, path=f"{prefix}-0001.params"):
        checkpoint.load_model(prefix)


def test_a_variance_that_rounding_has_brought_below_zero_is_zero(prefix):
    """As MXNet's of a channel that has been constant for some steps."""
    state = make_state(1)
    state.auxiliary["bn_moving_var"][5] = -7.8e-13
    checkpoint.save(prefix, embedding_symbol(), state)
    assert checkpoint.load_model(prefix).auxiliary["bn_moving_var"].min() == 0


def test_a_crash_at_any_write_leaves_the_previous_checkpoint_whole(prefix, monkeypatch):
    checkpoint.save(prefix, embedding_symbol(), make_state(1))
    rename, crashes = os.replace, 0
    for allowed in range(6):
        left = [allowed]

        def crashing(source, target, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            rename(source, target)

        monkeypatch.setattr(os, "replace", crashing)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(prefix, embedding_symbol(), make_state(2))
        crashes += 1
        monkeypatch.setattr(os, "replace", rename)
        assert checkpoint.complete_steps(prefix) == [1]
        Checkpoint.newest(prefix).load()
    assert crashes == 6


def test_keeping_removes_the_rest_and_what_a_crash_left(prefix):
    for step in (1, 2, 3):
        checkpoint.save(prefix, embedding_symbol(), make_state(step))
    for left in (
        "0004.params.tmp", "ema-0004.params.tmp", "ema-symbol.json.tmp", "0001.verification.json",
        "0002.verification.json", "ema-0002.verification.json",
    ):  # fmt: skip
        open(f"{prefix}-{left}", "wb").close()
    checkpoint.keep_only(prefix, models=[1], states=[3])
    left = sorted(name[len("model-") :] for name in os.listdir(os.path.dirname(prefix)))
    assert left == [
        "0001.params", "0001.verification.json", "0003.json", "0003.params", "0003.states", "ema-0001.params",
        "ema-0003.params", "ema-symbol.json", "symbol.json",
    ]  # fmt: skip
    checkpoint.save(prefix, embedding_symbol(), make_state(5))
    checkpoint.keep_only(prefix, models=None, states=[5])
    assert checkpoint.load_model(prefix, 1).step == 1 and checkpoint.complete_steps(prefix) == [5]


def test_a_model_reference_is_split_at_its_last_comma(monkeypatch, tmp_path):
    assert checkpoint.parse_model("a,b/model,12") == ("a,b/model", 12)
    assert checkpoint.parse_model("models/model") == ("models/model", None)
    assert checkpoint.parse_model("a,b/model") == ("a,b/model", None)
    monkeypatch.chdir(tmp_path)
    Path("a,b-symbol.json").touch()
    assert checkpoint.parse_model("a,b") == ("a,b", None)
    with refused("model,last", "PREFIX,EPOCH", option="model"):
        checkpoint.parse_model("model,last")


def test_what_is_missing_is_named(prefix):
    with refused("no such file", path=f"{prefix}-NNNN.params"):
        checkpoint.load_model(prefix)
    checkpoint.save(prefix, embedding_symbol(), make_state(1))
    with refused(path=f"{prefix}-0003.params", cause=FileNotFoundError):
        checkpoint.load_model(prefix, 3)
    os.unlink(f"{prefix}-symbol.json")
    with refused(path=f"{prefix}-symbol.json", cause=FileNotFoundError):
        checkpoint.load_model(prefix, 1)


def test_parameters_of_another_network_are_refused(prefix):
    checkpoint.save(prefix, embedding_symbol(), make_state(1))
    body = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=2, name="extra")
    other = mx.sym.FullyConnected(body, num_hidden=3, name="fc1")
    with open(f"{prefix}-symbol.json", "w") as file:
        file.write(other.tojson())
    with refused("extra_bias", path=f"{prefix}-0001.params"):
        checkpoint.load_model(prefix, 1)


def test_the_newest_step_is_that_of_a_whole_checkpoint(prefix):
    assert checkpoint.complete_steps(prefix) == []
    for step in (3, 12):
        checkpoint.save(prefix, embedding_symbol(), make_state(step))
    for path in Path(prefix).parent.glob("*0012*"):  # whatever the clock said
        os.utime(path, (0, 0))
    assert Checkpoint.newest(prefix).step == 12
    Path(f"{prefix}-0012.states").write_bytes(b"torn")
    assert Checkpoint.newest(prefix).step == 3


def test_a_run_whose_only_checkpoint_is_damaged_is_not_taken_for_none(prefix):
    checkpoint.save(prefix, embedding_symbol(), make_state(3))
    Path(f"{prefix}-0003.states").write_bytes(b"torn")
    with refused("damaged", "remove this file", path=f"{prefix}-0003.json"):
        Checkpoint.newest(prefix)


def test_what_a_crash_left_of_a_first_checkpoint_is_none(prefix):
    checkpoint.save(prefix, embedding_symbol(), make_state(3))
    os.unlink(f"{prefix}-0003.json")
    assert checkpoint.complete_steps(prefix) == []


@pytest.mark.parametrize("manifest", [b"[]", b"{}", b'{"files": 1}', b"\xff", b"[" * 100_000, b"null"])
def test_a_strange_manifest_is_no_checkpoint(prefix, manifest):
    checkpoint.save(prefix, embedding_symbol(), make_state(3))
    Path(f"{prefix}-0003.json").write_bytes(manifest)
    assert checkpoint.complete_steps(prefix) == []


def test_a_manifest_without_progress_is_no_checkpoint(prefix):
    checkpoint.save(prefix, embedding_symbol(), make_state(3))
    path = Path(f"{prefix}-0003.json")
    path.write_text(path.read_text().replace("progress", "qrogress"))
    with refused("damaged", path=path):
        Checkpoint.newest(prefix)


@pytest.fixture
def pieces(prefix, monkeypatch):
    """A checkpoint of which what has more than 80 bytes and is not deployed is cut: both of 7 x 13 values."""
    monkeypatch.setattr(checkpoint, "_LARGE", 80)
    state = make_state(5)
    state.arguments["fc7_weight"] = np.arange(7 * 13, dtype=np.float32).reshape(7, 13)
    state.momenta["fc7_weight"] = -state.arguments["fc7_weight"]
    checkpoint.save(prefix, embedding_symbol(), state)
    return state


def test_large_arrays_are_cut_and_come_back(prefix, pieces):
    names = sorted(name for name in os.listdir(os.path.dirname(prefix)) if "states-" in name)
    assert len(names) == 14 + 3  # a row of 52 bytes each, and the rows of fc1_weight's momentum, of 48 bytes
    assert os.path.getsize(f"{prefix}-0005.states-1") < 80 + 100
    back = Checkpoint.newest(prefix).load()
    assert_equal_arrays(back.arguments, pieces.arguments)
    assert_equal_arrays(back.momenta, pieces.momenta)
    assert checkpoint.load_model(prefix).step == 5


def test_what_was_cut_is_read_into_its_place_where_it_fits(prefix, pieces):
    place, narrow = np.zeros((7, 13), np.float32), np.zeros((7, 12), np.float32)
    back = Checkpoint.newest(prefix).load(arguments={"fc7_weight": place}, momenta={"fc7_weight": narrow})
    assert back.arguments["fc7_weight"] is place and not narrow.any()
    assert_equal_arrays(back.arguments, pieces.arguments)
    assert_equal_arrays(back.momenta, pieces.momenta)


@pytest.mark.parametrize("kind", ["states-1", "states-9", "states-17"])
@pytest.mark.parametrize("damage", ["missing", "long"])
def test_a_checkpoint_without_a_piece_does_not_count(prefix, pieces, kind, damage):
    path = Path(f"{prefix}-0005.{kind}")
    damaged(path, damage)
    assert checkpoint.complete_steps(prefix) == []


def test_a_crash_between_pieces_leaves_the_previous_checkpoint(prefix, pieces, monkeypatch):
    rename, left = os.replace, [10]

    def crashing(source, target):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", crashing)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(prefix, embedding_symbol(), dataclasses.replace(pieces, step=6))
    assert checkpoint.complete_steps(prefix) == [5]
    checkpoint.keep_only(prefix, models=[5], states=[5])
    assert not [name for name in os.listdir(os.path.dirname(prefix)) if "0006" in name]
    Checkpoint.newest(prefix).load()


def test_pieces_are_removed_with_their_checkpoint(prefix, pieces):
    checkpoint.save(prefix, embedding_symbol(), make_state(6))
    open(f"{prefix}-0007.states-3.tmp", "wb").close()
    checkpoint.keep_only(prefix, models=[], states=[6])
    assert not [name for name in os.listdir(os.path.dirname(prefix)) if "0005" in name or "tmp" in name]
    assert checkpoint.complete_steps(prefix) == [6]


@pytest.mark.parametrize(
    "rows",
    [{}, [], None, {"arg:fc7_weight": 7}, {"arg:fc7_weight": "7"}, {"arg:fc7_weight": 10**15}, {"arg:fc7_weight": 8}],
)
def test_rows_that_do_not_fit_are_one_line(prefix, pieces, rows):
    path = Path(f"{prefix}-0005.json")
    manifest = json.loads(path.read_text())
    manifest["rows"] = {**manifest["rows"], **rows} if rows and rows != {"arg:fc7_weight": 7} else rows
    path.write_text(json.dumps(manifest))
    with refused(path=path):
        Checkpoint.newest(prefix).load()
