"""Train a face recognition network.

    python train.py --network d15 --dataset orl --loss arcface

A run is in MODELS_ROOT/NETWORK-LOSS-DATASET. It starts from its own newest checkpoint (--resume), or else from another
model (--pretrained), or else from random parameters.
"""

from __future__ import annotations

import sys

from denseface._compat import check_environment
from denseface.core import signals
from denseface.core.streams import log_to, prepare_streams

if __name__ == "__main__":
    signals.use_default_sigint()
    prepare_streams(outlive=True)
    try:
        check_environment()
    except ValueError as error:
        sys.exit(f"train.py: error: {error}")

import argparse
import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import config as tables
from denseface.core.errors import InputError, describe, mxnet_reason
from denseface.core.files import read_input, replacing
from denseface.core.lock import locked
from denseface.data.pairs import read_pairs
from denseface.data.records import FaceRecords
from denseface.distributed.workers import Workers, connect
from denseface.embedding.embedder import Embedder
from denseface.evaluation.metrics import score_pairs
from denseface.models import families
from denseface.models.checkpoint import Checkpoint, Model
from denseface.training.assembly import assemble
from denseface.training.pretrained import adopt, pretrained_model, pretrained_network
from denseface.training.run import Run
from denseface.training.schedule import SCHEDULES
from denseface.training.warm_centers import warm_centers
from denseface.verification.verify import verify

import mxnet as mx

logger = logging.getLogger("denseface")

KVSTORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync")
MAX_CONFIG = 1 << 20  # bytes of a saved configuration


def main(argv: list[str] | None = None) -> int:
    log_to(sys.stdout, "%(message)s")
    logger.setLevel(logging.INFO)
    try:
        with signals.raise_on_signals():
            return train(*parse_args(argv))
    except (InputError, OSError) as error:
        print(f"train.py: error: {describe(error)}", file=sys.stderr)
    except (mx.MXNetError, MemoryError) as error:
        print(f"train.py: error: MXNet fails: {mxnet_reason(error)}", file=sys.stderr)
    except signals.Interrupted as error:
        print(f"train.py: {error}; --resume continues from the last checkpoint", file=sys.stderr)
        return error.exit_code
    return 1


def train(args: argparse.Namespace, config: dict) -> int:
    prefix = run_prefix(args)
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(connect(args.kvstore))
        if not workers.is_first:
            logger.setLevel(logging.WARNING)
        workers.from_first(lambda: stack.enter_context(locked_run_folder(prefix)))

        records = stack.enter_context(FaceRecords(config.dataset_path, config.data_images_filter))
        config.num_classes = records.num_classes
        embedding = make_network(args, config, workers)
        run = assemble(config, args, workers, records, embedding, prefix, make_verify(config, embedding))
        start(run, args, config, embedding)
        workers.from_first(lambda: rehearse(run, config))
        workers.from_first(lambda: save_configuration(run, args, config))

        announce(run, config)
        if not run.fit():
            logger.info("stopped at step %d; continue with the same command and --resume", run.step)
            return 128 + run.stopped_by
        bad = len(run.loader.reader.bad)
        logger.info("done: %s, step %d; %d broken pictures were replaced", prefix, run.step, bad)
        return 0


