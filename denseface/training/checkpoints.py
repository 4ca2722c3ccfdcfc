"""The checkpoints of a run: the newest is read, others are written, and those that are not kept are removed."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from denseface.core.errors import InputError
from denseface.data.loader import Loader
from denseface.models import checkpoint
from denseface.models.checkpoint import Checkpoint, TrainingState
from denseface.training.averages import Averages
from denseface.training.learner import Learner
from denseface.training.plan import Keep, Plan
from denseface.training.progress import Progress
from denseface.training.saved_options import check_repeated

import mxnet as mx

logger = logging.getLogger("denseface")


class Checkpoints:
    """Reads and writes the checkpoints of a run.

    All workers call the methods in the same order; the first one alone reads and writes.

    Parameters
    ----------
    plan : Plan
        Where they are, and which are kept.
    learner : Learner
        Its state is read and set.
    loader : Loader
        As the learner's.
    deployed : Symbol
        The network that is saved as the model.
    averages : Averages, optional
        Averaged weights, on the first worker.

    Attributes
    ----------
    saved : int
        Step of the newest; 0 if there is none.
    """

    def __init__(
        self,
        plan: Plan,
        learner: Learner,
        loader: Loader,
        deployed: mx.sym.Symbol,
        averages: Averages | None = None,
    ):
        self._plan, self._prefix = plan, plan.prefix
        self._learner, self._workers = learner, learner.workers
        self._loader = loader
        self._deployed = deployed
        self._averages = averages
        self.saved = self._verified = 0

    def restore(self) -> Progress | None:
        """Set learner and loader as in the newest checkpoint, and return the run's progress there.

        Returns
        -------
        Progress or None
            None without a checkpoint; then nothing has changed.

        Raises
        ------
        InputError
            If it is damaged or belongs to another network.
        """
        found = self._workers.from_first(self._load_newest)
        if found is None:
            return None
        step, saved = found
        self._learner.state.broadcast()
        try:
            self._loader.restore(saved["loader"])
            progress = Progress.restored(saved, step)
        except InputError as error:
            raise self._of_another(error, "; use the options of its start") from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._strange_progress(step) from error
        self.saved, self._verified = step, progress.verified_step
        return progress

    def save(self, step: int, progress: Progress) -> None:
        """Save a step, and remove what it replaces; nothing if nothing is kept, or the step is saved already.

        A step that was saved before it was verified is saved once more when it is.

        Raises
        ------
        InputError
            If a parameter is no longer finite, or a file cannot be written.
        """
        if self._plan.keep is Keep.NOTHING or (step, progress.verified_step) == (self.saved, self._verified):
            return
        self._workers.from_first(lambda: self._write(step, progress))
        self.saved, self._verified = step, progress.verified_step
        self.tidy(progress.bests)

    def tidy(self, bests: Sequence[int]) -> None:
        """Remove checkpoints that the newest replaces, and what a crash left."""
        if self.saved and self._plan.keep is not Keep.NOTHING:
            models = {Keep.EVERY_BEST: bests, Keep.ALL: None, Keep.BEST: bests[-1:]}[self._plan.keep]
            self._workers.from_first(lambda: checkpoint.keep_only(self._prefix, models, states=[self.saved]))

    def divergence(self, what: str, step: int) -> InputError:
        """Return the error of a run that has diverged at a step."""
        rate = self._plan.schedule.rate(step - 1)
        return InputError(
            f"step {step}: {what} is no longer finite (learning rate {rate:.2g}); {self.kept()}; "
            f"try a learning rate of {rate / 10:.2g}, more warm-up steps, or a clipped gradient"
        )

    def kept(self) -> str:
        """Say which step a run that ends now can be resumed from."""
        return f"the checkpoint at step {self.saved} is kept" if self.saved else "nothing was saved yet"

    def _load_newest(self) -> tuple[int, dict] | None:
        """Read the newest checkpoint into the learner; return its step and progress, or None if there is none."""
        newest = Checkpoint.newest(self._prefix)
        if newest is None:
            return None
        started_with = newest.manifest["progress"].get("recipe")
        if not isinstance(started_with, dict):
            raise self._strange_progress(newest.step)
        check_repeated(started_with, self._plan.options, newest.step)
        centers = self._learner.state.centers
        targets = {"arguments": centers.weights, "momenta": centers.momenta} if centers else {}
        state = newest.load(**targets)
        try:
            self._learner.state.set_parameters(state.arguments, state.auxiliary)
            self._learner.state.set_momenta(state.momenta)
            if self._averages:
                self._averages.restore(*(state.averages or ({}, {})))
        except InputError as error:
            raise self._of_another(error) from error
        return state.step, state.progress

    def _strange_progress(self, step: int) -> InputError:
        reason = "its progress is not what a run writes; restore the file from a copy"
        return InputError(reason, path=f"{self._prefix}-{step:04d}.json")

    def _of_another(self, error: InputError, advice: str = "") -> InputError:
        return InputError(f"the run to resume has another configuration: {error}{advice}", path=self._prefix)

    def _write(self, step: int, progress: Progress) -> None:
        arguments, auxiliary = self._learner.state.parameters()
        momenta = self._learner.state.momenta()
        averages = self._averages.values() if self._averages else None
        for name, array in {**momenta, **arguments, **auxiliary}.items():
            if not (math.isfinite(array.min()) and math.isfinite(array.max())):  # no copy: the array may be large
                raise self.divergence(name, step)
        saved = {**progress.to_dict(), "loader": self._loader.state(), "recipe": dict(self._plan.options)}
        state = TrainingState(step, arguments, auxiliary, momenta, saved, averages)
        checkpoint.save(self._prefix, self._deployed, state)
        logger.info("step %d: saved %s,%d", step, self._prefix, step)
