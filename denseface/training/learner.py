"""A training symbol bound on devices, with its parameters and its optimizer: the part that learns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from denseface.data.loader import Batch
from denseface.distributed.workers import OneWorker, Workers
from denseface.models.distillation import INPUTS, TEACHER_INPUT
from denseface.training.binding import bind
from denseface.training.descent import Descent, Optimizer
from denseface.training.exchange import Exchange
from denseface.training.partial_fc import Centers, draw_sample
from denseface.training.state import State
from denseface.training.teacher import Teacher

import mxnet as mx


class StepResult(NamedTuple):
    """What one step measured.

    Attributes
    ----------
    loss : float
        Mean loss (nats for a softmax).
    accuracy : float or None
        0 to 1; None for triplets.
    gradient_norm : float
        Euclidean norm of the mean loss's gradient by all parameters that the step updates, before clipping.
    """

    loss: float
    accuracy: float | None
    gradient_norm: float


class _Measured(NamedTuple):
    """What a device measures of a batch, still on that device, and the labels; triplets have no answers."""

    loss: mx.nd.NDArray
    answers: mx.nd.NDArray | None
    labels: np.ndarray


class Task(NamedTuple):
    """What is learned.

    Attributes
    ----------
    symbol : Symbol
        Group of embedding, prediction and loss; its inputs are those of :mod:`denseface.models.distillation`.
    frozen : collection of str
        Parameters and moving averages that never change.
    teacher : Teacher or None
        Embeds the pictures of each batch for a symbol of :mod:`denseface.models.distillation`.
    sampled_from : int or None
        For Partial FC: the number of all classes, if the symbol's classifier has room for a sample of them. Each
        step draws its own sample, the same on every device and worker. By default all classes are trained.
    """

    symbol: mx.sym.Symbol
    frozen: Collection[str] = ()
    teacher: Teacher | None = None
    sampled_from: int | None = None


class Devices(NamedTuple):
    """What computes.

    Attributes
    ----------
    contexts : tuple of Context
        Devices of this process.
    kvstore : str
        Type of the MXNet key-value store that sums gradients over several devices; several workers have their own.
    workers : OneWorker or ServerWorkers
        The processes that train together.
    """

    contexts: tuple[mx.Context, ...]
    kvstore: str
    workers: Workers


class Learner:
    """Stochastic gradient descent with momentum on a symbol of :mod:`denseface.models.losses`.

    Every device has all parameters and takes an equal share of each batch. Gradients are summed over devices and
    workers before all make the same update, and moving averages are averaged after it; see
    :mod:`denseface.training.exchange`.

    Parameters
    ----------
    task : Task
        What is learned.
    data_shape : tuple of int
        (N, C, H, W) of a whole batch; the number of devices divides N.
    descent : Descent
        How parameters are updated.
    devices : Devices, optional
        What computes; by default the CPU, for this process alone.

    Attributes
    ----------
    devices : tuple of Context
        Devices that it trains on.
    frozen : collection of str
        As of the task.
    state : State
        What steps change.

    Raises
    ------
    InputError
        If there is not enough memory for such batches, or so many classes.
    """

    def __init__(
        self,
        task: Task,
        data_shape: tuple[int, int, int, int],
        descent: Descent,
        devices: Devices | None = None,
    ):
        self.devices, kvstore, self.workers = devices or Devices((mx.cpu(),), "device", OneWorker())
        self.symbol, self.frozen, self.teacher, sampled_from = task
        self.accumulate = descent.accumulate
        parameters = [name for name in self.symbol.list_arguments() if name not in INPUTS]
        self._learning = [name for name in parameters if name not in self.frozen]
        grad_req = "write" if self.accumulate == 1 else "add"
        self._executors = bind(self.symbol, self.devices, self._input_shapes(data_shape), self._learning, grad_req)
        self._exchange = Exchange(self._executors, parameters, self.workers, kvstore)
        centers = Centers.of(self._executors[0], sampled_from, descent.momentum > 0) if sampled_from else None
        with_momentum = self._learning if descent.momentum > 0 else ()
        self.state = State(self.symbol, self._executors, self._exchange, with_momentum, centers)
        self._optimizer = Optimizer(
            self.symbol, self._executors, self.state, self._learning, descent, self._exchange.shares
        )

    def _input_shapes(self, data_shape: tuple[int, int, int, int]) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs on each device."""
        share = data_shape[0] // len(self.devices)
        shapes: dict[str, tuple[int, ...]] = {"data": (share, *data_shape[1:]), "softmax_label": (share,)}
        if self.teacher:
            shapes[TEACHER_INPUT] = (share, self.teacher.emb_size)
        return shapes

    def step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepResult:
        """Take one step.

        Its phases, in this order, the same on every worker:

        1. draw: dropout follows from the seed, and so does the sample of classes, whose centers go to the devices;
        2. forward and backward: batch by batch, each cut into equal shares for the devices; gradients add up. A
           teacher embeds the whole batch first;
        3. sum: gradients over devices and workers;
        4. clip: the sum's norm, that of all parameters together (Pascanu et al. 2013, algorithm 1); with a sample of
           classes, the rows of the sampled centers count as they would in the full layer, where others have none;
        5. update: SGD with momentum, of every parameter on every device, and of the sampled centers in main memory;
        6. average: moving averages over devices and workers.

        Parameters
        ----------
        batches : sequence of Batch
            ``accumulate`` batches: data float32 (N, C, H, W), label float32 (N,).
        learning_rate : float
            Rate of this step.
        seed : int
            Decides the dropout of this step, and its sample of classes, so that a step does not depend on the steps
            before it. Workers drop different units.

        Returns
        -------
        StepResult
            Averages over the batches, with the parameters from before the update.
        """
        sample, batches = self._draw(batches, seed)
        measured = self._forward_backward(batches)
        self._exchange.sum_gradients(self._learning)
        squares = self._optimizer.squares()
        self._optimizer.update(learning_rate, squares, sample)
        self._exchange.average_statistics(self.frozen)
        return self._result(measured, squares)

    def _draw(self, batches: Sequence[Batch], seed: int) -> tuple[np.ndarray | None, Sequence[Batch]]:
        """Return the sample of classes, if there is one, and the batches with labels that count within it."""
        mx.random.seed((seed * self.workers.size + self.workers.rank) % 2**31)
        centers = self.state.centers
        if not centers:
            return None, batches
        sample = draw_sample(self._all_labels(batches), centers.num_classes, centers.size, seed)
        for executor in self._executors:
            centers.load(sample, executor.arg_dict)
        return sample, [Batch(batch.data, np.searchsorted(sample, batch.label)) for batch in batches]

    def _forward_backward(self, batches: Sequence[Batch]) -> list[_Measured]:
        """Add up the gradients of batches; return what each device measures of each, without waiting for it."""
        executors = self._executors
        if self.accumulate > 1:
            for executor in executors:
                mx.nd.reset_arrays(
                    *(executor.grad_dict[name] for name in self._learning), num_arrays=len(self._learning)
                )
        measured = []
        for batch in batches:
            inputs = {"data": batch.data, "softmax_label": batch.label}
            if self.teacher:
                inputs[TEACHER_INPUT] = self.teacher(batch.data)
            cut = {name: self._cut(array) for name, array in inputs.items()}
            for number, executor in enumerate(executors):
                executor.forward(is_train=True, **{name: mx.nd.array(parts[number]) for name, parts in cut.items()})
                executor.backward()
                prediction, loss = executor.outputs[1], executor.outputs[-1]
                is_class = prediction.ndim == 2  # triplets have the labels instead
                answers = prediction.argmax(axis=1) if is_class else None
                measured.append(_Measured(loss.copy(), answers, cut["softmax_label"][number]))
        return measured

    def _result(self, measured: list[_Measured], squares: mx.nd.NDArray) -> StepResult:
        """Read what a step measured."""
        losses = [each.loss.asnumpy().mean() for each in measured]
        right = [each.answers.asnumpy() == each.labels for each in measured if each.answers is not None]
        accuracy = float(np.mean(right)) if right else None
        return StepResult(float(np.mean(losses)), accuracy, self._optimizer.norm(squares))

    def embed(self, data: np.ndarray) -> np.ndarray:
        """Embed a batch with the current parameters, in evaluation mode: moving averages, no dropout.

        For the thread that trains: a step uses the same executors.

        Parameters
        ----------
        data : ndarray of shape (N, C, H, W), float32
            N is that of the training batches; fill up with anything, since rows do not depend on each other.

        Returns
        -------
        ndarray of shape (N, emb_size), float32
        """
        mx.nd.waitall()  # MXNet does not declare that a backward pass changes moving averages
        for executor, share in zip(self._executors, np.split(data, len(self._executors))):
            executor.forward(is_train=False, data=mx.nd.array(share))
        embeddings = [executor.outputs[0].asnumpy() for executor in self._executors]
        return np.concatenate(embeddings).reshape(len(data), -1)

    def _all_labels(self, batches: Sequence[Batch]) -> np.ndarray:
        """Return the labels of all workers, so that all draw the same sample of classes."""
        labels = np.zeros((self.workers.size, sum(len(batch.label) for batch in batches)))
        labels[self.workers.rank] = np.concatenate([batch.label for batch in batches])
        return self.workers.sum(labels)

    def _cut(self, array: np.ndarray) -> list[np.ndarray]:
        """Equal shares for the devices."""
        return np.split(array, len(self._executors))
