"""A training symbol bound on devices, with its parameters and its optimizer: the part that learns."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Union

import numpy as np

from denseface.core.errors import InputError
from denseface.data.loader import Batch
from denseface.distributed.workers import OneWorker, Workers
from denseface.models.distillation import INPUTS, TEACHER_INPUT
from denseface.training.binding import bind
from denseface.training.exchange import Exchange
from denseface.training.partial_fc import CLASS_PARAMETERS, Centers, draw_sample
from denseface.training.teacher import Teacher

import mxnet as mx

_BLOCK = 1 << 13  # squares that MXNet adds in float32
_AGGREGATED = 16  # arrays in one call of MXNet's kernel, which writes past its end beyond 60; more are slower on CPUs
_Array = Union[mx.nd.NDArray, np.ndarray]  # on a device, or in main memory


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


class Descent(NamedTuple):
    """How parameters follow their gradients.

    Attributes
    ----------
    momentum, wd : float
        Momentum and weight decay. A parameter's attribute ``__wd_mult__`` multiplies the decay; see
        :mod:`denseface.training.decay`.
    clip_norm : float
        Longer gradients are shortened to this norm; 0 leaves them as they are.
    accumulate : int
        Batches per step; their gradients are averaged.
    """

    momentum: float
    wd: float
    clip_norm: float = 0
    accumulate: int = 1


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
    centers : Centers or None
        The parameters of all classes, if steps train on a sample of them.

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
        self.parameter_names = [name for name in self.symbol.list_arguments() if name not in INPUTS]
        self._numbers = {name: number for number, name in enumerate(self.parameter_names)}
        self._learning = [name for name in self.parameter_names if name not in self.frozen]
        grad_req = "write" if self.accumulate == 1 else "add"
        self._executors = bind(self.symbol, self.devices, self._input_shapes(data_shape), self._learning, grad_req)
        self._exchange = Exchange(self._executors, self.parameter_names, self.workers, kvstore)
        self._scale = 1 / (self._exchange.shares * self.accumulate)  # of the summed gradient, to that of the mean loss
        self._clip_norm = descent.clip_norm
        self._optimizer = mx.optimizer.SGD(
            momentum=descent.momentum,
            wd=descent.wd,
            rescale_grad=self._scale,
            sym=self.symbol,
            param_idx2name=dict(enumerate(self.parameter_names)),
        )
        self.centers = self._make_centers(sampled_from, descent.momentum > 0) if sampled_from else None
        gradients = [self._executors[0].grad_dict[name] for name in self._learning]
        dense = [name for name in self._learning if not self._is_sampled(name)]
        self._aggregated = [dense[start : start + _AGGREGATED] for start in range(0, len(dense), _AGGREGATED)]
        self._gradient_blocks = [block for array in gradients for block in _blocks(array)]
        self._momenta = [
            {
                name: None if self._is_sampled(name) else self._optimizer.create_state(index, executor.arg_dict[name])
                for name, index in self._numbers.items()
                if name not in self.frozen
            }
            for executor in self._executors
        ]

    def _input_shapes(self, data_shape: tuple[int, int, int, int]) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs on each device."""
        share = data_shape[0] // len(self.devices)
        shapes: dict[str, tuple[int, ...]] = {"data": (share, *data_shape[1:]), "softmax_label": (share,)}
        if self.teacher:
            shapes[TEACHER_INPUT] = (share, self.teacher.emb_size)
        return shapes

    def _make_centers(self, num_classes: int, momentum: bool) -> Centers:
        bound = self._executors[0].arg_dict
        return Centers(num_classes, {name: bound[name].shape for name in CLASS_PARAMETERS if name in bound}, momentum)

    def initialize(self, initializer: mx.init.Initializer, seed: int) -> None:
        """Draw every parameter; a variable's own ``init`` attribute takes precedence over ``initializer``."""
        mx.random.seed(seed)
        np.random.seed(seed % 2**32)  # some of MXNet's initializers draw from NumPy
        attributes = self.symbol.attr_dict()
        first = self._executors[0]
        for name in self.parameter_names:
            description = mx.init.InitDesc(name, attributes.get(name, {}))
            if self._is_sampled(name):
                self.centers.initialize(name, partial(initializer, description))
            else:
                initializer(description, first.arg_dict[name])
        for name, array in first.aux_dict.items():
            initializer(mx.init.InitDesc(name, attributes.get(name, {})), array)
        self._exchange.copy_to_devices()

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
        squares = mx.nd.multi_sum_sq(*self._gradient_blocks, num_arrays=len(self._gradient_blocks))
        if self._clip_norm:
            self._clip(self._norm(squares))
        self._update(learning_rate, sample)
        self._exchange.average_statistics(self.frozen)
        return self._result(measured, squares)

    def _draw(self, batches: Sequence[Batch], seed: int) -> tuple[np.ndarray | None, Sequence[Batch]]:
        """Return the sample of classes, if there is one, and the batches with labels that count within it."""
        mx.random.seed((seed * self.workers.size + self.workers.rank) % 2**31)
        if not self.centers:
            return None, batches
        sample = draw_sample(self._all_labels(batches), self.centers.num_classes, self.centers.size, seed)
        for executor in self._executors:
            self.centers.load(sample, executor.arg_dict)
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
        return StepResult(float(np.mean(losses)), float(np.mean(right)) if right else None, self._norm(squares))

    def _norm(self, squares: mx.nd.NDArray) -> float:
        """Return the norm of the mean loss's gradient, given sums of squares of the summed gradient."""
        return self._scale * math.sqrt(squares.asnumpy().sum(dtype=np.float64))

    def _clip(self, norm: float) -> None:
        """Let the optimizer shorten a gradient that is too long."""
        self._optimizer.rescale_grad = self._scale * min(1, self._clip_norm / norm if norm else 1)

    def _update(self, learning_rate: float, sample: np.ndarray | None) -> None:
        """Change parameters: those on the devices with one call for several."""
        self._optimizer.lr = learning_rate
        for executor, momenta in zip(self._executors, self._momenta):
            for names in self._aggregated:
                arguments = self._numbers, executor.arg_dict, executor.grad_dict, momenta
                self._optimizer.update(*([values[name] for name in names] for values in arguments))
        for name in self._learning:
            if self._is_sampled(name):
                gradient = self._executors[0].grad_dict[name]
                self.centers.update(name, sample, gradient, partial(self._optimizer.update, self._numbers[name]))

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

    def bound(self) -> tuple[dict[str, mx.nd.NDArray], dict[str, mx.nd.NDArray]]:
        """Return the arrays of the first device that steps change: parameters and moving averages, by name."""
        first = self._executors[0]
        return {name: first.arg_dict[name] for name in self.parameter_names}, dict(first.aux_dict)

    def parameters(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return arguments and auxiliary states by name: copies, except ``centers.weights``, which steps change."""
        first = self._executors[0]
        arguments = {name: _read(array) for name, array in self._arguments().items()}
        return arguments, {name: array.asnumpy() for name, array in first.aux_dict.items()}

    def set_parameters(self, arguments: Mapping[str, np.ndarray], auxiliary: Mapping[str, np.ndarray]) -> None:
        """Set parameters and moving averages on every device; those not named stay as they are.

        Raises
        ------
        InputError
            If one is unknown here, or of another shape.
        """
        for given, own in ((arguments, self._arguments()), (auxiliary, self._executors[0].aux_dict)):
            for name, array in given.items():
                _assign(name, own, array)
        self._exchange.copy_to_devices()

    def adopt(
        self, arguments: Mapping[str, np.ndarray], auxiliary: Mapping[str, np.ndarray]
    ) -> tuple[list[str], list[str], list[str]]:
        """Copy those parameters of another model that have the same name and shape here.

        Returns
        -------
        loaded, fresh, left_over : list of str
            Names copied, names here that stay as they are, and names of the other model that are not used.
        """
        own = {**self._arguments(), **self._executors[0].aux_dict}
        given = {**arguments, **auxiliary}
        fits = {
            name for name, array in own.items()
            if name in given and given[name].shape == array.shape
        }  # fmt: skip
        self.set_parameters(
            {name: array for name, array in arguments.items() if name in fits},
            {name: array for name, array in auxiliary.items() if name in fits},
        )
        return (
            [name for name in own if name in fits],
            [name for name in own if name not in fits],
            [name for name in given if name not in fits],
        )

    def momenta(self) -> dict[str, np.ndarray]:
        """Return the optimizer's state by parameter: copies, except ``centers.momenta``; empty without momentum."""
        own = self._with_centers(self._momenta[0], "momenta")
        return {name: _read(array) for name, array in own.items() if array is not None}

    def set_momenta(self, momenta: Mapping[str, np.ndarray]) -> None:
        """Set the optimizer's state; raises InputError as :meth:`set_parameters` does."""
        for bound in self._momenta:
            own = self._with_centers(bound, "momenta")
            for name, array in momenta.items():
                _assign(name, own, array)

    def broadcast(self) -> None:
        """Send parameters, moving averages and momenta of the first worker to all others."""
        if self.workers.size == 1:
            return
        first = self._executors[0]
        for name in self.parameter_names:
            self._exchange.broadcast(name, first.arg_dict[name])
            if self._momenta[0].get(name) is not None:
                self._exchange.broadcast(name, self._momenta[0][name])
                for momenta in self._momenta[1:]:
                    self._momenta[0][name].copyto(momenta[name])
        for name, array in first.aux_dict.items():
            self._exchange.broadcast(name, array)
        self._exchange.copy_to_devices()
        if self.centers:
            self._broadcast_centers()

    def _broadcast_centers(self) -> None:
        for name in self.parameter_names:
            for tables in (self.centers.weights, self.centers.momenta):
                for block in self.centers.blocks(tables.get(name)):
                    array = mx.nd.zeros(self._executors[0].grad_dict[name].shape)  # the shape of that key
                    array[: len(block)] = block
                    self._exchange.broadcast(name, array)
                    block[:] = array[: len(block)].asnumpy()

    def _arguments(self) -> dict[str, _Array]:
        """Arrays of the parameters by name: on the first device, or among the centers."""
        return self._with_centers(self.bound()[0], "weights")

    def _is_sampled(self, name: str) -> bool:
        return self.centers is not None and name in self.centers.weights

    def _with_centers(self, arrays: dict[str, _Array], kind: str) -> dict[str, _Array]:
        return {**arrays, **getattr(self.centers, kind)} if self.centers else arrays

    def _all_labels(self, batches: Sequence[Batch]) -> np.ndarray:
        """Return the labels of all workers, so that all draw the same sample of classes."""
        labels = np.zeros((self.workers.size, sum(len(batch.label) for batch in batches)))
        labels[self.workers.rank] = np.concatenate([batch.label for batch in batches])
        return self.workers.sum(labels)

    def _cut(self, array: np.ndarray) -> list[np.ndarray]:
        """Equal shares for the devices."""
        return np.split(array, len(self._executors))


def _blocks(array: mx.nd.NDArray) -> Iterator[mx.nd.NDArray]:
    """Yield views of an array, block by block."""
    flat = array.reshape((-1,))
    for start in range(0, array.size, _BLOCK):
        yield flat[start : min(start + _BLOCK, array.size)]


def _read(array: _Array) -> np.ndarray:
    """Copy an array from its device; return an ndarray as a view that cannot be written."""
    if isinstance(array, mx.nd.NDArray):
        return array.asnumpy()
    array = array.view()
    array.flags.writeable = False
    return array


def _assign(name: str, own: Mapping[str, _Array | None], array: np.ndarray) -> None:
    """Copy a NumPy array into the array of the same name."""
    if name not in own or own[name] is None:
        raise InputError(f"{name}: this network has no such parameter")
    if own[name].shape != array.shape:
        raise InputError(f"{name}: its shape is {array.shape}, but this network needs {own[name].shape}")
    if own[name] is not array:  # it is, if a checkpoint was read straight into this array
        own[name][:] = array
