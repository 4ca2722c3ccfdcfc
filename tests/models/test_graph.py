"""Graphs: what they read of a symbol, and that rewriting changes only what it is asked to."""

from denseface.models.graph import Graph, Node

import mxnet as mx


def branching_symbol():
    data = mx.sym.Variable("data", shape=(2, 4, 3, 3), lr_mult=2.0)
    left, right = mx.sym.split(data, num_outputs=2, axis=1, name="halves")
    body = mx.sym.BatchNorm(mx.sym.Concat(right, left, name="swapped"), fix_gamma=False, name="bn")
    return mx.sym.Group([mx.sym.Flatten(body, name="flat"), left])


def described(symbol):
    return [
        (node.op, node.name, node.attrs, [(source.name, output) for source, output in node.inputs])
        for node in Graph(symbol).nodes
    ]


def test_a_symbol_comes_back_as_it_was():
    symbol = branching_symbol()
    back = Graph(symbol).symbol()
    assert back.list_arguments() == symbol.list_arguments()
    assert back.list_auxiliary_states() == symbol.list_auxiliary_states()
    assert back.list_outputs() == symbol.list_outputs()
    assert back.infer_shape() == symbol.infer_shape()
    assert back.attr_dict() == symbol.attr_dict()
    assert described(back) == described(symbol)


def test_nodes_come_before_their_users():
    nodes = Graph(branching_symbol()).nodes
    places = {node: place for place, node in enumerate(nodes)}
    assert [node.name for node in nodes][:2] == ["data", "halves"]
    assert all(places[source] < places[node] for node in nodes for source, _ in node.inputs)


def test_a_replaced_node_takes_over_its_users_and_unused_nodes_are_removed():
    symbol = mx.sym.Activation(mx.sym.Dropout(mx.sym.Variable("data"), name="drop"), act_type="relu", name="act")

    def change(node):
        if node.op == "Dropout":
            return node.inputs[0][0]
        if node.op == "Activation":
            return Node("Activation", "other", {"act_type": "tanh"}, node.inputs)
        return node

    graph = Graph(symbol)
    graph.rewrite(change)
    assert [(node.op, node.name) for node in graph.nodes] == [("null", "data"), ("Activation", "other")]
    assert graph.symbol().list_outputs() == ["other_output"]
    assert [node.name for node in Graph(symbol).nodes] == ["data", "drop", "act"]


def test_attributes_are_read_as_mxnet_writes_them():
    attrs = {"a": "(3, 5)", "b": "[2,]", "c": "7", "d": "True", "e": "0", "f": "2e-05", "g": "None", "h": "(None, -1)"}
    node = Node("Operator", "name", attrs)
    assert [node.ints(key) for key in "abc"] == [(3, 5), (2,), (7,)]
    assert node.bounds("h") == (None, -1)
    assert [node.flag(key, default) for key, default in (("d", False), ("e", True), ("g", True))] == [True, False, True]
    assert (node.integer("c"), node.number("f"), node.text("a")) == (7, 2e-5, "(3, 5)")


def test_an_attribute_that_is_left_out_or_none_has_the_default():
    node = Node("Operator", "name", {"none": "None", "empty": "()"})
    for key in ("none", "missing"):
        assert (node.text(key), node.number(key), node.integer(key), node.ints(key)) == (None, None, None, ())
        assert (node.text(key, "NCHW"), node.number(key, 0.5), node.integer(key, 1)) == ("NCHW", 0.5, 1)
        assert [node.flag(key), node.flag(key, True)] == [False, True]
    assert node.ints("empty", (1, 1)) == (1, 1)


def test_shapes_belong_to_nodes_not_to_names():
    data = mx.sym.Variable("data")
    wide = mx.sym.Convolution(data, num_filter=8, kernel=(1, 1), name="same")
    narrow = mx.sym.Convolution(
        wide, mx.sym.Variable("w"), mx.sym.Variable("b"), num_filter=4, kernel=(1, 1), name="same"
    )
    graph = Graph(narrow)
    graph.infer_shapes(data=(2, 3, 5, 5))
    assert [graph.shapes[node, 0][1] for node in graph.nodes if node.op == "Convolution"] == [8, 4]
    assert graph.heads == [(graph.nodes[-1], 0)]


def test_every_output_of_a_node_has_its_shape():
    graph = Graph(branching_symbol())
    graph.infer_shapes(data=(2, 4, 3, 3), softmax_label=(2,))
    shapes = graph.shapes
    halves = next(node for node in graph.nodes if node.op == "SliceChannel")
    assert [shapes[halves, output] for output in (0, 1)] == [(2, 2, 3, 3)] * 2
    assert halves.source().name == "data"


def test_a_node_in_the_place_of_another_has_its_shape_and_what_is_unknown_has_none():
    data, other = mx.sym.Variable("data"), mx.sym.Variable("other")
    graph = Graph(mx.sym.Group([mx.sym.Activation(mx.sym.Dropout(data), act_type="relu"), mx.sym.sqrt(other)]))
    graph.infer_shapes(data=(2, 3))
    assert {node.op for node, _ in graph.shapes} == {"null", "Dropout", "Activation"}
    graph.rewrite(lambda node: Node("sigmoid", node.name, {}, node.inputs) if node.op == "Activation" else node)
    (shape,) = (shape for (node, _), shape in graph.shapes.items() if node.op == "sigmoid")
    assert shape == (2, 3)
    assert "Activation" not in {node.op for node, _ in graph.shapes}


def test_arguments_are_variables_that_operators_do_not_write_to():
    graph = Graph(branching_symbol())
    assert graph.arguments == ["data", "bn_gamma", "bn_beta"]
    assert [*graph.variables] == [*graph.arguments, "bn_moving_mean", "bn_moving_var"]
    assert (graph.count("BatchNorm"), graph.count("Convolution")) == (1, 0)


def test_a_symbol_is_read_once_and_written_once_for_all_passes(monkeypatch):
    read, written = [], []
    tojson, load = mx.sym.Symbol.tojson, mx.sym.load_json
    monkeypatch.setattr(mx.sym.Symbol, "tojson", lambda self, **options: read.append(1) or tojson(self, **options))
    monkeypatch.setattr(mx.sym, "load_json", lambda text: written.append(1) or load(text))
    graph = Graph(branching_symbol())
    for _ in range(3):
        graph.rewrite(lambda node: node)
    graph.symbol()
    assert (len(read), len(written)) == (1, 1)
