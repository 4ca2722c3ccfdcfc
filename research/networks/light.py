"""Three convolutions: a network that is trained in seconds, for comparisons of many runs."""

from config import config

import mxnet as mx


def get_symbol():
    """Return ``fc1_output``, embeddings of pictures of any size."""
    body = (mx.sym.Variable("data") - 127.5) * 0.0078125
    for stage, filters in enumerate((32, 64, 128)):
        body = mx.sym.Convolution(
            body, num_filter=filters, kernel=(3, 3), stride=(2, 2), pad=(1, 1), no_bias=True, name=f"conv{stage}"
        )
        body = mx.sym.Activation(mx.sym.BatchNorm(body, fix_gamma=False, name=f"bn{stage}"), act_type="relu")
    body = mx.sym.FullyConnected(mx.sym.Dropout(body, p=0.4), num_hidden=config.emb_size, name="pre_fc1")
    return mx.sym.BatchNorm(body, fix_gamma=True, eps=2e-5, name="fc1")
