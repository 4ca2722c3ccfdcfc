"""InsightFace's keys and tables, calls that never mix, and overrides read as the type of their key."""

import ast
import copy
import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest

import config as configuration
from config import config, default, generate_config, override
from support import insightface_tables as insightface

ROOT = Path(__file__).resolve().parents[2]
DROPOUT = {"densenet_dropout": 0.0}  # in the network's table there, in config itself here


pytestmark = pytest.mark.usefixtures("configured")  # puts the configuration back


def snapshot():
    return copy.deepcopy((dict(config), dict(default)))


def fresh(*names):
    """What generate_config makes of these names in a process of its own."""
    code = f"from config import *; generate_config{names!r}; print((dict(config), dict(default)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return ast.literal_eval(run.stdout)


def test_insightfaces_keys_are_here():
    usual_config, usual_default = configuration.PRISTINE  # other tests may have changed config and default
    assert {key: usual_config.get(key) for key in insightface.CONFIG} == insightface.CONFIG
    assert {key: usual_default.get(key) for key in insightface.DEFAULT} == insightface.DEFAULT


@pytest.mark.parametrize(
    ("table", "theirs"),
    [
        (configuration.network, insightface.NETWORK),
        (configuration.dataset, insightface.DATASET),
        (configuration.loss, insightface.LOSS),
    ],
)
def test_insightfaces_tables_are_here(table, theirs):
    assert {name: table.get(name) for name in theirs} == theirs


@pytest.mark.parametrize("name", insightface.LOSS)
def test_loss_is_as_insightface_generates_it(name):
    generate_config("d169", "emore", name)
    for key, value in {**insightface.LOSS[name], **insightface.NETWORK["d169"], **DROPOUT}.items():
        assert config[key] == value
    assert default.per_batch_size == 64  # the network's word comes after the loss's
    assert default.lr == insightface.LOSS[name].get("lr", 0.1)
    assert (config.network, config.dataset, config.loss) == ("d169", "emore", name)


def test_every_name_of_every_table_generates():
    for network, dataset, loss in itertools.product(configuration.network, configuration.dataset, configuration.loss):
        generate_config(network, dataset, loss)
        assert (config.network, config.dataset, config.loss) == (network, dataset, loss)
        later = {**configuration.loss[loss], **configuration.network[network], **configuration.dataset[dataset]}
        assert {key: config[key] for key in later} == later
        flags = {key: value for key, value in later.items() if key in default}
        assert {key: default[key] for key in flags} == flags


def test_nothing_of_an_earlier_call_remains():
    generate_config("d169", "orl", "triplet")
    override(["emb_size=7", "lr=3", "net_act=tanh"])
    config.strange = default.stranger = 1
    assert (default.per_batch_size, default.lr) != (128, 0.1)
    generate_config("d121", "emore", "softmax")
    assert snapshot() == fresh("d121", "emore", "softmax")
    assert not hasattr(config, "strange") and not hasattr(config, "triplet_alpha")
    assert not hasattr(default, "stranger") and default.per_batch_size == 128


def test_attributes_and_items_are_the_same():
    generate_config("d169", "orl", "triplet")
    generate_config("d63", "emore", "arcface")
    for table in (config, default):
        assert {key: getattr(table, key) for key in table} == dict(table) == vars(table)


def test_generating_twice_is_generating_once():
    generate_config("d201", "retina", "atriplet")
    once = snapshot()
    generate_config("d201", "retina", "atriplet")
    assert snapshot() == once


def test_config_and_default_stay_the_same_objects():
    """Who has them from an import sees what is generated later."""
    generate_config("d63", "orl", "softmax")
    assert config is configuration.config and config.num_layers == 63
    generate_config("d121", "orl", "triplet")
    assert default is configuration.default and config.num_layers == 121 and default.lr == 0.05


