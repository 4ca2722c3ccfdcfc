"""What ONNX Runtime can compute on, and which package brings it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from denseface.core.errors import InputError
from denseface.core.packages import packages_of

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger(__name__)


class Provider(NamedTuple):
    """An execution provider of ONNX Runtime.

    Attributes
    ----------
    name : str
        What ONNX Runtime calls it.
    package : str
        What pip installs for it.
    options : mapping of str to str
        Its settings.
    others : tuple of str
        Providers for layers that it cannot compute; the CPU follows them.
    """

    name: str
    package: str
    options: Mapping[str, str] = {}
    others: tuple[str, ...] = ()


_CUDA = "CUDAExecutionProvider"
# By themselves, CUDA rounds to 10 bits in convolutions (TF32), and CoreML to float16 in its older format.
PROVIDERS = {
    "cpu": Provider("CPUExecutionProvider", "onnxruntime"),
    "cuda": Provider(_CUDA, "'onnxruntime-gpu[cuda,cudnn]'", {"use_tf32": "0"}),
    "tensorrt": Provider("TensorrtExecutionProvider", "'onnxruntime-gpu[cuda,cudnn]' tensorrt", {}, (_CUDA,)),
    "coreml": Provider("CoreMLExecutionProvider", "onnxruntime (macOS)", {"ModelFormat": "MLProgram"}),
    "directml": Provider("DmlExecutionProvider", "onnxruntime-directml (Windows)"),
    "openvino": Provider("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "rocm": Provider("ROCMExecutionProvider", "onnxruntime-rocm"),
    "migraphx": Provider("MIGraphXExecutionProvider", "onnxruntime-migraphx"),
    "webgpu": Provider("WebGpuExecutionProvider", "onnxruntime-webgpu"),
}


def require_provider(onnxruntime: ModuleType, provider: str) -> None:
    """Check that this ONNX Runtime contains a provider, usable here or not.

    Raises
    ------
    InputError
        If the provider is unknown or not installed; then the message contains the command that installs it.
    """
    if provider not in PROVIDERS:
        raise InputError(f"{provider!r} is not one of {', '.join(PROVIDERS)}", option="provider")
    wanted = PROVIDERS[provider]
    available = onnxruntime.get_available_providers()
    packages = packages_of("onnxruntime")
    several = f"{' and '.join(packages)} are installed in one folder, where the last one overwrites the others"
    if wanted.name not in available:
        offered = [name for name, each in PROVIDERS.items() if each.name in available]
        reason = several if len(packages) > 1 else f"this ONNX Runtime has only {', '.join(offered)}"
        raise InputError(
            f"{reason}; for {provider}: pip uninstall {' '.join(packages)}, then pip install {wanted.package}",
            option="provider",
        )
    if len(packages) > 1:
        logger.warning("%s; uninstall all, and install one", several)
