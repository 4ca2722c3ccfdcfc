"""Sessions on accelerators compute what the CPU computes, or say that they do not."""

import os
import sys

import numpy as np
import onnxruntime
import pytest

from denseface.core.errors import InputError
from denseface.core.onnx_session import open_on, open_session, probe_pictures
from denseface.core.providers import PROVIDERS, Provider
from denseface.export.onnx import convert
from support.accelerators import accelerated, disturbed
from support.tiny_models import tiny_model

SHAPE = (12, 3, 16, 16)


@pytest.fixture(scope="module")
def content():
    return convert(tiny_model(), SHAPE).SerializeToString()


def refusal(content):
    with pytest.raises(InputError) as caught:
        open_on("cuda", content, SHAPE)
    assert caught.value.option == "provider"
    return str(caught.value)


def test_the_cpu_needs_no_comparison(content):
    opened = open_on("cpu", content, SHAPE)
    assert (opened.agreement, opened.session.get_providers()) == (1.0, ["CPUExecutionProvider"])


def test_threads_without_work_soon_leave_the_cores_to_others(content):
    options = open_session(content, threads=2).get_session_options()
    assert 0 < int(options.get_session_config_entry("session.intra_op.spin_duration_us")) < 1000


def test_a_provider_computes_and_keeps_computing(content, monkeypatch):
    accelerator = accelerated(monkeypatch)
    session, agreement = open_on("cuda", content, SHAPE, is_fixed=True)
    assert agreement == pytest.approx(1)
    assert session.providers == [(accelerator.name, {"use_tf32": "0"}), "CPUExecutionProvider"]
    assert not session.settings["enable_fallback"] and not session.falls_back_later
    batch = np.full(SHAPE, 7, np.float32)
    monkeypatch.undo()
    expected = open_session(content).run(None, {"data": batch})[0]
    np.testing.assert_array_equal(session.run(None, {"data": batch})[0], expected)


def test_tensorrt_leaves_its_gaps_to_cuda(content, monkeypatch):
    accelerated(monkeypatch, "tensorrt")
    session, _ = open_on("tensorrt", content, SHAPE)
    assert session.providers[1:] == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_a_silent_fallback_to_the_cpu_is_an_error(content, monkeypatch, capfd):
    accelerator = accelerated(monkeypatch)
    accelerator.falls_back = True
    accelerator.preload_dlls = lambda: print("Failed to load libcudnn.so.9: libcudnn.so.9: cannot open\nFollow a link")
    assert "cuda here (libcudnn.so.9: cannot open):" in refusal(content)
    accelerator.preload_dlls = lambda: os.write(2, b"2026 [E:onnxruntime] Failed to load a with error: libcuda.so.1\n")
    assert "cuda here (libcuda.so.1):" in refusal(content)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [RuntimeError("CUDA failure 35: driver version is insufficient"), OSError("gone")])
def test_a_provider_that_does_not_start_is_an_error_of_the_provider(content, monkeypatch, error):
    accelerated(monkeypatch).error = error
    assert str(error) in refusal(content)


def test_a_provider_that_cannot_compute_is_an_error_of_the_provider(content, monkeypatch):
    def fail(outputs):
        raise RuntimeError("no kernel image is available")

    accelerated(monkeypatch).change = fail
    assert "no kernel image" in refusal(content)


def test_a_file_that_the_cpu_cannot_load_is_an_error_of_the_file(monkeypatch):
    accelerated(monkeypatch)
    with pytest.raises(Exception) as caught:
        open_on("cuda", b"nothing", SHAPE)
    assert not isinstance(caught.value, InputError)


def test_a_provider_that_leaves_the_layers_to_the_cpu_is_told(content, monkeypatch, caplog):
    """ONNX Runtime's wheels for Linux have one that computes nothing here: it sends pictures to Azure."""
    azure = "AzureExecutionProvider"
    if azure not in onnxruntime.get_available_providers() or not hasattr(
        onnxruntime.InferenceSession, "get_provider_graph_assignment_info"
    ):
        assert tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 24) or sys.platform != "linux"
        return
    monkeypatch.setitem(PROVIDERS, "azure", Provider(azure, "onnxruntime"))
    open_on("azure", content, SHAPE, name="face.onnx")
    (record,) = caplog.records
    assert record.args[:3] == ("face.onnx", "azure", record.args[3]) and record.args[3] > 0


@pytest.mark.parametrize(("on_cpu", "is_told"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_few_layers_on_the_cpu_are_usual(content, monkeypatch, caplog, on_cpu, is_told):
    accelerator = accelerated(monkeypatch)
    accelerator.assigned = {accelerator.name: 4 - on_cpu, "CPUExecutionProvider": on_cpu}
    open_on("cuda", content, SHAPE)
    assert [record.args for record in caplog.records] == [("the network", "cuda", on_cpu, 4)] * is_told


def test_different_outputs_are_measured(content, monkeypatch):
    accelerated(monkeypatch).change = disturbed
    assert 0.99 < open_on("cuda", content, SHAPE).agreement < 0.9999


@pytest.mark.parametrize(
    "change", [lambda outputs: [-o for o in outputs], lambda outputs: [o * np.nan for o in outputs]]
)
def test_other_outputs_are_refused(content, monkeypatch, change):
    accelerated(monkeypatch).change = change
    assert "something else than the CPU" in refusal(content)


def test_a_network_that_computes_nan_anywhere_is_not_blamed_on_the_provider(monkeypatch):
    model = tiny_model()
    model.arguments["conv0_bias"][:] = np.nan
    content = convert(model, SHAPE).SerializeToString()
    accelerated(monkeypatch)
    assert open_on("cuda", content, SHAPE).agreement == 1


def test_pictures_are_pixels_both_noisy_and_smooth():
    noise, waves = probe_pictures((3, 3, 40, 40))
    for pictures in (noise, waves):
        assert pictures.shape == (3, 3, 40, 40)
        assert pictures.dtype == np.float32
        assert np.array_equal(pictures, np.round(pictures))
        assert pictures.min() >= 0
        assert pictures.max() <= 255
        assert np.ptp(pictures) > 200
    assert np.abs(np.diff(noise)).mean() > 50
    assert np.abs(np.diff(waves)).mean() < 25
    assert np.array_equal(probe_pictures((3, 3, 40, 40)), (noise, waves))
