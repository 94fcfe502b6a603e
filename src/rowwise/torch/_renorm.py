"""max_norm: rows that are looked up are shortened first, in place, as in PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from rowwise.store import HostStore
from rowwise.torch._weight import Weight


@torch.no_grad()
def renormalize(weight: Weight, ids: torch.Tensor, max_norm: float, norm_type: float) -> None:
    """Shorten the rows ids (...,) whose norm is above max_norm; the optimizer's slots stay.

    Only these rows are brought up to date.

    Raises:
        IndexError: an id outside the table, with nothing changed.
    """
    weight.table.materialize(ids.detach().long().contiguous().numpy())
    with torch._C.DisableTorchFunctionSubclass():
        torch.embedding_renorm_(weight.detach(), ids.contiguous(), max_norm, norm_type)


@torch.no_grad()
def renormalize_rows(store: HostStore, rows: Any, max_norm: float, norm_type: float) -> None:
    """Shorten rows (n,) of a store, as `renormalize` does; rows may repeat."""
    store.materialize(rows)
    memory, ids = torch.from_numpy(store.memory()), torch.from_numpy(rows)
    torch.embedding_renorm_(memory, ids, max_norm, norm_type)
