"""Reshapes where two of oneDNN's layouts meet."""

from denseface.models import families
from denseface.rewrites.graph import nodes_of
from denseface.rewrites.layouts import without_mixed_layouts

SHAPE = (4, 3, 32, 32)


def test_only_normalizations_between_two_layouts_are_touched():
    def added(network):
        config, _ = families.configure(network, "orl", "arcface", ["net_act=relu"])
        plain = families.training_symbol(config, families.embedding_symbol(config))
        return len(nodes_of(without_mixed_layouts(plain, SHAPE))) - len(nodes_of(plain))

    assert added("d121") == 0
    assert added("d63") > 0
