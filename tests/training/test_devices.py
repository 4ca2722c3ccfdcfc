"""Devices follow the flag, then CUDA_VISIBLE_DEVICES, and must compute."""

import pytest

from denseface.cli import main
from denseface.core.errors import InputError
from denseface.training import devices
from support.tiny_models import save_model, tiny_model

import mxnet as mx


@pytest.fixture
def gpus(monkeypatch):
    """As if MXNet found so many GPUs; the CPU computes for them, but for those that are broken."""

    def found(count, broken=()):
        monkeypatch.setattr(mx.context, "num_gpus", lambda: count)
        ones = mx.nd.ones

        def probe(shape, ctx):
            if ctx.device_id in broken:
                raise mx.MXNetError("[11:22:33] a.cc:1: Check failed\nMXNetError: no kernel image is available")
            return ones(shape)

        monkeypatch.setattr(mx.nd, "ones", probe)

    return found


def refusal(gpus):
    with pytest.raises(InputError) as caught:
        devices.contexts(gpus)
    return caught.value


@pytest.mark.parametrize("visible", ["", " ", "-1", "-1,0"])
def test_without_visible_gpus_the_cpu_computes(gpus, monkeypatch, visible):
    gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.contexts(None) == [mx.cpu()]


def test_all_visible_gpus_are_taken_and_the_flag_chooses_among_them(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,-1,5")
    assert devices.contexts(None) == [mx.gpu(0), mx.gpu(1)]
    assert devices.contexts("1") == [mx.gpu(1)]
    assert refusal("2").option == "gpus"
    assert refusal("1,1").option == "gpus"


def test_a_gpu_that_cannot_compute_is_named_with_the_reason(gpus):
    gpus(3, broken=[1])
    assert devices.contexts("0,2") == [mx.gpu(0), mx.gpu(2)]
    error = refusal("0,1")
    assert error.option == "gpus" and "GPU 1 cannot compute (no kernel image is available)" in str(error)


@pytest.mark.parametrize(
    ("packages", "built", "visible", "reason"),
    [
        (["mxnet"], False, None, "mxnet-cu117"),
        (["mxnet", "mxnet-cu117"], False, None, "mxnet and mxnet-cu117 are installed in one folder"),
        (["mxnet-cu117"], True, "-1", "CUDA_VISIBLE_DEVICES=-1 hides"),
        (["mxnet-cu117"], True, None, "driver version is insufficient"),
    ],
)
def test_why_there_is_no_gpu_is_said(monkeypatch, packages, built, visible, reason):
    def fail():
        raise mx.MXNetError("MXNetError: driver version is insufficient")

    monkeypatch.setattr(mx.context, "num_gpus", fail)
    monkeypatch.setattr(devices, "packages_of", lambda module: packages)
    monkeypatch.setattr(mx.runtime.Features, "is_enabled", lambda self, name: built)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert "MXNet finds 0 GPUs" in str(refusal("0")) and reason in str(refusal("0"))


def test_commands_probe_their_gpu_too(gpus, tmp_path, capsys):
    gpus(1, broken=[0])
    save_model(tiny_model(), tmp_path / "model")
    (tmp_path / "a.png").touch()
    command = ["embed", tmp_path / "a.png", "--model", tmp_path / "model", "--gpu", "0", "-o", tmp_path / "a.npz"]
    assert main([*map(str, command)]) == 1
    assert "denseface: error: --gpu: 0: GPU 0 cannot compute (no kernel image" in capsys.readouterr().err
