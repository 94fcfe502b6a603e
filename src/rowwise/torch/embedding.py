"""`rowwise.torch.Embedding`: PyTorch's module on a rowwise table."""

from __future__ import annotations

from typing import Any

import torch

from rowwise.torch.lookup import lookup
from rowwise.torch.parameter import TableParameter
from rowwise.torch.weight import TableModule, fits_a_table


class Embedding(TableModule, torch.nn.Embedding):
    """A lookup table of vectors; arguments, errors and state are `torch.nn.Embedding`'s.

    With an optimizer of `rowwise.torch.optim`, a training step costs what the batch costs, however
    many rows the table has, and trains to the numbers of PyTorch's dense step. With any other
    optimizer it is PyTorch's module at PyTorch's cost. On another device than the CPU, or in
    another dtype than float32, it is PyTorch's module as well.

    Args:
        num_embeddings: number of rows V; ids are 0..V-1.
        embedding_dim: length D of a vector.
        padding_idx: a row that gets no gradient, and starts as zeros.
        max_norm: rows looked up are scaled down to this norm, in place.
        norm_type: p of that norm.
        scale_grad_by_freq: divide a row's gradient by how often it is in the batch.
        sparse: hand out PyTorch's sparse gradients to optimizers that are not rowwise's.
        _weight, _freeze, device, dtype: as PyTorch's; the values of _weight are copied.

    Shape:
        (...,) int32 or int64 ids to (..., D) float32.

    Raises:
        IndexError: an id outside 0..V-1, when the module is called.

    Example:
        >>> import rowwise.torch
        >>> embedding = rowwise.torch.Embedding(1000, 64)
        >>> optimizer = rowwise.torch.optim.Adam(embedding.parameters(), lr=0.01)
        >>> embedding(torch.tensor([[1, 2], [4, 1]])).square().sum().backward()
        >>> optimizer.step()
        >>> embedding.table.untrained().size
        997
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: torch.Tensor | None = None,
        _freeze: bool = False,
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
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight,
            _freeze,
            device="meta" if ours and _weight is None else device,
            dtype=dtype,
        )
        if ours:
            self._lay_on_table(_weight)
        if ours and _weight is None:
            self.reset_parameters()

    @torch.compiler.disable
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """vectors (..., D) of the rows input (...,)."""
        weight = self.weight
        if not isinstance(weight, TableParameter) or type(input) is not torch.Tensor:
            return super().forward(input)
        if input.dtype not in (torch.int32, torch.int64):
            return super().forward(input)  # PyTorch's error
        if self.max_norm is not None:
            weight.table.lookup(input.detach().numpy())  # nothing changes if an id is outside
            self._renormalize(input, self.max_norm, self.norm_type)
        return lookup(weight, input, self._takes_rows(), self.padding_idx, self.scale_grad_by_freq)
