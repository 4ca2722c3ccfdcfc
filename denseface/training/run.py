"""The fit loop: steps, figures, verification and checkpoints, from wherever a run stands to its end."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from denseface.core.errors import InputError, mxnet_reason
from denseface.core.signals import SIGNALS, Interrupted, handled_by
from denseface.data.loader import Batch, Loader
from denseface.evaluation.metrics import VerificationResult
from denseface.models import checkpoint
from denseface.models.checkpoint import Checkpoint, TrainingState
from denseface.training.learner import Learner, StepResult
from denseface.training.log import RunLog

import mxnet as mx

logger = logging.getLogger("denseface")

KEEP_NOTHING, KEEP_EVERY_BEST, KEEP_ALL, KEEP_BEST = 0, 1, 2, 3


@dataclass(frozen=True)
class Plan:
    """What a run does and when.

    Attributes
    ----------
    steps : int
        Steps of the whole run, whether resumed or not.
    learning_rate : float
        Rate after the warm-up.
    lr_steps : sequence of int
        Steps at which the rate falls to a tenth.
    warmup_steps : int
        Steps over which the rate rises in a straight line.
    frequent : int
        Steps between two lines of figures.
    verbose : int
        Steps between two verifications with a checkpoint.
    keep : int
        ``KEEP_NOTHING`` (0): no checkpoints.  Otherwise the newest is kept, with what resuming needs, and of the others
        the networks alone: each that was best when it was saved (1), all (2), or the best (3).
    accumulate : int
        Batches a step.
    seed : int
        Seed of the run.
    """

    steps: int
    learning_rate: float
    lr_steps: Sequence[int]
    warmup_steps: int
    frequent: int
    verbose: int
    keep: int
    accumulate: int
    seed: int

    def rate(self, step: int) -> float:
        """Learning rate of the step with this number, from 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.learning_rate * warmup * 0.1 ** sum(step >= drop for drop in self.lr_steps)


