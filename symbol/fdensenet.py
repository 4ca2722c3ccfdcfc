"""DenseNet-BC for face recognition, written in Gluon and returned as a symbol.

Huang, Liu, van der Maaten, Weinberger: "Densely Connected Convolutional Networks", 2017,
https://arxiv.org/abs/1608.06993 (Table 1 gives the depths). For 112x112 faces the stem is a 3x3 convolution of stride
1 instead of the paper's 7x7 of stride 2, so that the body still ends in 7x7 positions; ``net_input`` chooses.

Copied into an InsightFace tree, the file needs only that tree's ``config`` and ``symbol_utils``.
"""

from __future__ import annotations

from collections.abc import Sequence

if __name__ == "__main__":  # before the imports below, which need the path and what denseface does for MXNet
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    try:
        from denseface.cli.densenet import main
    except ModuleNotFoundError as error:
        sys.exit(f"{__file__}: to draw the network, install the package {error.name}; get_symbol() needs none")
    sys.exit(main())

import symbol_utils
from config import config

import mxnet as mx
from mxnet.gluon import nn

# depth: (num_init_features, growth_rate, block_config). Two are not in the paper: 15, for a few hundred pictures, and
# 63, a compact network for CPUs.
DENSENETS = {
    15: (32, 16, (3, 3)),
    63: (32, 16, (3, 6, 12, 8)),
    121: (64, 32, (6, 12, 24, 16)),
    161: (96, 48, (6, 12, 36, 24)),
    169: (64, 32, (6, 12, 32, 32)),
    201: (64, 32, (6, 12, 48, 32)),
}

# net_input: (kernel, stride) of the first convolution. 1 keeps the resolution of 112x112 faces; 0 is the paper's.
STEMS = {0: (7, 2), 1: (3, 1)}

SIMPLE_ACTIVATIONS = ("relu", "sigmoid", "tanh", "softrelu", "softsign")
OTHER_ACTIVATIONS = {
    "prelu": nn.PReLU,
    "leaky": lambda: nn.LeakyReLU(0.25),
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
}


def activation(act_type: str) -> nn.HybridBlock:
    """Make the layer for a value of ``net_act``; for another one, a ValueError lists those that exist."""
    if act_type in SIMPLE_ACTIVATIONS:
        return nn.Activation(act_type)
    if act_type in OTHER_ACTIVATIONS:
        return OTHER_ACTIVATIONS[act_type]()
    known = ", ".join([*SIMPLE_ACTIVATIONS, *OTHER_ACTIVATIONS])
    raise ValueError(f"net_act: no activation {act_type!r}; there are {known}")


class DenseLayer(nn.HybridSequential):
    """BN - act - 1x1 convolution - BN - act - 3x3 convolution, its output appended to its input (the paper's H_l).

    The layer turns (N, C, H, W) into (N, C + growth_rate, H, W).
    """

    def __init__(self, growth_rate: int, bn_size: int, dropout: float, act_type: str, bn_mom: float) -> None:
        super().__init__(prefix="")
        self.add(nn.BatchNorm(momentum=bn_mom))
        self.add(activation(act_type))
        self.add(nn.Conv2D(bn_size * growth_rate, kernel_size=1, use_bias=False))
        self.add(nn.BatchNorm(momentum=bn_mom))
        self.add(activation(act_type))
        self.add(nn.Conv2D(growth_rate, kernel_size=3, padding=1, use_bias=False))
        if dropout:
            self.add(nn.Dropout(dropout))

    def hybrid_forward(self, F, x):
        return F.concat(x, super().hybrid_forward(F, x), dim=1)


class Transition(nn.HybridSequential):
    """BN - act - 1x1 convolution - 2x2 average pooling: (N, C, H, W) to (N, channels, H/2, W/2)."""

    def __init__(self, channels: int, act_type: str, bn_mom: float) -> None:
        super().__init__(prefix="")
        self.add(nn.BatchNorm(momentum=bn_mom))
        self.add(activation(act_type))
        self.add(nn.Conv2D(channels, kernel_size=1, use_bias=False))
        self.add(nn.AvgPool2D(pool_size=2, strides=2))


