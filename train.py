"""Train a face recognition network.

    python train.py --recipe small --dataset datasets/mine

A run is in MODELS_ROOT/NETWORK-LOSS-DATASET. It starts from its own newest checkpoint (--resume), or else from another
model (--pretrained), or else from random parameters.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # which python -P and -I leave out

from denseface.core import signals
from denseface.core.streams import log_to, prepare_streams

if __name__ == "__main__":
    signals.use_default_sigint()
    prepare_streams(outlive=True)
    try:
        import mxnet  # noqa: F401 - whose absence, or that of a library, is one line
    except (ValueError, ImportError) as error:
        sys.exit(f"train.py: error: {error}")

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from denseface.cli.training_flags import parse
from denseface.core.errors import InputError, describe, reason_of
from denseface.core.lock import locked
from denseface.data.pairs import read_pairs
from denseface.data.records import FaceRecords
from denseface.distributed.workers import Workers, connect
from denseface.embedding.embedder import Embedder
from denseface.evaluation.metrics import score_pairs
from denseface.models import families
from denseface.models.checkpoint import Checkpoint, Model
from denseface.options.spec import PRETRAINED, DataSpec, RunSpec
from denseface.training.assembly import assemble
from denseface.training.devices import contexts, on_cpu
from denseface.training.pretrained import adopt, pretrained_model, pretrained_network
from denseface.training.run import Run
from denseface.training.saved_options import save_options
from denseface.training.warm_centers import warm_centers
from denseface.verification.verify import verify

import mxnet as mx

_VERIFIED_TOGETHER = 64  # pictures on a GPU, at most

logger = logging.getLogger("denseface")


def main(argv: Sequence[str] | None = None) -> int:
    log_to(sys.stdout, "%(message)s")
    logger.setLevel(logging.INFO)
    try:
        with signals.raise_on_signals():
            return train(parse(argv, __doc__.split("\n\n")[0]))
    except (InputError, OSError) as error:
        print(f"train.py: error: {describe(error)}", file=sys.stderr)
    except (mx.MXNetError, MemoryError) as error:
        print(f"train.py: error: MXNet fails: {reason_of(error)}", file=sys.stderr)
    except signals.Interrupted as error:
        print(f"train.py: {error}; --resume continues from the last checkpoint", file=sys.stderr)
        return error.exit_code
    return 1


def train(spec: RunSpec) -> int:
    prefix = run_prefix(spec)
    with connect(spec.devices.kvstore) as workers, contextlib.ExitStack() as stack:
        if not workers.is_first:
            logger.setLevel(logging.WARNING)
        workers.from_first(lambda: stack.enter_context(locked_run_folder(prefix)))

        records = stack.enter_context(FaceRecords(spec.data.dataset_path, spec.data.data_images_filter))
        spec = spec.replace(num_classes=records.num_classes)
        read_pretrained = functools.lru_cache(maxsize=1)(functools.partial(read_model, spec))
        embedding = make_network(spec, workers, read_pretrained)
        run = assemble(spec, workers, records, embedding, prefix, make_verify(spec, embedding))
        start(run, spec, embedding, read_pretrained)
        read_pretrained.cache_clear()  # its parameters are copied
        workers.from_first(lambda: rehearse(run, spec))
        workers.from_first(lambda: save(run, spec))

        announce(run, spec.data)
        if not run.fit():
            logger.info("stopped at step %d; continue with the same command and --resume", run.step)
            return 128 + (run.stopped_by or 0)
        bad = len(run.loader.reader.bad)
        logger.info("done: %s, step %d; %d broken pictures were replaced", prefix, run.step, bad)
        return 0


def run_prefix(spec: RunSpec) -> str:
    """Return the prefix of a run's checkpoints."""
    name = f"{spec.network.network}-{spec.loss.loss}-{spec.data.dataset}"
    return str(Path(spec.keeping.models_root, name, "model"))


@contextlib.contextmanager
def locked_run_folder(prefix: str) -> Iterator[None]:
    """Make the run's folder, and keep other runs out of it."""
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    with locked(prefix):
        yield


def read_model(spec: RunSpec) -> Model:
    """Read the model that the run starts from."""
    return pretrained_model(spec.start.pretrained, spec.start.pretrained_epoch, spec.data.image_shape)


def make_network(spec: RunSpec, workers: Workers, read_pretrained: Callable[[], Model]) -> mx.sym.Symbol:
    """Build the network that the options describe, or read that of the pretrained model."""
    if spec.network.network != PRETRAINED:
        return families.embedding_symbol(spec)
    model = spec.start.pretrained
    return mx.sym.load_json(workers.from_first(lambda: pretrained_network(model, read_pretrained).tojson()))


