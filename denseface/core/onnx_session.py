"""Sessions of ONNX Runtime, with no more threads than this process may keep busy, on the CPU or an accelerator."""

from __future__ import annotations

import functools
import logging
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from denseface.core.cpus import usable_cores
from denseface.core.errors import InputError, reason_of
from denseface.core.packages import require
from denseface.core.providers import PROVIDERS, require_provider
from denseface.core.streams import overheard
from denseface.core.threads import require_threads
from denseface.core.vectors import similarity

if TYPE_CHECKING:
    from types import ModuleType

    from onnxruntime import InferenceSession, SessionOptions

logger = logging.getLogger(__name__)

SAME_COSINE = 0.9999
_LEAST_COSINE = 0.99
_LOADING = re.compile(r"(?:Failed to load \S+:|with error:)(.*)")  # as ONNX Runtime prints it
# Threads without work wait awake for so many microseconds before they sleep, as OpenMP's do in MXNet. By ONNX Runtime's
# own rule, a network that took 53 ms on one thread of a busy machine took 104 on two; with 50 to 200 microseconds, 62.
_SPIN = "100"
_COMPARED = 8  # pictures that the CPU computes, too, if the network takes any number


class Opened(NamedTuple):
    """A session, and whether it computes what the CPU computes.

    Attributes
    ----------
    session : InferenceSession
        Several threads may call it at once.
    agreement : float
        The lowest cosine, -1 to 1, between an output and that of the CPU for the same picture; 1 on the CPU.
    """

    session: InferenceSession
    agreement: float


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
    options = _options(onnxruntime, threads, log_severity)
    return onnxruntime.InferenceSession(content, options, providers=[PROVIDERS["cpu"].name])


def open_on(
    provider: str,
    content: bytes,
    shape: tuple[int, int, int, int],
    *,
    name: str = "the network",
    is_fixed: bool = False,
    threads: int | None = None,
) -> Opened:
    """Load an ONNX file on an execution provider, and compare with the CPU what it computes.

    ONNX Runtime itself would compute on the CPU without a word where a provider cannot be used; here that is an error.
    Where it can be used but leaves most layers to the CPU, a warning says so, as far as ONNX Runtime tells (from 1.24
    on).

    Parameters
    ----------
    provider : str
        One of :data:`denseface.core.providers.PROVIDERS`.
    content : bytes
        The file; it has one input.
    shape : tuple (N, C, H, W)
        Of the pictures that both compute, to be compared, where the file leaves it open.
    name : str
        What the warning calls the file.
    is_fixed : bool
        Whether there will be N pictures in every batch, which some providers need to be fast.
    threads : int, optional
        As for :func:`open_session`.

    Raises
    ------
    InputError
        If the provider is unknown, not installed or not usable here, or computes something else than the CPU; or as
        from :func:`open_session`.
    Exception
        One of ONNX Runtime's own if the CPU cannot load the file.
    """
    if provider == "cpu":
        return Opened(open_session(content, threads), 1.0)
    onnxruntime = require("onnxruntime")
    require_provider(onnxruntime, provider)
    on_cpu = open_session(content, threads)
    (source,) = on_cpu.get_inputs()
    options = _options(onnxruntime, threads)
    if is_fixed and isinstance(source.shape[0], str):
        options.add_free_dimension_override_by_name(source.shape[0], shape[0])
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = _start(onnxruntime, provider, content, options)
    _warn_of_gaps(session, provider, name)
    count, channels, height, width = (own if isinstance(own, int) else size for own, size in zip(source.shape, shape))
    batch, waves = probe_pictures((count, channels, height, width))
    batch[::2] = waves[::2]
    compared = batch if isinstance(source.shape[0], int) else batch[:_COMPARED]
    try:
        found = session.run(None, {source.name: batch})
    except Exception as error:  # ONNX Runtime's own
        raise _unusable(provider, reason_of(error)) from error
    agreement = _lowest_cosine([output[: len(compared)] for output in found], on_cpu.run(None, {source.name: compared}))
    if not agreement >= _LEAST_COSINE:
        raise InputError(
            f"{provider} computes something else than the CPU: cosines are as low as {agreement:.4f}, and "
            f"{_LEAST_COSINE} is the least; update its driver and package, or choose another provider",
            option="provider",
        )
    # DirectML takes one call at a time, and on other devices one computes after the other anyway.
    session.run = functools.partial(_one_at_a_time, threading.Lock(), session.run)
    return Opened(session, agreement)


