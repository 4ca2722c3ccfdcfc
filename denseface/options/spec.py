"""All options of a training run, each in one place: its value, default, bounds, unit and help, and what a resume asks.

``train.py``'s flags, the keys of ``config.py`` and ``--set``, bounds, the check of a resumed run and the table in
docs/training.md follow from these fields; see :class:`denseface.core.option.Option`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from denseface.core.option import Option, Options, Resume, option, options_of
from denseface.data.augment import Augmentation

PRETRAINED = "pretrained"  # in place of a network's name: the graph is that of a pretrained model
CLASSIFIERS = ("softmax", "margin_softmax", "adaface")
TRIPLETS = ("triplet", "atriplet")
_COSINES = ("margin_softmax", "adaface")
_MARGINS = ("margin_softmax",)
_ADAFACE = ("adaface",)
_LOSSES = (*CLASSIFIERS, "teacher", *TRIPLETS)
_MANY = 10**9
REPEATS, FITS, ROUNDS = Resume.REPEATS, Resume.FITS, Resume.ROUNDS
NO_STEP, ANOTHER, UNUSED = Resume.NO_STEP, Resume.ANOTHER, Resume.UNUSED


class RateFactor(NamedTuple):
    """A factor on the learning rate of parameters, by a pattern of their names."""

    pattern: str
    factor: float


def _rate_factor(text: str) -> RateFactor:
    pattern, equals, factor = text.rpartition("=")
    try:
        value = float(factor if equals else "")
    except ValueError:
        raise ValueError("write it as PATTERN=FACTOR, as in fc7_weight=10") from None
    if not 0 <= value <= 1000:
        raise ValueError("the factor must be from 0 to 1000")
    return RateFactor(pattern, value)


def _joined(values: tuple) -> str:
    return ",".join(map(str, values))


@dataclass(frozen=True)
class NetworkSpec(Options):
    """The network; ``extra`` has keys that only a network's own file knows."""

    network: str = option(
        "d121",
        "network by its name",
        flag=True,
        resume=ANOTHER,
        chosen="a key sets one value; choose the whole network by its name",
    )
    networks: str | None = option(
        None, "JSON file of more networks", kind=str, flag=True, key="", metavar="FILE", resume=FITS
    )
    symbol_path: str | None = option(
        None,
        "folder of network files (InsightFace's symbol folder, say)",
        kind=str,
        flag=True,
        key="",
        metavar="DIR",
        resume=FITS,
    )
    net_name: str = option("fdensenet", "family of the network: a file of symbol/", resume=FITS)
    num_layers: int = option(121, "depth", resume=FITS)
    emb_size: int = option(512, "values per embedding", bounds=(1, 65536), resume=FITS)
    net_act: str = option("prelu", "activation", resume=FITS)
    net_output: str = option("E", "head, from features to the embedding (docs/networks.md)", resume=FITS)
    net_multiplier: float = option(
        1.0, "factor on the number of channels of a MobileFaceNet", bounds=(0.01, 100), resume=FITS
    )
    net_blocks: tuple[int, ...] = option(
        (1, 4, 6, 2), "blocks per stage of a MobileFaceNet", many=True, bounds=(1, 1000), form=list, resume=FITS
    )
    net_input: int = option(
        1, "first layers: 1 for a 3x3 convolution, or else the paper's 7x7 and pooling", resume=FITS
    )
    net_se: int = option(0, "1: squeeze and excitation in a ResNet", resume=FITS)
    net_unit: int = option(3, "unit of a ResNet", resume=FITS)
    densenet_dropout: float = option(0.0, "dropout in dense layers", resume=FITS)
    bn_mom: float = option(0.9, "momentum of batch statistics", bounds=(0, 1), resume=FITS)
    workspace: int = option(256, "memory per convolution on a GPU", bounds=(0, 65536), unit="MiB", resume=NO_STEP)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LossSpec(Options):
    """The loss."""

    loss: str = option(
        "arcface",
        "loss by its name",
        flag=True,
        resume=ANOTHER,
        chosen="a key sets one value; choose the whole loss by its name",
    )
    loss_name: str = option(
        "margin_softmax",
        "kind of the loss",
        choices=_LOSSES,
        resume=ANOTHER,
        chosen="each loss has keys of its own; choose a loss by its name",
    )
    loss_s: float = option(64.0, "scale of the cosines", bounds=(0.001, 10000), losses=_COSINES)
    loss_m1: float = option(1.0, "factor on the angle (SphereFace)", bounds=(0.01, 100), losses=_MARGINS)
    loss_m2: float = option(
        0.5, "margin on the angle (ArcFace)", bounds=(-math.pi, math.pi), unit="radians", losses=_MARGINS
    )
    loss_m3: float = option(0.0, "margin on the cosine (CosFace)", bounds=(-2, 2), losses=_MARGINS)
    loss_k: int = option(1, "centers per class (Sub-center ArcFace)", bounds=(1, 64), losses=_MARGINS, resume=FITS)
    loss_m: float = option(0.4, "margin of AdaFace", bounds=(0, math.pi / 2), losses=_ADAFACE)
    loss_h: float = option(
        0.333,
        "how fast AdaFace's margin changes with the length of the embedding",
        bounds=(0.001, 100),
        losses=_ADAFACE,
    )
    loss_t_alpha: float = option(
        0.01, "weight of a batch in AdaFace's moving averages", bounds=(0.0001, 1), losses=_ADAFACE
    )
    interclass_filtering_threshold: float = option(
        0.0, "cosine beyond which another class counts as the same person; 0 for none", bounds=(0, 1), losses=_COSINES
    )
    ce_loss: bool = option(True, "compute the cross-entropy for the log", losses=CLASSIFIERS)
    fc7_lr_mult: float = option(
        1.0, "factor on the learning rate of class centers", bounds=(0, 1000), losses=CLASSIFIERS
    )
    fc7_wd_mult: float = option(
        1.0, "factor on the weight decay of class centers", bounds=(0, 1000), losses=CLASSIFIERS
    )
    fc7_no_bias: bool = option(False, "no bias in the classifier of softmax", losses=CLASSIFIERS, resume=FITS)
    images_per_identity: int = option(
        5, "pictures of an identity in a bag", bounds=(2, 65536), unit="pictures", losses=TRIPLETS
    )
    triplet_alpha: float = option(
        0.3, "margin of triplets, in squared distance or in radians", bounds=(0, 4), losses=TRIPLETS
    )
    triplet_bag_size: int = option(
        7200,
        "pictures that are embedded before triplets are chosen among them",
        bounds=(1, 1 << 24),
        unit="pictures",
        losses=TRIPLETS,
    )
    triplet_max_ap: float = option(
        0.0, "largest distance of a pair of one identity; 0 for any", bounds=(0, 4), losses=TRIPLETS
    )
    sample_rate: float = option(
        1.0,
        "fraction of the classes that a step trains on (Partial FC)",
        bounds=(1e-6, 1),
        flag=True,
        key="",
        metavar="R",
    )
    teacher: str | None = option(
        None,
        "model whose embeddings of the same pictures the network learns, beside the loss or, with the loss "
        "teacher, instead of one; or a file .onnx",
        kind=str,
        flag=True,
        key="",
        metavar="PREFIX,EPOCH",
        resume=REPEATS,
    )
    teacher_weight: float = option(
        16.0, "factor on the teacher's loss", bounds=(1e-6, 1e6), flag=True, key="", metavar="W", resume=REPEATS
    )


