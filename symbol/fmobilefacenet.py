"""MobileFaceNet, as InsightFace names its layers.

Chen, Liu, Gao, Han: "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices", 2018,
https://arxiv.org/abs/1804.07573 (Table 1; its bottlenecks are those of MobileNetV2).
"""

from __future__ import annotations

from collections.abc import Sequence

import symbol_utils
from config import config

import mxnet as mx

# Behind the two first layers: (stage, its channels, width of the bottleneck that halves the picture, width of others).
STAGES = ((3, 64, 128, 128), (4, 128, 256, 256), (5, 128, 512, 256))
CHANNELS = 512  # of the body's output
initializer = mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)  # InsightFace's choice for it


def mobilefacenet(data: mx.sym.Symbol, num_blocks: Sequence[int], act_type: str) -> mx.sym.Symbol:
    """Build the convolutional body: (N, 3, H, W) to (N, 512, H/16, W/16).

    Parameters
    ----------
    data : Symbol
        The pictures.
    num_blocks : sequence of int
        Residual bottlenecks at each of the four resolutions. A first number of 1 stands for the paper's depthwise
        convolution instead.
    act_type : str
        Activation, as in :func:`symbol_utils.Act`.
    """
    body = conv(data, 64, "conv_1", act_type, kernel=3, stride=2)
    if num_blocks[0] == 1:
        body = conv(body, 64, "conv_2_dw", act_type, kernel=3, num_group=64)
    else:
        body = residuals(body, num_blocks[0], 64, 64, "res_2", act_type)
    for (stage, channels, halving_width, width), blocks in zip(STAGES, num_blocks[1:]):
        body = bottleneck(body, channels, halving_width, f"dconv_{stage - 1}{stage}", act_type, stride=2)
        body = residuals(body, blocks, channels, width, f"res_{stage}", act_type)
    return conv(body, CHANNELS, "conv_6sep", act_type)


def residuals(
    data: mx.sym.Symbol, num_blocks: int, channels: int, width: int, name: str, act_type: str
) -> mx.sym.Symbol:
    """Bottlenecks, each added to its input."""
    for index in range(num_blocks):
        data = bottleneck(data, channels, width, f"{name}_block{index}", act_type) + data
    return data


def bottleneck(
    data: mx.sym.Symbol, channels: int, width: int, name: str, act_type: str, stride: int = 1
) -> mx.sym.Symbol:
    """1x1 convolution to ``width``, 3x3 depthwise, 1x1 to ``channels``; no activation behind the last."""
    body = conv(data, width, f"{name}_conv_sep", act_type)
    body = conv(body, width, f"{name}_conv_dw", act_type, kernel=3, stride=stride, num_group=width)
    return symbol_utils.Linear(body, num_filter=channels, name=f"{name}_conv_proj")


def conv(
    data: mx.sym.Symbol, num_filter: int, name: str, act_type: str, kernel: int = 1, stride: int = 1, num_group: int = 1
) -> mx.sym.Symbol:
    """Convolution - BN - activation."""
    body = symbol_utils.Linear(
        data,
        num_filter=num_filter,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        pad=(kernel // 2, kernel // 2),
        num_group=num_group,
        name=name,
    )
    return symbol_utils.Act(data=body, act_type=act_type, name=f"{name}_relu")


def get_symbol() -> mx.sym.Symbol:
    """Build the network that ``config`` describes.

    Reads ``net_blocks``, ``net_act``, ``bn_mom``, ``emb_size`` and ``net_output``.

    Returns
    -------
    mxnet.symbol.Symbol
        ``fc1_output``, float32 (N, emb_size), of the input ``data``: RGB pictures (N, 3, H, W), values 0 to 255.
        Node and parameter names are the same at every call.

    Raises
    ------
    ValueError
        For numbers of blocks that are not four whole numbers, or an activation or head that does not exist (the
        message lists those that do).
    """
    num_blocks = config.net_blocks
    if len(num_blocks) != 4 or not all(isinstance(number, int) and number >= 0 for number in num_blocks):
        raise ValueError(f"net_blocks: {num_blocks} is not four numbers from 0, as in [1, 4, 6, 2]")
    with mx.name.NameManager():  # automatic names count from 0 at every call
        data = (mx.sym.Variable("data") - 127.5) * 0.0078125
        body = mobilefacenet(data, num_blocks, config.net_act)
        return symbol_utils.get_fc1(body, config.emb_size, config.net_output, input_channel=CHANNELS)
