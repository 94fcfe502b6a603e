"""Tables whose rows are tensors in a device's memory; no GPU has run this yet, see docs/gpu.md."""

from rowwise.torch._device._engine import is_device
from rowwise.torch._device._self_check import why_unusable
from rowwise.torch._device._store import DeviceStore

__all__ = ["DeviceStore", "is_device", "why_unusable"]