@dataclass(frozen=True)
class DataSpec(Options):
    """The pictures."""

    dataset: str = option(
        "emore",
        "data set by its name, or the path of its folder",
        flag=True,
        resume=ANOTHER,
        chosen="a key sets one value; choose the whole data set by its name",
    )
    dataset_path: str = option("../datasets/faces_emore", "folder of the data set")
    num_classes: int = option(
        85742,
        "identities in the data set",
        bounds=(1, 1 << 24),
        resume=FITS,
        chosen="the data set's file property has it; leave it out",
    )
    image_shape: tuple[int, int, int] = option(
        (112, 112, 3), "height, width and channels of pictures", many=True, count=3, bounds=(1, 4096), resume=FITS
    )
    val_targets: tuple[str, ...] = option(
        ("lfw", "cfp_fp", "agedb_30"),
        "verification sets: NAME for NAME.bin in the data set's folder",
        many=True,
        form=list,
        resume=NO_STEP,
    )
    data_images_filter: int = option(
        0, "leave out identities with fewer pictures", bounds=(0, 1 << 24), unit="pictures", resume=FITS
    )
    data_mix: float = option(
        0.0, "probability that a picture is mixed with another one; for the loss teacher alone", bounds=(0, 1)
    )
    max_bad: int | None = option(
        None,
        "stop after more than this number of unreadable pictures (default: no limit)",
        kind=int,
        bounds=(0, _MANY),
        flag=True,
        key="",
        resume=NO_STEP,
    )
    loader_threads: int | None = option(
        None,
        "threads that read and augment pictures (default: one per processor, up to 4, or up to 16 to feed GPUs)",
        kind=int,
        bounds=(1, 1024),
        flag=True,
        key="",
        resume=NO_STEP,
    )
    augmentation: Augmentation = field(default=Augmentation())


