"""Weight decay applies by what a parameter is, whatever the family calls it."""

import pytest

from denseface.models import families
from denseface.models.distillation import INPUTS, with_teacher
from denseface.options.names import Names
from denseface.training.decay import set_decay_multipliers
from support.symbols import accelerated, rewritten

import mxnet as mx

SHAPE = (2, 3, 32, 32)


def multipliers(network, *settings, loss="softmax"):
    """Factors on learning rate and weight decay, by parameter, as the optimizer has them in training."""
    settings = ["image_shape=32,32,3", "emb_size=16", *settings]
    config = families.configure(Names(network, "orl", loss), settings)
    whole = families.training_symbol(config, families.embedding_symbol(config), 4)
    symbol = accelerated(rewritten(whole, set_decay_multipliers), SHAPE)
    names = [name for name in symbol.list_arguments() if name not in ("data", "softmax_label")]
    assert sorted(names) == sorted({*whole.list_arguments()} - {"data", "softmax_label"})
    optimizer = mx.optimizer.SGD(learning_rate=1, wd=1, sym=symbol, param_idx2name=dict(enumerate(names)))
    return {name: (optimizer._get_lr(i), optimizer._get_wd(i)) for i, name in enumerate(names)}


def is_spared(name):
    is_slope = "relu" in name and name.endswith(("_gamma", "_alpha"))
    return is_slope or name.endswith(("_bias", "_beta"))


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("activation", ["relu", "prelu"])
@pytest.mark.parametrize("network", ["d63", "r18", "y1"])
def test_biases_shifts_and_slopes_do_not_decay(network, activation):
    found = multipliers(network, f"net_act={activation}", "net_output=GDC")
    slopes = [name for name in found if "relu" in name and name.endswith(("_gamma", "_alpha"))]
    assert bool(slopes) == (activation == "prelu")
    assert sum(name.endswith("_beta") for name in found) > 10
    wrong = {name: decay for name, (_, decay) in found.items() if decay != (0 if is_spared(name) else 1)}
    assert not wrong


@pytest.mark.usefixtures("configured")
def test_the_class_centers_have_their_own_factors():
    found = multipliers("d63", "fc7_wd_mult=10", "fc7_lr_mult=0.5", loss="softmax")
    assert found["fc7_weight"] == (0.5, 10)
    assert found["fc7_bias"] == (2, 0)
    assert found["pre_fc1_weight"] == (1, 1)


@pytest.mark.usefixtures("configured")
def test_the_networks_own_attributes_stay_as_they_are():
    config = families.configure(Names("d63", "orl", "arcface"), ["net_act=prelu"])
    whole = families.training_symbol(config, families.embedding_symbol(config))
    before = whole.tojson()
    rewritten(whole, set_decay_multipliers)
    assert whole.tojson() == before


@pytest.mark.usefixtures("configured")
def test_inputs_do_not_decay():
    spec = families.configure(Names("d63", "orl", "arcface"))
    embedding = families.embedding_symbol(spec)
    taught = with_teacher(embedding, 512, 16, weight=1.0, class_loss=families.training_symbol(spec, embedding))
    attributes = rewritten(taught, set_decay_multipliers).attr_dict()
    assert [name for name in INPUTS if "__wd_mult__" in attributes.get(name, {})] == []
    assert attributes["teacher_fc_weight"]["__wd_mult__"] == "1.0"
