"""`rowwise.torch.ShardedDynamicEmbedding`: vectors for any ids, over the processes of a group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self

import numpy as np
import torch

from rowwise.dynamic._batches import IdKind
from rowwise.dynamic._index import Evict
from rowwise.dynamic._starts import RowInit
from rowwise.dynamic._table import OnEvict
from rowwise.sharded import ShardedDynamicTable
from rowwise.sharded._exchange import all_gather
from rowwise.sharded._store import attempt
from rowwise.torch._distant_step import upcoming_step
from rowwise.torch._dynamic import as_array, refuse_late_gradients, refuse_trace
from rowwise.torch._group import exchange_of
from rowwise.torch._sharded import ShardedEmbedding, Sums
from rowwise.torch._sharded_lookup import Lookup


class ShardedDynamicEmbedding(ShardedEmbedding):
    """`rowwise.torch.DynamicEmbedding` with its rows and ids spread over the processes of a group.

    In training a call counts the ids of all processes, and gives rows to those due one; in
    evaluation, and without gradients, nothing changes. The result, ids and bits, does not depend on
    the number of processes: see `rowwise.sharded.ShardedDynamicTable`, which is the attribute
    `dynamic`. Its `save` writes rows, slots and ids to one file, which opens on any number of
    processes.

    Every process calls the module and the optimizer's step equally often and in the same order,
    with an empty batch where it has no data.

    `state_dict` holds the rows as DTensors, and the ids of all processes in full; every process
    calls it.

    Args:
        capacity: rows for ids, rounded up to a multiple of the buckets.
        embedding_dim: length D of a vector.
        buckets: see `rowwise.sharded.ShardedDynamicTable`.
        ids, admit_after, evict, ttl, unknown_rows, evict_share, in_flight: see
            `rowwise.dynamic.IdIndex`.
        init, init_scale, seed: see `rowwise.torch.DynamicEmbedding`; without a seed the generator
            of torch of process 0 decides.
        on_evict: called on every process with the ids that lost their rows in its buckets, and the
            vectors they had. All processes give one, or none does.
        process_group, average, sums, parts: see `ShardedEmbedding`.

    Input shape:
        (...,), a tensor of integers; or strings, in an array or nested lists.

    Output shape:
        (..., D).

    Raises:
        RuntimeError: there is no process group.
        RankMismatchError: processes give other arguments.
        TypeError, ValueError: ids of the other kind, on any process; arguments out of their bounds.

    Example, of one process; `torchrun --nproc-per-node 8` starts eight:
        >>> import rowwise.torch
        >>> from rowwise.sharded import ThreadExchange
        >>> [alone] = ThreadExchange.group(1)
        >>> embedding = ShardedDynamicEmbedding(1000, 16, process_group=alone)
        >>> optimizer = rowwise.torch.optim.Adam(embedding.parameters(), lr=0.01)
        >>> embedding(torch.tensor([7_000_000_000, -5])).square().sum().backward()
        >>> optimizer.step()
        >>> embedding.has_row(torch.tensor([-5, 8])).tolist()
        [True, False]
    """

    dynamic: ShardedDynamicTable

    def __init__(
        self,
        capacity: int,
        embedding_dim: int,
        *,
        buckets: int = 64,
        ids: IdKind = "integers",
        admit_after: int = 1,
        evict: Evict = "lru",
        ttl: int | None = None,
        unknown_rows: int = 1,
        evict_share: float = 0.05,
        in_flight: int = 2,
        init: RowInit = "normal",
        init_scale: float | None = None,
        seed: int | None = None,
        on_evict: OnEvict | None = None,
        process_group: Any = None,
        average: bool = True,
        sums: Sums = "batch",
        parts: int = 64,
        _dynamic: ShardedDynamicTable | None = None,
    ) -> None:
        exchange = exchange_of(process_group)
        if init == "normal" and init_scale is None:
            init_scale = 1.0
        if seed is None and _dynamic is None:  # so that torch.manual_seed decides
            drawn = np.array([int(torch.randint(2**63 - 1, ()))])
            seed = int(all_gather(exchange, drawn)[0, 0])
        dynamic = _dynamic or ShardedDynamicTable(
            capacity,
            embedding_dim,
            exchange=exchange,
            buckets=buckets,
            ids=ids,
            admit_after=admit_after,
            evict=evict,
            ttl=ttl,
            unknown_rows=unknown_rows,
            evict_share=evict_share,
            in_flight=in_flight,
            init=init,
            init_scale=init_scale,
            seed=seed,
            on_evict=on_evict,
            sums=sums,
            parts=parts,
        )
        rows = dynamic.table.rows
        super().__init__(
            rows, dynamic.dim, _weight=dynamic.table, process_group=exchange, average=average
        )
        self.weight.resumes = _dynamic is not None
        self.dynamic = dynamic
        self._observed: tuple[Any, Any] | None = None  # the batch of a prefetch, and its rows

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | os.PathLike[str],
        process_group: Any = None,
        *,
        on_evict: OnEvict | None = None,
        average: bool = True,
        sums: Sums = "batch",
        parts: int = 64,
    ) -> Self:
        """Make a module from the file that `module.dynamic.save` wrote on any number of processes.

        An optimizer that is made for the module goes on with the slots of the file and its count
        of steps.

        Args:
            path: of the file, which every process must see.
            process_group, on_evict, average, sums, parts: see the module.

        Raises:
            FileNotFoundError, DamagedFileError: see `rowwise.Table.load`; on every process.
        """
        exchange = exchange_of(process_group)
        dynamic = ShardedDynamicTable.load(
            path, exchange=exchange, on_evict=on_evict, sums=sums, parts=parts
        )
        return cls(
            dynamic.capacity, dynamic.dim, process_group=exchange, average=average, _dynamic=dynamic
        )

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> NoReturn:
        """Refuse: rows belong to ids once these are seen."""
        raise NotImplementedError("ids get rows as they are seen; a dynamic table begins without")

    def full_state_dict(self) -> NoReturn:
        """Refuse: rows have no order of ids."""
        raise NotImplementedError(
            "the rows of a dynamic table have no order of ids; see dynamic.ids() and "
            "dynamic.lookup(ids)"
        )

    @torch.compiler.disable
    def forward(self, input: Any) -> torch.Tensor:
        """Return the vectors (..., D) of ids input (...,); every process calls it."""
        refuse_trace()
        ids = as_array(input)
        training = self.training and torch.is_grad_enabled() and self.weight.requires_grad
        if training:
            observed, self._observed = self._observed, None
            if observed is not None and np.array_equal(observed[0], ids):
                rows = observed[1]
            else:
                rows = self.dynamic.observe(ids)
        else:
            rows = self.dynamic.find(ids)
        vectors: torch.Tensor = Lookup.apply(self.weight, rows, None, None, None)
        if training:
            in_flight = self.dynamic.index.indexes[0].in_flight
            refuse_late_gradients(vectors, lambda: self.dynamic.steps, in_flight)
        return vectors.to(input.device) if isinstance(input, torch.Tensor) else vectors

    @contextmanager
    def prefetch(self, next_ids: Any) -> Iterator[None]:
        """Count the next batch now, and bring its vectors while the step inside is computed; exact.

        See `ShardedEmbedding.prefetch`. The next forward pass in training is given the same ids,
        and does not count them again.
        """
        step = upcoming_step(self.weight)
        if step is None:
            yield
            return
        ids = as_array(next_ids)
        rows = self.dynamic.observe(ids)
        self._observed = np.array(ids), rows
        with self.table.prefetch(rows, step[0], iteration=step[1]):
            yield

    def has_row(self, ids: Any) -> torch.Tensor:
        """Return whether ids (...,) have a row of their own; every process calls it."""
        return torch.from_numpy(self.dynamic.has_row(as_array(ids)))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "ids"] = self.dynamic.ids_state()

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
        keys = (missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *keys)
        data = state_dict.get(prefix + "ids")
        if data is None:
            missing_keys.append(prefix + "ids")
        elif not error_msgs:
            _, error = attempt(lambda: self.dynamic.load_ids_state(data))
            if error is not None:
                error_msgs.append(f"{prefix}ids: {error}")

    def extra_repr(self) -> str:
        """Return what `print(module)` shows."""
        index = self.dynamic.index
        given = {**index.indexes[0].config(), "capacity": index.capacity}
        given |= {"embedding_dim": self.dynamic.dim, "buckets": index.buckets}
        return ", ".join(f"{name}={value!r}" for name, value in given.items())
