"""Where the tests of devices run: here, in three orders, or on a GPU (`make test-gpu`)."""

import contextlib
import os

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

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


@contextlib.contextmanager
def waits():
    """Return a list of the functions called for which a GPU's host waits."""
    found = []
    with _Reads(found), _Sizes(found):
        yield found


class _Reads(TorchFunctionMode):
    """Name what reads a tensor's numbers on the host, or brings some from there."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in (
            "item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__",
            "__array__", "tensor", "from_numpy",
        ):  # fmt: skip
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


class _Sizes(TorchDispatchMode):
    """Name what reads a number or makes a size of what it finds."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        if by_mask or func.overloadpacket.__name__ in (
            "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive",
            "unique_dim", "equal", "repeat_interleave", "_coalesce",
        ):  # fmt: skip
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
