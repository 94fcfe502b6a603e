"""Embedding modules whose rows are spread over the processes of `torch.distributed`."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import numpy as np
import torch

from rowwise._init import Init
from rowwise._untrained import Untrained, check_untrained
from rowwise.sharded import ShardedTable
from rowwise.sharded._store import attempt, refuse_table
from rowwise.text import Vocabulary
from rowwise.torch._distant import check_place
from rowwise.torch._distant_step import upcoming_step
from rowwise.torch._group import exchange_of
from rowwise.torch._lookup import whole_ids
from rowwise.torch._pooled import bag_bounds, pool_vectors, without_padding
from rowwise.torch._renorm import renormalize_rows
from rowwise.torch._sharded_lookup import Lookup, Pool, PoolMax
from rowwise.torch._sharded_state import put_state, take_state
from rowwise.torch._sharded_weight import ShardedWeight
from rowwise.vectors import Coverage, pretrained_rows

Sums = Literal["batch", "parts"]


class _Sharded(torch.nn.Module):
    """The base of both modules: a weight on a sharded table."""

    weight: Any
    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    untrained: Untrained
    pretrained: Coverage | None = None

    def _begin(
        self,
        construct: Callable[[], None],
        given: torch.Tensor | ShardedTable | None,
        place: tuple[Any, Any],
        *,
        process_group: Any,
        average: bool,
        sums: Sums,
        parts: int,
        untrained: Untrained,
        freeze: bool = False,
    ) -> None:
        """Make the module; what is wrong with arguments on one rank raises on all of them.

        Args:
            construct: calls PyTorch's constructor.
            given: the user's values for the weight, or its table.
            place: the device and dtype that were asked for.
            process_group, average, sums, parts, untrained, freeze: see the constructor.
        """
        exchange = exchange_of(process_group)

        def check() -> None:
            construct()
            check_untrained(untrained)
            check_place(torch.empty(0, device=place[0], dtype=place[1]), ShardedWeight.of)

        _, error = attempt(check)
        if isinstance(given, ShardedTable):
            table = given
        elif error is not None:
            refuse_table(exchange, error)
        else:
            table = ShardedTable(
                self.num_embeddings,
                self.embedding_dim,
                exchange=exchange,
                init="zeros" if given is None else given.detach().cpu().numpy(),
                sums=sums,
                parts=parts,
            )
        names = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "mode")
        arguments = {name: getattr(self, name, None) for name in names}
        arguments |= {"untrained": untrained, "average": average, "freeze": freeze}
        table.store.agree_on({"kind": type(self).__name__, **arguments}, error)
        self.untrained = untrained
        if given is None:
            _draw_normal(table)
            if self.padding_idx is not None:
                table.store.write(0.0, np.array([self.padding_idx]))
        self.weight = ShardedWeight(table, average, not freeze)
        self.weight.resumes = table is given

    @property
    def table(self) -> ShardedTable:
        """The sharded table behind the module: its rows, counts, `save`."""
        return self.weight.table

    @classmethod
    def load(cls, path: str | os.PathLike[str], process_group: Any = None, **options: Any) -> Self:
        """Make a module from a table's file, written by any number of processes, or by one.

        Args:
            path: what `module.table.save` or `rowwise.Table.save` wrote.
            process_group: see the module.
            options: the module's other arguments.

        An optimizer that is made for the module goes on with the slots of the file and its count
        of steps; `optimizer.load_state_dict` is needed for its dense parameters alone.

        Raises:
            FileNotFoundError, DamagedFileError: see `rowwise.Table.load`; on every rank.
        """
        exchange = exchange_of(process_group)
        table = ShardedTable.load(path, exchange=exchange, **_sharing(options))
        return cls(*table.shape, _weight=table, process_group=process_group, **options)  # type: ignore[call-arg,misc]

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        *,
        process_group: Any = None,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        init: Init = "normal",
        seed: int | None = None,
        verbose: bool = True,
        **options: Any,
    ) -> Self:
        """Make a module from vectors that were trained elsewhere; their rows count as trained.

        Args:
            embeddings, freeze, vocabulary, init, seed: as for `Embedding.from_pretrained`; the
                same on every rank.
            process_group: see the module.
            verbose: print how many words were found, on rank 0; the report is also
                `module.pretrained`.
            options: the module's other arguments.

        Raises:
            TypeError: vocabulary without words to look up.
            ValueError: embeddings that are not (V, D).
        """
        exchange = exchange_of(process_group)
        pretrained, error = attempt(
            lambda: pretrained_rows(embeddings, vocabulary, init, seed=seed)
        )
        if error is not None:
            refuse_table(exchange, error)
        assert pretrained is not None
        rows = pretrained.rows
        table = ShardedTable(
            *rows.shape, exchange=exchange, init=lambda _: rows, **_sharing(options)
        )
        table.mark_trained(pretrained.found.nonzero()[0])
        if isinstance(vocabulary, Vocabulary):
            table.vocabulary = vocabulary
        module = cls(*rows.shape, _weight=table, process_group=process_group, **options)  # type: ignore[call-arg,misc]
        module.weight.requires_grad_(not freeze)
        module.pretrained = pretrained.coverage
        if pretrained.coverage is not None and verbose and exchange.rank == 0:
            print(pretrained.coverage)
        return module

    @contextmanager
    def prefetch(self, *next_batch: Any) -> Iterator[None]:
        """Bring the vectors of the next batch while the step inside of `with` is computed; exact.

        Every process calls it, between this batch's forward pass and the optimizer's step, with
        what the next call of the module gets. See `rowwise.sharded.ShardedTable.prefetch`. With
        max_norm it does nothing: rows are shortened before they are read.

        Args:
            next_batch: arguments of the next `forward`.

        Example:
            vectors = embedding(ids)
            with embedding.prefetch(next_ids):
                loss(vectors).backward()
                optimizer.step()
            vectors = embedding(next_ids)
        """
        step = upcoming_step(self.weight)
        if step is None or self.max_norm is not None:
            yield
            return
        ids = self._ids_of(*next_batch)
        with self.table.prefetch(ids, step[0], iteration=step[1]):
            yield

    def full_state_dict(self) -> OrderedDict[str, torch.Tensor]:
        """Return the `state_dict` of PyTorch's module, all rows in order of ids, on every rank."""
        return OrderedDict(weight=torch.from_numpy(self.table.to_numpy()))

    def _ids(self, ids: torch.Tensor) -> tuple[Any, Exception | None]:
        """Return ids as NumPy's, int64, or the error that every rank raises."""
        found, error = attempt(lambda: whole_ids(ids).cpu().contiguous().numpy())
        return (np.empty(0, np.int64) if found is None else found), error

    def _ids_of(self, *batch: Any) -> Any:
        """Return the ids (...,) that `forward` looks up."""
        raise NotImplementedError

    def _renormalize(self, ids: Any, error: Exception | None = None) -> None:
        """Shorten the rows that any rank looks up, once, where their norm is above max_norm."""
        max_norm = self.max_norm
        if max_norm is None:
            return
        self.table.store.change_rows(
            ids, lambda store, rows: renormalize_rows(store, rows, max_norm, self.norm_type), error
        )

    def _occurrences(self, ids: Any, error: Exception | None = None) -> Any:
        """Return the divisors (n,) float32 of the gradients of ids (...,), or None."""
        gradient = torch.is_grad_enabled() and self.weight.requires_grad
        if not (self.scale_grad_by_freq and gradient):
            return None
        return self.table.store.occurrences(ids, error).astype(np.float32)

    def _vectors(self, ids: Any, error: Exception | None, counts: Any) -> torch.Tensor:
        """Return the vectors (..., D) of rows ids (...,), in evaluation with untrained filled."""
        vectors: torch.Tensor = Lookup.apply(self.weight, ids, error, self.padding_idx, counts)
        if self.training or self.untrained == "as-is":
            return vectors
        mask, default = self.table.untrained_mask_and_default(ids, self.untrained)
        if default is None:
            return vectors
        return torch.where(torch.from_numpy(mask)[..., None], torch.from_numpy(default), vectors)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.weight.check_place(fn(torch.empty(0)))
        weight = self._parameters.pop("weight")
        try:
            super()._apply(fn, recurse)
        finally:
            self._parameters["weight"] = weight
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Put the table as it is: DTensors over its memory, and a few bytes for the rest."""
        put_state(self.table, destination, prefix)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take what `_save_to_state_dict` put, or PyTorch's weight (rows, dim) in full."""
        value = state_dict.get(prefix + "weight")
        if value is None:
            missing_keys.append(prefix + "weight")
        elif tuple(value.shape) != self.table.shape:
            error_msgs.append(
                f"{prefix}weight has shape {tuple(value.shape)}, the table {self.table.shape}"
            )
        elif not hasattr(value, "to_local"):
            self.table.store.write(value.detach().float().cpu().numpy())
            self.table.mark_trained()
        else:
            _, error = attempt(lambda: take_state(self.table, state_dict, prefix))
            if error is None:
                self.weight.resumes = True
            else:
                error_msgs.append(f"{prefix}weight: {error}")


