"""A table for any ids: an index in front of a table's rows."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from rowwise.dynamic._batches import IdKind, Integers
from rowwise.dynamic._index import Evict, IdIndex
from rowwise.dynamic._starts import RowInit, RowStarts
from rowwise.files._container import Container
from rowwise.rules import Rule
from rowwise.store import Folder, TableState
from rowwise.store._disk import DiskStore, check_copyable
from rowwise.store._locks import new_lock
from rowwise.store._table_file import load_state, save_state
from rowwise.table import Floats, Table, cached_bytes

T = TypeVar("T")
OnEvict = Callable[[NDArray[Any], Floats], None]

_RENEWED_AT_ONCE = 1 << 16  # rows
_ID_ARRAY = "ids."  # how the index's arrays are called in the file
_TRIES = 8


@dataclass(frozen=True)
class DynamicState:
    """The whole of a dynamic table, for a file or a copy.

    Attributes:
        table: the rows' state; the arrays are the table's own.
        config: of the index.
        ids: the index's arrays.
        starts: what rows start with.
        steps_before: steps made before the table's own count began.
    """

    table: TableState
    config: dict[str, Any]
    ids: dict[str, NDArray[Any]]
    starts: RowStarts
    steps_before: int = 0


class DynamicTable:
    """A table whose ids are any 64-bit integers, or any strings, straight from logs.

    It has `capacity` rows for ids, and takes no more memory however many ids come by. `observe`
    gives rows to the ids of a batch, and takes them from ids that stay away: see `IdIndex`. From
    admission to eviction a row has the numbers of dense training, to the bits of a table that
    never evicted. An id without a row reads a row that it shares with others, and trains it.

    `lookup` counts nothing, and any number of threads may look up at once. A table on a disk may
    fail to start the rows that `observe` gave to ids; the next call of any kind does that first.

    Args:
        capacity: rows for ids.
        dim: length of a row's vector.
        rule: see `rowwise.Table`.
        ids, admit_after, evict, ttl, unknown_rows, evict_share, in_flight: see `IdIndex`.
        init: what a row starts with when an id gets it: "uniform" in -init_scale..init_scale,
            "normal" of deviation init_scale, or "zeros".
        init_scale: see init; 0.05 unless given.
        seed: of init. A row's start depends on the seed and the id alone, wherever and whenever it
            gets a row.
        on_evict: called with the ids (n,) that lost their rows, and the vectors (n, dim) they had,
            after the change. An error that it raises goes to the caller of `observe`.
        scratch, memory: see `rowwise.Table`; the index stays in memory.

    Attributes:
        table: the rows themselves, capacity + unknown_rows; unknown rows come last.
        index: from ids to rows.
        starts: what rows start with.
        on_evict: see above; it may be set, and is not saved.

    Raises:
        TypeError, ValueError, MemoryError, OSError: see `IdIndex` and `rowwise.Table`.

    Example:
        >>> table = DynamicTable(1000, 2, "sgd", ids="strings", init="zeros")
        >>> rows = table.observe(["tea", "cup", "tea"])
        >>> table.update(["tea", "cup", "tea"], np.ones((3, 2)), learning_rate=0.5)
        >>> table.lookup(["tea", "pot"])
        array([[-1., -1.],
               [ 0.,  0.]], dtype=float32)
        >>> table.has_row(["tea", "pot"]).tolist()
        [True, False]
    """

    def __init__(
        self,
        capacity: int,
        dim: int,
        rule: Rule | str | None = None,
        *,
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
        memory: int | str | None = None,
    ) -> None:
        index = IdIndex(
            capacity,
            ids=ids,
            admit_after=admit_after,
            evict=evict,
            ttl=ttl,
            unknown_rows=unknown_rows,
            evict_share=evict_share,
            in_flight=in_flight,
        )
        starts = RowStarts.of(init, init_scale, seed)
        table = Table(index.rows, dim, rule, init="zeros", scratch=scratch, memory=memory)
        table.store.write(
            starts.unknown_rows(index.unknown_rows, dim), np.arange(index.capacity, index.rows)
        )
        self._begin(table, index, starts, 0, on_evict)

    @classmethod
    def over(
        cls,
        table: Table,
        index: IdIndex,
        starts: RowStarts,
        *,
        steps: int = 0,
        on_evict: OnEvict | None = None,
    ) -> Self:
        """Put an index in front of the rows of a table that is there; they stay what they are.

        Args:
            table, index: of as many rows as each other.
            starts: what rows start with.
            steps: updates that count as made.
            on_evict: see the class.
        """
        dynamic = cls.__new__(cls)
        dynamic._begin(table, index, starts, steps - table.steps, on_evict)
        return dynamic

    def _begin(
        self,
        table: Table,
        index: IdIndex,
        starts: RowStarts,
        steps_before: int,
        on_evict: OnEvict | None = None,
    ) -> None:
        self.on_evict = on_evict
        self.table, self.index, self.starts = table, index, starts
        self._steps_before = steps_before
        self._writing = new_lock()
        self._moves = 0  # odd while rows change their ids
        self._made: list[Any] = []  # changes of ids whose rows have not yet started anew

    # ------------------------------------------------------------------ reading

    def lookup(self, ids: Any) -> Floats:
        """Return the present vectors (..., dim) of ids (...,); nothing changes.

        An id without a row gives the vector of its unknown row; `has_row` tells.

        Raises:
            TypeError, ValueError: ids of the other kind, or no ids.
            OSError: the disk of the table fails.
        """
        return self._reading(lambda: self.table.lookup(self.index.find(ids)))

    def find(self, ids: Any) -> Integers:
        """Return the rows (...,) of ids (...,), unknown rows for those without one of their own.

        Raises:
            TypeError, ValueError, OSError: see `lookup`.
        """
        return self._reading(lambda: self.index.find(ids))

    def pool(
        self, ids: Any, offsets: Any = None, weights: Any = None, combiner: str = "mean"
    ) -> Floats:
        """Reduce bags of ids to one vector each; see `rowwise.Table.pool`."""
        return self._reading(
            lambda: self.table.pool(self.index.find(ids), offsets, weights, combiner)
        )

    def has_row(self, ids: Any) -> NDArray[np.bool_]:
        """Return whether ids (...,) have a row of their own.

        Raises:
            TypeError, ValueError: ids of the other kind, or no ids.
        """
        return self.index.has_row(ids)

    def __len__(self) -> int:
        """Return how many ids have a row."""
        return len(self.index)

    # ------------------------------------------------------------------ training

    def observe(self, ids: Any) -> Integers:
        """Count a batch that is about to be trained on, and give rows to those of its ids due one.

        Rows may be taken from other ids for that, never from those of this batch, nor from those
        observed within the last `in_flight` updates.

        Args:
            ids: (...,), each position a sighting.

        Returns:
            rows (...,) of `table`. They are these ids' for the next `in_flight` updates: whoever
            observes one batch while another trains goes on with
            `table.table.update(rows, gradients)`.

        Raises:
            TypeError, ValueError: ids of the other kind, or no ids. Nothing has changed then.
            OSError: the disk of the table fails. The batch may have been counted; `on_evict` has
                been called unless the evicted vectors could not be read.
        """
        with self._writing:
            evicted = None
            self._moves += 1
            try:
                try:
                    changes = self.index.observe(ids, self.steps, self._made)
                    if self.on_evict is not None and len(changes.evicted):
                        evicted = self.table.lookup(changes.evicted_rows)
                finally:  # Ctrl-C comes as an exception after the ids have changed, too
                    self._start_rows()
            finally:
                self._moves += 1
                if self.on_evict is not None and evicted is not None:
                    self.on_evict(changes.evicted, evicted)
            return changes.rows

    def check_batch(self, ids: Any) -> None:
        """Refuse a batch whose step memory has no room for, before an id loses its row for it.

        Raises:
            MemoryError: with the number of distinct rows, of a table on a disk.
            TypeError, ValueError: ids of the other kind, or no ids.
        """
        store = self.table.store
        if not isinstance(store, DiskStore):
            return
        array = ids if isinstance(ids, np.ndarray) else np.asarray(ids, dtype=object)
        most = store.rows_in_memory
        if array.size > most and len(set(array.ravel().tolist())) > most:
            # Not every id gets a row. Which do, a copy of the index tells.
            store.check_batch(copy.deepcopy(self.index).observe(ids, self.steps).rows)

    def update(
        self,
        ids: Any,
        gradients: Any,
        learning_rate: float | None = None,
        *,
        iteration: int | None = None,
        check_finite: bool = True,
    ) -> None:
        """Make one step of the rule over all rows, at the cost of the batch's.

        The gradients of ids without a row go to their unknown rows. See `rowwise.Table.update`.

        Raises:
            TypeError, ValueError: see `rowwise.Table.update`. Nothing has changed then.
        """
        with self._writing:
            self._start_rows()
            self.table.update(
                self.index.find(ids),
                gradients,
                learning_rate,
                iteration=iteration,
                check_finite=check_finite,
            )

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self._steps_before + self.table.steps

    @property
    def evictions(self) -> int:
        """Number of evictions so far: a mark in time for `evicted_since`."""
        return self.index.evictions

    def evicted_since(self, mark: int) -> NDArray[Any]:
        """Return the ids that lost their rows since `evictions` was `mark`, and have none now.

        Raises:
            LookupError, ValueError: see `IdIndex.evicted_since`.
        """
        with self._writing:
            return self.index.evicted_since(mark)

    @property
    def nbytes(self) -> int:
        """Bytes of rows, slots, bookkeeping and index."""
        return self.table.nbytes + self.index.nbytes

    def __repr__(self) -> str:
        return f"DynamicTable({self.table!r}, {self.index!r})"

    # ------------------------------------------------------------------ files and copies

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write rows, slots, ids and counts to one file, which appears whole or not at all.

        A table that is loaded goes on to the same bits. See `rowwise.Table.save`.

        Raises:
            OSError: there is no room, or no permission; a file that was there stays.
        """
        with self._writing, self.table.store.frozen():
            state = self.state()
            about = {
                "index": state.config,
                "starts": vars(state.starts),
                "steps_before": state.steps_before,
            }
            save_state(
                state.table,
                path,
                arrays={f"{_ID_ARRAY}{name}": array for name, array in state.ids.items()},
                about={"ids": json.dumps(about)},
            )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        on_evict: OnEvict | None = None,
        mmap: bool = False,
        scratch: Folder | None = None,
        memory: int | str | None = None,
    ) -> Self:
        """Read what `save` wrote; see `rowwise.Table.load`.

        Raises:
            DamagedFileError: it is not a dynamic table's file, or damaged. It is a ValueError.
            FileNotFoundError, MemoryError, OSError, ValueError: see `rowwise.Table.load`.
        """

        def make(state: TableState, file: Container) -> DynamicTable:
            if "ids" not in file.about:
                raise ValueError("it holds no ids; rowwise.Table.load opens it")
            about = json.loads(file.about["ids"])
            if "buckets" in about:
                raise ValueError("its ids are those of a rowwise.sharded.ShardedDynamicTable")
            names = [name for name in file.entries if name.startswith(_ID_ARRAY)]
            return cls.from_state(
                DynamicState(
                    state,
                    about["index"],
                    {name.removeprefix(_ID_ARRAY): file.read(name) for name in names},
                    RowStarts.of(**about["starts"]),
                    about["steps_before"],
                )
            )

        cached = cached_bytes(memory, scratch)
        table: Any = load_state(path, make, mmap=mmap, scratch=scratch, memory=cached)
        table.on_evict = on_evict
        return table

    def state(self) -> DynamicState:
        """Return all that the table consists of; the rows are its own arrays, not copies.

        Raises:
            OSError: the disk of the table fails.
        """
        with self._writing:
            self._start_rows()
            return DynamicState(
                self.table.state(),
                self.index.config(),
                self.index.state(),
                self.starts,
                self._steps_before,
            )

    @classmethod
    def from_state(cls, state: DynamicState) -> Self:
        """Make the table of which `state` returned this; the arrays become its own.

        Raises:
            KeyError, TypeError, ValueError: parts that do not fit each other.
        """
        index = IdIndex.from_state(state.config, state.ids)
        if index.rows != len(state.table.weights):
            raise ValueError(f"an index of {index.rows} rows for {len(state.table.weights)} rows")
        table = cls.__new__(cls)
        table._begin(Table.from_state(state.table), index, state.starts, state.steps_before)
        return table

    def become(self, other: DynamicTable) -> None:
        """Take over rows and ids of another table, which is not to be used any more.

        Raises:
            OSError: the disk of the other table fails. Nothing has changed then.
        """
        with other._writing:
            other._start_rows()
        with self._writing:
            self._moves += 1
            self.table.become(other.table)
            self.index, self.starts = other.index, other.starts
            self._steps_before = other._steps_before
            self._made.clear()
            self._moves += 1

    @property
    def version(self) -> tuple[int, int]:
        """A value that is another after every write to the rows and every counted batch."""
        return self.table.store.version, self._moves

    def prefetch(self, ids: Any) -> None:
        """Begin to read the rows of the next batch's ids from the disk while this one is trained.

        No value depends on it. An id that will get its row with the next batch needs no read. See
        `rowwise.Table.prefetch`.

        Raises:
            TypeError, ValueError: ids of the other kind, or no ids.
        """
        self.table.prefetch(self.find(ids))

    def load_ids(
        self, config: dict[str, Any], ids: dict[str, NDArray[Any]], starts: RowStarts, steps: int
    ) -> None:
        """Take the ids of another dynamic table, whose rows were brought here by other means.

        Args:
            config, ids, starts: of the other table's `state`.
            steps: updates that the other table had made.

        Raises:
            KeyError, TypeError, ValueError: ids for another number of rows, or damaged ones.
                Nothing has changed then.
        """
        self.set_index(IdIndex.from_state(config, ids), starts, steps)

    def set_index(self, index: IdIndex, starts: RowStarts, steps: int) -> None:
        """Put another index in front of the rows; see `load_ids`.

        Raises:
            ValueError: an index of another number of rows. Nothing has changed then.
        """
        if index.rows != self.table.rows:
            raise ValueError(f"ids for {index.rows} rows do not fit a table of {self.table.rows}")
        with self._writing:
            self._moves += 1
            self.index, self.starts = index, starts
            self._steps_before = steps - self.table.steps
            self._made.clear()
            self._moves += 1

    def __getstate__(self) -> DynamicState:
        check_copyable(self.table.store)
        with self._writing, self.table.store.frozen():
            state = self.state()
            return replace(state, table=state.table.copy())

    def __setstate__(self, state: DynamicState) -> None:
        self.__dict__.update(self.from_state(state).__dict__)

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = self.from_state(self.__getstate__())
        copied.on_evict = self.on_evict
        return copied

    # ------------------------------------------------------------------ inner parts

    def _start_rows(self) -> None:
        """Start the rows of changed ids anew, those of an earlier call that failed among them."""
        while self._made:
            self._renew(*self._made[0][:2])
            del self._made[0]

    def _renew(self, rows: Integers, keys: Integers) -> None:
        for start in range(0, len(rows), _RENEWED_AT_ONCE):
            part = slice(start, start + _RENEWED_AT_ONCE)
            self.table.store.renew(rows[part], self.starts.rows(keys[part], self.table.dim))

    def _reading(self, read: Callable[[], T]) -> T:
        """Find and read rows while none changes its id in between."""
        for _ in range(_TRIES):
            before = self._moves
            if before % 2 == 0 and not self._made:
                found = read()
                if self._moves == before:
                    return found
        with self._writing:
            self._start_rows()
            return read()