def parse_args(argv: list[str] | None) -> tuple[argparse.Namespace, dict]:
    """Read the command line.

    The names of network, data set and loss, --networks and --set come first: they fill the configuration, which then
    gives the other flags their defaults.
    """
    usual = tables.PRISTINE[1]  # tables.default may still have an earlier call's choice
    names = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag, table, default in (
        ("network", tables.network, usual.network),
        ("dataset", tables.dataset, usual.dataset),
        ("loss", tables.loss, usual.loss),
    ):
        there = f"one of {', '.join(table)}" + (", or pretrained for that model's own" if flag == "network" else "")
        names.add_argument(f"--{flag}", default=default, help=f"{there} (default: {default})")
    names.add_argument("--networks", metavar="FILE", help="JSON file of more networks")
    names.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the configuration"
    )
    chosen, _ = names.parse_known_args(argv)
    config, default = families.configure(chosen.network, chosen.dataset, chosen.loss, chosen.set, chosen.networks)

    parser = argparse.ArgumentParser(
        prog="train.py",
        description=__doc__.split("\n\n")[0],
        parents=[names],
        allow_abbrev=False,
        epilog=f"Defaults are those of --network {chosen.network} --dataset {chosen.dataset} --loss {chosen.loss}; "
        "name others before --help to see theirs. Example: python train.py --network d15 --dataset orl --loss arcface",
    )
    positive = within(int, 1)
    # InsightFace's default, epoch 1, would rarely be there: checkpoints are numbered by step.
    chosen_epoch = any(text.startswith("pretrained_epoch=") for text in chosen.set)
    epoch = default.pretrained_epoch if chosen_epoch else None

    def flag(name: str, help: str, group: argparse._ActionsContainer = parser, **settings: object) -> None:
        default = settings.get("default")
        if default not in (None, "", []):
            help += " (default: %(default)s)"
        group.add_argument(name, help=help, **settings)

    flag("--symbol-path", "folder of network files (InsightFace's symbol folder, say)", metavar="DIR")
    flag("--models-root", "folder of all runs", default=default.models_root, metavar="DIR")
    flag("--pretrained", "model to start from; PREFIX alone means its newest epoch; or a file .onnx",
         default=default.pretrained, metavar="PREFIX,EPOCH")  # fmt: skip
    flag("--pretrained-epoch", "its epoch, as InsightFace writes it", type=natural,
         default=epoch, metavar="N")  # fmt: skip
    flag("--teacher", "model whose embeddings of the same pictures the network learns, beside the loss or, with --loss "
         "teacher, instead of one; or a file .onnx", metavar="PREFIX,EPOCH")  # fmt: skip
    flag("--teacher-weight", "factor on the teacher's loss", type=within(float, 1e-6, 1e6), default=16.0,
         metavar="W")  # fmt: skip
    flag("--freeze", "keep parameters and batch statistics whose names match, as in '*_stage1_*'; may be repeated",
         action="append", default=[], metavar="PATTERN")  # fmt: skip
    flag("--lr-mult", "multiply the learning rate of parameters whose names match; may be repeated",
         action="append", default=[], type=rate_factor, metavar="PATTERN=FACTOR")  # fmt: skip
    flag("--warm-centers", "start class centers at the mean embeddings of their pictures by the pretrained model",
         action="store_true")  # fmt: skip
    flag("--resume", "continue from the run's newest checkpoint, if there is one", action="store_true")
    flag("--ckpt", "models to keep: 0 none, 1 newest and each best, 2 all, 3 newest and best", type=int,
         choices=range(4), default=default.ckpt)  # fmt: skip
    flag("--verbose", "steps between verifications, each with a checkpoint", type=positive, default=default.verbose,
         metavar="N")  # fmt: skip
    flag("--frequent", "steps between rows of the log", type=positive, default=default.frequent, metavar="N")
    flag("--epochs", "number of epochs", type=positive, default=default.end_epoch, metavar="N")
    flag("--max-steps", "maximum number of steps; 0 for no limit", type=natural, default=config.max_steps, metavar="N")
    flag("--lr", "learning rate", type=within(float, 0, 1000), default=default.lr, metavar="RATE")
    flag("--lr-schedule", "how the rate falls after the warm-up: to a tenth at some steps, or to 0 at the end of the "
         f"run along a cosine or a parabola (poly) (default: {default.lr_schedule}, or step if --lr-steps are given)",
         choices=tuple(SCHEDULES))  # fmt: skip
    flag("--lr-steps", f"steps at which the learning rate falls to a tenth (default: {default.lr_steps})", type=steps,
         metavar="N,N,...")  # fmt: skip
    warmup = parser.add_mutually_exclusive_group()
    flag("--warmup-steps", "number of warm-up steps", warmup, type=natural, default=default.warmup_steps, metavar="N")
    flag("--warmup-epochs", "length of the warm-up in epochs instead", warmup, type=within(float, 0),
         metavar="E")  # fmt: skip
    flag("--clip-norm", "shorten gradients to this norm; 0 leaves them as they are", type=within(float, 0),
         default=default.clip_norm, metavar="NORM")  # fmt: skip
    flag("--ema", "average the weights with this decay (0.999, say), and verify and save the averages too; 0 for none",
         type=within(float, 0, 0.999999), default=default.ema, metavar="DECAY")  # fmt: skip
    flag("--wd", "weight decay", type=within(float, 0, 1000), default=default.wd, metavar="DECAY")
    flag("--mom", "momentum", type=within(float, 0, 1), default=default.mom, metavar="MOMENTUM")
    flag("--per-batch-size", "batch size per device", type=batch_size, default=default.per_batch_size, metavar="N")
    flag("--dtype", "multiply in float32, or in dense blocks and convolutions in bfloat16 if the processor can",
         choices=("float32", "bfloat16"), default="float32")  # fmt: skip
    flag("--accumulate", "batches per step", type=positive, default=1, metavar="K")
    flag("--sample-rate", "fraction of the classes that a step trains on (Partial FC)", type=within(float, 1e-6, 1),
         default=1.0, metavar="R")  # fmt: skip
    flag("--gpus", "numbers of GPUs (default: those of CUDA_VISIBLE_DEVICES, or else the CPU)", metavar="0,1")
    flag("--kvstore", "MXNet's key-value store for several devices, or for several workers (dist_*)",
         choices=KVSTORES, default=default.kvstore)  # fmt: skip
    flag("--seed", "seed of everything random", type=within(int, 0, 2**64 - 1), default=default.seed, metavar="N")
    flag("--max-bad", "stop after more than N unreadable pictures (default: no limit)", type=natural, metavar="N")
    for name, advice in INSIGHTFACE_FLAGS.items():
        parser.add_argument(name, action=Refused, advice=advice)
    args = parser.parse_args(argv)
    if not args.pretrained:
        for name, needed in (
            ("--pretrained-epoch", args.pretrained_epoch is not None),
            ("--network pretrained", args.network == families.PRETRAINED),
            ("--warm-centers", args.warm_centers),
        ):
            if needed:
                parser.error(f"argument {name}: of which model? Name it with --pretrained")
    if args.lr_steps is None:
        try:
            args.lr_steps = steps(default.lr_steps)
        except argparse.ArgumentTypeError as error:
            parser.error(f"argument --lr-steps: {error}")
        args.lr_schedule = args.lr_schedule or default.lr_schedule
    elif args.lr_schedule not in (None, "step"):
        parser.error(f"argument --lr-steps: --lr-schedule {args.lr_schedule} has none; leave one of both out")
    else:
        args.lr_schedule = "step"
    return args, config


