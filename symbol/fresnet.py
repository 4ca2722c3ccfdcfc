"""Residual networks for face recognition, the ResNet-IR of ArcFace, as InsightFace names their layers.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", 2016, https://arxiv.org/abs/1512.03385 (unit 1),
and "Identity Mappings in Deep Residual Networks", 2016, https://arxiv.org/abs/1603.05027 (unit 2).
Deng, Guo, Xue, Zafeiriou: "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019,
https://arxiv.org/abs/1801.07698 (IR, unit 3: LResNet50E-IR and LResNet100E-IR).
Hu, Shen, Sun: "Squeeze-and-Excitation Networks", 2018, https://arxiv.org/abs/1709.01507 (``net_se``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import symbol_utils
from config import config

import mxnet as mx

# depth: residual units in each of the four stages, two 3x3 convolutions per unit at every depth. The depths are names:
# 50 and 101 on count three layers per unit, as in He et al., or are InsightFace's own.
UNITS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    49: (3, 4, 14, 3),
    50: (3, 4, 14, 3),
    74: (3, 6, 24, 3),
    90: (3, 8, 30, 3),
    98: (3, 4, 38, 3),
    99: (3, 8, 35, 3),
    100: (3, 13, 30, 3),
    101: (3, 4, 23, 3),
    124: (3, 13, 40, 5),
    134: (3, 10, 50, 3),
    136: (3, 13, 48, 3),
    140: (3, 15, 48, 3),
    152: (3, 8, 36, 3),
    160: (3, 24, 49, 3),
    200: (3, 24, 36, 3),
    269: (3, 30, 48, 8),
}
CHANNELS = (64, 128, 256, 512)  # of the four stages
initializer = mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)  # InsightFace's choice for it

# net_input: (kernel, stride) of the first convolution. 1 keeps the resolution of 112x112 faces; 0 is for 224x224.
STEMS = {0: (7, 2), 1: (3, 1)}


@dataclass(frozen=True)
class ResNet:
    """The convolutional body and the layers it is made of.

    Each unit takes (N, C, H, W) to (N, channels, H/stride, W/stride); its stride is 1 where C = channels.

    Parameters
    ----------
    net_input : int
        Kind of the first convolution, a key of ``STEMS``.
    net_unit : int
        Kind of the residual units, a key of ``KINDS``.
    use_se : bool
        Let every unit weigh its channels (squeeze and excitation).
    act_type : str
        Activation, as in :func:`symbol_utils.Act`.
    bn_mom : float
        Momentum of the moving averages of batch normalization.
    workspace : int
        MiB that a convolution may use on a GPU.
    """

    net_input: int
    net_unit: int
    use_se: bool
    act_type: str
    bn_mom: float
    workspace: int

    def body(self, data: mx.sym.Symbol, units: Sequence[int]) -> mx.sym.Symbol:
        """The network without its head: (N, 3, H, W) to (N, 512, H/16, W/16), half of that for ``net_input`` 0."""
        kernel, stride = STEMS[self.net_input]
        body = self._conv(data, CHANNELS[0], "conv0", kernel, stride)
        body = self._act(self._batch_norm(body, "bn0"), "relu0")
        unit = KINDS[self.net_unit]
        for stage, (channels, num_units) in enumerate(zip(CHANNELS, units), start=1):
            for index in range(1, num_units + 1):
                stride = 2 if index == 1 else 1
                body = unit(self, body, channels, stride, f"stage{stage}_unit{index}")
        return body

    def unit1(self, data: mx.sym.Symbol, channels: int, stride: int, name: str) -> mx.sym.Symbol:
        """conv - BN - act - conv - BN, added to the shortcut, act: the original unit."""
        # InsightFace halves the picture in the second convolution, except behind the stem that halved it already.
        strides = (stride, 1) if self.net_input == 0 else (1, stride)
        body = self._conv(data, channels, f"{name}_conv1", 3, strides[0])
        body = self._act(self._batch_norm(body, f"{name}_bn1"), f"{name}_relu1")
        body = self._conv(body, channels, f"{name}_conv2", 3, strides[1])
        body = self._excite(self._batch_norm(body, f"{name}_bn2"), channels, name)
        return self._act(body + self._shortcut(data, channels, stride, name), f"{name}_relu3")

    def unit2(self, data: mx.sym.Symbol, channels: int, stride: int, name: str) -> mx.sym.Symbol:
        """BN - act - conv - BN - act - conv, added to the shortcut: the unit with activation first."""
        activated = self._act(self._batch_norm(data, f"{name}_bn1"), f"{name}_relu1")
        body = self._conv(activated, channels, f"{name}_conv1", 3, stride)
        body = self._act(self._batch_norm(body, f"{name}_bn2"), f"{name}_relu2")
        body = self._excite(self._conv(body, channels, f"{name}_conv2", 3), channels, name)
        shortcut = data if stride == 1 else self._conv(activated, channels, f"{name}_sc", 1, stride)
        return body + shortcut

    def unit3(self, data: mx.sym.Symbol, channels: int, stride: int, name: str) -> mx.sym.Symbol:
        """BN - conv - BN - act - conv - BN, added to the shortcut: IR, the improved unit of ArcFace."""
        body = self._conv(self._batch_norm(data, f"{name}_bn1"), channels, f"{name}_conv1", 3)
        body = self._act(self._batch_norm(body, f"{name}_bn2"), f"{name}_relu1")
        body = self._conv(body, channels, f"{name}_conv2", 3, stride)
        body = self._excite(self._batch_norm(body, f"{name}_bn3"), channels, name)
        return body + self._shortcut(data, channels, stride, name)

    def _shortcut(self, data, channels, stride, name):
        if stride == 1:
            return data
        return self._batch_norm(self._conv(data, channels, f"{name}_conv1sc", 1, stride), f"{name}_sc")

    def _excite(self, data, channels, name):
        """Multiply every channel by a weight between 0 and 1 that all channels' means decide, if ``use_se``."""
        if not self.use_se:
            return data
        weight = mx.sym.Pooling(data, global_pool=True, kernel=(7, 7), pool_type="avg", name=f"{name}_se_pool1")
        weight = self._conv(weight, channels // 16, f"{name}_se_conv1", 1, no_bias=False)
        weight = self._act(weight, f"{name}_se_relu1")
        weight = self._conv(weight, channels, f"{name}_se_conv2", 1, no_bias=False)
        weight = symbol_utils.Act(data=weight, act_type="sigmoid", name=f"{name}_se_sigmoid")
        return mx.sym.broadcast_mul(data, weight)

    def _conv(self, data, num_filter, name, kernel, stride=1, no_bias=True):
        return symbol_utils.Conv(
            data=data,
            num_filter=num_filter,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            pad=(kernel // 2, kernel // 2),
            no_bias=no_bias,
            workspace=self.workspace,
            name=name,
        )

    def _batch_norm(self, data, name):
        return mx.sym.BatchNorm(data, name=name, fix_gamma=False, eps=2e-5, momentum=self.bn_mom)

    def _act(self, data, name):
        return symbol_utils.Act(data=data, act_type=self.act_type, name=name)


# net_unit: what builds one unit.
KINDS = {1: ResNet.unit1, 2: ResNet.unit2, 3: ResNet.unit3}


def get_symbol() -> mx.sym.Symbol:
    """Build the network that ``config`` describes.

    Reads ``num_layers`` (a key of ``UNITS``), ``net_input`` (0 or 1), ``net_unit`` (1, 2 or 3), ``net_se`` (0 or 1),
    ``net_act``, ``bn_mom``, ``workspace``, ``emb_size`` and ``net_output``.

    Returns
    -------
    mxnet.symbol.Symbol
        ``fc1_output``, float32 (N, emb_size), of the input ``data``: RGB pictures (N, 3, H, W), values 0 to 255.
        Node and parameter names are the same at every call.

    Raises
    ------
    ValueError
        For a depth, a kind of input or unit, an activation or a head that does not exist; the message lists those
        that do.
    """
    for key, known in (("num_layers", UNITS), ("net_input", STEMS), ("net_unit", KINDS), ("net_se", (0, 1))):
        if config[key] not in known:
            raise ValueError(f"{key}: fresnet has no {config[key]!r}; there are {', '.join(map(str, known))}")
    net = ResNet(
        net_input=config.net_input,
        net_unit=config.net_unit,
        use_se=bool(config.net_se),
        act_type=config.net_act,
        bn_mom=config.bn_mom,
        workspace=config.workspace,
    )
    with mx.name.NameManager():  # automatic names count from 0 at every call
        data = (mx.sym.Variable("data") - 127.5) * 0.0078125
        body = net.body(data, UNITS[config.num_layers])
        return symbol_utils.get_fc1(body, config.emb_size, config.net_output, input_channel=CHANNELS[-1])
