"""Train a face recognition network.

    python train.py --network d63 --dataset orl --loss arcface

A run lives in MODELS_ROOT/NETWORK-LOSS-DATASET.  It starts from, in this order of precedence: its own newest checkpoint
(--resume), another model (--pretrained), nothing.
"""

from __future__ import annotations

from denseface.core import signals

if __name__ == "__main__":
    signals.use_default_sigint()

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from denseface.core.errors import InputError, describe, mxnet_reason
from denseface.core.files import replacing
from denseface.core.lock import locked
from denseface.data.augment import Augmentation
from denseface.data.loader import BatchLoader, Loader, PictureReader
from denseface.data.pairs import read_pairs
from denseface.data.pictures import PictureShape
from denseface.data.records import FaceRecords
from denseface.distributed.workers import Workers, connect
from denseface.embedding.embedder import Embedder
from denseface.evaluation.verify import verify
from denseface.models import checkpoint, families
from denseface.models.embedding_network import explain_shape
from denseface.rewrites.accelerate import accelerate
from denseface.training.decay import with_decay_multipliers
from denseface.training.devices import contexts
from denseface.training.learner import Learner
from denseface.training.partial_fc import sample_size
from denseface.training.run import Plan, Run
from denseface.training.triplets import METRICS, Mining, TripletLoader

import mxnet as mx

logger = logging.getLogger("denseface")

KVSTORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async")


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    try:
        with signals.raise_on_signals():
            return train(argv)
    except (InputError, OSError) as error:
        print(f"train.py: error: {describe(error)}", file=sys.stderr)
    except (mx.MXNetError, MemoryError) as error:
        print(f"train.py: error: MXNet fails: {mxnet_reason(error)}", file=sys.stderr)
    except signals.Interrupted as error:
        print(f"train.py: {error}; --resume goes on from the last checkpoint", file=sys.stderr)
        return error.exit_code
    return 1


def train(argv: list[str] | None) -> int:
    args, config = parse_args(argv)
    prefix = run_prefix(args)
    with contextlib.ExitStack() as stack:
        # who else trains
        workers = stack.enter_context(connect(args.kvstore))
        if not workers.is_first:
            logger.setLevel(logging.WARNING)
        workers.from_first(lambda: stack.enter_context(locked_run_folder(prefix)))

        # data
        records = stack.enter_context(FaceRecords(config.dataset_path, config.data_images_filter))
        config.num_classes = records.num_classes
        devices = contexts(args.gpus)
        batch_size = args.per_batch_size * len(devices)
        # mining asks the learner, which is made below
        loader = make_loader(args, config, records, len(devices), workers, lambda pictures: learner.embed(pictures))
        plan = make_plan(args, loader)

        # symbol
        embedding = families.embedding_symbol(config, args.symbol_path)
        whole = families.training_symbol(config, embedding)
        classes = classes_a_step(args, config, batch_size * args.accumulate * workers.size)
        sampled = classes < config.num_classes
        symbol = families.training_symbol(config, embedding, classes) if sampled else whole
        symbol = with_decay_multipliers(symbol)
        data_shape = PictureShape(*config.image_shape).nchw(batch_size)
        on_cpu = all(device.device_type == "cpu" for device in devices)
        learner = Learner(
            accelerate(symbol, data_shape) if on_cpu else symbol,
            data_shape,
            devices,
            momentum=args.mom,
            wd=args.wd,
            accumulate=args.accumulate,
            kvstore=args.kvstore,
            workers=workers,
            num_classes=config.num_classes if sampled else None,
        )

        # where to start
        deployed = embedding if config.ckpt_embedding else whole
        run = Run(learner, loader, plan, prefix, deployed, make_verify(config, embedding))
        start(run, args, config)
        workers.from_first(lambda: save_configuration(prefix, args, config))

        # fit
        images = batch_size * args.accumulate * workers.size
        epochs = plan.steps * args.accumulate / loader.steps_per_epoch
        logger.info("%s: %d images of %d identities", config.dataset, len(records), records.num_classes)
        if sampled:
            logger.info("a step trains on %d of the %d classes", classes, config.num_classes)
        where = ", ".join(map(str, devices)) + (f" of {workers.size} workers" if workers.size > 1 else "")
        logger.info("%d steps of %d images (%.1f epochs) on %s", plan.steps, images, epochs, where)
        if not run.fit():
            logger.info("stopped at step %d; go on with the same command and --resume", run.step)
            return 128 + run.stopped_by
        logger.info("done: %s, step %d; %d broken pictures were replaced", prefix, run.step, len(loader.reader.bad))
        return 0