# What only the start of a run uses, or what has its effect in other values.
START_FLAGS = ("resume", "set", "pretrained", "pretrained_epoch", "warm_centers")

INSIGHTFACE_FLAGS = {
    "--worker-id": "the launcher numbers workers (docs/distributed.md); leave it out",
    "--extra-model-name": "each --models-root has its own run of this name; give another --models-root",
    "--fp16-scale": "--dtype bfloat16 needs no scale; leave it out",
}


class Refused(argparse.Action):
    """A flag of InsightFace's train.py that this one does not have, answered by what to do instead."""

    def __init__(self, option_strings: list[str], dest: str, advice: str):
        super().__init__(option_strings, argparse.SUPPRESS, nargs="?", help=argparse.SUPPRESS)
        self.advice = advice

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(f"argument {self.option_strings[0]}: {self.advice}")


def within(kind: type, low: float, high: float = 10**9) -> Callable[[str], float]:
    """Return a parser of numbers in a range."""

    def read(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return value

    read.__name__ = "whole number" if kind is int else "number"  # argparse: invalid number value
    return read


natural = within(int, 0)


def batch_size(text: str) -> int:
    """Read a batch size per device."""
    if text == "0":
        raise argparse.ArgumentTypeError("0 is InsightFace's way to ask for 128; give the number itself")
    return within(int, 1, 8192)(text)


def steps(text: str) -> list[int]:
    """Read a list of steps."""
    try:
        return [natural(step) for step in text.split(",") if step]
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"write {text} as whole numbers, as in 100000,160000") from None


def rate_factor(text: str) -> tuple[str, float]:
    """Read a pattern of names with a factor on the learning rate."""
    pattern, equals, factor = text.rpartition("=")
    try:
        return pattern, within(float, 0, 1000)(factor if equals else "")
    except ValueError:
        raise argparse.ArgumentTypeError(f"write {text} as PATTERN=FACTOR, as in fc7_weight=10") from None


def run_prefix(args: argparse.Namespace) -> str:
    """Return the prefix of a run's checkpoints."""
    return str(Path(args.models_root, f"{args.network}-{args.loss}-{args.dataset}", "model"))


@contextlib.contextmanager
def locked_run_folder(prefix: str) -> Iterator[None]:
    """Make the run's folder, and keep other runs out of it."""
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    with locked(prefix):
        yield


def make_network(args: argparse.Namespace, config: dict, workers: Workers) -> mx.sym.Symbol:
    """Build the network that the configuration describes, or read that of the pretrained model."""
    if args.network != families.PRETRAINED:
        return families.embedding_symbol(config, args.symbol_path)
    return mx.sym.load_json(
        workers.from_first(lambda: pretrained_network(args.pretrained, config.image_shape).tojson())
    )


