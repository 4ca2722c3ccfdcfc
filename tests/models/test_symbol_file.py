import copy
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import denseface  # noqa: F401
from denseface.core.errors import InputError
from denseface.models.graph import Graph
from denseface.models.symbol_file import _OPERATORS, embedding_output, infer_shapes, parse_symbol, read_symbol
from support.refusals import refused

import mxnet as mx

SHAPE = (2, 3, 16, 16)


def small_network():
    """One of everything that the rewriting of the file could get wrong."""
    data = mx.sym.Variable("data")
    scaled = (data - 127.5) * 0.0078125
    weight = mx.sym.Variable("größe_weight", shape=(0, 3, 3, 3), lr_mult=2.0, init=mx.init.Xavier())
    convolution = mx.sym.Convolution(scaled, weight, kernel=(3, 3), num_filter=8, no_bias=True, name="größe")
    normed = mx.sym.BatchNorm(convolution, fix_gamma=False, name="bn")
    left, right = mx.sym.split(normed, num_outputs=2, name="halves")
    joined = mx.sym.Concat(mx.sym.LeakyReLU(left, act_type="prelu", name="act"), right, dim=1, name="joined")
    shuffled = mx.sym.Reshape(joined, shape=(0, -4, 2, -1, -2), name="groups")
    flat = mx.sym.Reshape(shuffled, shape=(0, -1), name="flat")
    return mx.sym.FullyConnected(flat, num_hidden=4, name="fc1")


def variable(name, **attributes):
    return {"op": "null", "name": name, "attrs": attributes, "inputs": []}


def node(op, inputs=(0,), name="n", **attributes):
    edges = [[source, 0, 0] if isinstance(source, int) else source for source in inputs]
    return {"op": op, "name": name, "attrs": {key: str(value) for key, value in attributes.items()}, "inputs": edges}


def graph(*nodes, **changes):
    nodes = [variable("data"), *nodes]
    arg_nodes = [number for number, node in enumerate(nodes) if isinstance(node, dict) and node.get("op") == "null"]
    heads, attributes = [[len(nodes) - 1, 0, 0]], {"mxnet_version": ["int", 10901]}
    return {"nodes": nodes, "arg_nodes": arg_nodes, "heads": heads, "attrs": attributes, **changes}


def message(description):
    text = description if isinstance(description, str) else json.dumps(description)
    with pytest.raises(InputError) as error:
        parse_symbol(text, "m-symbol.json")
    said = str(error.value)
    assert said.startswith("m-symbol.json: ") and "\n" not in said
    return said


def test_a_network_comes_through_as_it_is(tmp_path):
    symbol = small_network()
    path = tmp_path / "m-symbol.json"
    symbol.save(str(path))
    assert read_symbol(path).tojson() == symbol.tojson()


def test_this_projects_networks_come_through(configured):
    from denseface.models.families import embedding_symbol, training_symbol

    config = configured(emb_size=32, num_classes=5)
    for symbol in (embedding_symbol(config), training_symbol(config, embedding_symbol(config))):
        assert parse_symbol(symbol.tojson(), "d63").tojson() == symbol.tojson()


@pytest.mark.parametrize("version", [904, 1000, 10000, 10300, None])
@pytest.mark.parametrize("key", ["attr", "param", "attrs"])
def test_files_of_old_versions_are_what_mxnet_makes_of_them(version, key):
    description = json.loads(small_network().tojson())
    description["attrs"] = {"mxnet_version": ["int", version]} if version else {}
    for item in description["nodes"]:
        item[key] = item.pop("attrs", {})
        item["inputs"] = [edge[:2] for edge in item["inputs"]]
    text = json.dumps(description, ensure_ascii=False)
    assert parse_symbol(text, "old").tojson() == mx.sym.load_json(text).tojson()


def shapes_of(symbol):
    """The shapes of the symbol's outputs."""
    read = Graph(symbol)
    infer_shapes(read, "m", data=SHAPE)
    return [read.shapes[head] for head in read.heads]


def test_python_2_numbers_are_read():
    text = json.dumps(graph(node("Pooling", kernel="(3L, 3L)", stride="(2L, 2L)", pool_type="max")))
    assert shapes_of(parse_symbol(text, "p")) == [(2, 3, 7, 7)]


