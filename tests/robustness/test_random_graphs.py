"""Random networks, in child processes: MXNet may refuse them, but none may end the process.

    python tests/robustness/test_random_graphs.py FIRST COUNT

tries the networks FIRST to FIRST + COUNT - 1 in this process, and prints each number before it tries the network.
"""

import ctypes
import functools
import json
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import denseface  # noqa: F401
from denseface.core.errors import InputError
from denseface.embedding.engines.mxnet_engine import MXNetEngine
from denseface.models import symbol_file
from denseface.models.checkpoint import Model
from denseface.models.graph import Graph
from denseface.models.symbol_file import _OPERATORS, infer_shapes, parse_symbol

import mxnet as mx

PER_CHILD = 500
MOST_ELEMENTS = 100_000  # of all arrays of a network that is computed
EXTREME_INTEGERS = (-(1 << 31), -5, -1, 0, 1, 7, 64, 4096, (1 << 31) - 1)
EXTREME_FLOATS = ("0", "-1", "1e-45", "3e38", "inf", "-inf", "nan", "0.5")
USUAL = {
    "num_filter": (1, 2, 4, 6), "num_hidden": (1, 3, 5), "num_group": (1, 1, 2, 3), "num_groups": (1, 2, 3),
    "num_deformable_group": (1, 2), "num_outputs": (1, 2, 3), "scale": (1, 2), "block_size": (1, 2), "depth": (1, 4),
    "heads": (1, 2), "input_dim": (1, 3, 8), "output_dim": (1, 4), "repeats": (1, 2), "k": (1, 2, 5), "nsize": (1, 3),
    "height": (1, 3, 8), "width": (1, 5), "begin": (0, 1, -1), "end": (1, 2, 4, -1), "ord": (1, 2), "p_value": (1, 2),
}  # fmt: skip
SPATIAL = ("kernel", "stride", "dilate", "pad", "adj")


@functools.cache
def parameters_of(op):
    """Names and types of an operator's attributes, as MXNet describes them."""
    handle, creators, size = ctypes.c_void_p(), ctypes.POINTER(ctypes.c_void_p)(), ctypes.c_uint()
    mx.base.check_call(mx.base._LIB.MXSymbolListAtomicSymbolCreators(ctypes.byref(size), ctypes.byref(creators)))
    text, texts, count = ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_uint()
    for number in range(size.value):
        handle = ctypes.c_void_p(creators[number])
        name, description, variable, returned = text(), text(), text(), text()
        names, types, descriptions = texts(), texts(), texts()
        places = (name, description, count, names, types, descriptions, variable, returned)
        mx.base.check_call(mx.base._LIB.MXSymbolGetAtomicSymbolInfo(handle, *map(ctypes.byref, places)))
        if name.value.decode() == op:
            found = {names[i].decode(): types[i].decode() for i in range(count.value)}
            return {key: kind for key, kind in found.items() if not kind.startswith(("NDArray", "Symbol"))}
    return {"scalar": "float"} if op.endswith("_scalar") else {}  # an alias, such as _mul


def random_value(key, kind, chance, ndim):
    """Text of an attribute: mostly one that makes sense, now and then an extreme."""
    extreme = chance.random() < 0.1
    if kind.startswith("{"):
        return chance.choice(re.findall(r"'(\w+)'", kind))
    if kind.startswith("boolean"):
        return chance.choice(("True", "False"))
    if kind.startswith(("float", "double")):
        return chance.choice(EXTREME_FLOATS) if extreme else str(chance.choice((0.5, 1, 2, -1)))
    if kind.startswith("Shape"):
        if extreme:
            return str(tuple(chance.choice(EXTREME_INTEGERS) for _ in range(chance.randrange(6))))
        if key in SPATIAL:
            low = 0 if key in ("pad", "adj") else 1
            return str(tuple(chance.randint(low, 3) for _ in range(max(1, ndim - 2))))
        if key in ("axis", "axes"):
            return str(tuple(chance.sample(range(ndim), chance.randint(0, ndim))))
        if key == "pad_width":
            return str((0, 0, 0, 0, *(chance.randint(0, 2) for _ in range(2 * max(0, ndim - 2)))))
        if key == "shape":
            return str(tuple(chance.choice((0, -1, -2, -3, 1, 2, 4)) for _ in range(chance.randint(1, 5))))
        return str(tuple(chance.randint(0, 3) for _ in range(chance.choice((ndim, 2, 1)))))
    if extreme:
        return str(chance.choice(EXTREME_INTEGERS))
    return str(chance.choice(USUAL.get(key, range(-ndim, ndim + 1))))


