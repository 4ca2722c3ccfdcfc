"""Contenders that take training steps: forward, backward, and SGD with momentum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.inference import cores
from bench.model import FACE, class_weights, faces, head_of, labels, make_model, training_symbol
from bench.race import Contender, fastest

_HEAD = "FC"  # the head E without its dropout, so that all see the same loss
_RATE, _MOMENTUM, _DECAY = 0.001, 0.9, 0.0005
_TRIALS = 3  # steps by which the fastest of a peer's ways is chosen
_HALF = 2e-2  # difference of losses in bfloat16
_TORCH = {  # channels_last, bfloat16 autocast, compiled
    "PyTorch eager": (False, False, False),
    "PyTorch channels_last": (True, False, False),
    "PyTorch eager, bfloat16": (False, True, False),
    "PyTorch channels_last, bfloat16": (True, True, False),
    "PyTorch compiled": (True, False, True),
    "PyTorch compiled, bfloat16": (True, True, True),
}


def contenders(network: str, activation: str, batch_size: int, log: Callable[[str], None]) -> list[Contender]:
    """PyTorch at its best in each precision, which is found out first, and everyone else who can take a step."""
    task = (network, activation, batch_size)
    peers = [
        Contender(name, torch_step, (*task, *options), {}, *((_HALF, "bfloat16") if options[1] else ()))
        for name, options in _TORCH.items()
    ]
    return [
        *fastest(peers, _TRIALS, lambda line: log(f"  trial: {line}")),
        Contender("plain symbol in MXNet", mxnet_step, (*task, False)),
        Contender("denseface, without a compiler", mxnet_step, (*task, True), {"CXX": "none"}),
        Contender("denseface", mxnet_step, (*task, True)),
        Contender("denseface, bfloat16", mxnet_step, (*task, True, True), {}, _HALF, "bfloat16"),
    ]


def mxnet_step(network, activation, batch_size, accelerated, half=False, head=None):
    """This project's learner, on the plain symbol or on what ``train.py`` makes of it."""
    from denseface.data.loader import Batch
    from denseface.models.graph import Graph
    from denseface.rewrites.accelerate import accelerate
    from denseface.training.descent import Descent
    from denseface.training.learner import Learner, Task

    import mxnet as mx

    model = make_model(network, activation, head or head_of(network, _HEAD))
    symbol, shape = training_symbol(model), (batch_size, *FACE)
    if accelerated:
        graph = Graph(symbol)
        accelerate(graph, shape, bfloat16=half, accumulates=False)
        symbol = graph.symbol()
    learner = Learner(Task(symbol), shape, Descent(_MOMENTUM, _DECAY))
    learner.state.set_parameters({**model.arguments, "fc7_weight": class_weights()}, model.auxiliary)
    batch = Batch(faces(batch_size), labels(batch_size))

    def run():
        loss = learner.step([batch], _RATE, seed=0).loss
        mx.nd.waitall()  # the step's end is computed in the background
        return np.array([loss])

    return run


def torch_step(network, activation, batch_size, channels_last, half, compiled):
    """PyTorch, as fast as its options make it."""
    import torch
    from torch.nn.functional import cross_entropy

    from bench.torch_network import torch_copy

    torch.set_num_threads(cores())
    body = torch_copy(network, activation, head_of(network, _HEAD))
    weights = torch.nn.Parameter(torch.from_numpy(class_weights()))
    optimizer = torch.optim.SGD([*body.parameters(), weights], _RATE, _MOMENTUM, weight_decay=_DECAY)
    pictures, classes = torch.from_numpy(faces(batch_size)), torch.from_numpy(labels(batch_size)).long()
    if channels_last:
        body, pictures = body.to(memory_format=torch.channels_last), pictures.to(memory_format=torch.channels_last)
    embed = torch.compile(body) if compiled else body

    def run():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            predictions = embed(pictures) @ weights.T
        loss = cross_entropy(predictions.float(), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return np.array([loss.item()])

    return run
