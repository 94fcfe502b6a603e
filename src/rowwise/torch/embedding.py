"""`rowwise.torch.Embedding`: PyTorch's module on a rowwise table."""

from __future__ import annotations

import torch

from rowwise.torch.lookup import lookup
from rowwise.torch.module import OnTable


class Embedding(OnTable, torch.nn.Embedding):
    """Vectors of fixed size for integers.

    Arguments, shapes, initial values, `state_dict` and numbers are those of `torch.nn.Embedding`;
    but a training step with an optimizer of `rowwise.torch.optim` costs what the batch costs,
    however many rows the table has. With any other optimizer the gradient is an ordinary one, and
    the step costs what it costs in PyTorch, with one warning that says so.

    Args:
        num_embeddings: number of rows V; ids are 0..V-1.
        embedding_dim: length D of a vector.
        padding_idx: a row that starts with zeros and gets no gradient.
        max_norm: rows looked up are first shortened, in place, to this norm.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide the gradient of a row by how often it is in the batch.
        sparse: whether the gradient is sparse under an optimizer of `torch.optim` too.
        device, dtype: on the CPU and in float32 the rows lie on a table; else the module is
            PyTorch's, with a warning.

    Input shape:
        (...,) int32 or int64.

    Output shape:
        (..., D).

    Raises:
        IndexError: an id outside 0..V-1, when the module is called.
        AssertionError, RuntimeError: as `torch.nn.Embedding`.

    Example:
        >>> import torch, rowwise.torch
        >>> embedding = rowwise.torch.Embedding(1000, 64)
        >>> optimizer = rowwise.torch.optim.Adam(embedding.parameters(), lr=0.1)
        >>> embedding(torch.tensor([[3, 7, 3]])).square().sum().backward()
        >>> optimizer.step()
        >>> embedding.table.updates[:8].tolist()
        [0, 0, 0, 1, 0, 0, 0, 1]
    """

    @torch.compiler.disable
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Vectors (..., D) of the rows input (...,)."""
        if not self._by_table(input) or (self.sparse and self.scale_grad_by_freq):
            return super().forward(input)
        self._renormalize(input)
        return lookup(
            self.weight,
            input,
            self._gradient_by_rows(),
            self.padding_idx,
            by_frequency=self.scale_grad_by_freq,
            on_dense=self.weight.dense_gradient_made,
        )