def test_every_operator_is_mxnets_and_none_runs_what_a_file_says():
    known = set(mx.operator.get_all_registered_operators())
    assert set(_OPERATORS) <= known
    suspects = [op for op in known if any(part in op.lower() for part in ("custom", "cached", "imread", "subgraph"))]
    assert "Custom" in suspects and not set(suspects) & set(_OPERATORS)


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ("", "not JSON"),
        ("{'nodes': []}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a network"),
        ("{}", "nodes is missing"),
        (graph(heads=[]), "no heads"),
        (graph(heads=[[1, 0, 0]]), "heads: it takes its input from node 1"),
        (graph(heads=[[0, 1, 0]]), "heads: node 0 (data) has no output 1"),
        (graph(arg_nodes=[]), "arg_nodes"),
        (graph(arg_nodes=[0, 7]), "arg_nodes"),
        (graph(node("relu"), arg_nodes=[1]), "arg_nodes"),
        (graph(attrs=[]), "do not name the MXNet"),
        (graph(attrs={"mxnet_version": ["int", -1]}), "do not name the MXNet"),
        (graph(attrs={"mxnet_version": ["int", 20000]}), "do not name the MXNet"),
        (graph(attrs={"mxnet_version": ["str", "1.9"]}), "do not name the MXNet"),
        (graph(*[variable(str(number)) for number in range(100_000)]), "100001 nodes"),
        (graph("relu"), "node 1 is not an object"),
        (graph(node(5)), "node 1: its op"),
        (graph(node("relu", name="")), "node 1: its name"),
        (graph(node("relu", name="a\nb")), "node 1: its name"),
        (graph(node("relu", name="\ud800")), "node 1: its name"),
        (graph({**node("relu"), "subgraphs": []}), "node 1 (n): unknown key 'subgraphs'"),
        (graph({**node("relu"), "control_deps": [5]}), "node 1 (n): unknown key 'control_deps'"),
        (graph({**node("relu"), "attrs": []}), "node 1 (n): its attrs is not an object"),
        (graph({**node("relu"), "attrs": {"a": 1}}), "node 1 (n): the attribute a"),
        (graph({**node("relu"), "inputs": None}), "node 1 (n): inputs is missing"),
        (graph({**variable("w"), "inputs": [[0, 0, 0]]}), "node 1 (w): a variable has no inputs"),
        (graph(variable("data")), "node 1 (data): there is a variable of this name"),
        (graph(variable("w", __shape__="(65536, 65536, 0)")), "node 1 (w): __shape__"),
        (graph(variable("w", __shape__="(-5,)")), "node 1 (w): __shape__"),
        (graph(node("relu", [1])), "node 1 (n): it takes its input from node 1, which does not come before it"),
        (graph(node("relu", [2]), node("relu", [1])), "node 1 (n): it takes its input from node 2"),
        (graph(node("relu", [-1])), "node 1 (n): an edge"),
        (graph(node("relu", [[0]])), "node 1 (n): an edge"),
        (graph(node("relu", [[0, 0, 0, 0]])), "node 1 (n): an edge"),
        (graph(node("relu", [[0, 0.0]])), "node 1 (n): an edge"),
        (graph(node("relu", [[0, False]])), "node 1 (n): an edge"),
        (graph(node("relu", [[0, 1 << 30]])), "node 1 (n): node 0 (data) has no output 1073741824"),
        (graph(node("Custom", op_type="x")), "refused: the operator Custom"),
        (graph(node("_cvimread", [], filename="/etc/passwd")), "refused: the operator _cvimread"),
        (graph(node("NoSuch")), "refused: the operator NoSuch"),
        (graph(node("relu", [])), "relu takes 1 inputs, not 0"),
        (graph(node("Convolution", [0], kernel="(3, 3)", num_filter=3)), "Convolution takes 2 to 3 inputs, not 1"),
        (graph(node("BatchNorm", [0, 0, 0])), "BatchNorm takes 5 inputs, not 3"),
        (graph(node("relu"), node("BatchNorm", [0, 0, 0, 0, 1])), "BatchNorm's mean and variance are not variables"),
        (graph(node("Convolution", [0, 0], kernel="(3, 3)", num_filter=3, bias_lr_mult=1)), "bias_lr_mult"),
        (graph(node("Convolution", [0, 0], kernel="(3, 3)", num_filter=3, num_group=0)), "num_group is 0"),
        (graph(node("Convolution", [0, 0], kernel="3 x 3", num_filter=3)), "kernel is 3 x 3"),
        (graph(node("GroupNorm", [0, 0, 0], num_groups=0)), "num_groups is 0"),
        (graph(node("depth_to_space", block_size=65536)), "block_size is 65536"),
        (graph(node("SliceChannel", num_outputs=2**31 - 1)), "num_outputs is 2147483647"),
        (graph(node("SliceChannel", num_outputs="(2, 2)")), "num_outputs is not one number"),
        (graph(node("SliceChannel", num_outputs="None")), "num_outputs is not one number"),
        (graph(node("SliceChannel", num_outputs=3), node("relu", [[1, 3, 0]])), "node 1 (n) has no output 3"),
        (graph(node("Concat", [0, 0], num_args=3)), "num_args is not 2"),
        (graph(node("Concat", [0, 0], num_args="None")), "num_args is not 2"),
        (graph(node("tile", reps="(4096, 4096, 4096)")), "more than 2147483647 elements"),
        (graph(node("Reshape", shape="(" + "1, " * 33 + ")")), "up to 32 whole numbers"),
        (graph(node("Reshape", shape="(65536, 65536, -1)")), "more than 2147483647 elements"),
        (graph(node("Reshape", shape="(-5, 1)")), "numbers from -4"),
        (graph(node("Reshape", shape="(0, -4, 0, -1)")), "cannot be reshaped to (0, -4, 0, -1)"),
        (graph(node("Reshape", shape="(-1, 0, -4, 0)", reverse=True)), "cannot be reshaped to (-1, 0, -4, 0)"),
        (graph(node("Reshape", shape="(-2, -2, -2, -1)")), "cannot be reshaped to (-2, -2, -2, -1)"),
        (graph(node("Reshape", shape="(-4, 1, 1, -1)")), "cannot be reshaped to (-4, 1, 1, -1)"),
        (graph(node("UpSampling", [0, 0], scale=2, sample_type="bilinear", num_args=2)), "needs num_filter"),
        (graph(node("Cast", dtype="int32")), "dtype is int32; only floating-point types are read"),
        (graph(node("norm", out_dtype="int8")), "out_dtype is int8; only floating-point types are read"),
        (graph(variable("w", __dtype__="4")), "__dtype__ is 4; only floating-point types are read"),
        (graph(node("Pooling", kernel="(2, 2)", foo=1)), "MXNet refuses it"),
        (graph(node("Pooling", kernel="(2, 2)", pool_type="x")), "MXNet refuses it"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 80 else "",
)
def test_says_what_is_wrong(description, says):
    assert says in message(description)