def make_verify(config: dict, embedding: mx.sym.Symbol) -> Callable[[dict, dict], dict]:
    """Read the verification sets beside the records, and name those that are missing; return what verifies on them."""
    pair_sets = []
    for name in config.val_targets:
        path = Path(config.dataset_path, f"{name}.bin")
        if not path.exists():
            logger.warning("%s: no such file; the run is not verified on %s", path, name)
            continue
        pair_sets.append(read_pairs(path))
        try:
            score_pairs(np.zeros(len(pair_sets[-1].issame)), pair_sets[-1].issame)
        except InputError as error:
            raise InputError(f"{path}: {error}; leave {name} out of val_targets") from error

    def verify_all(arguments: dict, auxiliary: dict) -> dict:
        model = Model(embedding, arguments, auxiliary, "this run", step=0)
        embedder = Embedder(model, image_shape=config.image_shape)
        return {pair_set.name: verify(embedder, pair_set, progress=True).flip for pair_set in pair_sets}

    return verify_all


def start(run: Run, args: argparse.Namespace, config: dict, embedding: mx.sym.Symbol) -> None:
    """Set a run's parameters."""
    workers = run.workers
    if not args.resume:
        workers.from_first(lambda: refuse_to_overwrite(run.prefix))
    elif run.resume():
        logger.info("resuming %s at step %d of %d", run.prefix, run.step, run.plan.steps)
        return
    run.learner.initialize(families.initializer(config), args.seed)
    if args.pretrained:
        workers.from_first(lambda: start_from(run, config, embedding, args.pretrained, args.pretrained_epoch))
    if args.warm_centers:
        workers.from_first(lambda: warm_centers(run.learner, run.loader.reader, run.loader.batch_size))
    run.learner.broadcast()


def refuse_to_overwrite(prefix: str) -> None:
    """Raise InputError if the run has a checkpoint, which a new run would overwrite."""
    newest = Checkpoint.newest(prefix)
    if newest:
        raise InputError(
            f"{prefix}: contains a run at step {newest.step}; continue it with --resume, or give another --models-root"
        )


def start_from(run: Run, config: dict, embedding: mx.sym.Symbol, pretrained: str, epoch: int | None) -> None:
    """Copy the parameters that another model has in common with the run's."""
    adopt(run.learner, embedding, pretrained_model(pretrained, epoch, config.image_shape))


def rehearse(run: Run, config: dict) -> None:
    """Refuse before the first step what verification would refuse after many."""
    arguments, auxiliary = run.learner.parameters()
    model = Model(run.deployed, arguments, auxiliary, run.prefix, run.step)
    try:
        Embedder(model, image_shape=config.image_shape)
    except InputError as error:
        raise InputError(f"this network could not be verified, so it is not trained: {error}") from error


def save_configuration(run: Run, args: argparse.Namespace, config: dict) -> None:
    """Save the resolved configuration beside the checkpoints; if the run is resumed, say what is new in it."""
    path = f"{run.prefix}-config.json"
    text = json.dumps({"config": config, "arguments": vars(args)}, indent=1, default=list)
    if run.step:
        before, now = {}, settings(text)
        with contextlib.suppress(InputError):  # it was lost, and is written again
            before = settings(read_input(path, MAX_CONFIG))
        changed = [f"{key} {now[key]} (was {before[key]})" for key in now if before.get(key, now[key]) != now[key]]
        if changed:
            logger.info("other options than before: %s", "; ".join(changed))
    with replacing(path) as file:
        file.write(text.encode())


def settings(text: str | bytes) -> dict:
    """Return the keys and flags of a saved configuration that a resumed run uses; none if it cannot be read."""
    try:
        saved = json.loads(text)
        found = {**saved["config"], **saved["arguments"]}  # flags count where a table of config.py has the same key
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return {key: value for key, value in found.items() if key not in START_FLAGS}


def announce(run: Run, config: dict) -> None:
    """Say what the run is about to do."""
    learner, loader, plan, workers = run.learner, run.loader, run.plan, run.workers
    records = loader.reader.records
    logger.info("%s: %d images of %d identities", config.dataset, len(records), records.num_classes)
    if learner.frozen:
        logger.info("%d parameters and batch statistics are frozen", len(learner.frozen))
    if learner.centers:
        logger.info("a step trains on %d of the %d classes", learner.centers.size, config.num_classes)
    if learner.teacher:
        logger.info("teacher: %s, %d values per embedding", learner.teacher.name, learner.teacher.emb_size)
    images = loader.batch_size * plan.accumulate * workers.size
    epochs = plan.steps * plan.accumulate / loader.steps_per_epoch
    where = ", ".join(map(str, learner.devices)) + (f" of {workers.size} workers" if workers.size > 1 else "")
    logger.info("%d steps of %d images (%.1f epochs) on %s", plan.steps, images, epochs, where)


if __name__ == "__main__":
    sys.exit(main())
