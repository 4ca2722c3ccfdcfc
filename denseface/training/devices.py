"""Which devices to train on."""

from __future__ import annotations

import os
from collections.abc import Sequence

from denseface.core.errors import InputError

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
        If it is not a list of numbers, or this MXNet does not find such a GPU.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if gpus is not None:
        source, option = gpus, "gpus"
        try:
            numbers = [int(number) for number in gpus.split(",")]
        except ValueError as error:
            raise InputError(f"{gpus}: write it as numbers, as in 0,1", option="gpus") from error
    elif visible not in ("", "-1"):  # CUDA hides all GPUs for -1
        source, option = f"CUDA_VISIBLE_DEVICES={visible}", None
        numbers = list(range(len(visible.split(","))))
    else:
        return [mx.cpu()]
    available = _num_gpus()
    absent = [number for number in numbers if not 0 <= number < available]
    if absent:
        advice = "leave it out" if option else "unset it"
        raise InputError(
            f"{source}: MXNet finds {available} GPUs here, not GPU {absent[0]}; {advice} for the CPU", option=option
        )
    return [mx.gpu(number) for number in numbers]


def on_cpu(devices: Sequence[mx.Context]) -> bool:
    """Return whether all devices are processors."""
    return all(device.device_type == "cpu" for device in devices)


def _num_gpus() -> int:
    try:
        return mx.context.num_gpus()
    except mx.MXNetError:  # no driver
        return 0
