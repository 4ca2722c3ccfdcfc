"""The network families, one module each with a ``get_symbol()`` that reads ``config``."""

import importlib

import mxnet as mx

FAMILIES = ("fdensenet", "fmobilefacenet", "fresnet")


def get_symbol(net_name: str) -> mx.sym.Symbol:
    """Build the network that ``config`` describes, by the family's name (``config.net_name``).

    Raises
    ------
    ValueError
        For an unknown family; the message lists those there are.
    """
    if net_name not in FAMILIES:
        raise ValueError(f"net_name: no network family {net_name!r}; there are {', '.join(FAMILIES)}")
    return importlib.import_module(f"symbol.{net_name}").get_symbol()
