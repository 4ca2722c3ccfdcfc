"""The one configuration that networks, losses, data and trainer share, with InsightFace's keys and tables.

``generate_config("d121", "emore", "arcface")`` fills ``config`` (the model and its data) and ``default`` (defaults of
the command line's flags) from the tables below.
"""

import copy
import difflib
import math
from collections.abc import Iterable

from easydict import EasyDict

from denseface.core.errors import InputError

config = EasyDict(
    # network
    num_layers=121,
    emb_size=512,
    net_act="prelu",
    net_output="E",
    net_multiplier=1.0,
    net_blocks=[1, 4, 6, 2],
    net_input=1,
    net_se=0,
    net_unit=3,
    densenet_dropout=0.0,
    bn_mom=0.9,
    workspace=256,  # MiB per convolution on a GPU
    # loss
    ce_loss=True,
    fc7_lr_mult=1.0,
    fc7_wd_mult=1.0,
    fc7_no_bias=False,
    loss_k=1,  # centers per class
    interclass_filtering_threshold=0.0,  # cosine beyond which another class counts as the same person, 0 for none
    # data
    val_targets=["lfw", "cfp_fp", "agedb_30"],
    data_rand_mirror=True,
    data_color=0,  # 1: brightness, contrast, saturation; 2: and JPEG compression
    data_cutoff=0,  # side of a gray square in pixels, 0 for none
    data_rotate=0.0,  # degrees either way
    data_scale=0.0,  # fraction either way
    data_shift=0.0,  # fraction of the side either way
    data_yaw=0.0,  # degrees by which the head turns to either side
    data_pitch=0.0,  # degrees by which it turns up or down
    data_mix=0.0,  # probability that a picture is mixed with another one, for a teacher alone
    data_crop=0.0,  # largest fraction of the area that becomes gray
    data_downsample=0.0,  # largest factor by which resolution is lost, 0 for none
    data_blur=0.0,  # largest standard deviation in pixels
    data_images_filter=0,  # leave out identities with fewer images
    # run
    ckpt_embedding=True,
    max_steps=0,
    count_flops=True,  # InsightFace's; nothing here reads it
)

network = EasyDict(
    d15=dict(net_name="fdensenet", num_layers=15, net_act="relu", net_input=0),
    d63=dict(net_name="fdensenet", num_layers=63, net_act="relu"),
    d121=dict(net_name="fdensenet", num_layers=121),
    d161=dict(net_name="fdensenet", num_layers=161),
    d169=dict(net_name="fdensenet", num_layers=169, per_batch_size=64),
    d201=dict(net_name="fdensenet", num_layers=201, per_batch_size=64),
    r18=dict(net_name="fresnet", num_layers=18),
    r34=dict(net_name="fresnet", num_layers=34),
    r50=dict(net_name="fresnet", num_layers=50),
    r50v1=dict(net_name="fresnet", num_layers=50, net_unit=1),
    r50fc=dict(net_name="fresnet", num_layers=50, net_output="FC"),
    r100=dict(net_name="fresnet", num_layers=100),
    r100fc=dict(net_name="fresnet", num_layers=100, net_output="FC"),
    y1=dict(net_name="fmobilefacenet", emb_size=128, net_output="GDC"),
    y2=dict(net_name="fmobilefacenet", emb_size=256, net_output="GDC", net_blocks=[2, 8, 16, 4]),
)

dataset = EasyDict(
    emore=dict(
        dataset="emore",
        dataset_path="../datasets/faces_emore",
        num_classes=85742,
        image_shape=(112, 112, 3),
        val_targets=["lfw", "cfp_fp", "agedb_30"],
    ),
    retina=dict(
        dataset="retina",
        dataset_path="../datasets/ms1m-retinaface-t1",
        num_classes=93431,
        image_shape=(112, 112, 3),
        val_targets=["lfw", "cfp_fp", "agedb_30"],
    ),
    orl=dict(
        dataset="orl",
        dataset_path="datasets/orl",
        num_classes=30,
        image_shape=(112, 112, 3),
        val_targets=["orl"],
        # 300 pictures: chosen on a split of the training subjects, see docs/orl.md
        data_rotate=5.0,
        data_scale=0.05,
        data_shift=0.03,
        data_color=1,
        data_cutoff=40,
        data_downsample=8,
        data_blur=2,
        loss_s=32.0,
        per_batch_size=16,
        lr=0.05,
        lr_schedule="cosine",
        warmup_steps=20,
        wd=0.002,
        max_steps=600,
        verbose=200,
    ),
)

