"""Embedding modules whose rows are spread over the processes of `torch.distributed`."""

from __future__ import annotations

import io
import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from rowwise import rules
from rowwise._untrained import Untrained, check_untrained
from rowwise.sharded import ShardedTable
from rowwise.sharded._store import attempt
from rowwise.store import Bags, HostStore, RowGradient, TableState
from rowwise.store._memory import ROW_STATE
from rowwise.torch._group import exchange_of
from rowwise.torch._lookup import empty, whole_ids
from rowwise.torch._sharded_step import upcoming_step
from rowwise.torch._sharded_weight import ShardedWeight, no_rows

Sums = Literal["batch", "parts"]


class _Sharded(torch.nn.Module):
    """What both modules share: a weight on a sharded table."""

    weight: Any
    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    untrained: Untrained

    def _build(
        self,
        rows: int,
        dim: int,
        *,
        process_group: Any,
        average: bool,
        sums: Sums,
        parts: int,
        untrained: Untrained,
        values: Any,
        freeze: bool,
        refused: dict[str, Any],
    ) -> None:
        check_untrained(untrained)
        for name, value in refused.items():
            if value not in (None, False):
                raise ValueError(
                    f"{name}={value!r} is not for a sharded embedding: it would need the rows or "
                    "the batches of all processes; leave it out"
                )
        self.untrained = untrained
        exchange = exchange_of(process_group)
        given = None if values is None else values.detach().numpy()
        init: Any = "zeros" if given is None else given
        table = ShardedTable(rows, dim, exchange=exchange, init=init, sums=sums, parts=parts)
        if given is None:
            _draw_normal(table)
            if self.padding_idx is not None:
                table.store.write(0.0, np.array([self.padding_idx]))
        self.weight = ShardedWeight(table, average, not freeze)

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
        sharing = {name: options[name] for name in ("sums", "parts") if name in options}
        table = ShardedTable.load(path, exchange=exchange, **sharing)
        module = cls.__new__(cls)
        torch.nn.Module.__init__(module)
        module._adopt(table, **options)
        return module

    @contextmanager
    def prefetch(self, *next_batch: Any) -> Iterator[None]:
        """Bring the vectors of the next batch while the step inside of `with` is computed; exact.

        Every process calls it, between this batch's forward pass and the optimizer's step, with
        what the next call of the module gets. See `rowwise.sharded.ShardedTable.prefetch`.

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
        if step is None:
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

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        moved = fn(torch.empty(1))
        if moved.dtype is not torch.float32 or moved.device.type != "cpu":
            raise RuntimeError(
                f"a sharded embedding cannot become {moved.dtype} on {moved.device}: its rows are "
                "float32 on the CPU; move the other modules one by one"
            )
        weight = self._parameters.pop("weight")
        try:
            super()._apply(fn, recurse)
        finally:
            self._parameters["weight"] = weight
        return self

    # ------------------------------------------------------------------ state

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Put the table as it is: DTensors over its memory, and a few bytes for the rest."""
        state = self.table.state()
        for name, array in _arrays_of(state).items():
            destination[prefix + name] = _as_dtensor(array, self.table)
        destination[prefix + "weight.clock"] = _packed_clock(state)

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
            _, error = attempt(lambda: self._load_local(state_dict, prefix))
            if error is not None:
                error_msgs.append(f"{prefix}weight: {error}")

    def _load_local(self, state_dict: Any, prefix: str) -> None:
        saved = _unpacked_clock(state_dict[prefix + "weight.clock"])
        own = self.table.state()
        rule = own.rule if saved.rule is None else saved.rule
        slots = saved.rule.slot_names if saved.rule else ()
        if slots and (own.rule is None or own.rule.slot_names != slots):
            raise ValueError(
                f"the checkpoint has slots {slots}, and the table none of them; make the optimizer "
                "before you load"
            )
        for name, array in _arrays_of(own).items():
            loaded = state_dict[prefix + name].to_local().numpy()
            if loaded.ctypes.data != array.ctypes.data:
                array[...] = loaded
        local = HostStore.from_state(
            TableState(
                weights=own.weights,
                slots=own.slots,
                row_states=own.row_states,
                step_history=saved.step_history,
                steps=saved.steps,
                rule=rule,
                slots_pristine=saved.slots_pristine,
                scratch=own.scratch,
            )
        )
        local.version = self.table.store.version + 1  # what was computed before is out of date
        self.table.store.local = local
        self.weight.resumes = True


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
        process_group: of `torch.distributed`; the default group unless given.
        average: divide gradients by the number of processes, as `DistributedDataParallel` divides
            those of the dense parameters: the loss of a process is the mean over its own batch,
            and the step is that of the mean over all. With False they are summed. With SGD of
            rate 1, and a gradient of 0.5 for a row from each of 2 processes, the row moves by 0.5
            (average=True) or by 1.0 (average=False).
        sums, parts: see `rowwise.sharded.ShardedTable`.
        max_norm, scale_grad_by_freq, sparse: refused, unless they are what they are by default.

    Raises:
        RuntimeError: there is no process group.
        RankMismatchError: processes give other arguments.
        ValueError: see `rowwise.sharded.ShardedTable`; an argument that is refused.

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
        _weight: torch.Tensor | None = None,
        _freeze: bool = False,
        *,
        process_group: Any = None,
        average: bool = True,
        sums: Sums = "batch",
        parts: int = 64,
        untrained: Untrained = "as-is",
    ) -> None:
        torch.nn.Embedding.__init__(
            self, num_embeddings, embedding_dim, padding_idx, norm_type=norm_type, device="meta"
        )
        self._build(
            num_embeddings,
            embedding_dim,
            process_group=process_group,
            average=average,
            sums=sums,
            parts=parts,
            untrained=untrained,
            values=_weight,
            freeze=_freeze,
            refused={
                "max_norm": max_norm,
                "scale_grad_by_freq": scale_grad_by_freq,
                "sparse": sparse,
            },
        )

    def _adopt(
        self,
        table: ShardedTable,
        padding_idx: int | None = None,
        average: bool = True,
        untrained: Untrained = "as-is",
        **sharing: Any,
    ) -> None:
        torch.nn.Embedding.__init__(self, *table.shape, padding_idx, device="meta")
        self.untrained = untrained
        self.weight = ShardedWeight(table, average)
        self.weight.resumes = True

    def _ids_of(self, input: torch.Tensor) -> Any:
        ids, _ = self._ids(input)
        return ids

    @torch.compiler.disable
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the vectors (..., D) of the rows input (...,); every process calls it."""
        ids, error = self._ids(input)
        vectors: torch.Tensor = _Lookup.apply(self.weight, ids, error, self.padding_idx)
        if self.training or self.untrained == "as-is":
            return vectors
        mask, default = self.table.untrained_mask_and_default(ids, self.untrained)
        if default is None:
            return vectors
        return torch.where(torch.from_numpy(mask)[..., None], torch.from_numpy(default), vectors)


class ShardedEmbeddingBag(_Sharded, torch.nn.EmbeddingBag):
    """`rowwise.torch.EmbeddingBag` with its rows spread over the processes of a group.

    Each process pools its bags itself, from the distinct vectors of its batch. The gradient of a
    bag goes once to each process that has rows of it.

    Args:
        num_embeddings, embedding_dim, mode, include_last_offset, padding_idx: see `EmbeddingBag`.
        process_group, average, sums, parts: see `ShardedEmbedding`.
        max_norm, scale_grad_by_freq, sparse: refused, unless they are what they are by default.

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
        _weight: torch.Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        process_group: Any = None,
        average: bool = True,
        sums: Sums = "batch",
        parts: int = 64,
    ) -> None:
        self._init_torch(num_embeddings, embedding_dim, mode, include_last_offset, padding_idx)
        self._build(
            num_embeddings,
            embedding_dim,
            process_group=process_group,
            average=average,
            sums=sums,
            parts=parts,
            untrained="as-is",
            values=_weight,
            freeze=False,
            refused={
                "max_norm": max_norm,
                "scale_grad_by_freq": scale_grad_by_freq,
                "sparse": sparse,
            },
        )

    def _init_torch(
        self, rows: int, dim: int, mode: str, include_last_offset: bool, padding_idx: int | None
    ) -> None:
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f"mode={mode!r} is not 'sum', 'mean' or 'max'")
        torch.nn.EmbeddingBag.__init__(
            self,
            rows,
            dim,
            mode=mode,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
            device="meta",
        )

    def _adopt(
        self,
        table: ShardedTable,
        mode: str = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        average: bool = True,
        **sharing: Any,
    ) -> None:
        self._init_torch(*table.shape, mode, include_last_offset, padding_idx)
        self.untrained = "as-is"
        self.weight = ShardedWeight(table, average)
        self.weight.resumes = True

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
        ids, bounds, weights = parsed
        if self.mode == "max":
            return _PoolMax.apply(self.weight, ids, bounds)
        divisors = bounds.diff().clamp(min=1)[:, None] if self.mode == "mean" else None
        return _Pool.apply(self.weight, ids, bounds, weights, divisors)

    def _ids_of(
        self,
        input: torch.Tensor,
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> Any:
        # What is wrong is said on every rank, when the batch itself is looked up.
        parsed, _ = attempt(lambda: self._bags(input, offsets, per_sample_weights))
        return np.empty(0, np.int64) if parsed is None else parsed[0].numpy()

    def _bags(
        self, ids: torch.Tensor, offsets: torch.Tensor | None, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return ids (n,) int64, bounds (B + 1,) from 0 to n, and weights (n,) or None.

        Raises:
            ValueError: shapes, offsets or weights that do not fit.
        """
        if weights is not None and (self.mode != "sum" or weights.shape != ids.shape):
            raise ValueError("per_sample_weights need mode='sum' and the shape of the ids")
        if ids.dim() == 2 and offsets is None:
            bounds = torch.arange(ids.shape[0] + 1) * ids.shape[1]
        elif ids.dim() == 1 and offsets is not None and offsets.dim() == 1:
            bounds = offsets.long()
            if not self.include_last_offset:
                bounds = torch.cat([bounds, torch.tensor([len(ids)])])
            ends = bool(len(bounds)) and bounds[0] == 0 and bounds[-1] == len(ids)
            if not ends or bool((bounds.diff() < 0).any()):
                raise ValueError(f"offsets must ascend from 0 to {len(ids)}, the number of ids")
        else:
            raise ValueError("ids must be (B, N) without offsets, or (n,) with offsets (B,)")
        ids = whole_ids(ids).reshape(-1)
        weights = None if weights is None else weights.float().reshape(-1)
        if self.padding_idx is None:
            return ids, bounds, weights
        kept = ids != self.padding_idx
        before = torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0)])
        return ids[kept], before[bounds], None if weights is None else weights[kept]


# ---------------------------------------------------------------------- autograd


class _Lookup(torch.autograd.Function):
    """vectors[..., :] = rows[ids[...], :], from all ranks; its gradient stays here until a step."""

    @staticmethod
    def forward(
        ctx: Any, weight: ShardedWeight, ids: Any, error: Exception | None, frozen: int | None
    ) -> Any:
        found, inverse = weight.table.store.fetch(ids, error)
        vectors = empty(ids.shape, weight.table.dim)
        if ids.size:
            np.take(found, inverse, axis=0, out=vectors.numpy().reshape(ids.size, -1), mode="clip")
        ctx.weight, ctx.ids, ctx.frozen = weight, ids.reshape(-1), frozen
        return vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        ids, dim = ctx.ids, ctx.weight.table.dim
        values = gradient.reshape(-1, dim).contiguous().numpy()
        if ctx.frozen is not None:
            moving = ids != ctx.frozen
            ids, values = ids[moving], values[moving]
        return _to_weight(ctx, RowGradient(ids, values)), None, None, None


class _Pool(torch.autograd.Function):
    """pooled[b, :] = sum of weights[i] * rows[ids[i], :] over bag b, divided by divisors[b]."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: ShardedWeight,
        ids: torch.Tensor,
        bounds: torch.Tensor,
        weights: torch.Tensor | None,
        divisors: torch.Tensor | None,
    ) -> Any:
        factors = None if weights is None else weights.detach().contiguous().numpy()
        ctx.bags = Bags(ids.numpy(), bounds.numpy(), factors)
        ctx.store, ctx.here = weight.table.store.fetch_bags(ctx.bags)
        pooled = empty((len(bounds) - 1,), weight.table.dim)
        ctx.store.gather_bags(ctx.here, pooled.numpy())
        if divisors is not None:
            pooled /= divisors
        ctx.weight, ctx.divisors = weight, divisors
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        own = gradient.clone() if ctx.divisors is None else gradient / ctx.divisors
        values = own.contiguous().numpy()
        of_rows = of_weights = None
        if ctx.needs_input_grad[0]:
            of_rows = _to_weight(ctx, ctx.weight.table.store.bag_gradient(ctx.bags, values))
        if ctx.needs_input_grad[3]:
            of_weights = torch.from_numpy(ctx.store.bag_weight_gradient(ctx.here, values))
        return of_rows, None, None, of_weights, None


class _PoolMax(torch.autograd.Function):
    """pooled[b, d] = the largest rows[ids[i], d] over the positions i of bag b."""

    @staticmethod
    def forward(ctx: Any, weight: ShardedWeight, ids: torch.Tensor, bounds: torch.Tensor) -> Any:
        ctx.bags = Bags(ids.numpy(), bounds.numpy())
        store, here = weight.table.store.fetch_bags(ctx.bags)
        pooled = empty((len(bounds) - 1,), weight.table.dim)
        ctx.argmax = np.empty(pooled.shape, np.int64)
        store.gather_bags_max(here, pooled.numpy(), ctx.argmax)
        ctx.weight = weight
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        values = gradient.contiguous().numpy()
        store = ctx.weight.table.store
        return _to_weight(ctx, store.bag_max_gradient(ctx.bags, ctx.argmax, values)), None, None


def _to_weight(ctx: Any, gradient: Any) -> torch.Tensor:
    """Hand a gradient to the weight, and torch one without rows; or torch the rows themselves."""
    weight = ctx.weight
    try:
        accumulates = torch._C._will_engine_execute_node(ctx.next_functions[0][0])
    except RuntimeError:  # torch.autograd.grad, which hands it to the caller
        accumulates = False
    if accumulates:
        # Sorted now, and so copied: the gradient's memory may be somebody else's.
        weight.add_pass(
            gradient
            if not isinstance(gradient, RowGradient)
            else weight.table.store.parcel(gradient)
        )
        return no_rows(weight.table.shape)
    rows = weight.table.store.row_gradient(gradient)
    return torch.sparse_coo_tensor(
        torch.from_numpy(rows.ids)[None],
        torch.from_numpy(rows.values.copy()),
        weight.table.shape,
        check_invariants=False,
    )


# ---------------------------------------------------------------------- state


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


def _arrays_of(state: TableState) -> dict[str, Any]:
    """Return a rank's arrays of rows, by their names in a state_dict."""
    slots = state.rule.slot_names if state.rule else ()
    return {
        "weight": state.weights,
        **{f"weight.{name}": slot for name, slot in zip(slots, state.slots, strict=True)},
        "weight.states": state.row_states.view(np.int32).reshape(-1, 4),
    }


def _as_dtensor(array: Any, table: ShardedTable) -> Any:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    group = getattr(table.store.exchange, "group", None)
    if group is None:
        raise RuntimeError("state_dict() needs a process group; save the table to a file instead")
    return DTensor.from_local(
        torch.from_numpy(array),
        DeviceMesh.from_group(group, "cpu"),
        [Shard(0)],
        run_check=False,
        shape=torch.Size([table.rows, array.shape[1]]),
        stride=(array.shape[1], 1),
    )


def _packed_clock(state: TableState) -> bytes:
    """Return what of a table's state does not grow with its rows."""
    about = {
        "rule": state.rule.config() if state.rule else None,
        "steps": state.steps,
        "slots_pristine": state.slots_pristine,
    }
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(file, about=text, steps=state.step_history[0], closed=state.step_history[1])
    return file.getvalue()


def _unpacked_clock(data: bytes) -> TableState:
    """Return the state, without rows, that `_packed_clock` was given."""
    with np.load(io.BytesIO(data)) as file:
        about = json.loads(file["about"].tobytes())
        history = file["steps"], file["closed"]
    return TableState(
        weights=np.empty((0, 0), np.float32),
        slots=[],
        row_states=np.empty(0, ROW_STATE),
        step_history=history,
        steps=about["steps"],
        rule=rules.get(about["rule"]),
        slots_pristine=about["slots_pristine"],
    )