def test_a_name_that_comes_twice_in_the_json_cannot_hide_anything():
    text = json.dumps(graph(node("relu"))).replace('"op": "relu"', '"op": "Custom", "op": "relu"')
    assert "Custom" not in parse_symbol(text, "m").tojson()


def test_says_what_is_wrong_with_a_file(tmp_path):
    path = tmp_path / "m-symbol.json"
    with refused(path=path, cause=FileNotFoundError):
        read_symbol(path)
    path.write_bytes(b"\xff\xfe")
    with refused("UTF-8", path=path):
        read_symbol(path)
    with open(path, "wb") as file:
        file.truncate((64 << 20) + 1)
    with refused("67,108,865 bytes", path=path):
        read_symbol(path)


def test_a_long_chain_is_read_and_freed():
    nodes = [node("relu", [number], name=str(number)) for number in range(5_000)]
    assert shapes_of(parse_symbol(json.dumps(graph(*nodes)), "m")) == [SHAPE]


def test_shapes_are_those_that_mxnet_infers():
    symbol = small_network()
    arguments, outputs, states = symbol.infer_shape(data=SHAPE)
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    read = Graph(parse_symbol(symbol.tojson(), "m"))
    infer_shapes(read, "m", data=SHAPE, softmax_label=(2,))
    found = {name: read.shapes[variable, 0] for name, variable in read.variables.items()}
    assert found == dict(zip(names, [*arguments, *states]))
    assert [read.shapes[head] for head in read.heads] == outputs


def test_the_embedding_of_a_classifier_is_a_part_of_its_symbol():
    """A resumed run knows a pretrained network by its JSON, edges' versions included."""
    data = mx.sym.Variable("data")
    features = mx.sym.BatchNorm(mx.sym.FullyConnected(data, num_hidden=6, name="vector"), name="features")
    whole = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(features, num_hidden=9, name="classes"), name="softmax")
    found = embedding_output(whole)
    assert found.tojson() == whole.get_internals()["features_output"].tojson()
    assert found.tojson() != Graph(found).symbol().tojson()


