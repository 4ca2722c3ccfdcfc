import numpy as np
import pytest
from helpers import output
from tiny_models import as_model, tiny_model, tiny_symbol

from denseface import networks
from denseface.engines.mxnet_engine import MXNetEngine, embedding_output
from denseface.errors import InputError

import mxnet as mx

SHAPE = (3, 16, 16)


def batch_of(size, shape=SHAPE, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (size, *shape)).astype(np.float32)


def test_it_computes_what_mxnet_computes():
    engine = MXNetEngine(tiny_model(), SHAPE, 4)
    batch = batch_of(4)
    found = engine(batch)
    assert found.dtype == np.float32
    assert found.shape == (4, engine.emb_size) == (4, 8)
    np.testing.assert_allclose(found, output(tiny_symbol(), batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", ["E", "GNAP"])
def test_an_embedding_does_not_depend_on_its_batch(configured, head):
    configured(net_output=head)
    engine = MXNetEngine(as_model(networks.embedding_symbol(), (1, 3, 112, 112)), (3, 112, 112), 4)
    others = batch_of(4, (3, 112, 112))
    expected = engine(others)
    for row in range(4):
        alone = np.zeros_like(others)
        alone[row] = others[0]
        np.testing.assert_array_equal(engine(alone)[row], expected[0])


def test_of_a_whole_training_symbol_the_embedding_is_computed():
    fc7 = mx.sym.FullyConnected(tiny_symbol(), num_hidden=5, name="fc7")
    model = tiny_model()
    expected = MXNetEngine(model, SHAPE, 2)(batch_of(2))
    model.symbol = mx.sym.Group([mx.sym.BlockGrad(fc7), mx.sym.SoftmaxOutput(fc7, name="softmax")])
    np.testing.assert_array_equal(MXNetEngine(model, SHAPE, 2)(batch_of(2)), expected)


def test_without_fc1_the_first_output_is_the_embedding():
    first = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="first")
    assert embedding_output(mx.sym.Group([first, first * 2])).list_outputs() == ["first_output"]


def test_training_statistics_stay_as_they_are():
    engine = MXNetEngine(tiny_model(), SHAPE, 2)
    np.testing.assert_array_equal(engine(batch_of(2)), engine(batch_of(2)))


def test_fully_connected_layers_after_a_convolution_work_more_than_once():
    depthwise = mx.sym.Convolution(
        mx.sym.Variable("data"), num_filter=16, num_group=16, kernel=(4, 4), no_bias=True, name="conv_6dw7_7"
    )
    symbol = mx.sym.FullyConnected(depthwise, num_hidden=8, name="fc1")
    model = as_model(symbol, (1, 16, 4, 4))
    batch = batch_of(2, (16, 4, 4))
    engine = MXNetEngine(model, (16, 4, 4), 2)
    engine(batch)
    np.testing.assert_allclose(engine(batch), output(symbol, batch), rtol=1e-5)


def test_a_size_that_does_not_fit_is_answered_with_sizes_that_do():
    model = tiny_model((112, 96, 3))
    with pytest.raises(InputError, match=r"^tiny,1: .* height, width, channels 112,112,3; try 112,96$"):
        MXNetEngine(model, (3, 112, 112), 2)
    model = tiny_model((64, 64, 1))
    with pytest.raises(InputError, match=r"112,112,3; try 64,64,1$"):
        MXNetEngine(model, (3, 112, 112), 2)
    with pytest.raises(InputError, match=r"check that symbol and parameters belong together$"):
        MXNetEngine(tiny_model((20, 20, 3)), (3, 112, 112), 2)


def test_missing_parameters_are_named():
    model = tiny_model()
    del model.arguments["conv0_bias"], model.auxiliary["fc1_moving_var"]
    with pytest.raises(InputError, match=r"^tiny,1: the network has no values for conv0_bias, fc1_moving_var$"):
        MXNetEngine(model, SHAPE, 2)


def test_a_network_that_gives_no_embeddings_is_refused():
    model = tiny_model()
    model.symbol = model.symbol.get_internals()["conv0_output"]
    with pytest.raises(InputError, match=r"shape .*, which is no list of embeddings"):
        MXNetEngine(model, SHAPE, 2)


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"^tiny,1: MXNet cannot run it on gpu\(77\): \S"):
        MXNetEngine(tiny_model(), SHAPE, 2, mx.gpu(77))
