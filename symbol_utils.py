"""Layers that the network families share: convolution, activation, linear block, and the embedding heads.

The signatures are InsightFace's, so that its network files work with this one. Parameter names are part of
the contract: they decide which checkpoints load.
"""

from __future__ import annotations

from config import config

import mxnet as mx

BN_EPS = 2e-5  # InsightFace's, in heads and ResNets; its Linear and Gluon's layers have MXNet's defaults, 1e-3 and 1e-5

SIMPLE_ACTIVATIONS = ("relu", "sigmoid", "tanh", "softrelu", "softsign")
LEAKY_ACTIVATIONS = ("leaky", "elu", "selu", "gelu", "prelu")  # what MXNet's LeakyReLU does


def Conv(**kwargs) -> mx.sym.Symbol:
    """Convolution, all arguments as in ``mxnet.symbol.Convolution``; InsightFace's network files call it so."""
    return mx.sym.Convolution(**kwargs)


def Act(data: mx.sym.Symbol, act_type: str, name: str) -> mx.sym.Symbol:
    """Activation by name.

    Parameters
    ----------
    data : Symbol
        Input of any shape, channels on axis 1.
    act_type : str
        "relu", "sigmoid", "tanh", "softrelu", "softsign", "leaky" (slope 0.25), "elu", "selu", "gelu" or "prelu"
        (one learned slope per channel, in the parameter ``<name>_gamma``).
    name : str
        Name of the node.

    Raises
    ------
    ValueError
        For another activation; the message lists these.
    """
    if act_type in LEAKY_ACTIVATIONS:
        slope = 1.0 if act_type == "elu" else 0.25  # as Gluon has them; left out, MXNet takes 0.25 for ELU too
        return mx.sym.LeakyReLU(data=data, act_type=act_type, slope=slope, name=name)
    if act_type in SIMPLE_ACTIVATIONS:
        return mx.sym.Activation(data=data, act_type=act_type, name=name)
    known = ", ".join(SIMPLE_ACTIVATIONS + LEAKY_ACTIVATIONS)
    raise ValueError(f"net_act: no activation {act_type!r}; there are {known}")


def Linear(
    data: mx.sym.Symbol,
    num_filter: int = 1,
    kernel: tuple = (1, 1),
    stride: tuple = (1, 1),
    pad: tuple = (0, 0),
    num_group: int = 1,
    name: str | None = None,
    suffix: str = "",
) -> mx.sym.Symbol:
    """Convolution without bias, and batch normalization, without an activation.

    Parameters
    ----------
    data : Symbol
        (N, C, H, W).
    num_filter, kernel, stride, pad, num_group
        As in ``mxnet.symbol.Convolution``.
    name, suffix : str
        The nodes are called ``<name><suffix>_conv2d`` and ``<name><suffix>_batchnorm``; without a name "None", as in
        InsightFace.

    Returns
    -------
    Symbol
        Normalized with MXNet's epsilon of 1e-3, as in InsightFace, not ``BN_EPS``.
    """
    conv = Conv(
        data=data,
        num_filter=num_filter,
        kernel=kernel,
        num_group=num_group,
        stride=stride,
        pad=pad,
        no_bias=True,
        name=f"{name}{suffix}_conv2d",
    )
    return mx.sym.BatchNorm(conv, name=f"{name}{suffix}_batchnorm", fix_gamma=False, momentum=config.bn_mom)


