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
    rows = ids.detach().long().contiguous().numpy()
    renormalize_rows(weight.table.store, rows, max_norm, norm_type)
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
