"""Put a run together from its configuration: data, loader, network, learner and plan."""

from __future__ import annotations

import argparse
import hashlib
import json
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
from denseface.models.distillation import INPUTS
from denseface.models.graph import Graph
from denseface.rewrites.accelerate import accelerate
from denseface.training.averages import Averages
from denseface.training.decay import set_decay_multipliers
from denseface.training.devices import contexts
from denseface.training.frozen import fix_statistics, frozen_names, set_rates
from denseface.training.learner import Learner
from denseface.training.partial_fc import sample_size
from denseface.training.run import Plan, Run
from denseface.training.schedule import Schedule
from denseface.training.teacher import Teacher
from denseface.training.triplets import METRICS, Mining, TripletLoader, check_share

import mxnet as mx

RECIPE = ("dtype", "ema", "freeze", "lr_mult")  # options that a resumed run has to repeat, if set


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
    plan = make_plan(args, loader, make_recipe(args, embedding, learner, loader))
    return Run(learner, loader, plan, prefix, deployed, verify, averages)


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
    graph = Graph(symbol)
    set_decay_multipliers(graph)
    if args.lr_mult:
        set_rates(graph, args.lr_mult)
    data_shape = PictureShape(*config.image_shape).nchw(batch_size)
    on_cpu = all(device.device_type == "cpu" for device in devices)
    bfloat16 = args.dtype == "bfloat16"
    if bfloat16 and not on_cpu:
        raise InputError("GPUs are trained on in float32 only; leave it out", option="dtype")
    frozen = frozen_names(args.freeze, embedding)
    above = {*graph.arguments} - {*embedding.list_arguments(), *INPUTS}
    if not above and frozen >= {*embedding.list_arguments()} - {"data"}:
        raise InputError(
            f"the loss {config.loss_name} has no parameters of its own, so nothing is left to train", option="freeze"
        )
    if frozen:
        fix_statistics(graph, frozen)
    if on_cpu:
        accelerate(graph, data_shape, bfloat16=bfloat16)
    return Learner(
        graph.symbol(),
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
        frozen=frozen,
    )


def make_loader(
    config: EasyDict, args: argparse.Namespace, workers: Workers, records: FaceRecords, learner: Learner
) -> Loader:
    """Choose the loader: all pictures in random order or, for a loss on triplets, mined ones."""
    reader = PictureReader(records, config.image_shape, max_bad=args.max_bad)
    augmentation = Augmentation.from_config(config)
    batch_size = args.per_batch_size * len(learner.devices)
    if config.data_mix and config.loss_name != "teacher":
        raise InputError("data_mix: a mixture of two people has no identity; take --loss teacher", option="set")
    if config.loss_name not in METRICS:
        share = {"num_parts": workers.size, "part_index": workers.rank}
        return BatchLoader(reader, batch_size, augmentation, args.seed, mix=config.data_mix, **share)
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


def make_plan(args: argparse.Namespace, loader: Loader, recipe: dict[str, Any]) -> Plan:
    """Turn epochs into steps, and flags into a plan."""
    batches = args.epochs * loader.steps_per_epoch
    if batches < args.accumulate:
        raise InputError(f"{args.accumulate}: the run has only {batches} batches; use fewer", option="accumulate")
    steps = batches // args.accumulate
    steps = min(steps, args.max_steps) if args.max_steps > 0 else steps
    warmup = args.warmup_steps
    if args.warmup_epochs is not None:
        warmup = round(args.warmup_epochs * loader.steps_per_epoch / args.accumulate)
    return Plan(
        steps=steps,
        schedule=Schedule(args.lr_schedule, args.lr, steps, warmup, args.lr_steps),
        frequent=args.frequent,
        verbose=args.verbose,
        keep=args.ckpt,
        accumulate=args.accumulate,
        seed=args.seed,
        recipe=recipe,
    )


def make_recipe(args: argparse.Namespace, embedding: mx.sym.Symbol, learner: Learner, loader: Loader) -> dict[str, Any]:
    """Collect the options that a resumed run has to repeat, as plain values.

    They decide which pictures a step sees, how it computes, or what a checkpoint contains. Rates, lengths, losses and
    augmentation are not among them: these may change within a run.
    """
    recipe = {name: vars(args)[name] for name in RECIPE if vars(args)[name]}
    pictures = loader.batch_size * args.accumulate * learner.workers.size
    recipe.update(seed=args.seed, per_batch_size=f"{pictures} pictures per step")
    if learner.teacher:
        recipe.update(teacher=learner.teacher.identity, teacher_weight=args.teacher_weight)
    if args.network == families.PRETRAINED:
        digest = hashlib.sha256(embedding.tojson().encode()).hexdigest()
        recipe["network"] = f"{families.PRETRAINED} (graph {digest[:12]})"
    return json.loads(json.dumps(recipe))