def get_fc1(last_conv: mx.sym.Symbol, num_classes: int, fc_type: str, input_channel: int = 512) -> mx.sym.Symbol:
    """Put an embedding head on a convolutional body.

    Parameters
    ----------
    last_conv : Symbol
        The body's output, (N, C, h, w); h = w = 7 for 112x112 pictures.
    num_classes : int
        Length of the embedding (the name is InsightFace's; classes of people come later, in the loss).
    fc_type : str
        The head. BN is batch normalization, FC fully connected over all C*h*w values, ``bn`` a batch normalization
        with its scale fixed at 1:

        ====  =====================================================================================================
        E     BN - dropout 0.4 - FC - bn
        F     BN - dropout 0.4 - FC
        FC    BN - FC - bn
        G     BN - FC
        H     FC
        I     the same as FC
        J     FC - bn
        Z     BN - dropout 0.4: the feature map itself, (N, C, h, w), with no embedding size of its own
        GAP   BN - activation - mean over positions (N, C) - FC - bn
        GDC   global depthwise convolution, one h x w kernel per channel (N, C, 1, 1) - BN - FC - bn (Chen et al. 2018,
              MobileFaceNets, section 3.2)
        GNAP  norm-aware pooling: bn - every position scaled to the mean length of its own picture's positions - mean
              over positions (N, C) - bn - FC - bn; no FC where the embedding is as long as C, and a 1x1 convolution
              with BN and activation in front where it is longer (Chen et al. 2018, MobileFaceNets++)
        SFC   BN - 3x3 depthwise convolution of stride 2 (N, C, h/2, w/2) - BN - activation - 1x1 convolution - BN -
              activation - FC - bn
        ====  =====================================================================================================
    input_channel : int
        C, the channels of ``last_conv``; GDC, GNAP and SFC need it.

    Returns
    -------
    Symbol
        Its output is called ``fc1_output`` and is (N, num_classes) for every head but Z.

    Raises
    ------
    ValueError
        For an unknown head (the message lists those that exist), an invalid length, or pictures too small for GDC.

    Notes
    -----
    The momentum (``bn_mom``), the activation (``net_act``) and, for GDC, the picture's size (``image_shape``) are those
    of ``config``. GDC and SFC are depthwise: they have one kernel for each of the body's channels.
    """
    if fc_type not in HEADS:
        raise ValueError(f"net_output: no head {fc_type!r}; there are {', '.join(HEADS)}")
    if not 1 <= num_classes < 2**31:
        raise ValueError(f"emb_size: {num_classes} is not a length of an embedding")
    return HEADS[fc_type](last_conv, num_classes, input_channel)


def _batch_norm(data: mx.sym.Symbol, name: str, fix_gamma: bool = False) -> mx.sym.Symbol:
    return mx.sym.BatchNorm(data, name=name, fix_gamma=fix_gamma, eps=BN_EPS, momentum=config.bn_mom)


def _embedding(data: mx.sym.Symbol, emb_size: int) -> mx.sym.Symbol:
    """FC - bn, the end of most heads."""
    fc = mx.sym.FullyConnected(data, num_hidden=emb_size, name="pre_fc1")
    return _batch_norm(fc, "fc1", fix_gamma=True)


def _global_pool(data: mx.sym.Symbol, name: str | None = None) -> mx.sym.Symbol:
    """Mean over positions: (N, C, h, w) to (N, C). MXNet asks for a kernel, and ignores it."""
    return mx.sym.Flatten(mx.sym.Pooling(data, global_pool=True, kernel=(7, 7), pool_type="avg", name=name))


# Heads: a body (N, C, h, w), the length of the embedding, and C, to the node ``fc1``.


def _head_e(body: mx.sym.Symbol, emb_size: int, channels: int) -> mx.sym.Symbol:
    return _embedding(mx.sym.Dropout(_batch_norm(body, "bn1"), p=0.4), emb_size)


def _head_f(body: mx.sym.Symbol, emb_size: int, channels: int) -> mx.sym.Symbol:
    dropped = mx.sym.Dropout(_batch_norm(body, "bn1"), p=0.4)
    return mx.sym.FullyConnected(dropped, num_hidden=emb_size, name="fc1")


def _head_fc(body: mx.sym.Symbol, emb_size: int, channels: int) -> mx.sym.Symbol:
    return _embedding(_batch_norm(body, "bn1"), emb_size)


