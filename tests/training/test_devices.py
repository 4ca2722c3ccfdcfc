"""Devices follow the flag, then CUDA_VISIBLE_DEVICES."""

import pytest

from denseface.core.errors import InputError
from denseface.training import devices

import mxnet as mx


@pytest.fixture
def gpus(monkeypatch):
    """As if MXNet found so many GPUs."""
    return lambda count: monkeypatch.setattr(mx.context, "num_gpus", lambda: count)


@pytest.mark.parametrize("visible", ["", " ", "-1"])
def test_without_visible_gpus_the_cpu_computes(gpus, monkeypatch, visible):
    gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.contexts(None) == [mx.cpu()]


def test_all_visible_gpus_are_taken_and_the_flag_chooses_among_them(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert devices.contexts(None) == [mx.gpu(0), mx.gpu(1)]
    assert devices.contexts("1") == [mx.gpu(1)]
    with pytest.raises(InputError) as caught:
        devices.contexts("2")
    assert caught.value.option == "gpus"
