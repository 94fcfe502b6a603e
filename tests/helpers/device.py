"""Where the tests of devices run: here, in three orders, or on a GPU (`make test-gpu`)."""

import os

import torch

from rowwise.torch._device._engine import serial_engine

DEVICE = os.environ.get("ROWWISE_TEST_DEVICE", "cpu")
ON_GPU = DEVICE != "cpu"
ORDERS = ("forwards", "backwards", "shuffled")


def engine(order="forwards"):
    """Return the engine for tensors of DEVICE; a GPU has one order, its own."""
    return None if ON_GPU else serial_engine(order)


def here(value):
    """Return a tensor, or what holds some, on DEVICE."""
    return value.to(DEVICE) if isinstance(value, torch.Tensor) else value


def finished():
    """Wait for all that a GPU was given."""
    if ON_GPU:
        torch.cuda.synchronize()


def host(value):
    """Return a tensor of any device as NumPy's array."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