def doubled(times):
    return [node("Concat", [number, number], name=f"c{number}", num_args=2, dim=0) for number in range(times)]


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([variable("w"), node("dot", [0, 1])], "the shape of w does not follow from data=(2, 3, 16, 16)"),
        ([node("Pooling", kernel="(20, 20)", pool_type="max")], "MXNet refuses it with data=(2, 3, 16, 16): "),
        # What follows would end the process, there or in the forward pass.
        ([node("Reshape", shape="(3, 2)")], "n makes (3, 2) of (2, 3, 16, 16)"),
        ([node("Reshape", shape="(1000, 1000)")], "n makes (1000, 1000) of (2, 3, 16, 16)"),
        ([node("slice", begin="(0,)", end="(0,)"), node("Reshape", [1], shape="(0, -1)")], "has no elements"),
        ([*doubled(31), node("Reshape", [31], shape="(0, -1)")], "more than 2147483647 elements"),
        ([*doubled(24), node("Reshape", [24], shape="(-1, 65536)")], "more than 2147483647 elements"),
        (
            [node("Reshape", shape="(0, 0, -1, 1)"), variable("w", __shape__="(1536,)"), node("batch_take", [1, 2])],
            "n takes one number of each row, but has (2, 3, 256, 1) and (1536,)",
        ),
        # MXNet overwrites the shape of what an operator takes for its parameter.
        (
            [variable("b"), node("GroupNorm", [0, 0, 1], num_groups=1)],
            "GroupNorm n needs an input of (1,), but data is",
        ),
        (
            [variable("b"), node("relu", name="r"), node("InstanceNorm", [2, 2, 1])],
            "InstanceNorm n needs an input of (3,), but r is (2, 3, 16, 16)",
        ),
        (
            [node("relu", name="r"), variable("v"), node("BatchNorm", [1, 1, 1, 2, 2])],
            "BatchNorm n needs an input of (3,)",
        ),
        (
            [node("max", name="m"), variable("w", __shape__="(1,)"), node("where", [0, 1, 2])],
            "n chooses from (1,) by conditions of (2, 3, 16, 16); both must have one shape",
        ),
        (
            [variable("w"), node("InstanceNorm", [0, 1, 1]), node("broadcast_add", [1, 2])],
            "operands could not be broadcast together with shapes [3] [2,3,16,16]",
        ),
        (
            [variable("w"), node("GroupNorm", [0, 1, 1]), node("InstanceNorm", [2, 1, 1])],
            "InstanceNorm n needs an input",
        ),
    ],
)
def test_shapes_that_make_no_sense_are_errors(nodes, says):
    symbol = parse_symbol(json.dumps(graph(*nodes)), "m")
    with pytest.raises(InputError) as error:
        shapes_of(symbol)
    assert says in str(error.value) and "\n" not in str(error.value)


NUMBERS = [*range(-5, 9), 64, 4096, 65536, 1 << 24, (1 << 31) - 1, -(1 << 31), 1 << 32, 1 << 63, 1 << 64]
ODD_VALUES = (None, [], {}, 5, "x", [[0, 0]], {"a": "b"})
DIMENSIONS = ("shape", "axis", "kernel", "stride", "pad", "num_filter", "num_group", "num_args", "num_outputs", "dim")


def numbers_text(generator):
    chosen = [str(generator.choice(NUMBERS)) for _ in range(generator.choice((1, 1, 2, 2, 3, 4, 5)))]
    return chosen[0] if len(chosen) == 1 else f"({', '.join(chosen)})"


def damage(description, generator):
    """Change one thing in a description, as chance has it."""
    chosen = generator.choice(description["nodes"])
    kind = generator.randrange(8)
    if kind <= 2:
        attributes = chosen.setdefault("attrs", {})
        attributes[generator.choice([*attributes, *DIMENSIONS])] = numbers_text(generator)
    elif kind == 3 and chosen["inputs"]:
        generator.choice(chosen["inputs"])[generator.randrange(2)] = generator.choice(NUMBERS)
    elif kind == 4:
        chosen["inputs"] = chosen["inputs"][1:] if generator.random() < 0.5 else [*chosen["inputs"], [0, 0, 0]]
    elif kind == 5:
        chosen["op"] = generator.choice(sorted(_OPERATORS))
    elif kind == 6:
        chosen[generator.choice(("op", "name", "inputs", "attrs", "subgraphs"))] = generator.choice(ODD_VALUES)
    else:
        description[generator.choice(("heads", "arg_nodes", "attrs", "nodes"))] = generator.choice(ODD_VALUES)


def try_damaged_networks(seed, count):
    """Print how many damaged networks were refused, did not fit the data, and were good."""
    generator = random.Random(seed)
    original = json.loads(small_network().tojson())
    tally = {"refused": 0, "unfit": 0, "good": 0}
    for _ in range(count):
        description = copy.deepcopy(original)
        try:
            for _ in range(generator.choice((1, 1, 2, 3))):
                damage(description, generator)
        except (TypeError, AttributeError, KeyError, IndexError):
            pass  # one damage stood in the way of the next
        try:
            symbol = parse_symbol(json.dumps(description), "damaged")
        except InputError:
            tally["refused"] += 1
            continue
        try:
            shapes_of(symbol)
            tally["good"] += 1
        except InputError:
            tally["unfit"] += 1
    print(json.dumps(tally))


def test_no_damage_ends_the_process():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[up]) for up in (1, 2))}
    command = [sys.executable, __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert all(count > 10 for count in json.loads(run.stdout.splitlines()[-1]).values())


if __name__ == "__main__":
    try_damaged_networks(seed=7, count=1000)
