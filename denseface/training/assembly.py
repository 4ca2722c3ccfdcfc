"""Put a run together from its options: data, loader, network, learner and plan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from denseface.core.cpus import usable_cpus
from denseface.core.errors import InputError
from denseface.data.loader import BatchLoader, Loader, Part, PictureReader
from denseface.data.pictures import PictureShape
from denseface.data.records import FaceRecords
from denseface.distributed.workers import Workers
from denseface.models import families
from denseface.models.distillation import INPUTS, with_teacher
from denseface.models.graph import Graph
from denseface.options.spec import PRETRAINED, TRIPLETS, OptimizerSpec, RunSpec
from denseface.rewrites.accelerate import accelerate
from denseface.training.averages import Averages
from denseface.training.decay import set_decay_multipliers
from denseface.training.descent import Descent
from denseface.training.devices import contexts, on_cpu
from denseface.training.frozen import fix_statistics, frozen_names, set_rates
from denseface.training.learner import Devices, Learner, Task
from denseface.training.partial_fc import sample_size
from denseface.training.plan import Keep, Plan
from denseface.training.run import Run
from denseface.training.saved_options import repeated
from denseface.training.schedule import Schedule
from denseface.training.teacher import Teacher
from denseface.training.triplets import METRICS, Mining, StepShape, TripletLoader, check_share

import mxnet as mx

_GPU_THREADS = 16  # that read pictures, at most: more would wait for each other in Python


def assemble(
    spec: RunSpec,
    workers: Workers,
    records: FaceRecords,
    embedding: mx.sym.Symbol,
    prefix: str,
    verify: Callable[[dict, dict], Mapping[str, Any]],
) -> Run:
    """Put a run together; its parameters are not set yet.

    Parameters
    ----------
    spec : RunSpec
        The options, with the ``num_classes`` of the records.
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
        If options, devices and records do not go together.
    """
    if records.num_classes == 1 and spec.loss.loss_name != "teacher":
        raise InputError(
            f"{spec.loss.loss} tells identities apart, but {spec.data.dataset_path} has only one; take teacher",
            option="loss",
        )
    learner = make_learner(spec, workers, embedding)
    loader = make_loader(spec, workers, records, learner)
    whole = not spec.keeping.ckpt_embedding and spec.loss.loss_name != "teacher"
    deployed = families.training_symbol(spec, embedding) if whole else embedding
    ema = spec.optimizer.ema
    averages = make_averages(ema, learner, embedding) if ema and workers.is_first else None
    plan = make_plan(spec, prefix, loader, options_to_repeat(spec, embedding, learner, loader))
    return Run(learner, loader, plan, deployed, verify, averages)


def make_learner(spec: RunSpec, workers: Workers, embedding: mx.sym.Symbol) -> Learner:
    """Put the loss on a network, and bind it on the devices."""
    optimizer = spec.optimizer
    if spec.loss.loss_name in TRIPLETS:
        check_share(optimizer.per_batch_size)
    devices = Devices(tuple(contexts(spec.devices.gpus)), spec.devices.kvstore, workers)
    batch_size = optimizer.per_batch_size * len(devices.contexts)
    data_shape = PictureShape(*spec.data.image_shape).nchw(batch_size)
    classes = classes_per_step(spec, batch_size * optimizer.accumulate * workers.size)
    teacher = make_teacher(spec, batch_size, devices.contexts[0])
    graph = Graph(make_symbol(spec, embedding, classes, teacher))
    set_decay_multipliers(graph)
    set_rates(graph, optimizer.lr_mult)
    frozen = frozen_names(optimizer.freeze, embedding)
    check_that_something_learns(spec, graph, embedding, frozen)
    fix_statistics(graph, frozen)
    make_faster(graph, data_shape, devices, spec.devices.dtype, optimizer.accumulate > 1)
    task = Task(
        graph.symbol(),
        frozen,
        teacher,
        sampled_from=spec.data.num_classes if classes < spec.data.num_classes else None,
    )
    return Learner(task, data_shape, make_descent(optimizer), devices)


def classes_per_step(spec: RunSpec, pictures: int) -> int:
    """Number of classes that a step of so many pictures trains on: all, or with a sample rate a sample."""
    if spec.loss.sample_rate == 1:
        return spec.data.num_classes
    if spec.loss.loss_name in (*TRIPLETS, "teacher"):
        raise InputError(f"the loss {spec.loss.loss_name} has no classes to sample; leave it out", option="sample_rate")
    return sample_size(spec.data.num_classes, spec.loss.sample_rate, pictures)


def make_teacher(spec: RunSpec, batch_size: int, context: mx.Context) -> Teacher | None:
    """Load the teacher, if there is one."""
    if spec.loss.teacher:
        return Teacher(spec.loss.teacher, spec.data.image_shape, batch_size, context, spec.devices.dtype)
    if spec.loss.loss_name == "teacher":
        raise InputError("the loss teacher needs a model that teaches; name it", option="teacher")
    return None


def make_symbol(spec: RunSpec, embedding: mx.sym.Symbol, classes: int, teacher: Teacher | None) -> mx.sym.Symbol:
    """Put the loss on a network: that of classes, or the distance to a teacher, or both."""
    alone = spec.loss.loss_name == "teacher"
    class_loss = None if alone else families.training_symbol(spec, embedding, classes)
    if not teacher:
        return class_loss
    size = families.embedding_size(embedding, spec.data.image_shape)
    return with_teacher(embedding, size, teacher.emb_size, weight=spec.loss.teacher_weight, class_loss=class_loss)


def check_that_something_learns(spec: RunSpec, graph: Graph, embedding: mx.sym.Symbol, frozen: set[str]) -> None:
    """Raise InputError if the whole network is frozen, and the loss has no parameters."""
    below = {*embedding.list_arguments()}
    if frozen >= below - {"data"} and not {*graph.arguments} - {*below, *INPUTS}:
        raise InputError(
            f"the loss {spec.loss.loss_name} has no parameters of its own, so nothing is left to train", option="freeze"
        )


def make_faster(
    graph: Graph, data_shape: tuple[int, int, int, int], devices: Devices, dtype: str, accumulates: bool
) -> None:
    """Replace operators by faster ones, where the devices are processors."""
    if on_cpu(devices.contexts):
        accelerate(graph, data_shape, bfloat16=dtype == "bfloat16", accumulates=accumulates)
    elif dtype != "float32":
        raise InputError("GPUs are trained on in float32 only; leave it out", option="dtype")


def make_descent(optimizer: OptimizerSpec) -> Descent:
    """Say how parameters follow their gradients."""
    return Descent(optimizer.mom, optimizer.wd, optimizer.clip_norm, optimizer.accumulate)


def make_loader(spec: RunSpec, workers: Workers, records: FaceRecords, learner: Learner) -> Loader:
    """Choose the loader: all pictures in random order or, for a loss on triplets, mined ones."""
    data, loss, seed = spec.data, spec.loss, spec.optimizer.seed
    if data.data_mix and loss.loss_name != "teacher":
        raise InputError("data_mix: a mixture of two people has no identity; take the loss teacher", option="set")
    num_devices = len(learner.devices)
    threads = data.loader_threads or (None if on_cpu(learner.devices) else usable_cpus(most=_GPU_THREADS))
    reader = PictureReader(records, data.image_shape, threads, data.max_bad)
    batch_size = spec.optimizer.per_batch_size * num_devices
    if loss.loss_name not in TRIPLETS:
        part = Part(workers.rank, workers.size)
        return BatchLoader(reader, batch_size, data.augmentation, seed, data.data_mix, part)
    mining = Mining(
        METRICS[loss.loss_name],
        alpha=loss.triplet_alpha,
        bag_size=loss.triplet_bag_size,
        images_per_identity=loss.images_per_identity,
        max_ap=loss.triplet_max_ap,
    )
    step = StepShape(batch_size, num_devices, spec.optimizer.accumulate, workers)
    return TripletLoader(reader, learner.embed, mining, step, data.augmentation, seed)


def make_averages(decay: float, learner: Learner, embedding: mx.sym.Symbol) -> Averages:
    """Make averages of the embedding network's parameters and batch statistics."""
    deployed = {*embedding.list_arguments(), *embedding.list_auxiliary_states()}
    bound = [{name: array for name, array in kind.items() if name in deployed} for kind in learner.state.bound()]
    return Averages(decay, *bound)


