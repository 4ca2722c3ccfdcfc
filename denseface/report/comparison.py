"""Measure the costs and the speed of networks on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from denseface.data.loader import Batch
from denseface.embedding.engines.mxnet_engine import MXNetEngine
from denseface.models import losses
from denseface.models.checkpoint import Model
from denseface.models.graph import Graph
from denseface.report.summary import Costs, summarize
from denseface.rewrites.accelerate import accelerate
from denseface.training.descent import Descent
from denseface.training.learner import Learner, Task

import mxnet as mx

LARGE_BATCH = 8
NUM_CLASSES = 100  # of the softmax in training; few, so that the network dominates

_RUNS, _SECONDS = 3, 2.0  # minimum number of runs, and seconds in which more may follow


@dataclass(frozen=True)
class Measured:
    """The measurements of one network.

    Attributes
    ----------
    name : str
    costs : Costs
        For one picture.
    latency : float
        Milliseconds from one picture to its embedding (median).
    throughput : float
        Embeddings per second in batches of ``LARGE_BATCH``.
    training : float or None
        Pictures per second in training, in batches of ``LARGE_BATCH``; None if not measured.
    accuracies : dict of str to float
        By verification set, with flip, mean over 10 folds; empty for a network without trained parameters.
    """

    name: str
    costs: Costs
    latency: float
    throughput: float
    training: float | None
    accuracies: dict[str, float]

    def to_dict(self) -> dict:
        """Return all measurements in types that JSON knows."""
        return asdict(self)


def measure(
    symbol: mx.sym.Symbol,
    input_shape: tuple[int, int, int],
    name: str,
    *,
    training: bool = True,
    accuracies: dict[str, float] | None = None,
) -> Measured:
    """Measure a network on the CPU, with random parameters and pictures.

    Parameters
    ----------
    symbol : Symbol
        Maps ``data`` to embeddings (N, emb_size).
    input_shape : tuple (C, H, W)
        Of one picture.
    name : str
        Name for tables and error messages.
    training : bool
        Measure the speed of training too, which takes the most time and memory.
    accuracies : dict of str to float, optional
        Passed on to the result.

    Raises
    ------
    InputError
        If the network does not accept such pictures.
    """
    costs = summarize(symbol, input_shape, name).total
    model = _random_model(symbol, input_shape, name)
    latency = _seconds_of_inference(model, input_shape, 1)
    throughput = LARGE_BATCH / _seconds_of_inference(model, input_shape, LARGE_BATCH)
    trained = LARGE_BATCH / _seconds_of_training(symbol, input_shape) if training else None
    return Measured(name, costs, 1000 * latency, throughput, trained, accuracies or {})


def _random_model(symbol: mx.sym.Symbol, input_shape: tuple[int, ...], name: str) -> Model:
    arguments, _, auxiliary = symbol.infer_shape(data=(1, *input_shape))
    random = np.random.default_rng(0)
    return Model(
        symbol,
        {
            key: random.normal(0, np.sqrt(2 / max(np.prod(shape[1:]), 1)), shape).astype(np.float32)
            for key, shape in zip(symbol.list_arguments(), arguments)
            if key != "data"
        },
        {key: np.ones(shape, np.float32) for key, shape in zip(symbol.list_auxiliary_states(), auxiliary)},
        prefix=name,
        step=0,
    )


def _seconds_of_inference(model: Model, input_shape: tuple[int, int, int], batch_size: int) -> float:
    engine = MXNetEngine(model, input_shape, batch_size)
    batch = _pictures((batch_size, *input_shape))
    return _median_seconds(lambda: engine(batch))


def _seconds_of_training(symbol: mx.sym.Symbol, input_shape: tuple[int, int, int]) -> float:
    shape = (LARGE_BATCH, *input_shape)
    _, outputs, _ = symbol.infer_shape(data=shape)
    graph = Graph(losses.softmax(symbol, losses.ClassCenters(NUM_CLASSES, int(np.prod(outputs[0][1:])))))
    accelerate(graph, shape, accumulates=False)
    learner = Learner(Task(graph.symbol()), shape, Descent(0.9, 0.0005))
    learner.state.initialize(mx.init.Xavier(), seed=0)
    batch = Batch(_pictures(shape), np.arange(LARGE_BATCH, dtype=np.float32))
    return _median_seconds(lambda: learner.step([batch], learning_rate=0.0, seed=0))


def _pictures(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def _median_seconds(run: Callable[[], object]) -> float:
    """Return the median duration of several runs after a warm-up."""
    run()
    durations: list[float] = []
    while len(durations) < _RUNS or sum(durations) < _SECONDS:
        start = time.perf_counter()
        run()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)