@dataclass(frozen=True)
class OptimizerSpec(Options):
    """Steps: how long, how large, how fast."""

    epochs: int = option(10000, "number of epochs", bounds=(1, _MANY), flag=True, key="end_epoch")
    max_steps: int = option(0, "maximum number of steps; 0 or -1 for no limit", bounds=(-1, _MANY), flag=True)
    per_batch_size: int = option(
        128,
        "batch size per device",
        bounds=(1, 8192),
        unit="pictures",
        flag=True,
        resume=REPEATS,
        advice={"0": "0 is InsightFace's way to ask for 128; give the number itself"},
    )
    stop_after: int = option(
        0,
        "end the run after N verifications in a row without an improvement beyond the noise of the sets; 0 for never",
        bounds=(0, _MANY),
        flag=True,
    )
    accumulate: int = option(1, "batches per step", bounds=(1, _MANY), flag=True, key="", metavar="K", resume=REPEATS)
    lr: float = option(0.1, "learning rate", bounds=(0, 1000), flag=True, metavar="RATE")
    lr_schedule: str = option(
        "step",
        "how the rate falls after the warm-up: to a tenth at some steps, or to 0 at the end of the run along a "
        "cosine or a parabola (poly)",
        choices=("step", "cosine", "poly"),
        flag=True,
    )
    lr_steps: tuple[int, ...] = option(
        (100000, 160000, 220000),
        "steps at which the rate of the schedule step falls to a tenth; chooses that schedule",
        many=True,
        bounds=(0, _MANY),
        flag=True,
        metavar="N,N,...",
        form=_joined,
    )
    warmup_steps: int = option(0, "number of warm-up steps", bounds=(0, _MANY), flag=True)
    warmup_epochs: float | None = option(
        None, "length of the warm-up in epochs instead", kind=float, bounds=(0, _MANY), flag=True, key="", metavar="E"
    )
    clip_norm: float = option(
        0.0, "shorten gradients to this norm; 0 leaves them as they are", bounds=(0, _MANY), flag=True, metavar="NORM"
    )
    ema: float = option(
        0.0,
        "average the weights with this decay (0.999, say), and verify and save the averages too; 0 for none",
        bounds=(0, 0.999999),
        flag=True,
        metavar="DECAY",
        resume=REPEATS,
    )
    wd: float = option(0.0005, "weight decay", bounds=(0, 1000), flag=True, metavar="DECAY")
    mom: float = option(0.9, "momentum", bounds=(0, 1), flag=True, metavar="MOMENTUM")
    freeze: tuple[str, ...] = option(
        (),
        "keep parameters and batch statistics whose names match, as in '*_stage1_*'; may be repeated",
        kind=str,
        many=True,
        flag=True,
        key="",
        metavar="PATTERN",
        resume=REPEATS,
    )
    lr_mult: tuple[RateFactor, ...] = option(
        (),
        "multiply the learning rate of parameters whose names match; may be repeated, and "
        "the last one that matches counts",
        kind=str,
        many=True,
        parse=_rate_factor,
        flag=True,
        key="",
        metavar="PATTERN=FACTOR",
        resume=REPEATS,
    )
    seed: int = option(0, "seed of everything random", bounds=(0, 2**64 - 1), flag=True, resume=REPEATS)


@dataclass(frozen=True)
class DevicesSpec(Options):
    """What computes, and how exactly."""

    gpus: str | None = option(
        None,
        "numbers of GPUs (default: those of CUDA_VISIBLE_DEVICES, or else the CPU)",
        kind=str,
        flag=True,
        key="",
        metavar="0,1",
        resume=ROUNDS,
    )
    kvstore: str = option(
        "device",
        "MXNet's key-value store for several devices, or for several workers (dist_*)",
        choices=("local", "device", "nccl", "dist_sync", "dist_device_sync"),
        flag=True,
        resume=ROUNDS,
    )
    dtype: str = option(
        "float32",
        "multiply in float32, or in dense blocks and convolutions in bfloat16 if the processor can",
        choices=("float32", "bfloat16"),
        flag=True,
        key="",
        resume=REPEATS,
    )