def parse_args(argv: list[str] | None) -> tuple[argparse.Namespace, dict]:
    """Read the command line.

    The names of network, data set and loss, --networks and --set come first: they fill the configuration, which then
    gives the other flags their defaults.
    """
    names = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    names.add_argument("--network", default="d121", help="network, as in config.py")
    names.add_argument("--dataset", default="emore", help="data set, as in config.py")
    names.add_argument("--loss", default="arcface", help="loss, as in config.py")
    names.add_argument("--networks", metavar="FILE", help="JSON file of more networks")
    names.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the configuration"
    )
    chosen, _ = names.parse_known_args(argv)
    config, default = families.configure(chosen.network, chosen.dataset, chosen.loss, chosen.set, chosen.networks)

    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        parents=[names],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="example: python train.py --network d63 --dataset orl --loss arcface",
    )
    flag, positive = parser.add_argument, within(int, 1)
    flag("--symbol-path", metavar="DIR", help="folder of network files (InsightFace's symbol folder, say)")
    flag("--models-root", default=default.models_root, help="folder of all runs")
    flag("--pretrained", default=default.pretrained, metavar="PREFIX", help="model to start from")
    flag("--pretrained-epoch", type=natural, default=default.pretrained_epoch, metavar="N", help="its epoch")
    flag("--resume", action="store_true", help="go on from the run's newest checkpoint, if there is one")
    flag("--ckpt", type=int, choices=range(4), default=default.ckpt,
         help="models to keep: 0 none, 1 newest and each best, 2 all, 3 newest and best")  # fmt: skip
    flag("--verbose", type=positive, default=default.verbose, help="steps between verifications with a checkpoint")
    flag("--frequent", type=positive, default=default.frequent, help="steps between lines of figures")
    flag("--epochs", type=positive, default=default.end_epoch, help="epochs to train")
    flag("--max-steps", type=natural, default=config.max_steps, help="steps to train at most; 0 for no such limit")
    flag("--lr", type=within(float, 0, 1000), default=default.lr, help="learning rate")
    flag("--lr-steps", default=default.lr_steps, help="steps at which the learning rate falls to a tenth")
    flag("--warmup-steps", type=natural, default=default.warmup_steps, help="steps to reach the learning rate in")
    flag("--wd", type=within(float, 0, 1000), default=default.wd, help="weight decay")
    flag("--mom", type=within(float, 0, 1), default=default.mom, help="momentum")
    flag("--per-batch-size", type=within(int, 1, 8192), default=default.per_batch_size, help="images a device a batch")
    flag("--accumulate", type=positive, default=1, metavar="K", help="batches whose gradients make one step")
    flag("--sample-rate", type=within(float, 1e-6, 1), default=1.0, metavar="R",
         help="share of the classes that a step trains on (Partial FC)")  # fmt: skip
    flag("--gpus", metavar="0,1", help="GPUs by number; by default those of CUDA_VISIBLE_DEVICES, or the CPU")
    flag("--kvstore", choices=KVSTORES, default=default.kvstore,
         help="MXNet's key-value store for several devices, or several workers (dist_*)")  # fmt: skip
    flag("--seed", type=within(int, 0, 2**64 - 1), default=default.seed, help="seed of everything random")
    flag("--max-bad", type=natural, default=None, metavar="N", help="broken pictures to bear before giving up")
    return parser.parse_args(argv), config


def within(kind: type, low: float, high: float = 10**9) -> Callable[[str], float]:
    """Give what reads a number in a range."""

    def read(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return value

    read.__name__ = "whole number" if kind is int else "number"  # argparse: invalid number value
    return read


natural = within(int, 0)


def run_prefix(args: argparse.Namespace) -> str:
    """Give the prefix of a run's checkpoints."""
    return str(Path(args.models_root, f"{args.network}-{args.loss}-{args.dataset}", "model"))


@contextlib.contextmanager
def locked_run_folder(prefix: str) -> Iterator[None]:
    """Make the run's folder, and keep other runs away from it."""
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    with locked(prefix):
        yield


def make_loader(
    args: argparse.Namespace,
    config: dict,
    records: FaceRecords,
    num_devices: int,
    workers: Workers,
    embed: Callable[[np.ndarray], np.ndarray],
) -> Loader:
    """Choose where batches come from: all pictures in random order or, for a loss on triplets, what is mined."""
    reader = PictureReader(records, config.image_shape, max_bad=args.max_bad)
    batch_size = args.per_batch_size * num_devices
    augmentation = Augmentation.from_config(config)
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
        embed,
        mining,
        batch_size,
        augmentation,
        args.seed,
        num_devices=num_devices,
        accumulate=args.accumulate,
        workers=workers,
    )


