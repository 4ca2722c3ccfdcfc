"""Names, recipes, folders and single keys become options; what does not fit is one line that names it."""

import pytest

import config as configuration
from config import config, default
from denseface.core.errors import InputError
from denseface.options.names import Names, fill, resolve
from denseface.options.spec import BY_KEY, RunSpec
from support.record_sets import write_property
from support.refusals import refused

NAMES = Names("d169", "emore", "arcface")  # with per_batch_size in the network's table

pytestmark = pytest.mark.usefixtures("configured")  # puts the configuration back


def resolved(*names, assignments=(), **more):
    return resolve(configuration.tables(), Names(*names, **more), assignments)


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
    spec = resolve(configuration.tables(), Names("d121", "emore", "arcface"), [f"{key}={text}"])
    fill(config, default, spec)
    found = config[key]
    assert found == value and type(found) is type(value)
    if isinstance(value, (list, tuple)):
        assert [type(item) for item in found] == [type(item) for item in value]


def test_override_reaches_both_tables():
    fill(config, default, resolve(configuration.tables(), NAMES, ["per_batch_size=8"]))
    assert (config.per_batch_size, default.per_batch_size) == (8, 8)


def test_later_override_wins():
    spec = resolve(configuration.tables(), NAMES, ["val_targets=", "emb_size=1", "val_targets=a,b", "emb_size=2"])
    assert (spec.data.val_targets, spec.network.emb_size) == (("a", "b"), 2)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("emb_size", "set: emb_size: write it as key=value"),
        ("emb_size=1.5", "set: emb_size=1.5: expected a whole number, as in 512"),
        ("emb_size=", "set: emb_size=: expected a whole number, as in 512"),
        ("bn_mom=high", "set: bn_mom=high: expected a number, as in 0.9"),
        ("bn_mom=nan", "set: bn_mom=nan: expected a number, as in 0.9"),
        ("lr=inf", "set: lr=inf: expected a number, as in 0.1"),
        ("ce_loss=yes", "set: ce_loss=yes: expected true or false, as in true"),
        (
            "net_blocks=1,two",
            "set: net_blocks=1,two: expected values, each a whole number, as in 1,4,6,2",
        ),
        (
            "net_blocks=1,,2",
            "set: net_blocks=1,,2: expected values, each a whole number, as in 1,4,6,2",
        ),
        (
            "image_shape=112,112",
            "set: image_shape=112,112: expected 3 values, each a whole number, as in 112,112,3",
        ),
        (
            "image_shape=",
            "set: image_shape=: expected 3 values, each a whole number, as in 112,112,3",
        ),
        ("image_shape=112,112,0", "set: image_shape=112,112,0: it must be from 1 to 4096"),
        ("bn_mom=2", "set: bn_mom=2: it must be from 0 to 1"),
        ("loss_s=0", "set: loss_s=0: it must be from 0.001 to 10000"),
        ("loss_m1=0", "set: loss_m1=0: it must be from 0.01 to 100"),
        ("fc7_lr_mult=-1", "set: fc7_lr_mult=-1: it must be from 0 to 1000"),
        (f"emb_size={10**400}", f"set: emb_size={10**400}: it must be from 1 to 65536"),
        ("fp16=true", "set: fp16=true: not supported: dtype bfloat16 trains with half of the bits; leave it out"),
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
        ("memonger=much", "set: memonger=much: expected true or false, as in false"),
        ("data_cutoff=True", "set: data_cutoff=True: write the side of the square in pixels, as in data_cutoff=40"),
        ("num_classes=1000", "set: num_classes: the data set's file property has it; leave it out"),
        ("data_rotate=999", "set: data_rotate=999: it must be from 0 to 180"),
        ("data_scale=0.6", "set: data_scale=0.6: it must be from 0 to 0.5"),
        ("data_shift=-1", "set: data_shift=-1: it must be from 0 to 0.5"),
        (
            "kvstore=dist_async",
            "set: kvstore=dist_async: there is no 'dist_async'; there are local, device, nccl, "
            "dist_sync, dist_device_sync",
        ),
        ("loss_m=0.4", "set: loss_m: the loss arcface does not have it; leave it out"),
        ("=1", "set: : no such key"),
        ("zzzzzz=1", "set: zzzzzz: no such key"),
        ("network=d63", "set: network: a key sets one value; choose the whole network by its name"),
        ("dataset=orl", "set: dataset: a key sets one value; choose the whole data set by its name"),
        ("loss=softmax", "set: loss: a key sets one value; choose the whole loss by its name"),
    ],
)
def test_override_says_what_does_not_fit(assignment, message):
    with pytest.raises(ValueError) as caught:
        resolve(configuration.tables(), NAMES, [assignment])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("emb_sise", "emb_size"), ("per_batch_sise", "per_batch_size"), ("fc7_wd", "fc7_wd_mult"), ("Lr", "lr")],
)
def test_unknown_key_is_answered_with_the_nearest(wrong, nearest):
    with refused(wrong, f"nearest: {nearest}", option="set") as caught:
        resolve(configuration.tables(), NAMES, [f"{wrong}=1"])
    listed = str(caught.value).split("nearest: ")[1].split(", ")
    assert len(listed) == len(set(listed)) <= 3
    assert set(listed) <= {*BY_KEY}


