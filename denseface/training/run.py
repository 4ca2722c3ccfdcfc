"""A training run: its steps, one after the other, from wherever it stands to its end, and the files that it leaves."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from denseface.core.errors import InputError, is_out_of_memory, mxnet_reason
from denseface.core.signals import SIGNALS, Interrupted, handled_by
from denseface.data.loader import Batch, Loader
from denseface.evaluation.metrics import VerificationResult
from denseface.models import checkpoint
from denseface.models.checkpoint import Checkpoint, TrainingState
from denseface.training.averages import Averages
from denseface.training.learner import Learner, StepResult
from denseface.training.log import RunLog, TrainingRow
from denseface.training.progress import Progress, Window
from denseface.training.saved_options import check_repeated
from denseface.training.schedule import Schedule

import mxnet as mx

logger = logging.getLogger("denseface")

KEEP_NOTHING, KEEP_EVERY_BEST, KEEP_ALL, KEEP_BEST = 0, 1, 2, 3


@dataclass(frozen=True)
class Plan:
    """What a run does, when, and where its files are.

    Attributes
    ----------
    prefix : str
        Prefix of the run's files; the folder exists.
    steps : int
        Steps of the whole run, whether resumed or not.
    schedule : Schedule
        The learning rate of each step.
    frequent : int
        Steps between two rows of the log.
    verbose : int
        Steps between two verifications, each with a checkpoint.
    keep : int
        ``KEEP_NOTHING`` (0): no checkpoints. Otherwise the newest is kept, with what resuming needs, and of the others
        only the model: each that was the best when it was saved (1), all (2), or the best (3).
    accumulate : int
        Batches per step.
    seed : int
        Seed of the run.
    stop_after : int
        Verifications in a row without an improvement beyond noise, after which the run ends; 0 for none.
    options : mapping of str to plain value
        What a resumed run has to repeat, by name.
    """

    prefix: str
    steps: int
    schedule: Schedule
    frequent: int
    verbose: int
    keep: int
    accumulate: int
    seed: int
    stop_after: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


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
        self._saved_step = 0
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
        found = self.workers.from_first(self._load_newest)
        if found is None:
            return False
        step, progress = found
        self.learner.state.broadcast()
        try:
            self.loader.restore(progress["loader"])
            self._progress = Progress.restored(progress)
        except InputError as error:
            raise InputError(
                f"the run to resume has another configuration: {error}; use the options of its start", path=self.prefix
            ) from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._strange_progress(step) from error
        self.step = self._saved_step = step
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
                self.workers.from_first(self._tidy)  # a run that ended may have been killed before it did
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
        5. verify and save, every ``plan.verbose`` steps; a verification that fails costs no step.
        """
        timed_steps, seconds = 0, 0.0
        _, stop = self._agree(StepResult(0.0, None, 0.0))
        while not self._is_over() and not stop:
            started = time.perf_counter()
            rate = self.plan.schedule.rate(self.step)
            try:
                batches = self._read(stream)
            except InputError:
                self._save()
                raise

            result = self._learn(batches, rate)

            result, stop = self._agree(result)
            for name, value in (("loss", result.loss), ("gradient", result.gradient_norm)):
                if not math.isfinite(value):
                    raise InputError(self._divergence(f"the {name}", self.step + 1))
            self.step += 1
            if self.averages:
                self.averages.update(self.step)
            self._progress.window.add(result)
            bar.update()
            timed_steps, seconds = timed_steps + 1, seconds + time.perf_counter() - started

            is_last = self.step == self.plan.steps
            if self.step % self.plan.frequent == 0 or is_last:
                if log:
                    self._log_row(result.accuracy is not None, rate, timed_steps / seconds, log, bar)
                self._progress.window, timed_steps, seconds = Window(), 0, 0.0

            if self.step % self.plan.verbose == 0 or is_last:
                try:
                    self._progress.stale = self.workers.from_first(lambda: self._verify(log))
                finally:
                    self._save()
        if self.step < self.plan.steps and self._is_over():
            logger.info("no improvement beyond noise in %d verifications; the run is over", self._progress.stale)

    def _is_over(self) -> bool:
        """Whether the run has all its steps, or has not become better for as long as its plan has patience."""
        return self.step >= self.plan.steps or 0 < self.plan.stop_after <= self._progress.stale

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
                f"step {self.step + 1}: MXNet fails ({mxnet_reason(error)}); {self._kept()}{advice}"
            ) from error

    def _agree(self, result: StepResult) -> tuple[StepResult, bool]:
        """Return the mean result of all workers, and whether a signal to one of them stops all.

        What a worker hears of a signal later than here counts at the next step, so that all stop at the same one.
        """
        asked = [self.stopped_by == number for number in SIGNALS]
        measured = [result.loss, result.accuracy or 0, result.gradient_norm]
        loss, accuracy, norm, *asked = self.workers.sum([*measured, *asked]) / self.workers.size
        mean = StepResult(float(loss), None if result.accuracy is None else float(accuracy), float(norm))
        signalled = [number for number, share in zip(SIGNALS, asked) if share]
        if signalled:
            self.stopped_by = signalled[0]
        return mean, bool(signalled)

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

    def _verify(self, log: RunLog) -> int:
        """Verify, log and remember; return for how many verifications the run has not become better."""
        results = dict(self.verify(*self.learner.state.parameters()))
        scores = [_score(results)] if results else []
        if self.averages:
            averaged = self.verify(*self.averages.values())
            scores += [_score(averaged)] if averaged else []
            results.update({f"{name}-ema": result for name, result in averaged.items()})
        for name, result in results.items():
            log.verification(self.step, name, result.to_dict())
            logger.info("step %d, %s: %s", self.step, name, _described(result))
        if scores:
            self._progress.verified(self.step, *max(scores))
        return self._progress.stale

    def _load_newest(self) -> tuple[int, dict] | None:
        """Read the newest checkpoint into the learner; return its step and progress, or None if there is none."""
        newest = Checkpoint.newest(self.prefix)
        if newest is None:
            return None
        started_with = newest.manifest["progress"].get("recipe")
        if not isinstance(started_with, dict):
            raise self._strange_progress(newest.step)
        check_repeated(started_with, self.plan.options, newest.step)
        centers = self.learner.state.centers
        targets = {"arguments": centers.weights, "momenta": centers.momenta} if centers else {}
        state = newest.load(**targets)
        try:
            self.learner.state.set_parameters(state.arguments, state.auxiliary)
            self.learner.state.set_momenta(state.momenta)
            if self.averages:
                self.averages.restore(*(state.averages or ({}, {})))
        except InputError as error:
            raise InputError(f"the run to resume has another configuration: {error}", path=self.prefix) from error
        return state.step, state.progress

    def _strange_progress(self, step: int) -> InputError:
        reason = "its progress is not what a run writes; restore the file from a copy"
        return InputError(reason, path=f"{self.prefix}-{step:04d}.json")

    def _save(self) -> None:
        """Save on the first worker, while the others wait; nothing if this step is saved already."""
        if self.plan.keep == KEEP_NOTHING or self.step == self._saved_step:
            return
        self.workers.from_first(self._write)
        self._saved_step = self.step
        self.workers.from_first(self._tidy)

    def _write(self) -> None:
        arguments, auxiliary = self.learner.state.parameters()
        momenta = self.learner.state.momenta()
        averages = self.averages.values() if self.averages else None
        for name, array in {**momenta, **arguments, **auxiliary}.items():
            if not (math.isfinite(array.min()) and math.isfinite(array.max())):  # no copy: the array may be large
                raise InputError(self._divergence(name, self.step))
        progress = {**self._progress.to_dict(), "loader": self.loader.state(), "recipe": dict(self.plan.options)}
        state = TrainingState(self.step, arguments, auxiliary, momenta, progress, averages)
        checkpoint.save(self.prefix, self.deployed, state)
        logger.info("step %d: saved %s,%d", self.step, self.prefix, self.step)

    def _tidy(self) -> None:
        """Remove checkpoints that the newest replaces, and what a crash left."""
        if self.plan.keep == KEEP_NOTHING or not self._saved_step:
            return
        bests = self._progress.bests
        models = {KEEP_EVERY_BEST: bests, KEEP_ALL: None, KEEP_BEST: bests[-1:]}[self.plan.keep]
        checkpoint.keep_only(self.prefix, models, states=[self._saved_step])

    def _open_log(self) -> RunLog | None:
        """Open the log, on the first worker."""
        opened = []
        self.workers.from_first(lambda: opened.append(RunLog(self.prefix, self.step)))
        return opened[0] if opened else None

    def _divergence(self, what: str, step: int) -> str:
        rate = self.plan.schedule.rate(step - 1)
        return (
            f"step {step}: {what} is no longer finite (learning rate {rate:.2g}); {self._kept()}; "
            f"try a learning rate of {rate / 10:.2g}, more warm-up steps, or a clipped gradient"
        )

    def _kept(self) -> str:
        return f"the checkpoint at step {self._saved_step} is kept" if self._saved_step else "nothing was saved yet"

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


