"""Which devices to train on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from denseface.core.errors import InputError, reason_of
from denseface.core.packages import packages_of

import mxnet as mx


def contexts(gpus: str | None) -> list[mx.Context]:
    """Choose devices.

    Parameters
    ----------
    gpus : str or None
        Numbers of GPUs, as in ``"0,1"``. By default all GPUs that CUDA_VISIBLE_DEVICES names; if that is unset or
        empty, or -1, the CPU.

    Raises
    ------
    InputError
        If it is not a list of numbers, or this MXNet cannot use such a GPU.
    """
    if gpus is not None:
        try:
            numbers = [int(number) for number in gpus.split(",")]
        except ValueError as error:
            raise InputError(f"{gpus}: write it as numbers, as in 0,1", option="gpus") from error
        if len(set(numbers)) < len(numbers):
            raise InputError(f"{gpus}: names a GPU twice", option="gpus")
        return [usable_gpu(number, gpus, "gpus") for number in numbers]
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    # CUDA hides a GPU that is written as -1, and all after it.
    visible = list(itertools.takewhile(lambda name: name.strip() not in ("", "-1"), named))
    source = f"CUDA_VISIBLE_DEVICES={','.join(named)}"
    return [usable_gpu(number, source, None) for number in range(len(visible))] or [mx.cpu()]


def usable_gpu(number: int, source: str, option: str | None) -> mx.Context:
    """Return a GPU that computes, which a first array shows.

    Parameters
    ----------
    number : int
        Its number among those that CUDA sees.
    source : str
        Who names it, for the error.
    option : str, optional
        The parameter at fault.

    Raises
    ------
    InputError
        If MXNet does not find it, or cannot compute on it.
    """
    try:
        available, reason = mx.context.num_gpus(), ""
    except mx.MXNetError as error:
        available, reason = 0, reason_of(error)
    if not 0 <= number < available:
        why = "" if available else _why_none(reason)
        advice = "leave it out" if option else "unset it"
        raise InputError(
            f"{source}: MXNet finds {available} GPUs here, not GPU {number}{why}; {advice} for the CPU", option=option
        )
    context = mx.gpu(number)
    try:
        (mx.nd.ones((2, 2), ctx=context) * 2).asnumpy()
    except mx.MXNetError as error:
        raise InputError(
            f"{source}: GPU {number} cannot compute ({reason_of(error)}); docs/gpu.md says which GPUs MXNet can use",
            option=option,
        ) from error
    return context


def on_cpu(devices: Sequence[mx.Context]) -> bool:
    """Return whether all devices are processors."""
    return all(device.device_type == "cpu" for device in devices)


def _why_none(reason: str) -> str:
    """Say why MXNet finds no GPU."""
    packages = packages_of("mxnet")
    if len(packages) > 1:
        return f" ({' and '.join(packages)} are installed in one folder: uninstall all, and install the one for GPUs)"
    if not mx.runtime.Features().is_enabled("CUDA"):
        return " (this MXNet is for CPUs: GPUs need the package mxnet-cu117, see docs/gpu.md)"
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return f" (CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} hides others)"
    return f" ({reason or 'nvidia-smi lists those that the driver knows'})"
