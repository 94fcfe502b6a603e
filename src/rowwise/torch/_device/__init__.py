"""Tables whose rows are tensors in a device's memory; no GPU has run this yet, see docs/gpu.md."""

from rowwise.torch._device._engine import emulates
from rowwise.torch._device._store import DeviceStore

__all__ = ["DeviceStore", "emulates"]