loss = EasyDict(
    softmax=dict(loss_name="softmax"),
    nsoftmax=dict(loss_name="margin_softmax", loss_s=64.0, loss_m1=1.0, loss_m2=0.0, loss_m3=0.0),
    arcface=dict(loss_name="margin_softmax", loss_s=64.0, loss_m1=1.0, loss_m2=0.5, loss_m3=0.0),
    cosface=dict(loss_name="margin_softmax", loss_s=64.0, loss_m1=1.0, loss_m2=0.0, loss_m3=0.35),
    combined=dict(loss_name="margin_softmax", loss_s=64.0, loss_m1=1.0, loss_m2=0.3, loss_m3=0.2),
    subcenter=dict(loss_name="margin_softmax", loss_s=64.0, loss_m1=1.0, loss_m2=0.5, loss_m3=0.0, loss_k=3),
    adaface=dict(loss_name="adaface", loss_s=64.0, loss_m=0.4, loss_h=0.333, loss_t_alpha=0.01),
    teacher=dict(loss_name="teacher"),
    triplet=dict(
        loss_name="triplet",
        images_per_identity=5,
        triplet_alpha=0.3,
        triplet_bag_size=7200,
        triplet_max_ap=0.0,
        per_batch_size=60,
        lr=0.05,
    ),
    atriplet=dict(
        loss_name="atriplet",
        images_per_identity=5,
        triplet_alpha=0.35,
        triplet_bag_size=7200,
        triplet_max_ap=0.0,
        per_batch_size=60,
        lr=0.05,
    ),
)

default = EasyDict(
    network="d121",
    dataset="emore",
    loss="arcface",
    pretrained="",
    pretrained_epoch=1,
    models_root="./models",
    kvstore="device",
    lr=0.1,
    lr_schedule="step",  # or cosine, poly
    lr_steps="100000,160000,220000",
    clip_norm=0.0,
    ema=0.0,
    wd=0.0005,
    mom=0.9,
    per_batch_size=128,
    end_epoch=10000,
    warmup_steps=0,
    frequent=20,
    verbose=2000,
    ckpt=3,
    seed=0,
)

# Least and greatest value that ``override`` accepts, for each item of a list. Training cannot work beyond them.
BOUNDS = dict(
    emb_size=(1, 65536),
    net_multiplier=(0.01, 100),
    net_blocks=(1, 1000),
    bn_mom=(0, 1),
    workspace=(0, 65536),
    num_classes=(1, 1 << 24),
    image_shape=(1, 4096),
    fc7_lr_mult=(0, 1000),
    fc7_wd_mult=(0, 1000),
    loss_s=(0.001, 10000),
    loss_m1=(0.01, 100),
    loss_m2=(-math.pi, math.pi),
    loss_m3=(-2, 2),
    loss_k=(1, 64),
    loss_m=(0, math.pi / 2),
    loss_h=(0.001, 100),
    loss_t_alpha=(0.0001, 1),
    interclass_filtering_threshold=(0, 1),
    images_per_identity=(2, 65536),
    triplet_alpha=(0, 4),
    triplet_bag_size=(1, 1 << 24),
    triplet_max_ap=(0, 4),
    data_yaw=(0, 45),
    data_pitch=(0, 30),
    data_mix=(0, 1),
    data_crop=(0, 0.95),
    data_downsample=(0, 16),
    data_blur=(0, 10),
    data_images_filter=(0, 1 << 24),
    max_steps=(-1, 10**9),
    pretrained_epoch=(0, 10**9 - 1),
    lr=(0, 1000),
    clip_norm=(0, 10**9),
    ema=(0, 0.999999),
    wd=(0, 1000),
    mom=(0, 1),
    per_batch_size=(1, 8192),
    end_epoch=(1, 10**9),
    warmup_steps=(0, 10**9),
    frequent=(1, 10**9),
    verbose=(1, 10**9),
    ckpt=(0, 3),
    seed=(0, 2**64 - 1),
)

# InsightFace's networks whose files this project does not have.
INSIGHTFACE_NETWORKS = ("m1", "m05", "mnas", "mnas05", "mnas025", "vargfacenet")

# Keys that InsightFace has and this project has not: the one value that changes nothing, and the advice for others.
ABSENT_KEYS = dict(
    fp16=(False, "--dtype bfloat16 trains with half of the bits"),
    memonger=(False, "for less memory use smaller batches, and accumulate several per step"),
    num_workers=(1, "denseface launch starts several workers"),
    is_shuffled_rec=(False, "records are shuffled by their index, whatever their order in the file"),
)

