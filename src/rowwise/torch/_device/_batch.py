"""What a call is given, as tensors of the device, and batches as the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rowwise import _native
from rowwise._ids import check_range
from rowwise.store import Bags


@dataclass(frozen=True)
class Sorted:
    """A batch by ascending id: its ids as given and sorted, and the gradient of each.

    Where `is_distinct`, no row stands twice, and the number of rows stands for none.
    """

    batch: torch.Tensor
    ids: torch.Tensor
    sources: torch.Tensor
    weights: torch.Tensor | None = None
    is_distinct: bool = False


@dataclass(frozen=True)
class Tensors:
    """Make tensors of a table's device of what a call is given: those, or NumPy's arrays.

    Attributes:
        device, rows: of the table.
    """

    device: torch.device
    rows: int

    def ids(self, ids: Any) -> torch.Tensor:
        """Return ids as a tensor (n,) of the device; those of NumPy are checked."""
        if isinstance(ids, np.ndarray):
            check_range(ids, self.rows)
        return self.tensor(ids, torch.int64).reshape(-1)

    def checked(self, ids: Any) -> torch.Tensor:
        """Return ids as a tensor (n,) of the device, all of them rows; waits for the device."""
        host = ids.cpu().numpy() if isinstance(ids, torch.Tensor) else ids
        return self.ids(host)

    def bags(self, bags: Bags) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids (n,) and offsets (bags + 1,) of the device, checked for the kernels."""
        batch, offsets = self.ids(bags.ids), self.tensor(bags.offsets, torch.int64)
        if isinstance(bags.offsets, np.ndarray):
            _native.check_offsets(bags.offsets, batch.numel())
            return batch, offsets
        return batch, offsets.clamp(0, batch.numel()).cummax(0).values

    def bag_of(self, bags: Bags) -> torch.Tensor:
        """Return the bag (n,) of each position; -1 for one that is in none."""
        batch, offsets = self.bags(bags)
        positions = torch.arange(batch.numel(), device=self.device)
        found = torch.searchsorted(offsets, positions, right=True) - 1  # -1 before the first
        return found.masked_fill_(found == offsets.numel() - 1, -1)

    def floats(self, values: Any) -> torch.Tensor:
        """Return values as a contiguous float32 tensor of the device."""
        return self.tensor(values, torch.float32)

    def tensor(self, values: Any, dtype: torch.dtype) -> torch.Tensor:
        """Return values as a contiguous tensor of the device.

        Raises:
            ValueError: a tensor of another device.
        """
        if not isinstance(values, torch.Tensor):
            return torch.from_numpy(values).to(self.device, dtype).contiguous()
        if values.device != self.device:
            raise ValueError(
                f"the table is on {self.device} and a tensor of the batch on {values.device}; "
                f"nothing has changed; move the batch: ids.to('{self.device}')"
            )
        return values.detach().to(dtype).contiguous()

    def copied(self, array: NDArray[Any]) -> torch.Tensor:
        """Return a copy of an array on the device, in its dtype."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def out(self, out: Any) -> torch.Tensor:
        """Return where kernels write: out itself, or a tensor in its stead."""
        if isinstance(out, torch.Tensor):
            return out
        kind = torch.int64 if out.dtype == np.int64 else torch.float32
        return torch.empty(out.shape, dtype=kind, device=self.device)


def give(found: torch.Tensor, out: Any) -> None:
    """Copy what `Tensors.out` returned to the array that it stands for."""
    if found is not out:
        out[...] = found.cpu().numpy()


def as_batch(
    *, n: int, bags: int = 0, skipped_row: int | None = None, **tensors: torch.Tensor | None
) -> _native.DeviceBatch:
    """Return a batch as the kernels read it; it keeps the tensors alive."""
    batch: Any = _native.DeviceBatch()
    batch.arrays = tensors
    batch.n, batch.bags = n, bags
    batch.skipped_row = -1 if skipped_row is None else skipped_row
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(batch, name, tensor.data_ptr())
    return batch


def as_bag_batch(
    batch: torch.Tensor, offsets: torch.Tensor, **tensors: torch.Tensor | None
) -> _native.DeviceBatch:
    """Return a batch of ids (n,) in bags of these offsets."""
    n, bags = batch.numel(), offsets.numel() - 1
    return as_batch(n=n, bags=bags, batch=batch, offsets=offsets, **tensors)


def as_sorted_batch(
    batch: Sorted,
    values: torch.Tensor,
    blocks: torch.Tensor | None,
    *,
    partials: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    skipped_row: int | None = None,
    found_inf: torch.Tensor | None = None,
    others: torch.Tensor | None = None,
) -> _native.DeviceBatch:
    """Return a batch by ascending id, with its gradients and room for sums of blocks."""
    return as_batch(
        n=batch.ids.numel(),
        batch=batch.batch,
        ids=batch.ids,
        sources=batch.sources,
        weights=batch.weights,
        gradients=values,
        blocks=blocks,
        partials=partials,
        out=out,
        skipped_row=skipped_row,
        found_inf=found_inf,
        others=others,
    )