class DenseNet(nn.HybridBlock):
    """The convolutional body: (N, 3, H, W) to (N, channels, H/16, W/16) with four blocks.

    With three blocks height and width are twice as large, with two four times; a stem of stride 2 halves them.

    Parameters
    ----------
    num_init_features : int
        Channels of the first convolution.
    growth_rate : int
        Channels that each dense layer adds (the paper's k).
    block_config : sequence of int
        Number of dense layers in each block.
    stem : tuple of int
        Side and stride of the kernel of the first convolution.
    dropout : float
        Rate of the dropout after each dense layer.
    act_type : str
        Activation inside the blocks and transitions, as in :func:`activation`. Stem and end are always ReLU, as
        InsightFace has them.
    bn_mom : float
        Momentum of the moving averages of batch normalization.
    prefix : str
        Prefix of every parameter name.
    bn_size : int
        Width of a bottleneck, in growth rates.

    Attributes
    ----------
    channels : int
        Channels of the output.
    """

    def __init__(
        self,
        num_init_features: int,
        growth_rate: int,
        block_config: Sequence[int],
        *,
        stem: tuple[int, int] = STEMS[1],
        dropout: float,
        act_type: str,
        bn_mom: float,
        prefix: str,
        bn_size: int = 4,
    ) -> None:
        super().__init__(prefix=prefix)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            kernel, stride = stem
            self.features.add(nn.Conv2D(num_init_features, kernel, stride, padding=kernel // 2, use_bias=False))
            self.features.add(nn.BatchNorm(momentum=bn_mom))
            self.features.add(nn.Activation("relu"))
            self.features.add(nn.MaxPool2D(pool_size=3, strides=2, padding=1))
            channels = num_init_features
            for stage, num_layers in enumerate(block_config, start=1):
                if stage > 1:
                    channels //= 2
                    self.features.add(Transition(channels, act_type, bn_mom))
                block = nn.HybridSequential(prefix=f"stage{stage}_")
                with block.name_scope():
                    for _ in range(num_layers):
                        block.add(DenseLayer(growth_rate, bn_size, dropout, act_type, bn_mom))
                self.features.add(block)
                channels += num_layers * growth_rate
            self.features.add(nn.BatchNorm(momentum=bn_mom))
            self.features.add(nn.Activation("relu"))
        self.channels = channels

    def hybrid_forward(self, F, x):
        return self.features(x)


def get_symbol() -> mx.sym.Symbol:
    """Build the network that ``config`` describes.

    Reads ``num_layers`` (15, 63, 121, 161, 169 or 201), ``net_input`` (0 or 1), ``net_act``, ``bn_mom``,
    ``densenet_dropout``, ``emb_size`` and ``net_output``.

    Returns
    -------
    mxnet.symbol.Symbol
        ``fc1_output``, float32 (N, emb_size), of the input ``data``: RGB pictures (N, 3, H, W), values 0 to 255.
        Node and parameter names are the same at every call.

    Raises
    ------
    ValueError
        For a depth, a stem, an activation or a head that does not exist (the message lists those that do), or a number
        out of range.
    """
    num_layers = config.num_layers
    net_input = config.get("net_input", 1)  # these two may be missing in another tree's config
    dropout = config.get("densenet_dropout", 0.0)
    if num_layers not in DENSENETS:
        raise ValueError(f"num_layers: no DenseNet of depth {num_layers}; there are {sorted(DENSENETS)}")
    if net_input not in STEMS:
        raise ValueError(f"net_input: no stem {net_input}; there are {sorted(STEMS)}")
    if not 0 <= dropout < 1:
        raise ValueError(f"densenet_dropout: {dropout} is not a rate from 0 to below 1")
    net = DenseNet(
        *DENSENETS[num_layers],
        stem=STEMS[net_input],
        dropout=dropout,
        act_type=config.net_act,
        bn_mom=config.bn_mom,
        prefix="densenet0_",  # Gluon's name for the first DenseNet of a process, which InsightFace's checkpoints have
    )
    with mx.name.NameManager():  # automatic names count from 0 at every call
        data = (mx.sym.Variable("data") - 127.5) * 0.0078125
        return symbol_utils.get_fc1(net(data), config.emb_size, config.net_output, input_channel=net.channels)