def test_lists_are_nobody_elses():
    generate_config("d63", "emore", "arcface")
    config.val_targets.append("mine")
    config.net_blocks.append(99)
    generate_config("d63", "emore", "arcface")
    assert config.val_targets == insightface.VAL_TARGETS and config.net_blocks == [1, 4, 6, 2]
    assert (
        configuration.dataset.emore.val_targets == configuration.dataset.retina.val_targets == insightface.VAL_TARGETS
    )


@pytest.mark.parametrize(
    ("names", "flag", "wrong"),
    [
        (("d122", "emore", "arcface"), "network", "d122"),
        (("d121", "imagenet", "arcface"), "dataset", "imagenet"),
        (("d121", "emore", "arcfase"), "loss", "arcfase"),
    ],
)
def test_unknown_name_is_answered_with_those_there_are(names, flag, wrong):
    before = snapshot()
    with pytest.raises(ValueError) as caught:
        generate_config(*names)
    names = ", ".join(getattr(configuration, flag))
    assert str(caught.value) == f"{flag}: there is no '{wrong}'; there are {names}"
    assert snapshot() == before


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("emb_size", "128", 128),
        ("data_cutoff", "16", 16),
        ("max_steps", "-1", -1),
        ("bn_mom", "0.99", 0.99),
        ("bn_mom", "1", 1.0),
        ("wd", "5e-4", 5e-4),
        ("ce_loss", "false", False),
        ("ce_loss", "False", False),
        ("ce_loss", "0", False),
        ("fc7_no_bias", "TRUE", True),
        ("fc7_no_bias", "1", True),
        ("net_act", "relu", "relu"),
        ("pretrained", "", ""),
        ("lr_steps", "10,20", "10,20"),
        ("dataset_path", "a=b", "a=b"),
        ("val_targets", "orl", ["orl"]),
        ("val_targets", "lfw, cfp_fp", ["lfw", "cfp_fp"]),
        ("val_targets", "", []),
        ("net_blocks", "2,8,16,4", [2, 8, 16, 4]),
        ("image_shape", "96,112,3", (96, 112, 3)),
        ("loss_s", "32", 32.0),
    ],
)
def test_override_is_read_as_the_type_of_its_key(key, text, value):
    generate_config("d121", "emore", "arcface")
    override([f"{key}={text}"])
    (found,) = {id(table): table[key] for table in (config, default) if key in table}.values()
    assert found == value and type(found) is type(value)
    if isinstance(value, (list, tuple)):
        assert [type(item) for item in found] == [type(item) for item in value]


def test_override_reaches_both_tables():
    generate_config("d169", "emore", "arcface")
    assert "per_batch_size" in config and "per_batch_size" in default
    override(["per_batch_size=8"])
    assert (config.per_batch_size, default.per_batch_size) == (8, 8)


