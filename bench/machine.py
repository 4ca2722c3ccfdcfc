"""The machine of a measurement: processor, memory, and package versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

_PACKAGES = ("mxnet", "numpy", "onnx", "onnxruntime", "openvino", "torch", "faiss-cpu", "simplejpeg")


def describe() -> dict:
    """Describe the machine and the packages; a package that is not installed has the version None."""
    return {
        "processor": field("/proc/cpuinfo", "model name") or platform.processor(),
        "instructions": [flag for flag in field("/proc/cpuinfo", "flags").split() if flag.startswith(("avx", "amx"))],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": field("/proc/meminfo", "MemTotal"),
        "load before": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def field(path: str, key: str) -> str:
    """Return the first value of a key in one of Linux's tables; an empty string elsewhere."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return next(
        (value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key), ""
    )


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