@pytest.mark.parametrize(
    "assignment", ["num_workers=1", "fp16=False", "memonger=False", "is_shuffled_rec=False", "data_cutoff=False"]
)
def test_insightfaces_own_values_of_keys_that_are_absent_here_change_nothing(assignment):
    assert resolve(configuration.tables(), NAMES, [assignment]) == resolve(configuration.tables(), NAMES)


def test_a_recipe_chooses_what_is_not_chosen():
    spec = resolved(recipe="small", dataset="orl")
    assert (spec.network.network, spec.loss.loss, spec.data.dataset) == ("d15", "arcface", "orl")
    assert (spec.network.emb_size, spec.loss.loss_m2, spec.optimizer.lr_schedule) == (128, 0.3, "cosine")
    assert resolved(recipe="small", assignments=["loss_m2=0.4"]).loss.loss_m2 == 0.4


def test_what_a_recipe_says_of_its_network_and_its_loss_holds_for_these_alone():
    other = resolved("d63", "orl", "cosface", "small")
    assert (other.network.emb_size, other.loss.loss_s, other.loss.loss_m2) == (512, 64, 0)
    assert (other.optimizer.lr, other.data.augmentation.cutoff) == (0.05, 40)
    assert resolved("d15", "orl", "softmax", "small").network.emb_size == 128


def test_a_data_set_describes_data_alone():
    assert resolved("d15", "orl", "arcface").optimizer == RunSpec().optimizer


def test_a_folder_is_a_data_set(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    write_property(folder, 7, 96, 80)
    (folder / "holdout.bin").touch()
    data = resolved("d15", str(folder)).data
    assert (data.dataset, data.dataset_path, data.num_classes) == ("mine", str(folder), 7)
    assert (data.image_shape, data.val_targets) == ((96, 80, 3), ("holdout",))
    with pytest.raises(InputError) as caught:
        resolved("d15", str(tmp_path / "none"))
    assert caught.value.option == "dataset"
    with refused(path=tmp_path / "property", cause=FileNotFoundError):
        resolved("d15", str(tmp_path))


@pytest.mark.parametrize("names", [{"recipe": "large"}, {"network": "d122"}, {"loss": "arc"}])
def test_names_that_are_not_there_are_named(names):
    with pytest.raises(InputError) as caught:
        resolved(**names)
    assert [caught.value.option] == [*names]


def test_defaults_of_your_own_come_before_the_tables():
    tables = configuration.tables()._replace(usual={"network": "d63", "lr": 0.05, "verbose": 7})
    spec = resolve(tables, Names(loss="triplet"))
    assert (spec.network.num_layers, spec.optimizer.lr, spec.keeping.verbose) == (63, 0.05, 7)


def test_a_wrong_value_in_a_table_is_named():
    tables = configuration.tables()._replace(usual={"lr": -1.0})
    with refused("config.py: usual: lr", "0 to 1000"):
        resolve(tables, Names())