class Score(NamedTuple):
    """What decides which step is the best.

    Attributes
    ----------
    value : float
        Mean balanced accuracy over the verification sets.
    noise : float
        Twice its standard error, with the pairs as independent draws. Pairs of few people vary more.
    """

    value: float
    noise: float


def _score(results: Mapping[str, VerificationResult]) -> Score:
    count = len(results)
    variance = sum(_variance(result) for result in results.values())
    return Score(sum(result.balanced_accuracy for result in results.values()) / count, 2 * math.sqrt(variance) / count)


def _variance(result: VerificationResult) -> float:
    """Variance of the balanced accuracy: that of the mean of two fractions."""
    accepted = np.mean(result.scores.genuine >= result.balanced_threshold)
    rejected = np.mean(result.scores.impostor < result.balanced_threshold)
    kinds = ((accepted, result.n_genuine), (rejected, result.n_impostor))
    return float(sum(rate * (1 - rate) / number for rate, number in kinds)) / 4


def _described(result: VerificationResult) -> str:
    """Write a result in one line; first what does not depend on how many of the pairs are genuine."""
    measured = [far for far, tar in result.tar.items() if tar is not None]
    strictest = f", TAR {result.tar[min(measured)]:.4f} at FAR {min(measured):g}" if measured else ""
    constant = max(result.n_genuine, result.n_impostor) / (result.n_genuine + result.n_impostor)
    return (
        f"balanced accuracy {result.balanced_accuracy:.4f}{strictest}, accuracy {result.accuracy:.4f} +- "
        f"{result.accuracy_std:.4f} (one answer for all pairs: {constant:.4f})"
    )