def _head_g(body: mx.sym.Symbol, emb_size: int, channels: int) -> mx.sym.Symbol:
    return mx.sym.FullyConnected(_batch_norm(body, "bn1"), num_hidden=emb_size, name="fc1")


def _head_h(body: mx.sym.Symbol, emb_size: int, channels: int) -> mx.sym.Symbol:
    return mx.sym.FullyConnected(body, num_hidden=emb_size, name="fc1")


def _head_j(body: mx.sym.Symbol, emb_size: int, channels: int) -> mx.sym.Symbol:
    return _embedding(body, emb_size)


def _head_z(body: mx.sym.Symbol, emb_size: int, channels: int) -> mx.sym.Symbol:
    return mx.sym.Dropout(_batch_norm(body, "bn1"), p=0.4, name="fc1")


def _head_gap(body: mx.sym.Symbol, emb_size: int, channels: int) -> mx.sym.Symbol:
    activated = Act(_batch_norm(body, "bn1"), act_type=config.net_act, name="relu1")
    return _embedding(_global_pool(activated, "pool1"), emb_size)


def _head_gdc(body: mx.sym.Symbol, emb_size: int, channels: int) -> mx.sym.Symbol:
    # The one head that has to know the picture's size: its kernel covers all positions.
    height, width, colors = config.get("image_shape", (112, 112, 3))
    try:
        _, shapes, _ = body.infer_shape_partial(data=(1, colors, height, width))
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(
            f"image_shape: the network does not work on pictures of {height}x{width}x{colors}: {reason}"
        ) from error
    positions = shapes[0][2:]  # (h, w)
    depthwise = Linear(body, num_filter=channels, num_group=channels, kernel=positions, name="conv_6dw7_7")
    return _embedding(depthwise, emb_size)


def _head_gnap(body: mx.sym.Symbol, emb_size: int, channels: int) -> mx.sym.Symbol:
    if emb_size > channels:
        body = Conv(data=body, num_filter=emb_size, kernel=(1, 1), no_bias=True, name="convx")
        body = Act(_batch_norm(body, "convx_bn"), act_type=config.net_act, name="convx_relu")
    body = _batch_norm(body, "bn6f", fix_gamma=True)
    length = mx.sym.sqrt(mx.sym.sum(body * body, axis=1, keepdims=True) + 1e-12)  # (N, 1, h, w); 0 has no gradient
    mean_length = mx.sym.mean(length, axis=(1, 2, 3), keepdims=True)  # (N, 1, 1, 1)
    pooled = _global_pool(mx.sym.broadcast_mul(body, mx.sym.broadcast_div(mean_length, length)))
    if emb_size < channels:
        return _embedding(_batch_norm(pooled, "bn6w", fix_gamma=True), emb_size)
    return _batch_norm(pooled, "fc1", fix_gamma=True)


def _head_sfc(body: mx.sym.Symbol, emb_size: int, channels: int) -> mx.sym.Symbol:
    body = _batch_norm(body, "bn1")
    body = Conv(
        data=body,
        num_filter=channels,
        num_group=channels,
        kernel=(3, 3),
        stride=(2, 2),
        pad=(1, 1),
        no_bias=True,
        name="convf",
    )
    body = Act(_batch_norm(body, "bnf"), act_type=config.net_act, name="reluf")
    body = Conv(data=body, num_filter=channels, kernel=(1, 1), name="convf2")
    body = Act(_batch_norm(body, "bnf2"), act_type=config.net_act, name="reluf2")
    return _embedding(body, emb_size)


HEADS = {
    "E": _head_e,
    "F": _head_f,
    "FC": _head_fc,
    "G": _head_g,
    "H": _head_h,
    "I": _head_fc,
    "J": _head_j,
    "Z": _head_z,
    "GAP": _head_gap,
    "GDC": _head_gdc,
    "GNAP": _head_gnap,
    "SFC": _head_sfc,
}
