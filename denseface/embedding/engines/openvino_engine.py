"""Embeddings computed by OpenVINO."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from denseface.core.cpus import usable_cores
from denseface.core.packages import require
from denseface.core.threads import require_threads
from denseface.embedding.engines.onnx_model import OnnxModel, loading

if TYPE_CHECKING:
    from openvino import Core


class OpenVINOEngine:
    """An :class:`~denseface.embedding.engines.Engine` on the CPU.

    Parameters
    ----------
    model : OnnxModel
        The network.
    batch_size : int
        Pictures per call, unless the model is made for another number.
    bf16 : bool
        Compute in bfloat16 where the processor can.

    Raises
    ------
    InputError
        If the package openvino is missing, threads cannot be started, or it cannot load the model.
    """

    def __init__(self, model: OnnxModel, batch_size: int, bf16: bool = False):
        # With this package, importing OpenVINO reports to its vendor over the network, from a forked process.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        require_threads(usable_cores())
        core = _core(require("openvino"))
        self.input_shape = model.input_shape
        self.batch_size = model.batch_size or batch_size
        self.emb_size = model.emb_size
        self.precision = "bfloat16" if bf16 else "float32"
        # Without the hint OpenVINO computes in bfloat16 by itself where that is fast.
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": usable_cores(),
        }
        with loading(model, "OpenVINO"):
            network = core.read_model(model.content)
            network.reshape([self.batch_size, *self.input_shape])
            self._network = core.compile_model(network, "CPU", settings)
        # A request keeps its input and its output, so it serves one call at a time; as many are made as are needed.
        self._idle_requests = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Embed a batch, float32 (B, C, H, W), 0 to 255; return float32 (B, emb_size)."""
        try:
            request = self._idle_requests.pop()
        except IndexError:
            request = self._network.create_infer_request()
        request.infer([batch])
        embeddings = request.get_output_tensor(0).data.astype(np.float32)  # a copy: the next call overwrites the tensor
        self._idle_requests.append(request)
        return embeddings


@functools.cache
def _core(openvino: ModuleType) -> Core:
    """Return OpenVINO itself, made once and never freed.

    Its CPU plugin gives the thread's signal handlers a stack, and frees that stack when the plugin is freed. With two
    of them, the second restores the stack of the first after it was freed: Ctrl-C then is a segmentation fault.
    """
    return openvino.Core()