class RandomGraph:
    """A network in MXNet's JSON, made from a number."""

    def __init__(self, number):
        self.chance = random.Random(number)
        self.nodes, self.entries = [], []  # of an entry: node, output, shape
        ndim = self.chance.choice((1, 2, 3, 4, 4, 4, 5))
        self.data_shape = tuple(self.chance.choice((1, 2, 3, 4, 6, 8)) for _ in range(ndim))
        self.add_variable("data", self.data_shape)
        for _ in range(self.chance.randint(1, 6)):
            for _ in range(20):
                if self.add_operator(self.chance.choice(sorted(_OPERATORS))):
                    break
        if self.chance.random() < 0.5:
            self.append("Flatten", {}, [self.entries[-1][:2]])

    def text(self):
        variables = [number for number, node in enumerate(self.nodes) if node["op"] == "null"]
        return json.dumps(
            {
                "nodes": self.nodes, "arg_nodes": variables, "heads": [[len(self.nodes) - 1, 0, 0]],
                "attrs": {"mxnet_version": ["int", 10901]},
            }
        )  # fmt: skip

    def append(self, op, attributes, edges):
        edges = [[source, output, 0] for source, output in edges]
        self.nodes.append({"op": op, "name": f"n{len(self.nodes)}", "attrs": attributes, "inputs": edges})

    def add_variable(self, name, shape):
        declared = {"__shape__": str(shape)} if shape and name != "data" and self.chance.random() < 0.5 else {}
        self.nodes.append({"op": "null", "name": name, "attrs": declared, "inputs": []})
        entry = (len(self.nodes) - 1, 0, shape if declared or name == "data" else ())
        self.entries.append(entry)
        return entry

    def add_operator(self, op):
        """Add an operator that MXNet accepts on these inputs, and now and then another; say whether it was added."""
        chance, size, n_entries = self.chance, len(self.nodes), len(self.entries)
        least, most = _OPERATORS[op]
        inputs = []
        for position in range(chance.randint(least, min(most, 5))):
            if position and chance.random() < 0.6:
                shape = chance.choice(((), chance.choice(self.entries)[2]))
                inputs.append(self.add_variable(f"v{len(self.nodes)}", shape))
            elif inputs and chance.random() < 0.3:
                inputs.append(inputs[0])
            else:
                inputs.append(chance.choice((self.entries[-1], chance.choice(self.entries))))
        ndim = len(inputs[0][2]) or 2
        attributes = {}
        for key, kind in parameters_of(op).items():
            if "required" in kind or chance.random() < 0.3:
                attributes[key] = str(len(inputs)) if key == "num_args" else random_value(key, kind, chance, ndim)
        given = tuple(shape for _, _, shape in inputs)
        outputs = int(attributes.get("num_outputs", 1)) if op == "SliceChannel" else 1
        outputs, shapes = max(1, min(outputs, 8)), None
        try:
            node = {"op": op, "name": "n", "attrs": attributes, "inputs": [[i, 0, 0] for i in range(len(inputs))]}
            symbol_file._checked_node(node, [{"op": "null", "name": str(i), "attrs": {}} for i in range(len(inputs))])
            _, shapes = symbol_file._infer_operator(op, tuple(sorted(attributes.items())), given, outputs)
        except (symbol_file._UnusableError, mx.base.MXNetError):
            if chance.random() < 0.98:
                del self.nodes[size:], self.entries[n_entries:]
                return False
        self.append(op, attributes, [entry[:2] for entry in inputs])
        for output in range(outputs):
            self.entries.append((len(self.nodes) - 1, output, tuple(shapes[output]) if shapes else ()))
        return True


