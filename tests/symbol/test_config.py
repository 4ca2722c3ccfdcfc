"""InsightFace's keys and tables, calls that never mix."""

import ast
import copy
import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest

import config as configuration
from config import config, default, generate_config
from denseface.options.names import Names, fill, resolve
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
    generate_config(None, None, None)
    assert {key: config.get(key) for key in insightface.CONFIG} == insightface.CONFIG
    assert {key: default.get(key) for key in insightface.DEFAULT} == insightface.DEFAULT


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
    fill(config, default, resolve(configuration.tables(), Names("d169", "orl", "triplet"), ["emb_size=7", "lr=3"]))
    config.strange = default.stranger = 1
    assert (default.per_batch_size, default.lr) == (64, 3)
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
    more = ", and folders by their path" if flag == "dataset" else ""
    assert str(caught.value) == f"{flag}: there is no '{wrong}'; there are {names}{more}"
    assert snapshot() == before


def test_values_are_fit_to_train_with():
    """What numbers may be, whoever edits the tables."""
    for loss in configuration.loss.values():
        assert loss.get("loss_s", 1) > 0 and loss.get("loss_m1", 1) >= 1
        assert 0 <= loss.get("loss_m2", 0) < math.pi / 2 and 0 <= loss.get("loss_m3", 0) < 1


def test_every_entry_of_every_table_is_within_its_bounds():
    for network, dataset, loss in itertools.product(configuration.network, configuration.dataset, configuration.loss):
        for recipe in (None, *configuration.recipe):
            resolve(configuration.tables(), Names(network, dataset, loss, recipe))
