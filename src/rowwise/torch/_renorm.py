"""max_norm: rows that are looked up are shortened first, in place, as in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rowwise import _native
from rowwise.store import RowStore
from rowwise.torch._device import DeviceStore
from rowwise.torch._weight import Weight


@torch.no_grad()
def renormalize(weight: Weight, ids: torch.Tensor, max_norm: float, norm_type: float) -> None:
    """Shorten the rows ids (...,) whose norm is above max_norm; the optimizer's slots stay.

    Only these rows are brought up to date.

    Raises:
        IndexError: an id outside the table, with nothing changed.
    """
    store = weight.table.store
    if isinstance(store, DeviceStore):
        _renormalize_here(store, ids.detach().long().reshape(-1), max_norm, norm_type)
    else:
        renormalize_rows(store, ids.detach().long().contiguous().numpy(), max_norm, norm_type)
    with torch._C.DisableTorchFunctionSubclass():
        torch.autograd.graph.increment_version(weight)  # as torch's own operation does


@torch.no_grad()
def renormalize_rows(store: RowStore, rows: Any, max_norm: float, norm_type: float) -> None:
    """Shorten rows (...,) of a store, as `renormalize` does; rows may repeat."""
    store.materialize(rows)  # first, as an error names the position of a bad id
    rows = np.unique(rows)
    vectors = _native.empty(len(rows), store.shape[1])
    store.gather(rows, vectors)
    torch.embedding_renorm_(torch.from_numpy(vectors), torch.arange(len(rows)), max_norm, norm_type)
    store.write(vectors, rows)


def _renormalize_here(
    store: DeviceStore, ids: torch.Tensor, max_norm: float, norm_type: float
) -> None:
    """Shorten rows (n,) of a device, which may repeat; nothing waits for the device."""
    vectors = torch.empty((ids.numel(), store.shape[1]), dtype=torch.float32, device=ids.device)
    store.gather(ids, vectors)
    norms = torch.linalg.vector_norm(vectors, norm_type, dim=1, keepdim=True)
    factors = torch.where(norms > max_norm, max_norm / (norms + 1e-7), 1.0)
    store.overwrite(ids, vectors * factors)