PRISTINE = copy.deepcopy((config, default))


def generate_config(_network: str, _dataset: str, _loss: str, _networks: "dict | None" = None) -> None:
    """Fill ``config`` and ``default`` for one network, data set and loss.

    Both start from the values above at every call, so nothing of an earlier call remains. Where tables disagree, the
    later one wins: loss, network, data set. A key of ``default`` found in a table changes ``default`` too.
    ``_networks`` adds entries to the table ``network`` for this call only.

    Raises
    ------
    InputError
        For a name that no table has; the message lists those that exist.
    """
    networks = {**network, **(_networks or {})}
    for option, name, table in (("loss", _loss, loss), ("network", _network, networks), ("dataset", _dataset, dataset)):
        if option == "network" and name not in table and name in INSIGHTFACE_NETWORKS:
            raise InputError(
                f"{name} needs InsightFace's network files: name their folder as symbol_path, and a networks file with "
                "the entries in docs/networks.md",
                option=option,
            )
        if name not in table:
            raise InputError(f"there is no {name!r}; there are {', '.join(table)}", option=option)
    for current, pristine in zip((config, default), PRISTINE):
        for key in list(current):
            current.pop(key)
        current.update(copy.deepcopy(pristine))
    for table in (loss[_loss], networks[_network], dataset[_dataset]):
        settings = copy.deepcopy(table)
        config.update(settings)
        default.update({key: value for key, value in settings.items() if key in default})
    config.update(network=_network, dataset=_dataset, loss=_loss)


def override(assignments: "Iterable[str]") -> None:
    """Apply ``key=value`` texts, as the flag ``--set`` gives them, to ``config`` and ``default``.

    A value is read as the type of the key's current value: ``true`` or ``false``, a finite number, a text, or a
    comma-separated list of items of the current type (as many as now for a tuple).

    Raises
    ------
    InputError
        For a key that does not exist (the message has the nearest ones), a value that does not fit its type or is out
        of ``BOUNDS``, or a key that names a table's entry, which ``generate_config`` chooses.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        tables = [table for table in (config, default) if key in table]
        if not equals:
            raise InputError(f"{assignment}: write it as key=value", option="set")
        if key in ABSENT_KEYS and key not in config:
            usual, advice = ABSENT_KEYS[key]
            if _parse(key, text, usual) != usual:
                raise InputError(f"{key}={text}: not supported: {advice}; leave it out", option="set")
            continue
        if key == "data_cutoff" and text.lower() in ("true", "false"):  # InsightFace's key is a flag
            if text.lower() == "true":
                raise InputError(f"{key}={text}: write the side of the square in pixels, as in {key}=40", option="set")
            text = "0"
        if key == "num_classes":
            raise InputError("num_classes: the data set's file property has it; leave it out", option="set")
        if not tables:
            near = difflib.get_close_matches(key, {*config, *default}, n=3, cutoff=0.5)
            raise InputError(f"{key}: no such key" + (f"; nearest: {', '.join(near)}" if near else ""), option="set")
        if key in ("network", "dataset", "loss"):
            raise InputError(f"{key}: a key sets one value; choose the whole {key} by its name", option="set")
        if key == "loss_name":
            raise InputError("loss_name: each loss has keys of its own; choose a loss by its name", option="set")
        for table in tables:
            table[key] = _parse(key, text, table[key])


def _parse(key, text, current):
    """Read text as the type of the current value."""
    if isinstance(current, (list, tuple)):
        items = text.split(",") if text else []
        if isinstance(current, tuple) and len(items) != len(current):
            example = ",".join(map(str, current))
            raise InputError(f"{key}={text}: expected {len(current)} values, as in {key}={example}", option="set")
        return type(current)(_parse(key, item.strip(), current[0] if current else "") for item in items)
    if isinstance(current, bool):
        values = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() in values:
            return values[text.lower()]
    elif isinstance(current, str):
        return text
    else:
        try:
            value = type(current)(text)
        except ValueError:
            value = math.nan
        low, high = BOUNDS.get(key, (-math.inf, math.inf))
        if isinstance(value, int) or math.isfinite(value):
            if low <= value <= high:
                return value
            raise InputError(f"{key}={text}: it must be from {low:.9g} to {high:.9g}", option="set")
    raise InputError(f"{key}={text}: expected {type(current).__name__}, as in {key}={current}", option="set")
