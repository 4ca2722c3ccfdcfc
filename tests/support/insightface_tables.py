"""What InsightFace's sample_config.py says, as far as this project has the same keys and names."""

VAL_TARGETS = ["lfw", "cfp_fp", "agedb_30"]

CONFIG = {
    "bn_mom": 0.9,
    "workspace": 256,
    "emb_size": 512,
    "ckpt_embedding": True,
    "net_se": 0,
    "net_act": "prelu",
    "net_unit": 3,
    "net_input": 1,
    "net_blocks": [1, 4, 6, 2],
    "net_output": "E",
    "net_multiplier": 1.0,
    "val_targets": VAL_TARGETS,
    "ce_loss": True,
    "fc7_lr_mult": 1.0,
    "fc7_wd_mult": 1.0,
    "fc7_no_bias": False,
    "max_steps": 0,
    "data_rand_mirror": True,
    "data_cutoff": False,
    "data_color": 0,
    "data_images_filter": 0,
    "count_flops": True,
}
DEFAULT = {
    "pretrained": "",
    "pretrained_epoch": 1,
    "dataset": "emore",
    "loss": "arcface",
    "frequent": 20,
    "verbose": 2000,
    "kvstore": "device",
    "end_epoch": 10000,
    "lr": 0.1,
    "wd": 0.0005,
    "mom": 0.9,
    "per_batch_size": 128,
    "ckpt": 3,
    "lr_steps": "100000,160000,220000",
    "models_root": "./models",
}
NETWORK = {
    "d169": {"net_name": "fdensenet", "num_layers": 169, "per_batch_size": 64},
    "d201": {"net_name": "fdensenet", "num_layers": 201, "per_batch_size": 64},
    "r50": {"net_name": "fresnet", "num_layers": 50},
    "r50v1": {"net_name": "fresnet", "num_layers": 50, "net_unit": 1},
    "r100": {"net_name": "fresnet", "num_layers": 100},
    "r100fc": {"net_name": "fresnet", "num_layers": 100, "net_output": "FC"},
    "y1": {"net_name": "fmobilefacenet", "emb_size": 128, "net_output": "GDC"},
    "y2": {"net_name": "fmobilefacenet", "emb_size": 256, "net_output": "GDC", "net_blocks": [2, 8, 16, 4]},
}
FACES = {"image_shape": (112, 112, 3), "val_targets": VAL_TARGETS}
DATASET = {
    "emore": {"dataset": "emore", "dataset_path": "../datasets/faces_emore", "num_classes": 85742, **FACES},
    "retina": {"dataset": "retina", "dataset_path": "../datasets/ms1m-retinaface-t1", "num_classes": 93431, **FACES},
}
MARGINS = {"loss_name": "margin_softmax", "loss_s": 64.0, "loss_m1": 1.0, "loss_m2": 0.0, "loss_m3": 0.0}
TRIPLETS = {
    "images_per_identity": 5,
    "triplet_bag_size": 7200,
    "triplet_max_ap": 0.0,
    "per_batch_size": 60,
    "lr": 0.05,
}
LOSS = {
    "softmax": {"loss_name": "softmax"},
    "nsoftmax": MARGINS,
    "arcface": {**MARGINS, "loss_m2": 0.5},
    "cosface": {**MARGINS, "loss_m3": 0.35},
    "combined": {**MARGINS, "loss_m2": 0.3, "loss_m3": 0.2},
    "triplet": {"loss_name": "triplet", "triplet_alpha": 0.3, **TRIPLETS},
    "atriplet": {"loss_name": "atriplet", "triplet_alpha": 0.35, **TRIPLETS},
}