def probe_pictures(shape: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Make noise, and a few waves to the picture's width: the same at every call.

    Parameters
    ----------
    shape : tuple (N, C, H, W)

    Returns
    -------
    noise, waves : ndarray of shape (N, C, H, W), float32
        Whole numbers, 0 to 255.
    """
    random = np.random.RandomState(0)
    batch, channels, height, width = shape
    noise = random.randint(0, 256, shape)
    across, down, phase = random.uniform(0, 12, (3, batch, channels, 1, 1))
    waves = np.sin(across * np.linspace(0, 1, width) + down * np.linspace(0, 1, height)[:, None] + phase)
    return noise.astype(np.float32), np.round(127.5 + 127.5 * waves).astype(np.float32)


def _options(onnxruntime: ModuleType, threads: int | None, log_severity: int = 4) -> SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    require_threads(options.intra_op_num_threads)
    options.log_severity_level = log_severity
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN)  # older versions ignore it
    return options


def _start(onnxruntime: ModuleType, provider: str, content: bytes, options: SessionOptions) -> InferenceSession:
    """Start a session that computes on a provider, and not on the CPU in its stead."""
    wanted = PROVIDERS[provider]
    order = [(wanted.name, dict(wanted.options)), *wanted.others, PROVIDERS["cpu"].name]
    lines: list[str] = []
    try:
        with overheard() as lines:
            if "CUDA" in str(order) and hasattr(onnxruntime, "preload_dlls"):
                onnxruntime.preload_dlls()  # from pip's packages of NVIDIA
            session = onnxruntime.InferenceSession(content, options, providers=order, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own
        raise _unusable(provider, _reason(lines) or reason_of(error)) from error
    session.disable_fallback()
    if wanted.name not in session.get_providers():
        raise _unusable(provider, _reason(lines))
    return session


def _warn_of_gaps(session: InferenceSession, provider: str, name: str) -> None:
    """Warn if the CPU computes most layers."""
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before 1.24
        return
    layers = [part.ep_name for part in session.get_provider_graph_assignment_info() for _ in part.get_nodes()]
    on_cpu = layers.count(PROVIDERS["cpu"].name)
    if 2 * on_cpu > len(layers):
        logger.warning("%s: %s leaves %d of %d layers to the CPU", name, provider, on_cpu, len(layers))


def _reason(lines: list[str]) -> str:
    """Find what the system says of a library that cannot be loaded in what was printed."""
    return next((found[1].strip() for line in lines if (found := _LOADING.search(line))), "")


def _unusable(provider: str, reason: str) -> InputError:
    return InputError(
        f"ONNX Runtime cannot use {provider} here{f' ({reason})' if reason else ''}: check the driver, and "
        f"the libraries that its package needs (pip install {PROVIDERS[provider].package})",
        option="provider",
    )


def _lowest_cosine(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Return the lowest cosine of an output of a picture; NaN if only the provider's is not finite."""
    if not all(np.isfinite(reference).all() for reference in expected):
        return 1.0  # whatever the network takes it from, it is not the provider
    pairs = [pair for each, reference in zip(found, expected) for pair in zip(each, reference)]
    return float(np.min([similarity(ours.ravel(), theirs.ravel()) for ours, theirs in pairs]))


def _one_at_a_time(lock: threading.Lock, run: Callable, *arguments: object) -> list[np.ndarray]:
    with lock:
        return run(*arguments)
