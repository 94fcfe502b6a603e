"""`ShardedDynamicTable`: rows for any ids, over the ranks of a group."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from rowwise._checks import positive
from rowwise.dynamic._batches import (
    IdKind,
    Integers,
    Packed,
    lengths,
    pack,
    pack_strings,
    take,
    unpack,
)
from rowwise.dynamic._index import Evict
from rowwise.dynamic._starts import RowInit, RowStarts
from rowwise.dynamic._table import OnEvict
from rowwise.files._container import Container
from rowwise.rules import Rule
from rowwise.sharded import _file
from rowwise.sharded._call import agree
from rowwise.sharded._exchange import Exchange, all_gather, all_gather_bytes, all_to_all, gather
from rowwise.sharded._id_buckets import BucketChanges, IdBuckets, in_order, owners_of, span_of
from rowwise.sharded._store import attempt, refuse_table
from rowwise.sharded._table import ShardedTable
from rowwise.store import Folder
from rowwise.table import Floats

_ARRAY = "ids."  # how the indexes' arrays are called in the file
_LENGTHS = f"{_ARRAY}lengths"
_RENEWED_AT_ONCE = 1 << 16  # rows


class ShardedDynamicTable:
    """A `DynamicTable` over the ranks of a group, whose result does not depend on their number.

    Ids are spread over buckets by a hash. Each bucket has an index of its own, with an even share
    of the capacity, which counts, admits and evicts by itself; each rank has a run of buckets. The
    result, bit for bit, is that of one rank that is given the batches of all ranks, one after the
    other, in order of ranks.

    Rows lie in `table`, spread as those of every sharded table. All methods are collective but
    properties: every rank calls them, in the same order, and gives an empty batch where it has no
    data. Whatever one rank refuses raises on all of them, and nothing changes on any.

    Args:
        capacity: rows for ids, rounded up to a multiple of the buckets.
        dim, rule: see `rowwise.Table`; the same on every rank, as all other arguments.
        exchange: the group of ranks.
        buckets: in how many buckets ids are counted, admitted and evicted; at least as many as
            there will ever be ranks. More of them cost more calls a batch, fewer spread ids less
            evenly over ranks.
        ids, admit_after, evict, ttl, unknown_rows, evict_share, in_flight: see
            `rowwise.dynamic.IdIndex`; shares are of a bucket.
        init, init_scale, seed: see `rowwise.dynamic.DynamicTable`; without a seed that of rank 0.
        on_evict: called on every rank with the ids (n,) that lost their rows in its buckets, and
            the vectors (n, dim) they had, after the change. All ranks give one, or none does. An
            error that it raises on one rank is raised by `observe` on all of them.
        scratch, sums, parts: see `ShardedTable`.

    Attributes:
        table: the rows, `capacity + unknown_rows`; `observe` returns them.

    Raises:
        RankMismatchError: ranks give other arguments.
        ValueError: an argument out of its bounds; fewer buckets than ranks.

    Example:
        >>> from rowwise.sharded import ThreadExchange
        >>> [alone] = ThreadExchange.group(1)
        >>> table = ShardedDynamicTable(100, 2, "sgd", exchange=alone, buckets=4, init="zeros")
        >>> ids = [7_000_000_000, -1, 7_000_000_000]
        >>> rows = table.observe(ids)
        >>> table.update(ids, np.ones((3, 2)), learning_rate=0.5)
        >>> table.lookup([7_000_000_000, 8]).tolist()
        [[-1.0, -1.0], [0.0, 0.0]]
        >>> table.has_row([-1, 8]).tolist()
        [True, False]
    """

    table: ShardedTable

    def __init__(
        self,
        capacity: int,
        dim: int,
        rule: Rule | str | None = None,
        *,
        exchange: Exchange,
        buckets: int = 64,
        ids: IdKind = "integers",
        admit_after: int = 1,
        evict: Evict = "lru",
        ttl: int | None = None,
        unknown_rows: int = 1,
        evict_share: float = 0.05,
        in_flight: int = 2,
        init: RowInit = "uniform",
        init_scale: float | None = None,
        seed: int | None = None,
        on_evict: OnEvict | None = None,
        scratch: Folder | None = None,
        sums: Literal["batch", "parts"] = "batch",
        parts: int = 64,
    ) -> None:
        def make() -> tuple[IdBuckets, RowStarts]:
            own = -(-positive("capacity", capacity) // positive("buckets", buckets))
            _check_buckets(buckets, exchange)
            options = {
                "capacity": own,
                "ids": ids,
                "admit_after": admit_after,
                "evict": evict,
                "ttl": ttl,
                "unknown_rows": unknown_rows,
                "evict_share": evict_share,
                "in_flight": in_flight,
            }
            span = span_of(buckets, exchange.rank, exchange.ranks)
            return IdBuckets.new(buckets, span, options), RowStarts.of(init, init_scale, seed)

        made, error = attempt(make)
        if made is None:
            assert error is not None
            refuse_table(exchange, error)
        assert made is not None
        index, starts = made
        table = ShardedTable(
            index.rows,
            dim,
            rule,
            exchange=exchange,
            init="zeros",
            scratch=scratch,
            sums=sums,
            parts=parts,
        )
        self._begin(table, index, starts, 0, on_evict, seed)
        unknown = self.starts.unknown_rows(unknown_rows, dim)
        table.store.write(unknown, np.arange(index.capacity, index.rows))

    def _begin(
        self,
        table: ShardedTable,
        index: IdBuckets,
        starts: RowStarts,
        steps_before: int,
        on_evict: OnEvict | None,
        seed: int | None,
    ) -> None:
        exchange = table.store.exchange
        drawn = all_gather(exchange, np.array([starts.seed], np.uint64))[0, 0]
        self.table, self.index = table, index
        self.starts = starts if seed is not None else replace(starts, seed=int(drawn))
        self._steps_before, self._on_evict = steps_before, on_evict
        arguments = {**self._about(), "on_evict": on_evict is not None}
        table.store.agree_on({"kind": type(self).__name__, **arguments})

    def _about(self) -> dict[str, Any]:
        """Return what the file says of ids, but for the arrays."""
        return {
            "buckets": self.index.buckets,
            "index": self.index.indexes[0].config(),
            "starts": asdict(self.starts),
            "steps_before": self._steps_before,
        }

    # ------------------------------------------------------------------ reading

    @property
    def capacity(self) -> int:
        """Number of rows for ids."""
        return self.index.capacity

    @property
    def dim(self) -> int:
        """Length of a row's vector."""
        return self.table.dim

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self._steps_before + self.table.steps

    @property
    def nbytes(self) -> int:
        """Bytes of rows, slots, bookkeeping and indexes on this rank."""
        return self.table.nbytes + self.index.nbytes

    @property
    def on_evict(self) -> OnEvict | None:
        """Function called with the ids that lost their rows on this rank, and their vectors."""
        return self._on_evict

    def find(self, ids: Any) -> Integers:
        """Return the rows (...,) of ids (...,), unknown rows for those without one of their own.

        Raises:
            TypeError, ValueError: ids of the other kind, or no ids, on any rank.
        """
        batch, error = attempt(lambda: pack(ids, self._kind))
        packed, shape = batch or (self._no_ids(), (0,))
        inverse: Any = slice(None)
        if isinstance(packed, np.ndarray):
            packed, inverse = np.unique(packed, return_inverse=True)
        with self.table.store.collective("a search for ids"):
            asked = self._ask("find", packed, error)
            return asked.answer(self.index.find(asked.ids))[inverse].reshape(shape)

    def lookup(self, ids: Any) -> Floats:
        """Return the present vectors (..., dim) of ids (...,); nothing changes.

        Raises:
            TypeError, ValueError: see `find`.
        """
        return self.table.lookup(self.find(ids))

    def pool(
        self, ids: Any, offsets: Any = None, weights: Any = None, combiner: str = "mean"
    ) -> Floats:
        """Reduce bags of ids to one vector each; see `rowwise.Table.pool`."""
        return self.table.pool(self.find(ids), offsets, weights, combiner)

    def has_row(self, ids: Any) -> NDArray[np.bool_]:
        """Return whether ids (...,) have a row of their own.

        Raises:
            TypeError, ValueError: see `find`.
        """
        return self.find(ids) < self.capacity

    def ids(self) -> NDArray[Any]:
        """Return all ids that have a row, on every rank."""
        self._agree(1)
        return self._gathered(self.index.ids())

    def evictions(self) -> Integers:
        """Return the evictions so far of each bucket: a mark in time for `evicted_since`."""
        own = self.index.evictions()
        padded = np.full(-(-self.index.buckets // self._exchange.ranks) + 1, -1)
        padded[: len(own)] = own
        self._agree(2)
        with self.table.store.collective("a count of evictions"):
            whole = all_gather(self._exchange, padded).reshape(-1)
        return whole[whole >= 0]

    def evicted_since(self, marks: Integers) -> NDArray[Any]:
        """Return the ids that lost their rows since `evictions` was marks, and have none now.

        Raises:
            LookupError: more ids went since then than a bucket remembers, its capacity.
            ValueError: marks that lie in the future, or are of another number of buckets.
        """

        def own() -> NDArray[Any]:
            if np.shape(marks) != (self.index.buckets,):
                raise ValueError(
                    f"marks are those of {self.index.buckets} buckets, as evictions() returns "
                    f"them, not {np.shape(marks)}"
                )
            return self.index.evicted_since(marks[self.index.first :][: len(self.index.indexes)])

        ids, error = attempt(own)
        self._agree(3, error)
        assert ids is not None
        return self._gathered(ids)

    # ------------------------------------------------------------------ training

    def observe(self, ids: Any) -> Integers:
        """Count the batches of all ranks, and give rows to those of their ids due one.

        Args:
            ids: (...,) of this rank's batch, each position a sighting.

        Returns:
            rows (...,) of `table`, for `table.lookup`, `table.prefetch` and `table.update`. They
            are these ids' for the next `in_flight` updates.

        Raises:
            TypeError, ValueError: ids of the other kind, or no ids, on any rank. Nothing has
                changed then.
        """
        batch, error = attempt(lambda: pack(ids, self._kind))
        packed, shape = batch or (self._no_ids(), (0,))
        with self.table.store.collective("an observation of ids"):
            asked = self._ask("observe", packed, error)
            changes = self.index.observe(asked.ids, self.steps)
            rows = asked.answer(changes.rows).reshape(shape)
            vectors = self._start_rows(changes)
        if self._on_evict is not None and vectors is not None:
            error = None
            if len(changes.evicted):
                _, error = attempt(partial(self._on_evict, changes.evicted, vectors))
            self.table.store.agree("observe", error)
        return rows

    def update(
        self,
        ids: Any,
        gradients: Any,
        learning_rate: float | None = None,
        *,
        iteration: int | None = None,
        check_finite: bool = True,
    ) -> None:
        """Make one step with the gradients of all ranks; see `ShardedTable.update`.

        `table.update(rows, gradients)` with the rows that `observe` returned saves an exchange.

        Raises:
            TypeError, ValueError, RankMismatchError: see there, and `find`.
        """
        self.table.update(
            self.find(ids),
            gradients,
            learning_rate,
            iteration=iteration,
            check_finite=check_finite,
        )

    def _start_rows(self, changes: BucketChanges) -> Floats | None:
        """Start the rows that were given to ids.

        Returns:
            the vectors of the ids evicted here; None where no rank evicted any, or none asks.
        """
        store, exchange = self.table.store, self._exchange
        layout = store.layout
        position = layout.positions(changes.admitted_rows)
        holder = position // layout.block
        counts = store._no_counts()
        order, counts[:, 0] = in_order(holder, exchange.ranks)
        counts[:, 1] = len(order)
        counts[:, 2] = len(changes.evicted) if self._on_evict is not None else 0
        came = agree(exchange, store._call("renew"), counts)
        vectors = None
        if came[:, 2].any():
            found, wanted = store._fetch(changes.evicted_rows, store._vectors, 0)
            vectors = found[wanted.inverse]
        if came[:, 1].any():
            rows = position - holder * layout.block
            pairs = np.stack([rows, changes.admitted_keys], axis=1)[order]
            mine = all_to_all(exchange, pairs, counts[:, 0].tolist(), came[:, 0].tolist())
            for start in range(0, len(mine), _RENEWED_AT_ONCE):
                rows, keys = np.ascontiguousarray(mine[start : start + _RENEWED_AT_ONCE].T)
                store.local.renew(rows, self.starts.rows(keys, self.dim))
        return vectors

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write rows, slots, ids and counts to one file, all ranks at once.

        The file is the same, byte for byte, for any number of ranks, and opens on any number. It
        appears whole or not at all. `Table.load` opens its rows alone.

        Raises:
            OSError: there is no room, or no permission; a file that was there stays.
            ExchangeError: a rank is gone; a file that was there stays.
        """
        _file.save(
            self.table.store,
            self.table.state(),
            path,
            arrays=self._arrays_on_first(),
            about={"ids": json.dumps(self._about())},
        )

    def _arrays_on_first(self) -> dict[str, Any]:
        """Return the arrays of all buckets on rank 0, and what they are like on the others."""
        arrays, sizes = self.index.state()
        named = {f"{_ARRAY}{name}": array for name, array in arrays.items()}
        named[_LENGTHS] = sizes.reshape(-1)
        self.table.store.agree("save")
        with self.table.store.collective("a save"):
            own = np.array([len(array) for array in named.values()], np.int64)
            totals = all_gather(self._exchange, own).sum(axis=0).tolist()
            gathered: dict[str, Any] = {}
            for (name, array), total in zip(named.items(), totals, strict=True):
                whole = gather(self._exchange, array)
                gathered[name] = _file.Spec(array.dtype, (total,)) if whole is None else whole
        return gathered

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        exchange: Exchange,
        on_evict: OnEvict | None = None,
        scratch: Folder | None = None,
        sums: Literal["batch", "parts"] = "batch",
        parts: int = 64,
    ) -> Self:
        """Read what `save` wrote on any number of ranks, and go on to the same bits.

        Args:
            path: of the file, which every rank must see.
            exchange, on_evict, scratch, sums, parts: see the class.

        Raises:
            FileNotFoundError, DamagedFileError: see `rowwise.Table.load`; on every rank.
        """

        def ids_of(file: Container) -> tuple[int, IdBuckets | None, RowStarts, int]:
            about = json.loads(file.about.get("ids", "{}"))
            if "buckets" not in about:
                raise ValueError("it holds no ids by bucket, as ShardedDynamicTable.save writes")
            buckets = positive("buckets", about["buckets"])
            starts = RowStarts.of(**about["starts"])
            before = int(about["steps_before"])
            if buckets < exchange.ranks:  # the file is as it should be
                return buckets, None, starts, before
            names = [name.removeprefix(_ARRAY) for name in file.entries if name.startswith(_ARRAY)]
            names.remove("lengths")
            index = IdBuckets.from_state(
                buckets,
                span_of(buckets, exchange.rank, exchange.ranks),
                about["index"],
                names,
                file.read(_LENGTHS).reshape(buckets, len(names)),
                lambda name: file.read(f"{_ARRAY}{name}"),
            )
            if index.rows != file.entries["weights"].shape[0]:
                raise ValueError(f"ids of {index.rows} rows beside another number of rows")
            return buckets, index, starts, before

        store, state, more = _file.load(
            path, exchange=exchange, scratch=scratch, also=ids_of, sums=sums, parts=parts
        )
        assert more is not None
        buckets, index, starts, steps_before = more
        _check_buckets(buckets, exchange)
        assert index is not None
        table = cls.__new__(cls)
        sharded = ShardedTable.of(store, state)
        table._begin(sharded, index, starts, steps_before, on_evict, starts.seed)
        return table

    def ids_state(self) -> bytes:
        """Return the ids of all buckets, on every rank, for a checkpoint that has the rows."""
        arrays, sizes = self.index.state()
        self._agree(4)
        with self.table.store.collective("reading ids"):
            whole = {
                name: np.frombuffer(
                    b"".join(all_gather_bytes(self._exchange, array.tobytes())), array.dtype
                )
                for name, array in {**arrays, "lengths": sizes.reshape(-1)}.items()
            }
        about = json.dumps({**self._about(), "steps": self.steps}).encode()
        file = io.BytesIO()
        np.savez(file, about=np.frombuffer(about, np.uint8), **whole)  # type: ignore[arg-type]
        return file.getvalue()

    def load_ids_state(self, data: bytes) -> None:
        """Take what `ids_state` returned, whose rows were brought here by other means.

        Raises:
            ValueError: ids of other buckets, or damaged ones. Nothing has changed then.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
        about, sizes = json.loads(arrays.pop("about").tobytes()), arrays.pop("lengths")
        buckets, index = self.index.buckets, self.index.indexes[0]
        if about["buckets"] != buckets:
            raise ValueError(
                f"the saved ids are of buckets={about['buckets']}, the table's of {buckets}; make "
                f"the table with buckets={about['buckets']}"
            )
        index.check_fits(about["index"])
        starts = RowStarts.of(**about["starts"])
        self.index = IdBuckets.from_state(
            buckets,
            span_of(buckets, self._exchange.rank, self._exchange.ranks),
            index.config(),
            list(arrays),
            sizes.reshape(buckets, len(arrays)),
            lambda name: arrays[name],
        )
        self.starts = starts
        self._steps_before = about["steps"] - self.table.steps

    def __getstate__(self) -> NoReturn:
        raise TypeError("a sharded table cannot be copied or pickled; save it to a file")

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.__getstate__()

    def __repr__(self) -> str:
        return f"ShardedDynamicTable({self.table!r}, {self.index.buckets} buckets)"

    # ------------------------------------------------------------------ inner parts

    @property
    def _exchange(self) -> Exchange:
        return self.table.store.exchange

    @property
    def _kind(self) -> IdKind:
        return self.index.indexes[0].kind

    def _agree(self, form: int, error: Exception | None = None) -> None:
        """Wait for all ranks to make one of the calls that read ids; `form` says which."""
        store = self.table.store
        with store.collective("reading ids"):
            call = replace(store._call("find"), form=form)
            agree(self._exchange, call, store._no_counts(), error)

    def _no_ids(self) -> Packed:
        return pack_strings([]) if self._kind == "strings" else np.empty(0, np.int64)

    def _ask(self, kind: str, ids: Packed, error: Exception | None) -> _Asked:
        """Send every id to the rank that has its bucket."""
        exchange, store = self._exchange, self.table.store
        owner = owners_of(ids, self.index.buckets, exchange.ranks)
        counts = store._no_counts()
        order, counts[:, 0] = in_order(owner, exchange.ranks)
        ordered = take(ids, order)
        if isinstance(ordered, tuple):
            ends = np.append(0, np.cumsum(counts[:, 0]))
            counts[:, 1] = np.diff(ordered[1][ends])
        came = agree(exchange, store._call(kind), counts, error)
        sent, there = counts[:, 0].tolist(), came[:, 0].tolist()
        if not isinstance(ordered, tuple):
            received: Packed = all_to_all(exchange, ordered, sent, there)
        else:
            sizes = all_to_all(exchange, lengths(ordered).astype(np.uint32), sent, there)
            bytes_sent, bytes_there = counts[:, 1].tolist(), came[:, 1].tolist()
            text = all_to_all(exchange, ordered[0], bytes_sent, bytes_there)
            received = text, np.append(0, np.cumsum(sizes, dtype=np.int64))
        return _Asked(exchange, received, there, sent, order, self.index.rows)

    def _gathered(self, own: NDArray[Any]) -> NDArray[Any]:
        """Return the ids of all ranks, one after the other, on every rank."""
        packed, _ = pack(own, self._kind)
        parts = packed if isinstance(packed, tuple) else (packed,)
        with self.table.store.collective("reading ids"):
            whole = [
                [np.frombuffer(data, part.dtype) for data in all_gather_bytes(self._exchange, raw)]
                for part, raw in ((part, part.tobytes()) for part in parts)
            ]
        if len(whole) == 1:
            return np.concatenate(whole[0])
        return np.concatenate([unpack(strings) for strings in zip(*whole, strict=True)])


class _Asked:
    """The ids that the ranks ask this one for, and the way back for the answer."""

    def __init__(
        self,
        exchange: Exchange,
        ids: Packed,
        came: list[int],
        sent: list[int],
        order: Integers,
        rows: int,
    ) -> None:
        self.ids = ids
        self._dtype: Any = np.uint32 if rows <= 2**32 else np.int64
        self._exchange, self._came, self._sent, self._order = exchange, came, sent, order

    def answer(self, rows: Integers) -> Integers:
        """Send the row of each id, and return those (n,) of this rank's own ids."""
        answered = np.empty(len(self._order), np.int64)
        rows = rows.astype(self._dtype, copy=False)
        answered[self._order] = all_to_all(self._exchange, rows, self._came, self._sent)
        return answered


def _check_buckets(buckets: int, exchange: Exchange) -> None:
    if buckets < exchange.ranks:
        raise ValueError(
            f"buckets={buckets} are fewer than the {exchange.ranks} ranks, of which each has some"
        )