def test_later_override_wins():
    generate_config("d169", "emore", "arcface")
    override(["val_targets=", "emb_size=1", "val_targets=a,b", "emb_size=2"])
    assert (config.val_targets, config.emb_size) == (["a", "b"], 2)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("emb_size", "set: emb_size: write it as key=value"),
        ("emb_size=1.5", "set: emb_size=1.5: expected int, as in emb_size=512"),
        ("emb_size=", "set: emb_size=: expected int, as in emb_size=512"),
        ("bn_mom=high", "set: bn_mom=high: expected float, as in bn_mom=0.9"),
        ("bn_mom=nan", "set: bn_mom=nan: expected float, as in bn_mom=0.9"),
        ("lr=inf", "set: lr=inf: expected float, as in lr=0.1"),
        ("ce_loss=yes", "set: ce_loss=yes: expected bool, as in ce_loss=True"),
        ("net_blocks=1,two", "set: net_blocks=two: expected int, as in net_blocks=1"),
        ("net_blocks=1,,2", "set: net_blocks=: expected int, as in net_blocks=1"),
        ("image_shape=112,112", "set: image_shape=112,112: expected 3 values, as in image_shape=112,112,3"),
        ("image_shape=", "set: image_shape=: expected 3 values, as in image_shape=112,112,3"),
        ("image_shape=112,112,0", "set: image_shape=0: it must be from 1 to 4096"),
        ("bn_mom=2", "set: bn_mom=2: it must be from 0 to 1"),
        ("loss_s=0", "set: loss_s=0: it must be from 0.001 to 10000"),
        ("loss_m1=0", "set: loss_m1=0: it must be from 0.01 to 100"),
        ("fc7_lr_mult=-1", "set: fc7_lr_mult=-1: it must be from 0 to 1000"),
        (f"emb_size={10**400}", f"set: emb_size={10**400}: it must be from 1 to 65536"),
        ("fp16=true", "set: fp16=true: not supported: --dtype bfloat16 trains with half of the bits; leave it out"),
        (
            "memonger=1",
            "set: memonger=1: not supported: for less memory use smaller batches, and accumulate several per step; "
            "leave it out",
        ),
        (
            "is_shuffled_rec=True",
            "set: is_shuffled_rec=True: not supported: records are shuffled by their index, whatever "
            "their order in the file; leave it out",
        ),
        ("num_workers=2", "set: num_workers=2: not supported: denseface launch starts several workers; leave it out"),
        ("memonger=much", "set: memonger=much: expected bool, as in memonger=False"),
        ("data_cutoff=True", "set: data_cutoff=True: write the side of the square in pixels, as in data_cutoff=40"),
        ("num_classes=1000", "set: num_classes: the data set's file property has it; leave it out"),
        ("=1", "set: : no such key"),
        ("zzzzzz=1", "set: zzzzzz: no such key"),
        ("network=d63", "set: network: a key sets one value; choose the whole network by its name"),
        ("dataset=orl", "set: dataset: a key sets one value; choose the whole dataset by its name"),
        ("loss=softmax", "set: loss: a key sets one value; choose the whole loss by its name"),
    ],
)
def test_override_says_what_does_not_fit(assignment, message):
    generate_config("d169", "emore", "arcface")  # with per_batch_size in both tables
    before = snapshot()
    with pytest.raises(ValueError) as caught:
        override([assignment])
    assert str(caught.value) == message
    assert snapshot() == before


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("emb_sise", "emb_size"), ("per_batch_sise", "per_batch_size"), ("fc7_wd", "fc7_wd_mult"), ("Lr", "lr")],
)
def test_unknown_key_is_answered_with_the_nearest(wrong, nearest):
    generate_config("d169", "emore", "arcface")  # with per_batch_size in both tables
    with pytest.raises(ValueError, match=rf"^set: {wrong}: no such key; nearest: {nearest}\b") as caught:
        override([f"{wrong}=1"])
    listed = str(caught.value).split("nearest: ")[1].split(", ")
    assert len(listed) == len(set(listed)) <= 3
    assert set(listed) <= {*config, *default}


def test_values_are_fit_to_train_with():
    """What numbers may be, whoever edits the tables."""
    for loss in configuration.loss.values():
        assert loss.get("loss_s", 1) > 0 and loss.get("loss_m1", 1) >= 1
        assert 0 <= loss.get("loss_m2", 0) < math.pi / 2 and 0 <= loss.get("loss_m3", 0) < 1


def test_every_table_is_within_the_bounds():
    tables = [config, default, *configuration.network.values(), *configuration.dataset.values()]
    held = 0
    for table in [*tables, *configuration.loss.values()]:
        for key in table.keys() & configuration.BOUNDS.keys():
            low, high = configuration.BOUNDS[key]
            items = table[key] if isinstance(table[key], (list, tuple)) else [table[key]]
            assert all(low <= item <= high for item in items), key
            held += 1
    assert held > 40


def test_insightfaces_own_values_of_keys_that_are_absent_here_change_nothing():
    generate_config("d63", "emore", "arcface")
    before = snapshot()
    override(["num_workers=1", "fp16=False", "memonger=False", "is_shuffled_rec=False", "data_cutoff=False"])
    assert snapshot() == before
