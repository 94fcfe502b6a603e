"""`rowwise.torch.EmbeddingBag`: PyTorch's module on a rowwise table."""

from __future__ import annotations

from typing import Any

import torch

from rowwise.torch.parameter import TableParameter
from rowwise.torch.pooled import pool, pool_max
from rowwise.torch.weight import TableModule, fits_a_table


class EmbeddingBag(TableModule, torch.nn.EmbeddingBag):
    """Sums, means or maxima of bags of rows; arguments, errors and state are PyTorch's.

    The vectors of single ids never stand in memory, forward or backward. What is said of
    `rowwise.torch.Embedding` about optimizers, devices and dtypes holds here too.

    Args:
        num_embeddings: number of rows V; ids are 0..V-1.
        embedding_dim: length D of a vector.
        max_norm: rows looked up are scaled down to this norm, in place.
        norm_type: p of that norm.
        scale_grad_by_freq: divide a row's gradient by how often it is in the batch; not for "max".
        mode: "sum", "mean" or "max".
        sparse: hand out PyTorch's sparse gradients to optimizers that are not rowwise's.
        _weight: the rows (V, D), copied.
        include_last_offset: whether offsets end with the number of ids.
        padding_idx: a row that is left out of its bags.
        device, dtype: as PyTorch's.

    Shape:
        ids (bags, length), or (n,) with offsets (bags,) or (bags + 1,), to (bags, D) float32.

    Raises:
        IndexError: an id outside 0..V-1, when the module is called.

    Example:
        >>> import rowwise.torch
        >>> bag = rowwise.torch.EmbeddingBag(10, 3, mode="sum", _weight=torch.ones(10, 3))
        >>> bag(torch.tensor([1, 2, 4, 5]), torch.tensor([0, 3])).tolist()
        [[3.0, 3.0, 3.0], [1.0, 1.0, 1.0]]
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: torch.Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        ours = num_embeddings > 0 and embedding_dim > 0
        ours = ours and (
            fits_a_table(dtype, device)
            if _weight is None
            else fits_a_table(_weight.dtype, _weight.device)
        )
        super().__init__(
            num_embeddings,
            embedding_dim,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            _weight,
            include_last_offset,
            padding_idx,
            device="meta" if ours and _weight is None else device,
            dtype=dtype,
        )
        if ours:
            self._lay_on_table(_weight)
        if ours and _weight is None:
            self.reset_parameters()

    @torch.compiler.disable
    def forward(
        self,
        input: torch.Tensor,
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Reduced vectors (bags, D) of the rows input (bags, length), or (n,) with offsets."""
        weight = self.weight
        if not isinstance(weight, TableParameter) or type(input) is not torch.Tensor:
            return super().forward(input, offsets, per_sample_weights)
        if not self._well_formed(input, offsets, per_sample_weights):
            return super().forward(input, offsets, per_sample_weights)  # PyTorch's error
        if self.max_norm is not None:
            weight.table.lookup(input.detach().numpy())  # nothing changes if an id is outside
            self._renormalize(input, self.max_norm, self.norm_type)
        if per_sample_weights is not None:
            per_sample_weights = per_sample_weights.reshape(-1)
        bounds = self._bounds(input, offsets)
        ids = input.reshape(-1)
        if self.padding_idx is not None:
            ids, bounds, per_sample_weights = _without(
                self.padding_idx, ids, bounds, per_sample_weights
            )
        if self.mode == "max":
            return pool_max(weight, ids, bounds, self._takes_rows())
        pooled = pool(
            weight, ids, bounds, per_sample_weights, self._takes_rows(), self.scale_grad_by_freq
        )
        if self.mode == "mean":
            pooled = pooled / (bounds[1:] - bounds[:-1]).clamp(min=1)[:, None]
        return pooled

    def _well_formed(
        self, input: torch.Tensor, offsets: torch.Tensor | None, weights: torch.Tensor | None
    ) -> bool:
        """Whether PyTorch would take it; if not, its own error says why."""
        ids = (torch.int32, torch.int64)
        if input.dtype not in ids or input.ndim not in (1, 2):
            return False
        if weights is not None and (
            self.mode != "sum" or weights.shape != input.shape or weights.dtype is not torch.float32
        ):
            return False
        if self.mode == "max" and self.scale_grad_by_freq:
            return False
        if input.ndim == 2:
            return offsets is None
        if offsets is None or offsets.ndim != 1 or offsets.dtype not in ids:
            return False
        if self.include_last_offset and not len(offsets):
            return False
        if not len(offsets):
            return True
        ends = bool(offsets[0] == 0) and bool(offsets[-1] <= len(input))
        if self.include_last_offset:
            ends = ends and bool(offsets[-1] == len(input))
        return ends and bool((offsets[1:] >= offsets[:-1]).all())

    def _bounds(self, input: torch.Tensor, offsets: torch.Tensor | None) -> torch.Tensor:
        """(bags + 1,) where each bag begins, and the number of ids."""
        if offsets is None:
            return torch.arange(len(input) + 1) * input.shape[1]
        if self.include_last_offset:
            return offsets.long()
        return torch.cat([offsets.long(), torch.tensor([len(input)])])


def _without(
    padding: int, ids: torch.Tensor, bounds: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """A batch without the id `padding`."""
    kept = ids != padding
    before = torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0)])
    return ids[kept], before[bounds], None if weights is None else weights[kept]