class ShardedEmbedding(_Sharded, torch.nn.Embedding):
    """`rowwise.torch.Embedding` with its rows spread over the processes of a group.

    Every process runs the same program on a batch of its own. Vectors and gradients travel between
    the processes; the rows, their vectors and their slots have the bits of one process that is
    given the batches of all, one after the other.

    Every process calls the module and the optimizer's step equally often and in the same order,
    with an empty batch where it has no data. What one of them refuses (an id outside the table)
    raises on all of them, and nothing changes.

    Args:
        num_embeddings, embedding_dim, padding_idx, untrained: see `Embedding`.
        max_norm, norm_type: rows that any process looks up are first shortened, in place, to this
            norm.
        scale_grad_by_freq: divide the gradient of a row by how often it is in the batches of all
            processes.
        sparse: the same either way; the gradient is sparse.
        device, dtype: the CPU and float32 are all there is.
        process_group: of `torch.distributed`; the default group unless given.
        average: divide gradients by the number of processes, as `DistributedDataParallel` divides
            those of the dense parameters: the loss of a process is the mean over its own batch,
            and the step is that of the mean over all. With False they are summed. With SGD of
            rate 1, and a gradient of 0.5 for a row from each of 2 processes, the row moves by 0.5
            (average=True) or by 1.0 (average=False). `weight.grad` is this process's part of it.
        sums, parts: see `rowwise.sharded.ShardedTable`.

    Raises:
        RuntimeError: there is no process group; another device or dtype.
        RankMismatchError: processes give other arguments.
        ValueError: see `rowwise.sharded.ShardedTable`.

    Example, of one process; `torchrun --nproc-per-node 8` starts eight:
        >>> import rowwise.torch
        >>> from rowwise.sharded import ThreadExchange
        >>> [alone] = ThreadExchange.group(1)
        >>> embedding = ShardedEmbedding(1000, 64, process_group=alone)
        >>> optimizer = rowwise.torch.optim.Adam(embedding.parameters(), lr=0.1)
        >>> embedding(torch.tensor([[3, 7, 3]])).square().sum().backward()
        >>> optimizer.step()
        >>> embedding.table.update_counts[:8].tolist()
        [0, 0, 0, 1, 0, 0, 0, 1]
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
        _weight: torch.Tensor | ShardedTable | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        process_group: Any = None,
        average: bool = True,
        sums: Sums = "batch",
        parts: int = 64,
        untrained: Untrained = "as-is",
    ) -> None:
        arguments = (num_embeddings, embedding_dim, padding_idx, max_norm, norm_type)
        flags = (scale_grad_by_freq, sparse)
        self._begin(
            lambda: torch.nn.Embedding.__init__(self, *arguments, *flags, device="meta"),
            _weight,
            (device, dtype),
            process_group=process_group,
            average=average,
            sums=sums,
            parts=parts,
            untrained=untrained,
            freeze=_freeze,
        )

    def _ids_of(self, input: torch.Tensor) -> Any:
        ids, _ = self._ids(input)
        return ids

    @torch.compiler.disable
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the vectors (..., D) of the rows input (...,); every process calls it."""
        ids, error = self._ids(input)
        self._renormalize(ids, error)
        return self._vectors(ids, error, self._occurrences(ids, error))


