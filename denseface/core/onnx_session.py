"""Sessions of ONNX Runtime, with no more threads than this process may keep busy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from denseface.core.cpus import usable_cores
from denseface.core.packages import require
from denseface.core.threads import require_threads

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def open_session(content: bytes, threads: int | None = None, log_severity: int = 4) -> InferenceSession:
    """Load an ONNX file on the CPU.

    Parameters
    ----------
    content : bytes
        The file.
    threads : int, optional
        Threads that compute; by default as many as this process may keep busy.
    log_severity : int
        What ONNX Runtime prints: 4 for nothing but fatal errors, since it raises what it would print.

    Raises
    ------
    InputError
        If the package onnxruntime is missing, or threads cannot be started.
    Exception
        One of ONNX Runtime's own if it cannot load the file.
    """
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    require_threads(options.intra_op_num_threads)
    options.log_severity_level = log_severity
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
