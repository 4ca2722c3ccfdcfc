"""A training run: its steps, one after the other, from wherever it stands to its end, and the files that it leaves."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from denseface.core.errors import InputError, is_out_of_memory, reason_of
from denseface.core.signals import SIGNALS, Interrupted, handled_by
from denseface.data.loader import Batch, Loader
from denseface.training.averages import Averages
from denseface.training.checkpoints import Checkpoints
from denseface.training.learner import Learner, StepResult
from denseface.training.log import RunLog, TrainingRow
from denseface.training.plan import Plan
from denseface.training.progress import Progress, Window
from denseface.training.score import describe, score

import mxnet as mx

logger = logging.getLogger("denseface")


class Run:
    """A training run and its files.

    With several workers (``learner.workers``) each has a run with the same plan. They take the same steps and stop
    together; the first one alone reads and writes the run's files and verifies.

    Parameters
    ----------
    learner : Learner
        Takes the steps.
    loader : Loader
        Yields the batches.
    plan : Plan
        What to do and when.
    deployed : Symbol
        The network that is saved as the model.
    verify : callable
        Takes arguments and auxiliary states, returns the metrics of each verification set by name, as
        :class:`denseface.evaluation.metrics.VerificationResult`.
    averages : Averages, optional
        Of the deployed network's weights, on the first worker. They are verified and saved beside the weights.

    Attributes
    ----------
    step : int
        Steps taken so far.
    stopped_by : int or None
        The number of the signal that stopped the run.
    """

    def __init__(
        self,
        learner: Learner,
        loader: Loader,
        plan: Plan,
        deployed: mx.sym.Symbol,
        verify: Callable[[dict, dict], Mapping[str, Any]],
        averages: Averages | None = None,
    ):
        self.learner = learner
        self.workers = learner.workers
        self.loader = loader
        self.plan = plan
        self.prefix = plan.prefix
        self.deployed = deployed
        self.verify = verify
        self.averages = averages
        self.step = 0
        self.stopped_by: int | None = None
        self._checkpoints = Checkpoints(plan, learner, loader, deployed, averages)
        self._progress = Progress()

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
        progress = self._checkpoints.restore()
        if progress is None:
            return False
        self.step, self._progress = self._checkpoints.saved, progress
        return True

    def fit(self) -> bool:
        """Train to the end of the plan.

        SIGINT, SIGTERM and SIGHUP let the step finish and save; a second SIGINT ends the run at once.

        Returns
        -------
        bool
            Whether the run is over; False after a signal.

        Raises
        ------
        InputError
            If the loss is no longer finite, or MXNet fails (nothing is saved then), or the loader has no next batch
            (after the run is saved).
        """
        if self.averages and not self.step:
            self.averages.reset()
        log = self._open_log()
        stream = self.loader.batches(self.step * self.plan.accumulate)
        bar = tqdm(
            total=self.plan.steps, initial=self.step, unit="step", dynamic_ncols=True,
            disable=None if self.workers.is_first else True,
        )  # fmt: skip
        try:
            with self._stopped_by_signals(), logging_redirect_tqdm(), bar:
                self._take_steps(stream, log, bar)
                self._save()
                self._checkpoints.tidy(self._progress.bests)  # a run that ended may have been killed before it did
                return self._is_over()
        finally:
            stream.close()
            if log:
                log.close()

    def _take_steps(self, stream: Iterator[Batch], log: RunLog | None, bar: tqdm) -> None:
        """Take the steps that are left, each in these phases, on all workers alike.

        1. read the batches of the step; where a loader has none, the run is saved before it ends;
        2. learn from them: forward, backward, update (:meth:`Learner.step`); average the weights;
        3. agree with the other workers on the mean loss, and whether to stop after this step because one of them got
           a signal; a loss or gradient that is not finite ends the run unsaved;
        4. log a row, every ``plan.frequent`` steps;
        5. verify and save, every ``plan.verbose`` steps; a verification that fails costs no step, and is done again
           when the run is resumed.
        """
        self._verify_and_save(log)
        timed_steps, seconds = 0, 0.0
        _, stop = self._agree([])
        while not self._is_over() and not stop:
            started = time.perf_counter()
            rate = self.plan.schedule.rate(self.step)
            try:
                batches = self._read(stream)
            except InputError:
                self._save()
                raise

            result = self._learn(batches, rate)

            (loss, accuracy, norm), stop = self._agree([result.loss, result.accuracy or 0, result.gradient_norm])
            result = StepResult(loss, None if result.accuracy is None else accuracy, norm)
            for name, value in (("loss", result.loss), ("gradient", result.gradient_norm)):
                if not math.isfinite(value):
                    raise self._checkpoints.divergence(f"the {name}", self.step + 1)
            self.step += 1
            if self.averages:
                self.averages.update(self.step)
            self._progress.window.add(result)
            bar.update()
            timed_steps, seconds = timed_steps + 1, seconds + time.perf_counter() - started

            if self._is_every(self.plan.frequent):
                if log:
                    self._log_row(result.accuracy is not None, rate, timed_steps / seconds, log, bar)
                self._progress.window, timed_steps, seconds = Window(), 0, 0.0

            self._verify_and_save(log)
        if self.step < self.plan.steps and self._is_over():
            logger.info("no improvement beyond noise in %d verifications; the run is over", self._progress.stale)

    def _is_over(self) -> bool:
        """Whether the run has all its steps, or has not become better for as long as its plan has patience."""
        return self.step >= self.plan.steps or 0 < self.plan.stop_after <= self._progress.stale

    def _is_every(self, number: int) -> bool:
        """Whether what is done every so many steps, and after the last one, is due."""
        return self.step % number == 0 or self.step == self.plan.steps

    def _read(self, stream: Iterator[Batch]) -> list[Batch]:
        """Read a step's batches; raises on every worker if one of them cannot."""
        batches, failure = [], None
        try:
            batches = [next(stream) for _ in range(self.plan.accumulate)]
        except InputError as error:
            failure = error
        self.workers.check(failure)
        return batches

    def _learn(self, batches: list[Batch], rate: float) -> StepResult:
        try:
            return self.learner.step(batches, rate, self.plan.seed * 1_000_003 + self.step)
        except (mx.MXNetError, MemoryError) as error:
            advice = "; try a smaller batch per device, and accumulate more of them" if is_out_of_memory(error) else ""
            raise InputError(
                f"step {self.step + 1}: MXNet fails ({reason_of(error)}); {self._checkpoints.kept()}{advice}"
            ) from error

    def _agree(self, measured: Sequence[float]) -> tuple[list[float], bool]:
        """Return means over all workers, and whether a signal to one of them stops all.

        What a worker hears of a signal later than here counts at the next step, so that all stop at the same one.
        """
        asked = [self.stopped_by == number for number in SIGNALS]
        means = (self.workers.sum([*measured, *asked]) / self.workers.size).tolist()
        signalled = [number for number, share in zip(SIGNALS, means[len(measured) :]) if share]
        if signalled:
            self.stopped_by = signalled[0]
        return means[: len(measured)], bool(signalled)

    def _log_row(self, has_accuracy: bool, rate: float, steps_per_second: float, log: RunLog, bar: tqdm) -> None:
        window = self._progress.window
        loss = window.loss / window.steps
        accuracy = window.accuracy / window.steps if has_accuracy else None
        speed = steps_per_second * self.plan.accumulate * self.loader.batch_size * self.workers.size
        epoch = self.step * self.plan.accumulate / self.loader.batches_per_epoch
        log.training(TrainingRow(self.step, epoch, rate, loss, accuracy, speed, window.gradient_norm / window.steps))
        shown = f"loss {loss:.4f}" + (f", accuracy {accuracy:.3f}" if has_accuracy else "")
        bar.set_postfix_str(f"{shown}, lr {rate:.2g}, {speed:.1f} images/s")
        if bar.disable:
            logger.info("step %d/%d, %s, lr %.2g, %.1f images/s", self.step, self.plan.steps, shown, rate, speed)

    def _verify_and_save(self, log: RunLog | None) -> None:
        """Verify a step that is due and not verified yet, on the first worker; save it even if that fails."""
        if not self._is_every(self.plan.verbose) or self._progress.verified_step == self.step:
            return
        try:
            self._progress.stale = self.workers.from_first(lambda: self._verify(log))
            self._progress.verified_step = self.step
        finally:
            self._save()

    def _verify(self, log: RunLog | None) -> int:
        """Verify, log and remember; return for how many verifications the run has not become better."""
        results = dict(self.verify(*self.learner.state.parameters()))
        scores = [score(results)] if results else []
        if self.averages:
            averaged = self.verify(*self.averages.values())
            scores += [score(averaged)] if averaged else []
            results.update({f"{name}-ema": result for name, result in averaged.items()})
        for name, result in results.items():
            if log:
                log.verification(self.step, name, result.to_dict())
            logger.info("step %d, %s: %s", self.step, name, describe(result))
        if scores:
            self._progress.verified(self.step, *max(scores))
        return self._progress.stale

    def _save(self) -> None:
        self._checkpoints.save(self.step, self._progress)

    def _open_log(self) -> RunLog | None:
        """Open the log, on the first worker."""
        opened = []
        self.workers.from_first(lambda: opened.append(RunLog(self.prefix, self.step, self._progress.verified_step)))
        return opened[0] if opened else None

    @contextlib.contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """Turn signals into a request to stop for as long as the block lasts."""
        self.stopped_by = None

        def request(number: int, frame: object) -> None:
            if self.stopped_by is not None and number == signal.SIGINT:
                raise Interrupted(number)
            self.stopped_by = number
            with contextlib.suppress(OSError):  # the terminal, or the launcher that reads this, may be gone
                os.write(2, b"\nstopping after this step; the run is saved first\n")

        with handled_by(request):
            yield