class ShardedEmbeddingBag(_Sharded, torch.nn.EmbeddingBag):
    """`rowwise.torch.EmbeddingBag` with its rows spread over the processes of a group.

    Each process pools its bags itself, from the distinct vectors of its batch. The gradient of a
    bag goes once to each process that has rows of it.

    Args:
        num_embeddings, embedding_dim, mode, include_last_offset, padding_idx: see `EmbeddingBag`.
        max_norm, norm_type, sparse, device, dtype: see `ShardedEmbedding`.
        scale_grad_by_freq: see `ShardedEmbedding`; not with mode "max". PyTorch's own bags divide
            by the count of another row.
        process_group, average, sums, parts, untrained: see `ShardedEmbedding`.

    Raises:
        RuntimeError, RankMismatchError, ValueError: see `ShardedEmbedding`.

    Example:
        >>> from rowwise.sharded import ThreadExchange
        >>> [alone] = ThreadExchange.group(1)
        >>> bags = ShardedEmbeddingBag(1000, 64, mode="sum", process_group=alone)
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
        _weight: torch.Tensor | ShardedTable | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        process_group: Any = None,
        average: bool = True,
        sums: Sums = "batch",
        parts: int = 64,
        untrained: Untrained = "as-is",
    ) -> None:
        arguments = (num_embeddings, embedding_dim, max_norm, norm_type, scale_grad_by_freq)
        flags = (mode, sparse, None, include_last_offset, padding_idx)

        def construct() -> None:
            if mode not in ("sum", "mean", "max"):
                raise ValueError(f"mode={mode!r} is not 'sum', 'mean' or 'max'")
            if mode == "max" and scale_grad_by_freq:
                raise ValueError(
                    "mode='max' does not support scale_grad_by_freq; leave it out, or take "
                    "mode='sum'"
                )
            torch.nn.EmbeddingBag.__init__(self, *arguments, *flags, device="meta")

        self._begin(
            construct,
            _weight,
            (device, dtype),
            process_group=process_group,
            average=average,
            sums=sums,
            parts=parts,
            untrained=untrained,
        )

    @torch.compiler.disable
    def forward(
        self,
        input: torch.Tensor,
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the vectors (B, D) of bags of rows input (B, N), or (n,) with offsets (B,)."""
        parsed, error = attempt(lambda: self._bags(input, offsets, per_sample_weights))
        if parsed is None:
            self.table.store.fetch(np.empty(0, np.int64), error)
        assert parsed is not None
        self._renormalize(parsed[0].numpy())
        ids, bounds, weights = without_padding(*parsed, self.padding_idx)
        counts = self._occurrences(ids.numpy())
        if self.untrained != "as-is" and not self.training:
            vectors = self._vectors(ids.numpy(), None, counts)
            return pool_vectors(vectors, bounds, weights, self.mode)
        if self.mode == "max":
            return PoolMax.apply(self.weight, ids, bounds)
        divisors = bounds.diff().clamp(min=1)[:, None] if self.mode == "mean" else None
        return Pool.apply(self.weight, ids, bounds, weights, divisors, counts)

    def _ids_of(
        self,
        input: torch.Tensor,
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> Any:
        # An error is raised on every rank when the batch itself is looked up.
        parsed, _ = attempt(lambda: self._bags(input, offsets, per_sample_weights))
        if parsed is None:
            return np.empty(0, np.int64)
        return without_padding(*parsed, self.padding_idx)[0].numpy()

    def _bags(
        self, ids: torch.Tensor, offsets: torch.Tensor | None, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return ids (n,) int64, bounds (B + 1,) from 0 to n, and weights (n,) or None.

        Raises:
            ValueError: shapes, offsets or weights that do not fit.
        """
        if weights is not None and (self.mode != "sum" or weights.shape != ids.shape):
            raise ValueError("per_sample_weights need mode='sum' and the shape of the ids")
        bounds = bag_bounds(ids, offsets, self.include_last_offset)
        if bounds is None:
            raise ValueError(
                "ids must be (B, N) without offsets, or (n,) with offsets (B,) that ascend from 0 "
                f"to n; ids have shape {tuple(ids.shape)}, offsets are {offsets}"
            )
        ids = whole_ids(ids).reshape(-1)
        return ids, bounds, None if weights is None else weights.float().reshape(-1)


def _draw_normal(table: ShardedTable) -> None:
    """Draw this rank's rows from what `torch.nn.Embedding` draws for the whole table.

    Every rank draws the whole, some rows at a time, and keeps its own; torch's generator is then
    where it is after the one of PyTorch.
    """
    rows, dim = table.shape
    at_once = max(1, (1 << 20) // dim) * 16  # torch draws 16 numbers at a time, to the last ones
    for start in range(0, rows, at_once):
        stop = rows if rows - start < 2 * at_once else start + at_once
        block = torch.empty(stop - start, dim).normal_()
        table.store.write(block.numpy(), np.arange(start, stop))
        if stop == rows:
            break


def _sharing(options: dict[str, Any]) -> dict[str, Any]:
    """Return those of a module's options that are its table's."""
    return {name: options[name] for name in ("sums", "parts") if name in options}
