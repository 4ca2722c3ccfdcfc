"""Where two of oneDNN's layouts meet."""

from denseface import networks
from denseface.layouts import without_mixed_layouts
from denseface.rewrite import nodes_of

SHAPE = (4, 3, 32, 32)


def test_only_normalisations_between_two_layouts_are_touched():
    def added(network):
        networks.configure(network, "orl", "arcface", ["net_act=relu"])
        plain = networks.training_symbol(networks.embedding_symbol())
        return len(nodes_of(without_mixed_layouts(plain, SHAPE))) - len(nodes_of(plain))

    assert added("d121") == 0
    assert added("d63") > 0
