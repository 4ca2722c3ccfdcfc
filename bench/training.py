"""Contenders that take training steps: forward, backward, and SGD with momentum."""

from __future__ import annotations

import numpy as np

from bench.inference import cores
from bench.model import FACE, class_weights, faces, labels, make_model, training_symbol
from bench.race import Contender

_HEAD = "FC"  # the head E without its dropout, so that all see the same loss
_RATE, _MOMENTUM, _DECAY = 0.001, 0.9, 0.0005


def contenders(network: str, activation: str, batch_size: int) -> list[Contender]:
    """Everyone who can take a step; the first is PyTorch."""
    task = (network, activation, batch_size)
    return [
        Contender("PyTorch eager", torch_step, task),
        Contender("plain symbol in MXNet", mxnet_step, (*task, False)),
        Contender("denseface, without a compiler", mxnet_step, (*task, True), {"CXX": "none"}),
        Contender("denseface", mxnet_step, (*task, True)),
    ]


def mxnet_step(network, activation, batch_size, accelerated):
    """This project's learner, on the plain symbol or on what ``train.py`` makes of it."""
    from denseface.data.loader import Batch
    from denseface.rewrites.accelerate import accelerate
    from denseface.training.learner import Learner

    import mxnet as mx

    model = make_model(network, activation, _HEAD)
    symbol, shape = training_symbol(model), (batch_size, *FACE)
    if accelerated:
        symbol = accelerate(symbol, shape)
    learner = Learner(symbol, shape, [mx.cpu()], momentum=_MOMENTUM, wd=_DECAY)
    learner.set_parameters({**model.arguments, "fc7_weight": class_weights()}, model.auxiliary)
    batch = Batch(faces(batch_size), labels(batch_size))

    def run():
        loss = learner.step([batch], _RATE, seed=0).loss
        mx.nd.waitall()  # the step's end is computed in the background
        return np.array([loss])

    return run


def torch_step(network, activation, batch_size):
    """PyTorch as it is."""
    import torch
    from torch.nn.functional import cross_entropy

    from bench.torch_densenet import copy_of

    torch.set_num_threads(cores())
    body = copy_of(make_model(network, activation, _HEAD), int(network[1:]), activation, _HEAD)
    weights = torch.nn.Parameter(torch.from_numpy(class_weights()))
    optimizer = torch.optim.SGD([*body.parameters(), weights], _RATE, _MOMENTUM, weight_decay=_DECAY)
    pictures, classes = torch.from_numpy(faces(batch_size)), torch.from_numpy(labels(batch_size)).long()

    def run():
        loss = cross_entropy(body(pictures) @ weights.T, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return np.array([loss.item()])

    return run