def make_plan(spec: RunSpec, prefix: str, loader: Loader, options: Mapping[str, Any]) -> Plan:
    """Turn epochs into steps, and options into a plan."""
    optimizer, keeping = spec.optimizer, spec.keeping
    batches = optimizer.epochs * loader.batches_per_epoch
    if batches < optimizer.accumulate:
        raise InputError(f"{optimizer.accumulate}: the run has only {batches} batches; use fewer", option="accumulate")
    steps = batches // optimizer.accumulate
    steps = min(steps, optimizer.max_steps) if optimizer.max_steps > 0 else steps
    warmup = optimizer.warmup_steps
    if optimizer.warmup_epochs is not None:
        warmup = round(optimizer.warmup_epochs * loader.batches_per_epoch / optimizer.accumulate)
    return Plan(
        prefix,
        steps=steps,
        schedule=Schedule(optimizer.lr_schedule, optimizer.lr, steps, warmup, optimizer.lr_steps),
        frequent=keeping.frequent,
        verbose=keeping.verbose,
        keep=Keep(keeping.ckpt),
        accumulate=optimizer.accumulate,
        seed=optimizer.seed,
        stop_after=optimizer.stop_after,
        options=options,
    )


def options_to_repeat(spec: RunSpec, embedding: mx.sym.Symbol, learner: Learner, loader: Loader) -> dict[str, Any]:
    """Collect what a resumed run has to repeat, where it matters in another form than that of the option."""
    found = repeated(spec)
    pictures = loader.batch_size * found.pop("accumulate") * learner.workers.size
    found.update(seed=spec.optimizer.seed, per_batch_size=f"{pictures} pictures per step")
    if learner.teacher:
        found["teacher"] = learner.teacher.identity  # wherever its files are
    else:
        found.pop("teacher_weight")
    if spec.network.network == PRETRAINED:
        digest = hashlib.sha256(embedding.tojson().encode()).hexdigest()
        found["network"] = f"{PRETRAINED} (graph {digest[:12]})"
    return found
