"""Engines, which run the device's kernels on a GPU, or for tests on this processor."""

from __future__ import annotations

import functools
import os
from typing import Literal

import torch

from rowwise import _native

Order = Literal["forwards", "backwards", "shuffled"]


def is_device(place: torch.device) -> bool:
    """Return whether tables in this place are read and updated by the device's kernels."""
    return place.type == "cuda" or (place.type == "cpu" and emulates())


def emulates() -> bool:
    """Return whether the environment asks for the kernels on this processor, without a GPU."""
    return os.environ.get("ROWWISE_KERNELS") == "emulate"


@functools.cache
def serial_engine(order: Order = "forwards") -> _native.Engine:
    """Return the engine that runs the device's kernels here, one item after the other."""
    return _native.serial_engine(order)


@functools.cache
def _cuda_engine(number: int) -> _native.Engine:
    return _native.cuda_engine(number)


def engine_of(device: torch.device) -> _native.Engine:
    """Return the engine that runs kernels over tensors on a device.

    Raises:
        RuntimeError: there is none.
    """
    if device.type == "cpu" and emulates():
        return serial_engine()
    if device.type == "cuda":
        return _cuda_engine(torch.cuda.current_device() if device.index is None else device.index)
    raise RuntimeError(
        f"rowwise has no kernels for {device}: tables lie on the CPU or on a GPU of NVIDIA's"
    )
