"""`torch.utils.dlpack.to_dlpack` for tables: torch does not dispatch the call to subclasses."""

from __future__ import annotations

import functools
from typing import Any

import torch

from rowwise.torch._parameter import TableParameter

_of_torch = torch.utils.dlpack.to_dlpack


@functools.wraps(_of_torch)
def _to_dlpack(tensor: Any, *args: Any, **named: Any) -> Any:
    if isinstance(tensor, TableParameter):
        tensor = tensor.as_ordinary()
    return _of_torch(tensor, *args, **named)


torch.utils.dlpack.to_dlpack = torch.to_dlpack = _to_dlpack
