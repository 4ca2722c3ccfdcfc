"""Networks small enough to run by the hundred, as models in memory."""

import io

import numpy as np
from PIL import Image

from denseface.models.checkpoint import Model, TrainingState, save
from support.helpers import value_of

import mxnet as mx

TINY_SHAPE = (16, 16, 3)


def as_model(symbol, data_shape, prefix="tiny"):
    """A model of the symbol, its parameters drawn by their names."""
    arguments, _, auxiliary = symbol.infer_shape(data=data_shape)
    return Model(
        symbol=symbol,
        arguments={n: value_of(n, s) for n, s in zip(symbol.list_arguments(), arguments) if n != "data"},
        auxiliary={n: value_of(n, s) for n, s in zip(symbol.list_auxiliary_states(), auxiliary)},
        prefix=prefix,
        step=1,
    )


def tiny_symbol(emb_size=8):
    """A convolution and a fully connected layer: an embedding of any size of picture that its parameters fit."""
    scaled = (mx.sym.Variable("data") - 127.5) * 0.0078125
    body = mx.sym.Convolution(scaled, num_filter=4, kernel=(4, 4), stride=(4, 4), name="conv0")
    fc = mx.sym.FullyConnected(mx.sym.Activation(body, act_type="relu"), num_hidden=emb_size, name="pre_fc1")
    return mx.sym.BatchNorm(fc, name="fc1", fix_gamma=True, eps=2e-5)


def tiny_model(image_shape=TINY_SHAPE, emb_size=8):
    height, width, channels = image_shape
    return as_model(tiny_symbol(emb_size), (1, channels, height, width))


def save_model(model, prefix):
    """Write the model as step 1 of a prefix."""
    save(prefix, model.symbol, TrainingState(1, model.arguments, model.auxiliary, {}, {}))


def as_ndarrays(model):
    """Arguments and auxiliary states as MXNet's arrays, for its own functions."""
    return [{name: mx.nd.array(a) for name, a in arrays.items()} for arrays in (model.arguments, model.auxiliary)]


def pictures(count, image_shape=TINY_SHAPE, seed=0):
    """uint8 (count, height, width, channels)."""
    return np.random.RandomState(seed).randint(0, 256, (count, *image_shape)).astype(np.uint8)


def encode(picture, kind="PNG"):
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()
