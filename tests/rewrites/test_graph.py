"""Rewriting a symbol: nothing changes unless asked to."""

from denseface.rewrites.graph import Node, nodes_of, rewrite

import mxnet as mx


def branching_symbol():
    data = mx.sym.Variable("data", shape=(2, 4, 3, 3), lr_mult=2.0)
    left, right = mx.sym.split(data, num_outputs=2, axis=1, name="halves")
    body = mx.sym.BatchNorm(mx.sym.Concat(right, left, name="swapped"), fix_gamma=False, name="bn")
    return mx.sym.Group([mx.sym.Flatten(body, name="flat"), left])


def described(symbol):
    return [
        (node.op, node.name, node.attrs, [(source.name, output) for source, output in node.inputs])
        for node in nodes_of(symbol)
    ]


def test_a_symbol_comes_back_as_it_was():
    symbol = branching_symbol()
    back = rewrite(symbol, lambda node: node)
    assert back.list_arguments() == symbol.list_arguments()
    assert back.list_auxiliary_states() == symbol.list_auxiliary_states()
    assert back.list_outputs() == symbol.list_outputs()
    assert back.infer_shape() == symbol.infer_shape()
    assert back.attr_dict() == symbol.attr_dict()
    assert described(back) == described(symbol)


def test_nodes_come_before_their_users():
    nodes = nodes_of(branching_symbol())
    places = {node: place for place, node in enumerate(nodes)}
    assert [node.name for node in nodes][:2] == ["data", "halves"]
    assert all(places[source] < places[node] for node in nodes for source, _ in node.inputs)


def test_a_replaced_node_takes_its_users_and_what_nobody_needs_is_gone():
    symbol = mx.sym.Activation(mx.sym.Dropout(mx.sym.Variable("data"), name="drop"), act_type="relu", name="act")

    def change(node):
        if node.op == "Dropout":
            return node.inputs[0][0]
        if node.op == "Activation":
            return Node("Activation", "other", {"act_type": "tanh"}, node.inputs)
        return node

    assert [(node.op, node.name) for node in nodes_of(rewrite(symbol, change))] == [
        ("null", "data"),
        ("Activation", "other"),
    ]
    assert [node.name for node in nodes_of(symbol)] == ["data", "drop", "act"]