class Run:
    """A training run with a place on disk.

    Of several workers (``learner.workers``) each has a run with the same plan.  They take the same steps and stop
    together; the first one alone reads and writes the run's files and verifies.

    Parameters
    ----------
    learner : Learner
        What learns.
    loader : Loader
        Where the batches come from.
    plan : Plan
        What to do.
    prefix : str
        Prefix of the checkpoints; the folder exists.
    deployed : Symbol
        The network that is saved as the model.
    verify : callable
        Takes arguments and auxiliary states and gives the figures of each verification set by name.

    Attributes
    ----------
    step : int
        Steps taken so far.
    stopped_by : int or None
        The number of the signal that has stopped the run.
    """

    def __init__(
        self,
        learner: Learner,
        loader: Loader,
        plan: Plan,
        prefix: str,
        deployed: mx.sym.Symbol,
        verify: Callable[[dict, dict], dict[str, VerificationResult]],
    ):
        self.learner = learner
        self.workers = learner.workers
        self.loader = loader
        self.plan = plan
        self.prefix = prefix
        self.deployed = deployed
        self.verify = verify
        self.step = 0
        self.stopped_by: int | None = None
        self._saved_step = 0
        self._best = {"step": None, "score": -math.inf}
        self._bests: list[int] = []

    def resume(self) -> bool:
        """Continue from the run's newest checkpoint.

        Returns
        -------
        bool
            Whether there is one; if not, nothing has changed.

        Raises
        ------
        InputError
            If it is damaged or belongs to another network.
        """
        found = self.workers.from_first(self._load_newest)
        if found is None:
            return False
        step, progress = found
        self.learner.broadcast()
        try:
            self.loader.restore(progress["loader"])
            self._best = {"step": progress["best"]["step"], "score": float(progress["best"]["score"])}
            self._bests = [int(best) for best in progress["bests"]]
        except InputError as error:
            raise InputError(
                f"{self.prefix}: the run to resume has another configuration: {error}; give the flags it was begun with"
            ) from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{self.prefix}-{step:04d}.json: its progress is not what a run has written; bring the file back"
            ) from error
        self.step = self._saved_step = step
        return True

    def fit(self) -> bool:
        """Train to the end of the plan.

        SIGINT and SIGTERM let the step finish and save; a second SIGINT breaks off at once.

        Returns
        -------
        bool
            Whether the end was reached; False after a signal.

        Raises
        ------
        InputError
            If the loss is no longer finite, or MXNet fails (nothing is saved then), or the loader has no next batch
            (after the run is saved).
        """
        log = self._open_log()
        stream = self.loader.batches(self.step * self.plan.accumulate)
        bar = tqdm(
            total=self.plan.steps, initial=self.step, unit="step", dynamic_ncols=True,
            disable=None if self.workers.is_first else True,
        )  # fmt: skip
        try:
            with self._stopped_by_signals(), logging_redirect_tqdm(), bar:
                self._fit(stream, log, bar)
                self._save()
                self.workers.from_first(self._tidy)  # a run that ended may have been killed before it did
                return self.step >= self.plan.steps
        finally:
            stream.close()
            if log:
                log.close()

    def _load_newest(self) -> tuple[int, dict] | None:
        """Read the newest checkpoint into the learner; return its step and progress, or None if there is none."""
        newest = Checkpoint.newest(self.prefix)
        if newest is None:
            return None
        centers = self.learner.centers
        targets = {"arguments": centers.weights, "momenta": centers.momenta} if centers else {}
        state = newest.load(**targets)
        try:
            self.learner.set_parameters(state.arguments, state.auxiliary)
            self.learner.set_momenta(state.momenta)
        except InputError as error:
            raise InputError(f"{self.prefix}: the run to resume has another configuration: {error}") from error
        return state.step, state.progress

    def _open_log(self) -> RunLog | None:
        """Open the figures, on the first worker."""
        opened = []
        self.workers.from_first(lambda: opened.append(RunLog(self.prefix, self.step)))
        return opened[0] if opened else None

    def _fit(self, stream: Iterator[Batch], log: RunLog | None, bar: tqdm) -> None:
        window: list[StepResult] = []
        started = time.perf_counter()
        _, stopped_by = self._agree(StepResult(0.0, None))
        while self.step < self.plan.steps and stopped_by is None:
            rate = self.plan.rate(self.step)
            try:
                batches = self._next_batches(stream)
            except InputError:
                self._save()
                raise
            result, stopped_by = self._agree(self._take_step(batches, rate))
            if not math.isfinite(result.loss):
                raise InputError(self._divergence("the loss", self.step + 1))
            self.step += 1
            window.append(result)
            bar.update()
            if self.step % self.plan.frequent == 0 or self.step == self.plan.steps:
                seconds = time.perf_counter() - started
                if log:
                    self._report(window, rate, seconds, log, bar)
                window, started = [], time.perf_counter()
            if self.step % self.plan.verbose == 0 or self.step == self.plan.steps:
                try:
                    self.workers.from_first(lambda: self._verify(log))
                finally:
                    self._save()
                started = time.perf_counter()

    def _take_step(self, batches: list[Batch], rate: float) -> StepResult:
        try:
            return self.learner.step(batches, rate, seed=self.plan.seed * 1_000_003 + self.step)
        except (mx.MXNetError, MemoryError) as error:
            raise InputError(
                f"step {self.step + 1}: MXNet fails ({mxnet_reason(error)}); {self._kept()}; "
                "if it is memory, try a smaller --per-batch-size and --accumulate"
            ) from error

    def _next_batches(self, stream: Iterator[Batch]) -> list[Batch]:
        """Read a step's batches; raises on every worker if one of them cannot."""
        batches, failure = [], None
        try:
            batches = [next(stream) for _ in range(self.plan.accumulate)]
        except InputError as error:
            failure = error
        self.workers.check(failure)
        return batches

    def _agree(self, result: StepResult) -> tuple[StepResult, int | None]:
        """Mean of the results of all workers, and the signal that has asked one of them to stop."""
        asked = [self.stopped_by == number for number in SIGNALS]
        loss, accuracy, *asked = self.workers.sum([result.loss, result.accuracy or 0, *asked]) / self.workers.size
        stopped_by = next((number for number, times in zip(SIGNALS, asked) if times), None)
        if stopped_by is not None:
            self.stopped_by = stopped_by
        return StepResult(float(loss), None if result.accuracy is None else float(accuracy)), stopped_by

    def _report(self, window: list[StepResult], rate: float, seconds: float, log: RunLog, bar: tqdm) -> None:
        loss = sum(result.loss for result in window) / len(window)
        accuracy = None
        if window[0].accuracy is not None:
            accuracy = sum(result.accuracy for result in window) / len(window)
        speed = len(window) * self.plan.accumulate * self.loader.batch_size * self.workers.size / seconds
        epoch = self.step * self.plan.accumulate / self.loader.steps_per_epoch
        log.training(self.step, epoch, rate, loss, accuracy, speed)
        shown = f"loss {loss:.4f}" + (f", accuracy {accuracy:.3f}" if accuracy is not None else "")
        bar.set_postfix_str(f"{shown}, lr {rate:.2g}, {speed:.1f} images/s")
        if bar.disable:
            logger.info("step %d/%d, %s, lr %.2g, %.1f images/s", self.step, self.plan.steps, shown, rate, speed)

    def _verify(self, log: RunLog) -> None:
        results = self.verify(*self.learner.parameters())
        for name, result in results.items():
            figures = result.to_dict()
            log.verification(self.step, name, figures)
            logger.info(
                "step %d, %s: accuracy %.4f +- %.4f, balanced %.4f", self.step, name, result.accuracy,
                result.accuracy_std, result.balanced_accuracy,
            )  # fmt: skip
        if results:
            score = sum(result.balanced_accuracy for result in results.values()) / len(results)
            if score > self._best["score"]:
                self._best = {"step": self.step, "score": score}
                self._bests = [*self._bests, self.step]

    def _save(self) -> None:
        """Save on the first worker, while the others wait; nothing where it is saved already."""
        if self.plan.keep == KEEP_NOTHING or self.step == self._saved_step:
            return
        self.workers.from_first(self._write)
        self._saved_step = self.step
        self.workers.from_first(self._tidy)

    def _write(self) -> None:
        arguments, auxiliary = self.learner.parameters()
        momenta = self.learner.momenta()
        for name, array in {**momenta, **arguments, **auxiliary}.items():
            if not (math.isfinite(array.min()) and math.isfinite(array.max())):  # no copy of what may be large
                raise InputError(self._divergence(name, self.step))
        progress = {"best": self._best, "bests": self._bests, "loader": self.loader.state()}
        state = TrainingState(self.step, arguments, auxiliary, momenta, progress)
        checkpoint.save(self.prefix, self.deployed, state)
        logger.info("step %d: saved %s,%d", self.step, self.prefix, self.step)

    def _tidy(self) -> None:
        """Remove checkpoints that the newest replaces, and what a crash left."""
        if self.plan.keep == KEEP_NOTHING or not self._saved_step:
            return
        models = {KEEP_EVERY_BEST: self._bests, KEEP_ALL: None, KEEP_BEST: self._bests[-1:]}[self.plan.keep]
        checkpoint.keep_only(self.prefix, models, states=[self._saved_step])

    def _divergence(self, what: str, step: int) -> str:
        rate = self.plan.rate(step - 1)
        return (
            f"step {step}: {what} is not finite any more (learning rate {rate:.2g}); {self._kept()}; "
            f"try --lr {rate / 10:.2g}, or more --warmup-steps"
        )

    def _kept(self) -> str:
        return f"the checkpoint at step {self._saved_step} is kept" if self._saved_step else "nothing was saved yet"

    @contextlib.contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into a request to stop for as long as the block lasts."""
        self.stopped_by = None

        def request(number, frame):
            if self.stopped_by is not None and number == signal.SIGINT:
                raise Interrupted(number)
            self.stopped_by = number
            with contextlib.suppress(OSError):  # whoever read it may have gone, as a launcher that was killed
                os.write(2, b"\nstopping after this step; the run is saved first\n")

        with handled_by(request):
            yield
