"""What several test files share: golden facts, parameters drawn from their names, and one way to run a symbol."""

import functools
import gzip
import json
import zlib
from pathlib import Path

import numpy as np

import denseface  # noqa: F401  makes MXNet importable

import mxnet as mx

GOLDEN = Path(__file__).parents[1] / "golden"


@functools.cache
def golden_parameters(family="fdensenet"):
    """{"body": {"d121/relu": row, ...}, "heads": {"d121/relu/GAP": row, ...}} and so on; see golden/README.md."""
    return json.loads(gzip.decompress((GOLDEN / f"{family}_parameters.json.gz").read_bytes()))


@functools.cache
def golden_outputs(family="fdensenet"):
    """{"d121-relu-GAP": float32 (2, 512), ...}."""
    with np.load(GOLDEN / f"{family}_outputs.npz") as file:
        return dict(file)


def golden_input():
    return np.random.RandomState(0).uniform(0, 255, (2, 3, 112, 112)).astype("float32")


def value_of(name, shape, gain=2.0):
    """A parameter's value, decided by its name: the same whatever else the network holds.

    Weights have the variance gain / fan-in; 2 keeps the length of what passes ReLUs, less is for residual networks.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    if name.endswith("_alpha") or ("relu" in name and name.endswith("_gamma")):
        value = random.uniform(0, 0.5, shape)
    elif name.endswith("_gamma"):
        value = 1 + 0.1 * random.standard_normal(shape)
    elif name.endswith(("_beta", "_bias", "_mean")):
        value = 0.1 * random.standard_normal(shape)
    elif name.endswith("_var"):
        value = random.uniform(0.5, 1.5, shape)
    else:
        value = random.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
    return value.astype("float32")


def parameter_shapes(symbol, data_shape=(1, 3, 112, 112)):
    """Lists of [name, shape] in the graph's order: arguments without the input, and auxiliary states."""
    arguments, _, auxiliary = symbol.infer_shape(data=data_shape)
    named = [[name, list(shape)] for name, shape in zip(symbol.list_arguments(), arguments) if name != "data"]
    return named, [[name, list(shape)] for name, shape in zip(symbol.list_auxiliary_states(), auxiliary)]


def nodes_of(symbol, op=None):
    """The graph's nodes, as MXNet writes them to JSON; only those of one operator where it is given."""
    nodes = json.loads(symbol.tojson())["nodes"]
    return [node for node in nodes if op in (None, node["op"])]


def bind(symbol, inputs, grad_req="null", is_train=False, gain=2.0):
    """Run the symbol forward on NumPy inputs; what is not given is drawn by ``value_of``.  Returns the executor."""
    shapes = {name: value.shape for name, value in inputs.items() if name in symbol.list_inputs()}
    executor = symbol.simple_bind(mx.cpu(), grad_req=grad_req, **shapes)
    for name, array in {**executor.arg_dict, **executor.aux_dict}.items():
        array[:] = inputs[name] if name in inputs else value_of(name, array.shape, gain)
    executor.forward(is_train=is_train)
    return executor


def gradients_of(executor, head_gradient, is_train=False):
    """Send a gradient back; what arrives at each argument, by name."""
    executor.backward(mx.nd.array(head_gradient), is_train=is_train)
    return {name: gradient.asnumpy() for name, gradient in executor.grad_dict.items()}


def output(symbol, data, gain=2.0):
    """The symbol's one output, in inference mode."""
    return bind(symbol, {"data": data}, gain=gain).outputs[0].asnumpy()


def relative_error(found, expected):
    """Largest difference over the largest value expected."""
    return np.abs(found - expected).max() / np.abs(expected).max()
