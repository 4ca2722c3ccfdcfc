"""Put a run together from its configuration: data, loader, network, learner and plan."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from typing import Any

from easydict import EasyDict

from denseface.core.errors import InputError
from denseface.data.augment import Augmentation
from denseface.data.loader import BatchLoader, Loader, PictureReader
from denseface.data.pictures import PictureShape
from denseface.data.records import FaceRecords
from denseface.distributed.workers import Workers
from denseface.models import families
from denseface.models.checkpoint import Model
from denseface.models.embedding_network import explain_shape
from denseface.rewrites.accelerate import accelerate
from denseface.training.averages import Averages
from denseface.training.decay import with_decay_multipliers
from denseface.training.devices import contexts
from denseface.training.learner import Learner
from denseface.training.partial_fc import sample_size
from denseface.training.run import Plan, Run
from denseface.training.schedule import Schedule
from denseface.training.teacher import Teacher
from denseface.training.triplets import METRICS, Mining, TripletLoader, check_share

import mxnet as mx

logger = logging.getLogger("denseface")


def assemble(
    config: EasyDict,
    args: argparse.Namespace,
    workers: Workers,
    records: FaceRecords,
    embedding: mx.sym.Symbol,
    prefix: str,
    verify: Callable[[dict, dict], Mapping[str, Any]],
) -> Run:
    """Put a run together; its parameters are not set yet.

    Parameters
    ----------
    config : EasyDict
        From :func:`denseface.models.families.configure`, with the ``num_classes`` of the records.
    args : argparse.Namespace
        The flags of ``train.py``, as its ``parse_args`` returns them.
    workers : OneWorker or ServerWorkers
        The processes that train together.
    records : FaceRecords
        The training set.
    embedding : Symbol
        The network.
    prefix : str
        Prefix of the run's files; the folder exists.
    verify : callable
        As for :class:`Run`.

    Raises
    ------
    InputError
        If configuration, flags, devices and records do not go together.
    """
    if records.num_classes == 1 and config.loss_name != "teacher":
        raise InputError(
            f"{config.loss} tells identities apart, but {config.dataset_path} has only one; take teacher", option="loss"
        )
    learner = make_learner(config, args, workers, embedding)
    loader = make_loader(config, args, workers, records, learner)
    whole = not config.ckpt_embedding and config.loss_name != "teacher"
    deployed = families.training_symbol(config, embedding) if whole else embedding
    averages = make_averages(args.ema, learner, embedding) if args.ema and workers.is_first else None
    return Run(learner, loader, make_plan(args, loader, learner.teacher), prefix, deployed, verify, averages)


def make_learner(config: EasyDict, args: argparse.Namespace, workers: Workers, embedding: mx.sym.Symbol) -> Learner:
    """Put the loss on a network, and bind it on the devices; with a sample rate, with room for a sample of the classes.

    Parameters
    ----------
    config, args, workers
        As for :func:`assemble`.
    embedding : Symbol
        The network.
    """
    if config.loss_name in METRICS:
        check_share(args.per_batch_size)
    devices = contexts(args.gpus)
    batch_size = args.per_batch_size * len(devices)
    classes = config.num_classes
    if args.sample_rate != 1:
        if config.loss_name in (*METRICS, "teacher"):
            raise InputError(
                f"the loss {config.loss_name} has no classes to sample; leave it out", option="sample_rate"
            )
        classes = sample_size(classes, args.sample_rate, batch_size * args.accumulate * workers.size)
    teacher = None
    if args.teacher:
        teacher = Teacher(args.teacher, config.image_shape, batch_size, devices[0])
        symbol = families.taught_symbol(config, embedding, teacher.emb_size, args.teacher_weight, classes)
    else:
        symbol = families.training_symbol(config, embedding, classes)
    symbol = with_decay_multipliers(symbol)
    data_shape = PictureShape(*config.image_shape).nchw(batch_size)
    bfloat16 = args.dtype == "bfloat16"
    if all(device.device_type == "cpu" for device in devices):
        symbol = accelerate(symbol, data_shape, bfloat16=bfloat16)
    elif bfloat16:
        raise InputError("GPUs are trained on in float32 only; leave it out", option="dtype")
    return Learner(
        symbol,
        data_shape,
        devices,
        momentum=args.mom,
        wd=args.wd,
        accumulate=args.accumulate,
        kvstore=args.kvstore,
        workers=workers,
        clip_norm=args.clip_norm,
        num_classes=config.num_classes if classes < config.num_classes else None,
        teacher=teacher,
    )


def make_loader(
    config: EasyDict, args: argparse.Namespace, workers: Workers, records: FaceRecords, learner: Learner
) -> Loader:
    """Choose the loader: all pictures in random order or, for a loss on triplets, mined ones."""
    reader = PictureReader(records, config.image_shape, max_bad=args.max_bad)
    augmentation = Augmentation.from_config(config)
    batch_size = args.per_batch_size * len(learner.devices)
    if config.loss_name not in METRICS:
        return BatchLoader(reader, batch_size, augmentation, args.seed, num_parts=workers.size, part_index=workers.rank)
    mining = Mining(
        METRICS[config.loss_name],
        alpha=config.triplet_alpha,
        bag_size=config.triplet_bag_size,
        images_per_identity=config.images_per_identity,
        max_ap=config.triplet_max_ap,
    )
    return TripletLoader(
        reader,
        learner.embed,
        mining,
        batch_size,
        augmentation,
        args.seed,
        num_devices=len(learner.devices),
        accumulate=args.accumulate,
        workers=workers,
    )


def make_averages(decay: float, learner: Learner, embedding: mx.sym.Symbol) -> Averages:
    """Make averages of the embedding network's parameters and batch statistics."""
    deployed = {*embedding.list_arguments(), *embedding.list_auxiliary_states()}
    bound = [{name: array for name, array in kind.items() if name in deployed} for kind in learner.bound()]
    return Averages(decay, *bound)