@dataclass(frozen=True)
class StartSpec(Options):
    """Where a run starts."""

    pretrained: str = option(
        "",
        "model to start from; PREFIX alone means its newest epoch; or a file .onnx",
        flag=True,
        metavar="PREFIX,EPOCH",
        resume=UNUSED,
    )
    pretrained_epoch: int | None = option(
        None, "its epoch, as InsightFace writes it", kind=int, bounds=(0, _MANY - 1), flag=True, resume=UNUSED,
        form=lambda epoch: 1 if epoch is None else epoch,  # InsightFace's default; here it is the newest
    )  # fmt: skip
    warm_centers: bool = option(
        False,
        "start class centers at the mean embeddings of their pictures by the pretrained model",
        flag=True,
        key="",
        resume=UNUSED,
    )
    resume: bool = option(
        False, "continue from the run's newest checkpoint, if there is one", flag=True, key="", resume=UNUSED
    )


@dataclass(frozen=True)
class KeepingSpec(Options):
    """What is kept, and what is said."""

    models_root: str = option("./models", "folder of all runs", flag=True, metavar="DIR", resume=ANOTHER)
    verbose: int = option(
        2000, "steps between verifications, each with a checkpoint", bounds=(1, _MANY), flag=True, resume=NO_STEP
    )
    frequent: int = option(20, "steps between rows of the log", bounds=(1, _MANY), flag=True, resume=NO_STEP)
    ckpt: int = option(
        3,
        "models to keep: 0 none, 1 newest and each best, 2 all, 3 newest and best",
        choices=(0, 1, 2, 3),
        flag=True,
        resume=NO_STEP,
    )
    ckpt_embedding: bool = option(True, "save the network without the classifier", resume=FITS)
    count_flops: bool = option(True, "InsightFace's; nothing here reads it", resume=NO_STEP)


@dataclass(frozen=True)
class RunSpec:
    """All options of a run, in groups."""

    network: NetworkSpec = NetworkSpec()
    loss: LossSpec = LossSpec()
    data: DataSpec = DataSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    devices: DevicesSpec = DevicesSpec()
    start: StartSpec = StartSpec()
    keeping: KeepingSpec = KeepingSpec()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RunSpec:
        """Make a specification of values by the names of their options; names of none go to the network's ``extra``."""
        return _of(cls, values, {name: value for name, value in values.items() if name not in BY_NAME})

    def replace(self, **changes: Any) -> RunSpec:
        """Return these options with other values, by the names of their options."""
        return RunSpec.of({**self.by_name(), **self.network.extra, **changes})

    def by_name(self) -> dict[str, Any]:
        """Return the value of every option by its name, but those that the loss does not have."""
        return {each.name: value for each, value in _walk(self) if each.is_of(self.loss.loss_name)}

    def by_key(self) -> dict[str, Any]:
        """Return the values of all keys, in the form of InsightFace's files, with the network's own keys."""
        found = {
            each.key: each.form(value) if each.form else value
            for each, value in _walk(self)
            if each.key and each.is_of(self.loss.loss_name)
        }
        return {**found, **self.network.extra}


def _of(cls: type, values: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
    own = {each.field: values[each.name] for each in options_of(cls) if each.name in values}
    for part in dataclasses.fields(cls):
        if isinstance(part.default, Options):
            own[part.name] = _of(type(part.default), values, extra)
    if cls is NetworkSpec:
        own["extra"] = dict(extra)
    return cls(**own)


def _walk(spec: Any) -> Iterator[tuple[Option, Any]]:
    """Yield every option with its value, those of parts too."""
    for each in options_of(spec):
        yield each, getattr(spec, each.field)
    for part in dataclasses.fields(spec):
        if isinstance(part.default, Options):
            yield from _walk(getattr(spec, part.name))


GROUPS = {part.name: [one for one, _ in _walk(part.default)] for part in dataclasses.fields(RunSpec)}
OPTIONS = [each for group in GROUPS.values() for each in group]
BY_NAME = {each.name: each for each in OPTIONS}
BY_KEY = {each.key: each for each in OPTIONS if each.key}