def random_array(shape, random_state):
    kind = random_state.randint(8)
    if kind == 0:
        return random_state.choice(np.float32([0, -1, 1e30, -1e30, np.inf, np.nan, 2**31, 1e-45]), shape)
    if kind <= 2:
        return random_state.randint(-3, 9, shape).astype(np.float32)
    return random_state.standard_normal(shape).astype(np.float32)


def try_graph(number):
    """Read a network, find its shapes, compute it, and embed with it; return how far it came."""
    graph = RandomGraph(number)
    try:
        symbol = parse_symbol(graph.text(), "random")
    except InputError:
        return "refused by its description"
    try:
        read = Graph(symbol)
        infer_shapes(read, "random", data=graph.data_shape)
    except InputError:
        return "refused by its shapes"
    shapes = {name: read.shapes[variable, 0] for name, variable in read.variables.items()}
    outputs = [read.shapes[head] for head in read.heads]
    if sum(map(math.prod, read.shapes.values())) > MOST_ELEMENTS or "data" not in shapes:
        return "too large to compute here"
    random_state = np.random.RandomState(number)
    values = {name: random_array(shape, random_state) for name, shape in shapes.items()}
    try:
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", type_dict={"data": "float32"}, data=graph.data_shape)
        for name, array in {**executor.arg_dict, **executor.aux_dict}.items():
            array[:] = values[name]
        found = [output.asnumpy() for output in executor.forward(is_train=False)]
        assert [array.shape for array in found] == outputs
        mx.nd.waitall()
    except (mx.base.MXNetError, RuntimeError):  # simple_bind makes one of every MXNetError
        return "refused when computed"
    if len(graph.data_shape) != 4 or len(outputs[0]) != 2 or outputs[0][0] != graph.data_shape[0]:
        return "computed"
    states = set(symbol.list_auxiliary_states())
    model = Model(
        symbol,
        {name: value for name, value in values.items() if name not in states},
        {name: value for name, value in values.items() if name in states},
        "random",
        1,
    )
    try:
        engine = MXNetEngine(model, graph.data_shape[1:], graph.data_shape[0])
        engine(values["data"])
    except (InputError, mx.base.MXNetError):
        return "refused as a model"
    return "embedded"


def try_graphs(first, count):
    tally = Counter()
    for number in range(first, first + count):
        print(number, flush=True)
        tally[try_graph(number)] += 1
    print(json.dumps(tally))


def search(first, count):
    """Try networks in child processes; return what became of them, and the numbers of those that ended a child."""
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}{os.pathsep}{Path(__file__).parents[1]}"}
    tally, fatal, end = Counter(), {}, first + count
    while first < end:
        size = min(PER_CHILD, end - first)
        command = [sys.executable, __file__, str(first), str(size)]
        child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        *_, last = child.stdout.splitlines()
        if child.returncode == 0:
            tally.update(json.loads(last))
            first += size
        else:
            fatal[int(last)] = child.returncode, child.stderr[-300:]
            first = int(last) + 1
    return tally, fatal


def test_no_random_network_ends_the_process():
    tally, fatal = search(first=0, count=300)
    assert not fatal
    assert tally["computed"] + tally["embedded"] > 50 and tally["refused by its shapes"] > 5


@pytest.mark.torture
def test_no_random_network_of_very_many_ends_the_process():
    tally, fatal = search(first=1000, count=10_000)
    print(dict(tally))
    assert not fatal


if __name__ == "__main__":
    try_graphs(*map(int, sys.argv[1:]))
