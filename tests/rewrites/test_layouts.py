"""Reshapes where two of oneDNN's layouts meet."""

from denseface.models import families
from denseface.models.graph import Graph
from denseface.options.names import Names
from denseface.rewrites.layouts import separate_layouts
from support.symbols import rewritten

SHAPE = (4, 3, 32, 32)


def test_only_normalizations_between_two_layouts_are_touched():
    def added(network):
        config = families.configure(Names(network, "orl", "arcface"), ["net_act=relu"])
        plain = families.training_symbol(config, families.embedding_symbol(config))
        return len(Graph(rewritten(plain, separate_layouts, SHAPE)).nodes) - len(Graph(plain).nodes)

    assert added("d121") == 0
    assert added("d63") > 0
