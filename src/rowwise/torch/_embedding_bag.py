"""`rowwise.torch.EmbeddingBag`: PyTorch's module on a rowwise table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import torch

from rowwise._init import Init
from rowwise._untrained import Untrained
from rowwise.store import Folder
from rowwise.text import Vocabulary
from rowwise.torch import _host_rows
from rowwise.torch._device import DeviceStore
from rowwise.torch._disk import DiskWeight
from rowwise.torch._lookup import is_exporting, is_tracing, lookup, with_untrained_filled
from rowwise.torch._module import TableBacked, is_ids
from rowwise.torch._operator import embed
from rowwise.torch._pooled import (
    bag_bounds,
    pool,
    pool_max,
    pool_vectors,
    with_padding_last,
    without_padding,
)
from rowwise.torch._weight import Place

_MODES = ("sum", "mean", "max")


class OutsideError(IndexError, RuntimeError):
    """Name an id outside the table: an IndexError, and a RuntimeError as PyTorch's."""


class EmbeddingBag(TableBacked, torch.nn.EmbeddingBag):
    """Bags of integers as one vector each, without the vectors of single integers in memory.

    Arguments, shapes, initial values, `state_dict` and numbers are those of
    `torch.nn.EmbeddingBag`; see `rowwise.torch.Embedding` for what a training step costs.

    Args:
        num_embeddings: number of rows V; ids are 0..V-1.
        embedding_dim: length D of a vector.
        max_norm: rows looked up are first shortened, in place, to this norm.
        norm_type: the p of that norm.
        scale_grad_by_freq: as in PyTorch, and by PyTorch: with a dense gradient.
        mode: "sum", "mean" or "max".
        sparse: whether the gradient is sparse under an optimizer of `torch.optim` too.
        include_last_offset: whether offsets end with the number of ids.
        padding_idx: a row that starts with zeros and is left out of its bags.
        untrained: as for `Embedding`: what a row gives in evaluation that was never trained.
        scratch, memory: for rows on a disk, of which those used lately are in memory; see
            `rowwise.Table` and docs/larger-than-memory.md. Rows start normal with deviation 1, by
            numbers of their own.
        device, dtype, table, rounding: as for `Embedding`.

    Input shape:
        (B, N) int32 or int64, or (n,) with offsets (B,).

    Output shape:
        (B, D); 0 for an empty bag.

    Raises:
        IndexError: an id outside 0..V-1, when the module is called; a RuntimeError too.
        ValueError, RuntimeError, NotImplementedError: as `torch.nn.EmbeddingBag`.

    Example:
        >>> import torch, rowwise.torch
        >>> bags = rowwise.torch.EmbeddingBag(1000, 64, mode="sum")
        >>> bags(torch.tensor([3, 7, 3]), offsets=torch.tensor([0, 1])).shape
        torch.Size([2, 64])
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
        _weight: Any = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        untrained: Untrained = "as-is",
        scratch: Folder | None = None,
        memory: int | str | None = None,
        table: Place | None = None,
        rounding: str | None = None,
    ) -> None:
        on_disk = scratch is not None or memory is not None
        self._begin_init(untrained, table, on_disk, rounding, dtype)
        super().__init__(
            num_embeddings,
            embedding_dim,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            None if on_disk else _weight,
            include_last_offset,
            padding_idx,
            "meta" if on_disk else self._place_of_weight(device),
            dtype,
        )
        if on_disk:
            self._lie_on_disk(_weight, untrained, scratch, memory, (device, dtype))
        else:
            self._finish_init(untrained, _weight)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        embeddings: Any,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        untrained: Untrained = "as-is",
        vocabulary: Vocabulary | Iterable[str] | None = None,
        init: Init = "normal",
        seed: int | None = None,
        verbose: bool = True,
        table: Place | None = None,
    ) -> Self:
        """Make a module from vectors that were trained elsewhere; their rows count as trained.

        The module copies them: later changes of `embeddings` do not reach it.

        Args:
            embeddings, freeze, vocabulary, init, seed, verbose: as for `Embedding.from_pretrained`.
            max_norm, norm_type, scale_grad_by_freq, mode, sparse: the module's.
            include_last_offset, padding_idx, untrained, table: the module's.

        Raises:
            TypeError: vocabulary without words to look up.
            ValueError: embeddings that are not (V, D).
        """
        return cls._pretrained(
            embeddings,
            freeze,
            (vocabulary, init, seed, verbose),
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            mode=mode,
            sparse=sparse,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
            untrained=untrained,
            table=table,
        )

    def forward(
        self,
        input: torch.Tensor,
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the vectors (B, D) of bags of rows input (B, N), or (n,) with offsets (B,)."""
        given = (input, offsets, per_sample_weights)
        if torch.compiler.is_dynamo_compiling():
            return super().forward(*given) if is_exporting() else embed(self, *given)
        if isinstance(input, torch.fx.Proxy):
            return self._as_leaf(*given)
        return self.forward_eagerly(*given)

    def forward_eagerly(
        self,
        input: torch.Tensor,
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what `forward` returns; not seen by `torch.compile`."""
        if self.table_place == "host" and _host_rows.is_elsewhere(input):
            copies = _host_rows.copies_to(input.device)
            bounds = None if offsets is None else copies.down(offsets)
            weights = None if per_sample_weights is None else per_sample_weights.cpu()
            return _host_rows.Up.apply(
                self._pooled_here(copies.down(input), bounds, weights), copies
            )
        return self._pooled_here(input, offsets, per_sample_weights)

    def _pooled_here(
        self,
        input: torch.Tensor,
        offsets: torch.Tensor | None,
        per_sample_weights: torch.Tensor | None,
    ) -> torch.Tensor:
        bags = (
            self._bags(input, offsets, per_sample_weights) if self._can_use_table(input) else None
        )
        own = self._parameters.get("weight")
        if bags is None and isinstance(own, DiskWeight):
            own.refuse("PyTorch's own bags (scale_grad_by_freq, shapes that do not fit)")
        if bags is None:  # torch's own, errors included
            return super().forward(input, offsets, per_sample_weights)
        try:
            return self._pooled(input, *bags)
        except IndexError as error:
            raise OutsideError(str(error)) from None

    def _pooled(
        self,
        input: torch.Tensor,
        ids: torch.Tensor,
        bounds: torch.Tensor,
        weights: torch.Tensor | None,
    ) -> torch.Tensor:
        self._renormalize(input)
        fills = self.untrained != "as-is" and not self.training
        on_device = isinstance(self.table.store, DeviceStore)
        leave_out = with_padding_last if on_device and not fills else without_padding
        ids, bounds, weights = leave_out(ids, bounds, weights, self.padding_idx)
        sparse = self._wants_sparse_gradient()
        on_dense_gradient = self.weight.on_dense_gradient
        if fills:
            self._expire_mean()
            vectors = lookup(self.weight, ids, sparse, None, on_dense_gradient=on_dense_gradient)
            vectors = with_untrained_filled(self.table, ids, vectors, self.untrained)
            return pool_vectors(vectors, bounds, weights, self.mode)
        if self.mode == "max":
            return pool_max(self.weight, ids, bounds, sparse, on_dense_gradient)
        mean = self.mode == "mean"
        return pool(
            self.weight,
            ids,
            bounds,
            weights,
            sparse,
            on_dense_gradient,
            divisors=bounds.diff().clamp(min=1)[:, None] if mean else None,
            allow_bag_gradient=not self.sparse,
        )

    def _bags(
        self,
        ids: torch.Tensor,
        offsets: torch.Tensor | None,
        weights: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None:
        """Return ids (n,) int64, bounds (B + 1,) from 0 to n and weights (n,); None leaves the
        call to PyTorch.
        """
        if self.scale_grad_by_freq:  # torch's own counts are not those of the ids
            self.weight.warn_of_dense_steps("scale_grad_by_freq is left to PyTorch")
            return None
        if self.mode not in _MODES or (self.mode == "max" and self.sparse) or is_tracing():
            return None
        if weights is not None and not (
            self.mode == "sum" and weights.dtype is self.weight.dtype and weights.shape == ids.shape
        ):
            return None
        if (ids.dim() == 2 and not ids.shape[1]) or not (offsets is None or is_ids(offsets)):
            return None
        bounds = bag_bounds(ids, offsets, self.include_last_offset)
        if bounds is None or (offsets is not None and len(bounds) < 2):
            return None
        return ids.long().reshape(-1), bounds, None if weights is None else weights.reshape(-1)
