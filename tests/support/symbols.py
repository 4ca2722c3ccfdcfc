"""A loss as a symbol, and what its NumPy references share."""

import numpy as np

from denseface.models.graph import Graph
from denseface.rewrites.accelerate import accelerate

import mxnet as mx


def run(symbol, states=None, **inputs):
    """Outputs and gradients of a training step, by NumPy arrays; with states, also what they are afterwards."""
    executor = symbol.simple_bind(
        mx.cpu(),
        grad_req={name: "null" if name == "softmax_label" else "write" for name in symbol.list_arguments()},
        **{name: value.shape for name, value in inputs.items()},
    )
    for name, value in (states or {}).items():
        executor.aux_dict[name][:] = value
    executor.forward(is_train=True, **{name: mx.nd.array(value) for name, value in inputs.items()})
    executor.backward()
    mx.nd.waitall()
    gradients = {name: array.asnumpy() for name, array in executor.grad_dict.items() if array is not None}
    found = [output.asnumpy() for output in executor.outputs], gradients
    return found if states is None else (*found, {name: executor.aux_dict[name].asnumpy() for name in states})


def numeric_gradient(function, point, step=1e-6):
    """Central differences of a function of one array, in float64."""
    gradient = np.zeros(point.shape)
    for index in np.ndindex(*point.shape):
        shift = np.zeros(point.shape)
        shift[index] = step
        gradient[index] = (function(point + shift) - function(point - shift)) / (2 * step)
    return gradient


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def log_softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def cross_entropy(logits, label):
    return -log_softmax(logits)[np.arange(len(label)), label].mean()


def rewritten(symbol, change, data_shape=None, **options):
    """The symbol after a change of its graph, whose shapes are inferred first if one is given."""
    graph = Graph(symbol)
    if data_shape:
        graph.infer_shapes(data=data_shape)
    change(graph, **options)
    return graph.symbol()


def accelerated(symbol, data_shape, **options):
    return rewritten(symbol, lambda graph: accelerate(graph, data_shape, **options))


def operators(symbol):
    """The operators of a symbol's nodes, inputs before the nodes that read them."""
    return [node.op for node in Graph(symbol).nodes]
