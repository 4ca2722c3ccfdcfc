"""Networks, data sets, losses and recipes by name, with InsightFace's tables and keys.

``generate_config("d121", "emore", "arcface")`` fills ``config`` and ``default`` for files written for InsightFace.
Every key has its default, bounds and meaning in ``denseface/options/spec.py``; docs/training.md lists them.
"""

from easydict import EasyDict

from denseface.options import names

config = EasyDict()  # every key of the network, loss and data set chosen last
default = EasyDict()  # of these, the keys that train.py has flags for

# Your own defaults, in place of those in spec.py: dict(network="d63", lr=0.05), say.
usual = EasyDict()

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

# Training as a whole, for train.py --recipe NAME: what was chosen together.
recipe = EasyDict(
    # Some hundred aligned pictures of some tens of people; 600 steps, a minute or two on two cores:
    #     python train.py --recipe small --dataset datasets/mine
    # Chosen on people 1-30 of ORL; docs/orl.md has the measurements.
    small=dict(
        network="d15",
        loss="arcface",
        emb_size=128,
        loss_s=32.0,
        loss_m2=0.3,
        data_rotate=5.0,
        data_scale=0.05,
        data_shift=0.03,
        data_color=1,
        data_cutoff=40,
        data_downsample=8.0,
        data_blur=2.0,
        per_batch_size=16,
        lr=0.05,
        lr_schedule="cosine",
        warmup_steps=20,
        wd=0.002,
        max_steps=600,
        verbose=200,
    ),
)


def tables() -> names.Tables:
    """Return the tables above."""
    return names.Tables(network, dataset, loss, recipe, usual)


def generate_config(_network: "str | None", _dataset: "str | None", _loss: "str | None") -> None:
    """Fill ``config`` and ``default`` for one network, data set and loss; nothing of an earlier call remains.

    Raises
    ------
    InputError
        For a name that no table has; the message lists those that exist.
    """
    names.fill(config, default, names.resolve(tables(), names.Names(_network, _dataset, _loss)))


generate_config(None, None, None)  # the usual ones, until others are chosen
