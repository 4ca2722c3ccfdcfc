"""The list of options: each has one name, fits its own bounds, and comes back from what is saved."""

import pytest

from denseface.core.errors import InputError
from denseface.core.option import Resume
from denseface.data.augment import Augmentation
from denseface.options.spec import BY_KEY, BY_NAME, OPTIONS, LossSpec, RateFactor, RunSpec


def test_names_and_keys_are_unique():
    assert len(BY_NAME) == len(OPTIONS) and len(BY_KEY) == sum(bool(each.key) for each in OPTIONS)
    assert all(each.key or each.flag for each in OPTIONS)


@pytest.mark.parametrize("each", OPTIONS, ids=lambda each: each.name)
def test_an_option_can_be_read_as_it_is_shown(each):
    shown = each.example(each.default)
    if shown and not each.repeated:
        assert each.read(shown) == each.default
    assert each.help and not each.help.endswith(".")


def test_values_make_the_same_options_again():
    spec = RunSpec().replace(loss_name="adaface", data_rotate=5, lr_mult=(RateFactor("fc7*", 2.0),), stub_width=3)
    assert spec.data.augmentation == Augmentation(rotate=5.0) and spec.network.extra == {"stub_width": 3}
    assert RunSpec.of({**spec.by_name(), **spec.network.extra}) == spec
    assert spec.by_key()["stub_width"] == 3


def test_keys_are_those_that_the_loss_has():
    assert {"loss_m", "loss_s"} <= {*RunSpec(loss=LossSpec(loss_name="adaface")).by_key()}
    assert "loss_m" not in RunSpec().by_key() and "triplet_alpha" not in RunSpec().by_key()


def test_a_wrong_value_is_named():
    with pytest.raises(InputError) as caught:
        LossSpec(loss_m2=4)
    assert caught.value.option == "loss_m2"


@pytest.mark.parametrize("text", ["fc7", "fc7=x", "fc7=-1", "fc7=1001", "fc7=nan"])
def test_a_factor_on_rates_is_from_0_to_1000(text):
    with pytest.raises(ValueError):
        BY_NAME["lr_mult"].read_item(text)


def test_what_a_step_depends_on_has_to_be_repeated():
    repeated = {each.name for each in OPTIONS if each.resume is Resume.REPEATS}
    assert repeated == {
        "accumulate", "dtype", "ema", "freeze", "lr_mult", "per_batch_size", "seed", "teacher", "teacher_weight"
    }  # fmt: skip
