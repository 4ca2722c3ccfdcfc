"""A training symbol bound on devices, with its parameters and its optimizer: the part that learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from denseface.core.errors import InputError, mxnet_reason
from denseface.data.loader import Batch
from denseface.distributed.workers import OneWorker, Workers
from denseface.training.partial_fc import CLASS_PARAMETERS, Centers, draw_sample

import mxnet as mx


class StepResult(NamedTuple):
    """What one step showed: mean loss (nats for a softmax), and the share of right answers or None for triplets."""

    loss: float
    accuracy: float | None


class Learner:
    """Stochastic gradient descent with momentum on a symbol of :mod:`denseface.models.losses`.

    Every device holds all parameters and takes an equal share of each batch; gradients are summed over the devices
    (and, with a ``dist`` kvstore, over the workers) before each takes the same step.  Moving averages are meant over
    them after each step, so that all go on with the same.

    Parameters
    ----------
    symbol : Symbol
        Group of embedding, prediction and loss; its inputs are ``data`` and ``softmax_label``.
    data_shape : tuple of int
        (N, C, H, W) of a whole batch; the number of devices divides N.
    contexts : sequence of Context
        Devices to train on.
    momentum, wd : float
        Momentum and weight decay.  Decay spares biases, shifts and slopes, as is MXNet's rule.
    accumulate : int
        Number of batches whose gradients are meant into one step.
    kvstore : str
        Type of the MXNet key-value store that sums gradients over several devices; several workers bring their own.
    workers : Workers, optional
        The processes that train together; by default this one alone.
    num_classes : int, optional
        For Partial FC: the number of all classes, where the symbol's classifier has room for a sample of them.  Each
        step draws its own, the same on every device and worker.  The default is to train on the symbol's classes.

    Attributes
    ----------
    centers : Centers or None
        The parameters of all classes, with ``num_classes``.

    Raises
    ------
    InputError
        If there is not enough memory for such batches, or so many classes.
    """

    def __init__(
        self,
        symbol: mx.sym.Symbol,
        data_shape: tuple[int, int, int, int],
        contexts: Sequence[mx.Context],
        *,
        momentum: float,
        wd: float,
        accumulate: int = 1,
        kvstore: str = "device",
        workers: Workers | None = None,
        num_classes: int | None = None,
    ):
        self.symbol = symbol
        self.accumulate = accumulate
        self.workers = workers or OneWorker()
        self.kvstore = self.workers.kvstore or (mx.kv.create(kvstore) if len(contexts) > 1 else None)
        share = data_shape[0] // len(contexts)
        self.parameter_names = [n for n in symbol.list_arguments() if n not in ("data", "softmax_label")]
        grad_req = {name: "write" if accumulate == 1 else "add" for name in self.parameter_names}
        shapes = {"data": (share, *data_shape[1:]), "softmax_label": (share,)}
        grad_req.update(dict.fromkeys(shapes, "null"))
        try:
            self._executors = [symbol.simple_bind(context, grad_req=grad_req, **shapes) for context in contexts]
        except RuntimeError as error:  # simple_bind makes one of every MXNetError
            reason = mxnet_reason(error)
            raise InputError(
                f"a batch of {data_shape} does not work ({reason}); try a smaller --per-batch-size"
            ) from error
        self._shares = len(contexts) * self.workers.size
        self._optimizer = mx.optimizer.SGD(
            momentum=momentum,
            wd=wd,
            rescale_grad=1 / (self._shares * accumulate),
            sym=symbol,
            param_idx2name=dict(enumerate(self.parameter_names)),
        )
        if self.kvstore:
            keys = [*range(len(self.parameter_names)), *(index for index, _ in self._auxiliary_keys())]
            first = self._executors[0]
            self.kvstore.init(keys, [*map(first.grad_dict.get, self.parameter_names), *first.aux_dict.values()])
        self.centers = None
        if num_classes is not None:
            bound = self._executors[0].arg_dict
            shapes = {name: bound[name].shape for name in CLASS_PARAMETERS if name in bound}
            self.centers = Centers(num_classes, shapes, momentum > 0)
        self._momenta = [
            {
                name: None if self._is_sampled(name) else self._optimizer.create_state(index, executor.arg_dict[name])
                for index, name in enumerate(self.parameter_names)
            }
            for executor in self._executors
        ]

    def initialize(self, initializer: mx.init.Initializer, seed: int) -> None:
        """Draw every parameter afresh; a variable's own ``init`` attribute comes before ``initializer``."""
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
        self._share_parameters()

    def step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepResult:
        """Take one step.

        Parameters
        ----------
        batches : sequence of Batch
            ``accumulate`` batches: data float32 (N, C, H, W), label float32 (N,).
        learning_rate : float
            Rate of this step.
        seed : int
            Decides the dropout of this step, and its sample of classes, so that a step is the same whatever came before
            it.  Workers drop different units.

        Returns
        -------
        StepResult
            Means over the batches, before the step is taken.
        """
        mx.random.seed((seed * self.workers.size + self.workers.rank) % 2**31)
        if self.accumulate > 1:
            for executor in self._executors:
                for name in self.parameter_names:
                    executor.grad_dict[name][:] = 0
        sample = None
        if self.centers:
            labels = self._all_labels(batches)
            sample = draw_sample(labels, self.centers.num_classes, self.centers.size, seed)
            batches = [Batch(batch.data, np.searchsorted(sample, batch.label)) for batch in batches]
            for executor in self._executors:
                self.centers.load(sample, executor.arg_dict)
        results = [self._forward_backward(batch) for batch in batches]
        self._update(learning_rate, sample)
        if self.kvstore:
            self._average_auxiliary()
        losses, accuracies = zip(*results)
        return StepResult(float(np.mean(losses)), None if accuracies[0] is None else float(np.mean(accuracies)))

    def embed(self, data: np.ndarray) -> np.ndarray:
        """Embed a batch with the parameters as they are, in evaluation mode: moving averages, no dropout.

        For the thread that trains: a step uses the same executors.

        Parameters
        ----------
        data : ndarray of shape (N, C, H, W), float32
            N is that of the training batches; fill up with anything, rows do not depend on each other.

        Returns
        -------
        ndarray of shape (N, emb_size), float32
        """
        mx.nd.waitall()  # for the moving averages, as in _average_auxiliary
        for executor, share in zip(self._executors, np.split(data, len(self._executors))):
            executor.forward(is_train=False, data=mx.nd.array(share))
        embeddings = [executor.outputs[0].asnumpy() for executor in self._executors]
        return np.concatenate(embeddings).reshape(len(data), -1)

    def parameters(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Arguments and auxiliary states by name: copies, but for ``centers.weights``, which the next step changes."""
        first = self._executors[0]
        arguments = {name: _read(array) for name, array in self._arguments().items()}
        return arguments, {name: array.asnumpy() for name, array in first.aux_dict.items()}

    def set_parameters(self, arguments: Mapping[str, np.ndarray], auxiliary: Mapping[str, np.ndarray]) -> None:
        """Take over parameters and moving averages on every device; those not given stay as they are.

        Raises
        ------
        InputError
            If one is unknown here, or of another shape.
        """
        for given, own in ((arguments, self._arguments()), (auxiliary, self._executors[0].aux_dict)):
            for name, array in given.items():
                _assign(name, own, array)
        self._share_parameters()

    def adopt(
        self, arguments: Mapping[str, np.ndarray], auxiliary: Mapping[str, np.ndarray]
    ) -> tuple[list[str], list[str], list[str]]:
        """Take over those parameters of another model that have the same name and shape here.

        Returns
        -------
        loaded, fresh, left_over : list of str
            Names taken over, names here that stay as they are, and names of the other model that are not used.
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
        """The optimizer's state by parameter, but for ``centers.momenta`` as a copy; empty without momentum."""
        own = self._with_centers(self._momenta[0], "momenta")
        return {name: _read(array) for name, array in own.items() if array is not None}

    def set_momenta(self, momenta: Mapping[str, np.ndarray]) -> None:
        """Take over the optimizer's state; raises InputError as :meth:`set_parameters` does."""
        for own in self._momenta:
            own = self._with_centers(own, "momenta")
            for name, array in momenta.items():
                _assign(name, own, array)

    def broadcast(self) -> None:
        """Bring parameters, moving averages and momenta of the first worker to all others."""
        if self.workers.size == 1:
            return
        first = self._executors[0]
        for index, name in enumerate(self.parameter_names):
            self.workers.broadcast(index, first.arg_dict[name])
            if self._momenta[0][name] is not None:
                self.workers.broadcast(index, self._momenta[0][name])
                for momenta in self._momenta[1:]:
                    self._momenta[0][name].copyto(momenta[name])
        for index, name in self._auxiliary_keys():
            self.workers.broadcast(index, first.aux_dict[name])
        self._share_parameters()
        if self.centers:
            self._share_centers()

    def _share_centers(self):
        for index, name in enumerate(self.parameter_names):
            for tables in (self.centers.weights, self.centers.momenta):
                for block in self.centers.blocks(tables.get(name)):
                    array = mx.nd.zeros(self._executors[0].grad_dict[name].shape)  # the shape that the key has
                    array[: len(block)] = block
                    self.workers.broadcast(index, array)
                    block[:] = array[: len(block)].asnumpy()

    def _arguments(self):
        """Where the parameters are, by name: on the first device, or among the centres."""
        bound = self._executors[0].arg_dict
        return self._with_centers({name: bound[name] for name in self.parameter_names}, "weights")

    def _is_sampled(self, name):
        return self.centers is not None and name in self.centers.weights

    def _with_centers(self, arrays, kind):
        return {**arrays, **getattr(self.centers, kind)} if self.centers else arrays

    def _all_labels(self, batches):
        """Labels of the step on all workers, so that all draw the same sample of classes."""
        labels = np.zeros((self.workers.size, sum(len(batch.label) for batch in batches)))
        labels[self.workers.rank] = np.concatenate([batch.label for batch in batches])
        return self.workers.sum(labels)

    def _forward_backward(self, batch):
        """Add the batch's gradients; give its loss and accuracy."""
        count = len(self._executors)
        losses, right = [], []
        for executor, data, label in zip(self._executors, np.split(batch.data, count), np.split(batch.label, count)):
            executor.forward(is_train=True, data=mx.nd.array(data), softmax_label=mx.nd.array(label))
            executor.backward()
        for executor, label in zip(self._executors, np.split(batch.label, count)):
            prediction = executor.outputs[1]
            if prediction.ndim == 2:
                right.append(prediction.argmax(axis=1).asnumpy() == label)
            losses.append(executor.outputs[-1].asnumpy().mean())
        return np.mean(losses), np.mean(right) if right else None

    def _update(self, learning_rate, sample):
        self._optimizer.lr = learning_rate
        if self.kvstore:
            for index, name in enumerate(self.parameter_names):
                gradients = [executor.grad_dict[name] for executor in self._executors]
                self.kvstore.pushpull(index, gradients, priority=-index)
        # One call a parameter: given all at once, MXNet's aggregated kernel writes past its fixed number of arrays.
        for executor, momenta in zip(self._executors, self._momenta):
            for index, name in enumerate(self.parameter_names):
                if not self._is_sampled(name):
                    self._optimizer.update(index, executor.arg_dict[name], executor.grad_dict[name], momenta[name])
        for index, name in enumerate(self.parameter_names):
            if self._is_sampled(name):
                gradient = self._executors[0].grad_dict[name]
                self.centers.update(name, sample, gradient, partial(self._optimizer.update, index))

    def _auxiliary_keys(self):
        """Names of the moving averages with their keys in the key-value store, after those of the gradients."""
        return enumerate(self._executors[0].aux_dict, start=len(self.parameter_names))

    def _average_auxiliary(self):
        mx.nd.waitall()  # MXNet does not know that going backward changes them, so nothing else waits for it
        for index, name in self._auxiliary_keys():
            arrays = [executor.aux_dict[name] for executor in self._executors]
            self.kvstore.pushpull(index, arrays)
            for array in arrays:
                array *= 1 / self._shares
        mx.nd.waitall()

    def _share_parameters(self):
        """Bring the first device's parameters to all others."""
        first = self._executors[0]
        for executor in self._executors[1:]:
            for name in self.parameter_names:
                first.arg_dict[name].copyto(executor.arg_dict[name])
            for name, array in first.aux_dict.items():
                array.copyto(executor.aux_dict[name])
        mx.nd.waitall()


def _read(array):
    """What is on a device as a copy, and an ndarray as it is, though only to be read."""
    if isinstance(array, mx.nd.NDArray):
        return array.asnumpy()
    array = array.view()
    array.flags.writeable = False
    return array


def _assign(name, own, array):
    """Copy a NumPy array into the array of the same name."""
    if name not in own or own[name] is None:
        raise InputError(f"{name}: this network has no such parameter")
    if own[name].shape != array.shape:
        raise InputError(f"{name}: its shape is {array.shape}, but this network needs {own[name].shape}")
    if own[name] is not array:  # as when it was read into its place
        own[name][:] = array
