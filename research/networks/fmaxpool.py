"""DenseNet whose transitions take the maximum of 2x2 positions instead of their mean."""

from symbol import fdensenet
from unittest import mock

from mxnet.gluon import nn


def get_symbol():
    """Build ``symbol/fdensenet.py`` with the other pooling; its transitions alone pool by the mean."""
    with mock.patch.object(nn, "AvgPool2D", nn.MaxPool2D):
        return fdensenet.get_symbol()
