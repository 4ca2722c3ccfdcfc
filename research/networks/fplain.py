"""The layers of a DenseNet one after another: nothing is concatenated, so each layer reads the one before it alone."""

from symbol import fdensenet
from unittest import mock

from mxnet.gluon import nn


def get_symbol():
    """Build ``symbol/fdensenet.py`` without its shortcuts; each dense layer leaves growth_rate channels."""
    with mock.patch.object(fdensenet.DenseLayer, "hybrid_forward", nn.HybridSequential.hybrid_forward):
        return fdensenet.get_symbol()