def classes_a_step(args: argparse.Namespace, config: dict, images: int) -> int:
    """Number of classes that a step of so many images trains on: all of them, or the sample of Partial FC."""
    if args.sample_rate == 1:
        return config.num_classes
    if config.loss_name in METRICS:
        raise InputError(f"--sample-rate {args.sample_rate:g}: --loss {args.loss} has no classes; leave it out")
    return sample_size(config.num_classes, args.sample_rate, images)


def make_plan(args: argparse.Namespace, loader: Loader) -> Plan:
    """Turn epochs and steps into a plan."""
    try:
        lr_steps = [natural(step) for step in args.lr_steps.split(",") if step]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise InputError(f"--lr-steps {args.lr_steps}: write it as whole numbers, as in 100000,160000") from error
    batches = args.epochs * loader.steps_per_epoch
    if batches < args.accumulate:
        raise InputError(f"--accumulate {args.accumulate}: the run has {batches} batches; accumulate fewer for a step")
    steps = batches // args.accumulate
    return Plan(
        steps=min(steps, args.max_steps) if args.max_steps > 0 else steps,
        learning_rate=args.lr,
        lr_steps=lr_steps,
        warmup_steps=args.warmup_steps,
        frequent=args.frequent,
        verbose=args.verbose,
        keep=args.ckpt,
        accumulate=args.accumulate,
        seed=args.seed,
    )


def make_verify(config: dict, embedding: mx.sym.Symbol) -> Callable[[dict, dict], dict]:
    """Read the verification sets that lie beside the records, naming those that do not; give what measures them."""
    pair_sets = []
    for name in config.val_targets:
        path = Path(config.dataset_path, f"{name}.bin")
        if path.exists():
            pair_sets.append(read_pairs(path))
        else:
            logger.warning("%s: no such file; the run is not verified on %s", path, name)

    def verify_all(arguments: dict, auxiliary: dict) -> dict:
        model = checkpoint.Model(embedding, arguments, auxiliary, "this run", step=0)
        embedder = Embedder(model, image_shape=config.image_shape)
        return {pair_set.name: verify(embedder, pair_set, progress=True).flip for pair_set in pair_sets}

    return verify_all


def start(run: Run, args: argparse.Namespace, config: dict) -> None:
    """Bring a run to where it starts."""
    workers = run.workers
    if not args.resume:
        workers.from_first(lambda: refuse_to_overwrite(run.prefix))
    elif run.resume():
        logger.info("resuming %s at step %d of %d", run.prefix, run.step, run.plan.steps)
        return
    run.learner.initialize(families.initializer(config), args.seed)
    if args.pretrained:
        workers.from_first(lambda: adopt(run.learner, args.pretrained, args.pretrained_epoch))
    run.learner.broadcast()


def refuse_to_overwrite(prefix: str) -> None:
    """Raise InputError if the run has a checkpoint, which a new run would overwrite."""
    newest = checkpoint.Checkpoint.newest(prefix)
    if newest:
        raise InputError(
            f"{prefix}: holds a run at step {newest.step}; go on with --resume, or take another --models-root"
        )


def adopt(learner: Learner, prefix: str, epoch: int) -> None:
    """Take over what another model has in common with this one, by name and shape."""
    model = checkpoint.load_model(prefix, epoch)
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
            f"--pretrained {prefix}: it fits only {len(loaded)} of {len(loaded) + len(fresh)} parameters; "
            "check --network"
        )


def save_configuration(prefix: str, args: argparse.Namespace, config: dict) -> None:
    """Keep the resolved configuration beside the checkpoints."""
    with replacing(f"{prefix}-config.json") as file:
        file.write(json.dumps({"config": config, "arguments": vars(args)}, indent=1, default=list).encode())


if __name__ == "__main__":
    sys.exit(main())