def make_verify(spec: RunSpec, embedding: mx.sym.Symbol) -> Callable[[dict, dict], dict]:
    """Read the verification sets beside the records, and name those that are missing; return what verifies on them."""
    pair_sets = []
    for name in spec.data.val_targets:
        path = Path(spec.data.dataset_path, f"{name}.bin")
        if not path.exists():
            logger.warning("%s: no such file; the run is not verified on %s", path, name)
            continue
        pair_sets.append(read_pairs(path))
        try:
            score_pairs(np.zeros(len(pair_sets[-1].issame)), pair_sets[-1].issame)
        except InputError as error:
            raise InputError(f"{error}; leave {name} out of val_targets", path=path) from error
    names = [pair_set.name for pair_set in pair_sets]
    results = [*names, *(f"{name}-ema" for name in names if spec.optimizer.ema)]
    for name in names:
        if results.count(name) > 1:
            raise InputError(f"val_targets: two results would be called {name}; rename the set", option="set")

    def verify_all(arguments: dict, auxiliary: dict) -> dict:
        embedder = make_embedder(spec, Model(embedding, arguments, auxiliary, "this run", step=0))
        return {pair_set.name: verify(embedder, pair_set, progress=True).flip for pair_set in pair_sets}

    return verify_all


def make_embedder(spec: RunSpec, model: Model) -> Embedder:
    """Make what verifies a model of the run: on a GPU that trains, in batches that fit beside those of training."""
    context, *_ = contexts(spec.devices.gpus)
    if on_cpu([context]):
        return Embedder(model, image_shape=spec.data.image_shape)
    batch_size = min(spec.optimizer.per_batch_size, _VERIFIED_TOGETHER)
    return Embedder(model, image_shape=spec.data.image_shape, batch_size=batch_size, context=context)


def start(run: Run, spec: RunSpec, embedding: mx.sym.Symbol, read_pretrained: Callable[[], Model]) -> None:
    """Set a run's parameters."""
    workers = run.workers
    if not spec.start.resume:
        workers.from_first(lambda: refuse_to_overwrite(run.prefix))
    elif run.resume():
        logger.info("resuming %s at step %d of %d", run.prefix, run.step, run.plan.steps)
        return
    run.learner.state.initialize(families.initializer(spec.network.net_name), spec.optimizer.seed)
    if spec.start.pretrained:
        workers.from_first(lambda: adopt(run.learner, embedding, read_pretrained()))
    if spec.start.warm_centers:
        workers.from_first(lambda: warm_centers(run.learner, run.loader.reader, run.loader.batch_size))
    run.learner.state.broadcast()


def refuse_to_overwrite(prefix: str) -> None:
    """Raise InputError if the run has a checkpoint, which a new run would overwrite."""
    newest = Checkpoint.newest(prefix)
    if newest:
        raise InputError(
            f"contains a run at step {newest.step}; continue it with --resume, or give another --models-root",
            path=prefix,
        )


def rehearse(run: Run, spec: RunSpec) -> None:
    """Refuse before the first step what verification would refuse after many."""
    arguments, auxiliary = run.learner.state.parameters()
    model = Model(run.deployed, arguments, auxiliary, run.prefix, run.step)
    try:
        make_embedder(spec, model)
    except InputError as error:
        raise InputError(f"this network could not be verified, so it is not trained: {error}") from error


def save(run: Run, spec: RunSpec) -> None:
    """Save the options beside the checkpoints; if the run is resumed, say what is new in them."""
    changed = save_options(f"{run.prefix}-config.json", spec)
    if run.step and changed:
        logger.info("other options than before: %s", "; ".join(changed))


def announce(run: Run, data: DataSpec) -> None:
    """Say what the run is about to do."""
    learner, loader, plan, workers = run.learner, run.loader, run.plan, run.workers
    records = loader.reader.records
    logger.info("%s: %d images of %d identities", data.dataset, len(records), records.num_classes)
    if learner.frozen:
        logger.info("%d parameters and batch statistics are frozen", len(learner.frozen))
    if learner.state.centers:
        logger.info("a step trains on %d of the %d classes", learner.state.centers.size, data.num_classes)
    if learner.teacher:
        logger.info("teacher: %s, %d values per embedding", learner.teacher.name, learner.teacher.emb_size)
    images = loader.batch_size * plan.accumulate * workers.size
    epochs = plan.steps * plan.accumulate / loader.batches_per_epoch
    where = ", ".join(map(str, learner.devices)) + (f" of {workers.size} workers" if workers.size > 1 else "")
    logger.info("%d steps of %d images (%.1f epochs) on %s", plan.steps, images, epochs, where)


if __name__ == "__main__":
    sys.exit(main())