def make_plan(args: argparse.Namespace, loader: Loader, teacher: Teacher | None) -> Plan:
    """Turn epochs into steps, and flags into a plan."""
    batches = args.epochs * loader.steps_per_epoch
    if batches < args.accumulate:
        raise InputError(f"{args.accumulate}: the run has only {batches} batches; use fewer", option="accumulate")
    steps = batches // args.accumulate
    steps = min(steps, args.max_steps) if args.max_steps > 0 else steps
    warmup = args.warmup_steps
    if args.warmup_epochs is not None:
        warmup = round(args.warmup_epochs * loader.steps_per_epoch / args.accumulate)
    recipe = {"ema": args.ema, "teacher": teacher and teacher.identity}
    return Plan(
        steps=steps,
        schedule=Schedule(args.lr_schedule, args.lr, steps, warmup, args.lr_steps),
        frequent=args.frequent,
        verbose=args.verbose,
        keep=args.ckpt,
        accumulate=args.accumulate,
        seed=args.seed,
        recipe={option: value for option, value in recipe.items() if value},
    )


def adopt(learner: Learner, model: Model) -> None:
    """Copy the parameters of a pretrained model that fit the learner, by name and shape, and log what was copied.

    Raises
    ------
    InputError
        If less than half of the learner's parameters are among them.
    """
    loaded, fresh, left_over = learner.adopt(model.arguments, model.auxiliary)
    logger.info("%s: %d parameters loaded", model.name, len(loaded))
    for names, fate in ((fresh, "start fresh"), (left_over, "are not used here")):
        if names:
            logger.info("  %d %s: %s", len(names), fate, ", ".join(names[:10]) + (", ..." if len(names) > 10 else ""))
    shapes = {name: array.shape for name, array in learner.parameters()[0].items()}
    for name in {*fresh} & {*left_over} & {*shapes}:
        logger.info("  %s", explain_shape(name, model.arguments[name].shape, shapes[name]))
    if len(loaded) < len(fresh):
        raise InputError(
            f"{model.name} fits only {len(loaded)} of {len(loaded) + len(fresh)} parameters; check the network",
            option="pretrained",
        )
