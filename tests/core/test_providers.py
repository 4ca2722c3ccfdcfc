"""Providers of ONNX Runtime: known, installed, and brought by one package."""

import importlib.metadata
import logging

import onnxruntime
import pytest

from denseface.core.errors import InputError
from denseface.core.packages import packages_of
from denseface.core.providers import PROVIDERS, require_provider
from support.accelerators import accelerated, distributions

INSIDE = "onnxruntime/__init__.py"


def refusal(installed, provider):
    with pytest.raises(InputError) as caught:
        require_provider(installed, provider)
    assert caught.value.option == "provider"
    return str(caught.value)


def test_the_cpu_is_always_there():
    require_provider(onnxruntime, "cpu")


def test_every_name_is_one_of_onnx_runtime():
    names = {provider.name for provider in PROVIDERS.values()}
    names -= {"ROCMExecutionProvider"}  # its last release is 1.22
    names -= {"WebGpuExecutionProvider"}  # not in 1.19, the last one for Python 3.9
    assert names <= set(onnxruntime.get_all_providers())


def test_an_unknown_provider_is_told_the_known_ones():
    assert all(name in refusal(onnxruntime, "gpu") for name in PROVIDERS)


def test_a_provider_that_is_not_installed_names_its_package(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distributions", distributions(onnxruntime=INSIDE))
    told = refusal(onnxruntime, "openvino")
    assert "pip uninstall onnxruntime, then pip install onnxruntime-openvino" in told


def test_two_packages_in_one_folder_are_named(monkeypatch, caplog):
    both = distributions(onnxruntime=INSIDE, onnxruntime_gpu=INSIDE, onnxruntime_genai="onnxruntime_genai/__init__.py")
    monkeypatch.setattr(importlib.metadata, "distributions", both)
    assert packages_of("onnxruntime") == ["onnxruntime", "onnxruntime-gpu"]
    assert "onnxruntime and onnxruntime-gpu are installed in one folder" in refusal(onnxruntime, "cuda")
    with caplog.at_level(logging.WARNING):
        require_provider(accelerated(monkeypatch), "cuda")
    assert "onnxruntime and onnxruntime-gpu" in caplog.text
