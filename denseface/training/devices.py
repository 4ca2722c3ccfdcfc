"""Which devices to train on."""

from __future__ import annotations

import os

from denseface.core.errors import InputError

import mxnet as mx


def contexts(gpus: str | None) -> list[mx.Context]:
    """Choose devices.

    Parameters
    ----------
    gpus : str or None
        Numbers of GPUs, as in ``"0,1"``.  Without them, all GPUs that CUDA_VISIBLE_DEVICES names; where that is
        unset or empty, the CPU.

    Raises
    ------
    InputError
        If it is no list of numbers, or this MXNet finds no such GPU.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if gpus is not None:
        source = f"--gpus {gpus}"
        try:
            numbers = [int(number) for number in gpus.split(",")]
        except ValueError as error:
            raise InputError(f"{source}: write it as numbers, as in --gpus 0,1") from error
    elif visible:
        source = f"CUDA_VISIBLE_DEVICES={visible}"
        numbers = list(range(len(visible.split(","))))
    else:
        return [mx.cpu()]
    available = _num_gpus()
    absent = [number for number in numbers if not 0 <= number < available]
    if absent:
        raise InputError(f"{source}: MXNet finds {available} GPUs here, no GPU {absent[0]}; unset it for the CPU")
    return [mx.gpu(number) for number in numbers]


def _num_gpus():
    try:
        return mx.context.num_gpus()
    except mx.MXNetError:  # no driver
        return 0
