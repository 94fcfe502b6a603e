"""`rowwise.torch.Embedding`: PyTorch's module on a rowwise table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch

from rowwise._init import Init
from rowwise._untrained import Untrained
from rowwise.store import Folder
from rowwise.text._vocabulary import Vocabulary
from rowwise.torch import _host_rows
from rowwise.torch._lookup import is_exporting, lookup, with_untrained_filled
from rowwise.torch._module import TableBacked, is_ids
from rowwise.torch._operator import embed
from rowwise.torch._weight import Place
from rowwise.vectors import Coverage


class Embedding(TableBacked, torch.nn.Embedding):
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
        untrained: what a row gives in evaluation (`module.eval()`) that was never trained: "as-is",
            "zeros", "mean" (of the rows trained) or "error"; see `rowwise.Table.lookup`.
        scratch, memory: for rows on a disk, of which those used lately are in memory; see
            `rowwise.Table` and docs/larger-than-memory.md. Rows start normal with deviation 1, by
            numbers of their own.
        device, dtype: in float32 the rows lie on a table, on the CPU or on a GPU whose kernels pass
            a check at their first use; else the module is PyTorch's, with a warning.
        table: None: the table goes where the module goes (`module.cuda()`, device="cuda"), to
            train there to the CPU's bits, or densely where the check fails; "device": so it does,
            but a failing check is an error; "host": it stays in the host's memory, under a model
            on a GPU. See docs/gpu.md: no GPU has run any of it yet.
        rounding: lay weights of bfloat16 or float16 on a table, too, and round them so: "nearest"
            or "stochastic", see `rowwise.Table`. An optimizer of `rowwise.torch.optim` then keeps
            float32 slots and computes in float32, which is better than PyTorch's own numbers, and
            other ones. It serves weights that are converted later, too (`module.bfloat16()`).
            With "stochastic" the `state_dict` has `_extra_state`, seed and count of updates, so
            that training goes on to the same bits; PyTorch's module loads it with strict=False.

    Input shape:
        (...,) int32 or int64.

    Output shape:
        (..., D).

    Raises:
        IndexError: an id outside 0..V-1, when the module is called.
        RuntimeError: table="device", on a GPU whose kernels fail the check.
        ValueError: rounding for a dtype that is neither float32 nor of 16 bits.
        AssertionError, RuntimeError: as `torch.nn.Embedding`.

    Example:
        >>> import torch, rowwise.torch
        >>> embedding = rowwise.torch.Embedding(1000, 64)
        >>> optimizer = rowwise.torch.optim.Adam(embedding.parameters(), lr=0.1)
        >>> embedding(torch.tensor([[3, 7, 3]])).square().sum().backward()
        >>> optimizer.step()
        >>> embedding.table.update_counts[:8].tolist()
        [0, 0, 0, 1, 0, 0, 0, 1]
    """

    pretrained: Coverage | None
    _ahead: _host_rows.Ahead | None = None
    _device: torch.device | None = None  # of the model, with table="host"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Any = None,
        _freeze: bool = False,
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
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            None if on_disk else _weight,
            _freeze,
            "meta" if on_disk else self._place_of_weight(device),
            dtype,
        )
        if on_disk:
            self._lie_on_disk(_weight, untrained, scratch, memory, (device, dtype), _freeze)
        else:
            self._finish_init(untrained, _weight)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        embeddings: Any,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
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
            embeddings: (V, D), a tensor or an array, or what `rowwise.vectors.load` read.
            freeze: whether training leaves them alone.
            padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse: the module's.
            untrained, table: the module's.
            vocabulary: V words in the order of their ids; those of `embeddings` unless given.
            init: what words start with that have no vector, see `rowwise.vectors.rows_for`.
            seed: of init.
            verbose: print how many words were found; the report is also `module.pretrained`.

        Raises:
            TypeError: vocabulary without words to look up.
            ValueError: embeddings that are not (V, D).
        """
        return cls._pretrained(
            embeddings,
            freeze,
            (vocabulary, init, seed, verbose),
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
            untrained=untrained,
            table=table,
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the vectors (..., D) of the rows input (...,)."""
        if torch.compiler.is_dynamo_compiling():
            return super().forward(input) if is_exporting() else embed(self, input)
        if isinstance(input, torch.fx.Proxy):
            return self._as_leaf(input)
        return self.forward_eagerly(input)

    def forward_eagerly(self, input: torch.Tensor) -> torch.Tensor:
        """Return what `forward` returns; not seen by `torch.compile`."""
        if self.table_place == "host" and _host_rows.is_elsewhere(input):
            return self._across(input)
        return self._looked_up(input)

    def _across(self, input: torch.Tensor) -> torch.Tensor:
        """Return the vectors of a table in the host's memory on the ids' GPU."""
        self._device = input.device
        copies = _host_rows.copies_to(input.device)
        ids, ahead = copies.down(input), self._ahead
        # Compiled graphs come here once more, in backward, for the batch before.
        if ahead is None or not np.array_equal(ids.reshape(-1).numpy(), ahead.ids):
            return _host_rows.Up.apply(self._looked_up(ids), copies)
        self._ahead = None
        if not self._can_read_ahead(ahead, ids):
            return _host_rows.Up.apply(self._looked_up(ids), copies)
        weight = self.weight
        vectors: torch.Tensor = _host_rows.Across.apply(
            weight,
            ids.long(),
            ahead,
            copies,
            self._wants_sparse_gradient(),
            self.padding_idx,
            self.scale_grad_by_freq,
            weight.on_dense_gradient,
        )
        return vectors

    def _can_read_ahead(self, ahead: _host_rows.Ahead, ids: torch.Tensor) -> bool:
        """Return whether what was read early are the vectors of its ids (...,) now."""
        plain = self.untrained == "as-is" or self.training
        return plain and self._can_use_table(ids) and _host_rows.fits(ahead, self.weight)

    def prefetch(self, *next_batch: torch.Tensor) -> None:
        """Bring the next batch's rows nearer; no value depends on it.

        Rows on a disk begin to be read. With table="host" their vectors go to the GPU, before this
        batch's step and exact all the same. Call it between this batch's forward pass and the
        optimizer's step, with what the module is called with after that; `backward` runs meanwhile.
        Rows that the step touches follow after it. If the step is another one than its optimizer
        now says, or the next batch is another, everything is read then.

        Args:
            next_batch: what `forward` takes next: on the GPU of the model or, better, on the host.

        Raises:
            IndexError, TypeError, ValueError: bad ids, for rows on a disk.

        Example:
            vectors = embedding(ids)
            embedding.prefetch(next_ids)
            loss(vectors).backward()
            optimizer.step()
            vectors = embedding(next_ids.cuda())
        """
        if self.table_place != "host":
            super().prefetch(*next_batch)
            return
        self._ahead, (next_input,) = None, next_batch
        if self._device is None or self.max_norm is not None:
            return
        copies = _host_rows.copies_to(self._device)
        ids = copies.down(next_input) if _host_rows.is_elsewhere(next_input) else next_input
        if is_ids(ids):
            self._ahead = _host_rows.look_ahead(self.weight, ids.long(), copies)

    def _looked_up(self, input: torch.Tensor) -> torch.Tensor:
        if not self._can_use_table(input) or (self.sparse and self.scale_grad_by_freq):
            return super().forward(input)
        self._renormalize(input)
        vectors = lookup(
            self.weight,
            input,
            self._wants_sparse_gradient(),
            self.padding_idx,
            by_frequency=self.scale_grad_by_freq,
            on_dense_gradient=self.weight.on_dense_gradient,
        )
        if self.untrained == "as-is" or self.training:
            return vectors
        self._expire_mean()
        return with_untrained_filled(self.table, input, vectors, self.untrained)
