"""max_norm: rows that are looked up are shortened first, in place, as in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rowwise import _native
from rowwise.store import RowStore
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
def renormalize_rows(store: RowStore, rows: Any, max_norm: float, norm_type: float) -> None:
    """Shorten rows (n,) of a store, as `renormalize` does; rows may repeat."""
    rows = np.unique(rows)
    store.materialize(rows)
    vectors = _native.empty(len(rows), store.shape[1])
    store.gather(rows, vectors)
    torch.embedding_renorm_(torch.from_numpy(vectors), torch.arange(len(rows)), max_norm, norm_type)
    store.write(vectors, rows)
