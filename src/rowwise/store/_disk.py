"""Rows on a disk, with a cache of rows in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise._ids import check_range
from rowwise._init import Init, checked_seed, fill_rows, given_values
from rowwise.rules import Rule, StepParams
from rowwise.store._gradient import BagGradient, Bags, Floats, Ids, RowGradient
from rowwise.store._host import HostStore, check_source_rows
from rowwise.store._locks import new_lock
from rowwise.store._memory import ROW_STATE, STORED, Folder, check_disk
from rowwise.store._records import RecordFile
from rowwise.store._state import TableState

# The era of a row on the disk: it was never written, and still has what it started with; or the
# clock started anew since; or not.
_NEVER, _PAST, _PRESENT = 0, 1, 2
_BOOKKEEPING = 4 + 4 + 1  # bytes of each row, cached or not
_FRAME_BOOKKEEPING = 8 + 8 + 1 + 1
_FRAMES_AT_ONCE = 8  # one in so many frames may be on its way to the disk

ROUNDS_AT_RANDOM = (
    "rows on a disk are rounded to nearest, not at random: make the table with "
    "rounding='nearest', or leave out scratch= and memory="
)


class DiskStore:
    """Rows, slots and row states on a disk; see `RowStore` for the methods.

    A row's weights, slots and state lie side by side, and the rows of a batch are asked for
    together. Those used lately stay in memory, in the frames of a `HostStore` that makes every
    computation, so that the numbers are its, to the bit. What changed there is written back when
    its frame is needed for another row.

    One thread at a time looks up or writes.

    Args:
        rows, dim, rule, init, seed: see `HostStore`.
        scratch: the folder on whose disk the rows lie.
        memory: bytes for cached rows and bookkeeping.
        dtype: what weights are stored as; those of 16 bits are rounded to nearest.

    Raises:
        MemoryError: `memory` is too small for the bookkeeping and one page of rows.
        OSError: the rows do not fit on the disk.
        ValueError: a rule whose every step visits every row.
    """

    device = "disk"

    def __init__(
        self,
        rows: int,
        dim: int,
        rule: Rule | None = None,
        *,
        init: Init = "zeros",
        seed: int | None = None,
        scratch: Folder,
        memory: int,
        dtype: str = "float32",
    ) -> None:
        self._rows, self._scratch, self._memory, self.dtype = rows, scratch, memory, dtype
        self._init = init if isinstance(init, str) else "zeros"
        fill_rows(np.empty((0, dim), np.float32), self._init, 0, None)  # an unknown name
        self._seed = checked_seed(seed)
        self._lock, self._process = new_lock(), os.getpid()
        self._writes = 0
        self._prefetching: _Prefetch | None = None
        self._open(dim, rule)
        if not isinstance(init, str):
            self.write(given_values(init, (rows, dim)))

    def _open(self, dim: int, rule: Rule | None) -> None:
        _refuse_dense(rule)
        slots = len(rule.slot_names) if rule else 0
        slot_dim = rule.slot_dim(dim) if rule else 0
        weights = dim * np.dtype(STORED[self.dtype]).itemsize
        record = weights + 4 * slots * slot_dim + ROW_STATE.itemsize
        check_disk(self._scratch, self._rows * record)
        each = record + _FRAME_BOOKKEEPING + record // _FRAMES_AT_ONCE
        # A region and its log are in memory when they are written in order.
        region, room = self._memory // 32, self._memory * 15 // 16
        frames = min(self._rows, (room - self._rows * _BOOKKEEPING) // each)
        least = min(self._rows, 4096 // record + 1)
        if frames < least:
            needed = -(-16 * (self._rows * _BOOKKEEPING + least * each) // 15)
            raise MemoryError(
                f"memory={self._memory:,} bytes leave no room for rows beside the bookkeeping of "
                f"{self._rows:,}; give at least {needed:,}"
            )
        self._cache = HostStore(frames, dim, rule, dtype=self.dtype)
        state = self._cache.state()
        self._arrays: list[NDArray[Any]] = [state.weights, *state.slots, state.row_states]
        self._file = RecordFile(self._scratch, self._rows, self._arrays, region)
        self._at_once = max(1, frames // _FRAMES_AT_ONCE)
        self._frame_of = np.full(self._rows, -1, np.int32)
        self._era_of = np.full(self._rows, _NEVER, np.uint8)
        self._row_of = np.full(frames, -1, np.int64)
        self._tick_of = np.zeros(frames, np.uint64)  # when it was last used
        self._used = np.zeros(frames, np.bool_)  # since the hand last passed
        self._dirty = np.zeros(frames, np.bool_)
        self._hand = self._tick = 0
        self._steps_in_era, self._epsilon_factor = 0, 0.0

    # ------------------------------------------------------------------ what it is

    @property
    def rule(self) -> Rule | None:
        """The update rule."""
        return self._cache.rule

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self._cache.steps

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim)."""
        return self._rows, self._cache.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of rows, slots and bookkeeping, on the disk and in memory."""
        return self._file.nbytes + self.memory_bytes

    @property
    def memory_bytes(self) -> int:
        """Bytes in memory."""
        own = (self._frame_of, self._era_of, self._row_of, self._tick_of, self._used, self._dirty)
        return self._cache.nbytes + sum(array.nbytes for array in own) + self._file.memory_bytes

    @property
    def version(self) -> int:
        """A number that rises at every write."""
        return self._writes

    @property
    def scratch(self) -> Folder:
        """The folder on whose disk the rows lie."""
        return self._scratch

    @property
    def memory(self) -> int:
        """Bytes of memory, at most."""
        return self._memory

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the rule's slots."""
        return self._cache.slot_names

    # ------------------------------------------------------------------ reading

    def gather(self, ids: Ids, out: Floats) -> None:
        """Read rows ids (...,) into out (..., dim); a batch that the cache cannot hold in parts.

        Raises:
            IndexError: an id outside the table; nothing was written.
            OSError: the disk fails.
        """
        check_range(ids, self._rows)
        flat, vectors = ids.reshape(-1), out.reshape(-1, self.shape[1])
        with self._lock:
            for part in _parts(flat.size, len(self._row_of)):
                self._cache.gather(self._frames(flat[part]), vectors[part])

    def gather_bags(self, bags: Bags, out: Floats) -> None:
        """Read the weighted sum of each bag's rows into out (bags, dim); 0 where it is empty."""
        with self._lock:
            self._cache.gather_bags(self._translated(bags), out)

    def gather_bags_max(self, bags: Bags, out: Floats, argmax: Ids) -> None:
        """Read the largest of each bag's values, and the first position that has it."""
        with self._lock:
            self._cache.gather_bags_max(self._translated(bags), out, argmax)

    def read_slot(self, name: str) -> Floats:
        """Return the present values of a slot, (rows, dim), a fresh array.

        Raises:
            KeyError: the rule has no such slot.
        """
        index = self._cache._slot_index(name)
        values = np.empty((self._rows, self._arrays[1 + index].shape[1]), np.float32)
        with self._lock:
            for part, state in self._snapshots():
                values[part] = HostStore.from_state(state).read_slot(self.slot_names[index])
        return values

    def prefetch(self, ids: Ids) -> None:
        """Begin to read rows ids (...,) that are not in memory, while others are trained.

        Calls that need these rows wait for them, and so does the next prefetch. Of a batch that is
        too large for the cache a part is read.

        Raises:
            IndexError: an id outside the table.
        """
        check_range(ids, self._rows)
        self._check_process()
        with self._lock:
            self._finish_prefetch()
            missing = np.unique(ids[self._frame_of[ids] < 0])[: self._at_once]
            if not missing.size:
                return
            self._tick += 1
            offsets = self._file.offsets(missing)
            frames = self._free_frames(missing.size)
            self._prefetching = _Prefetch(self, missing, offsets, frames)
            self._prefetching.start()

    def synchronize(self) -> None:
        """Do nothing: a call raises its bad ids itself."""

    # ------------------------------------------------------------------ gradients

    def bag_gradient(self, bags: Bags, values: Floats) -> BagGradient:
        """Return the gradient of bags, which are looked at when a step is made of it."""
        check_range(bags.ids, self._rows)
        return BagGradient(bags, values)

    def bag_max_gradient(self, bags: Bags, argmax: Ids, values: Floats) -> RowGradient:
        """Return the gradient of `gather_bags_max`, by distinct ids."""
        distinct, compact = _compacted(bags.ids)
        self._check_room(distinct.size)
        compact_bags = replace(bags, ids=compact)
        gradient = self._cache.bag_max_gradient(compact_bags, argmax, values)
        return RowGradient(distinct[gradient.ids], gradient.values)

    def bag_weight_gradient(self, bags: Bags, values: Floats) -> Floats:
        """Return the gradient (n,) of the weights of bags whose gradients are values."""
        with self._lock:
            return self._cache.bag_weight_gradient(self._translated(bags), values)

    def coalesce(self, gradient: RowGradient | BagGradient) -> RowGradient:
        """Return distinct ids, ascending, with the sums of their gradients, in batch order."""
        bags = gradient.plan if isinstance(gradient, BagGradient) else None
        distinct, compact = _compacted(gradient.ids if bags is None else bags.ids)  # type: ignore[union-attr]
        self._check_room(distinct.size)
        moved: RowGradient | BagGradient = RowGradient(compact, gradient.values)
        if bags is not None:
            moved = self._cache.bag_gradient(replace(bags, ids=compact), gradient.values)
        summed = self._cache.coalesce(moved)
        return RowGradient(distinct[summed.ids], summed.values)

    # ------------------------------------------------------------------ writing

    def apply(
        self,
        gradient: RowGradient | BagGradient,
        step: StepParams,
        frozen_row: int | None = None,
    ) -> None:
        """Make one step of the rule over all rows, at the cost of the batch's rows.

        Raises:
            IndexError: an id outside the table.
            MemoryError: the cache cannot hold the batch's rows.
            OSError: the disk fails.
            ValueError: a step whose weight decay takes all of a row at once. In each case nothing
                has changed.
        """
        bags = gradient.plan if isinstance(gradient, BagGradient) else None
        ids = gradient.ids if bags is None else bags.ids  # type: ignore[union-attr]
        self.check_step(self.rule, ids, step)
        check_range(ids, self._rows)
        with self._lock:
            if (
                self._steps_in_era >= _native.MOST_STEPS
                or step.epsilon_factor < self._epsilon_factor
            ):
                self.materialize()
            wanted = ids if frozen_row is None else np.append(ids, frozen_row)
            frames = self._frames(wanted)[: None if frozen_row is None else -1].reshape(ids.shape)
            frozen = None if frozen_row is None else int(self._frame_of[frozen_row])
            moved: RowGradient | BagGradient = RowGradient(frames, gradient.values)
            if bags is not None:
                moved = self._cache.bag_gradient(replace(bags, ids=frames), gradient.values)
            native, steps = self._cache._native, self._cache.steps
            moves = self.rule is not None and not self.rule.is_stationary
            self._dirty[frames if frozen is None else np.append(frames, frozen)] = True
            try:  # Ctrl-C comes as an exception after the step, too
                self._cache.apply(moved, step, frozen)
            finally:  # no call in here, after which Ctrl-C could come again
                self._writes += 1
                if moves and native.steps > steps:
                    self._steps_in_era += 1
                    self._epsilon_factor = step.epsilon_factor

    def check_step(self, rule: Rule | None, ids: Ids, step: StepParams) -> None:
        """Refuse a step of rows ids (...,) by a rule; nothing changes here.

        Raises:
            MemoryError: the cache cannot hold the batch's rows.
            ValueError: a rule whose every step visits every row, or weight decay that takes all of
                a row at once.
        """
        _refuse_dense(rule)
        if step.decay_factor <= 0:
            raise ValueError(
                f"learning_rate * weight_decay = {1 - step.decay_factor:g} must be below 1 for a "
                "table on disk"
            )
        self.check_batch(ids)

    @property
    def rows_in_memory(self) -> int:
        """How many rows memory holds, at most."""
        return len(self._row_of)

    def check_batch(self, ids: Ids) -> None:
        """Refuse a batch of rows ids (...,) of which the cache cannot hold all at once.

        Raises:
            MemoryError: with the number of distinct rows.
        """
        if ids.size > len(self._row_of):
            self._check_room(np.unique(ids).size)

    def materialize(self, ids: Ids | None = None) -> None:
        """Bring rows up to date in place; no value changes beyond rounding.

        For all rows that is a pass over the disk.

        Raises:
            IndexError: an id outside the table.
            OSError: the disk fails.
        """
        with self._lock:
            self._each(ids, self._cache.materialize)
            if ids is not None:
                return
            self._finish_prefetch()
            native, clocks = self._cache._native, self._cache._native.clocks
            try:
                self._cache.materialize()
            finally:
                # The clock starts anew. Rows on the disk keep their last steps, of the old era.
                if native.clocks > clocks:
                    self._steps_in_era, self._epsilon_factor = 0, 0.0
                    # Every row was written: none is of an era before the last.
                    np.minimum(self._era_of, _PAST, out=self._era_of)

    def renew(self, ids: Ids, starts: Floats) -> None:
        """Start rows of distinct ids (n,) anew with starts (n, dim): fresh slots, no updates.

        Nothing is read for that. Where the disk fails, some rows may have lost what they were.
        """
        starts = self._full(starts, ids, self.shape[1])
        check_range(ids, self._rows)
        with self._lock:
            self._era_of[ids[self._frame_of[ids] < 0]] = _NEVER
        self._each(ids, lambda frames, part: self._cache.renew(frames, starts[part]), parts=True)

    def write(self, values: Any, ids: Ids | None = None) -> None:
        """Set rows to values (n, dim): those of distinct ids (n,), or all."""
        values = self._full(values, ids, self.shape[1])
        self._each(ids, lambda frames, part: self._cache.write(values[part], frames), parts=True)

    def write_slot(self, name: str, values: Any, ids: Ids | None = None) -> None:
        """Set a slot of rows to values (n, dim): those of distinct ids (n,), or all.

        Raises:
            KeyError: the rule has no such slot.
        """
        slot = self._arrays[1 + self._cache._slot_index(name)]
        values = self._full(values, ids, slot.shape[1])
        self._each(
            ids,
            lambda frames, part: self._cache.write_slot(name, values[part], frames),
            parts=True,
        )

    def mark_trained(self, ids: Ids | None = None) -> None:
        """Record that rows hold values worth reading that no update brought."""
        self._each(None if ids is None else np.unique(ids), self._cache.mark_trained)

    def set_rule(self, rule: Rule | None, *, keep_state: bool = False) -> None:
        """Step by another rule from now on; see `HostStore.set_rule`.

        Fresh slots are records of another size: the rows move to a new file.
        """
        names = rule.slot_names if rule else ()
        if keep_state and names != self.slot_names:
            raise ValueError(f"{rule!r} has slots {names}, the table {self.slot_names}")
        _refuse_dense(rule)
        with self._lock:
            if keep_state:
                self.materialize()
                self._cache.set_rule(rule, keep_state=True)
                self._writes += 1
            elif not self.steps and (written := self._written()).size <= self._at_once:
                self._start_with(rule, written)
            else:
                rows = np.arange(self._rows)
                self._move(rows, rule, self._init, self._seed, keep_slots=False)

    def _written(self) -> Ids:
        """Return the rows that were written, ascending; before a step others are as they start."""
        written = self._era_of != _NEVER
        written[self._row_of[self._dirty]] = True
        return np.flatnonzero(written)

    def _start_with(self, rule: Rule | None, written: Ids) -> None:
        """Take a rule before the first step: the old file makes room for the new one.

        Args:
            written: the rows to keep; few, which memory holds meanwhile.
        """
        before, frames = self.rule, self._frames(written)
        kept = self._arrays[0][frames], self._arrays[-1][frames]
        self._finish_prefetch()
        del self._file
        try:
            self._open(self.shape[1], rule)
        except BaseException:
            self._open(self.shape[1], before)
            self._put_back(written, *kept)
            raise
        self._put_back(written, *kept)

    def _put_back(self, rows: Ids, weights: Floats, states: NDArray[np.void]) -> None:
        """Write what rows were to a file that was made anew."""
        for part in _parts(rows.size, len(self._row_of)):
            frames = self._frames(rows[part])
            self._arrays[0][frames], self._arrays[-1][frames] = weights[part], states[part]
            self._changed(frames)
        self._writes += 1

    def remap(self, source_rows: Ids, init: Init, seed: int | None) -> None:
        """Make row i what row source_rows[i] was, with slots and counts; -1 makes a new row.

        The rows move to a new file. See `rowwise.Table.remap` for arguments and errors.
        """
        check_source_rows(source_rows, self._rows)
        if not isinstance(init, str):
            raise ValueError(
                "new rows on a disk start by name; give init='uniform', 'normal', 'unit-normal' or "
                "'zeros'"
            )
        with self._lock:
            self._move(source_rows, self.rule, init, checked_seed(seed), keep_slots=True)

    def check_room(self, rows: int) -> None:
        """Do nothing: the disk's room is asked for when the file is made."""

    def _move(
        self, source_rows: Ids, rule: Rule | None, init: str, seed: int, *, keep_slots: bool
    ) -> None:
        """Bring rows to a new file; where that fails, nothing changes."""
        self.materialize()
        self._flush()
        before = self.__dict__.copy()
        try:
            self._rows, self._init, self._seed = len(source_rows), init, seed
            self._open(self.shape[1], rule)
            self._copy_rows(source_rows, before, keep_slots)
        except BaseException:
            self.__dict__.update(before)
            raise

    def _copy_rows(self, source_rows: Ids, before: dict[str, Any], keep_slots: bool) -> None:
        if keep_slots:
            self._cache.restore_clock(before["_cache"].state())
        self._cache.steps = before["_cache"].steps
        old: list[NDArray[Any]] = before["_arrays"]
        for part in _parts(self._rows, min(len(self._row_of), 1 << 16)):
            new = _span(part)
            kept = new[source_rows[part] != -1]
            source = source_rows[kept]
            values = [np.empty((kept.size, *array.shape[1:]), array.dtype) for array in old]
            before["_file"].read_into(source, values)
            values[-1]["last_step"] = 0
            frames = self._frames(new)[source_rows[part] != -1]
            self._arrays[0][frames], self._arrays[-1][frames] = values[0], values[-1]
            if keep_slots:
                for slot, old_slot in zip(self._arrays[1:-1], values[1:-1], strict=True):
                    slot[frames] = old_slot
            self._changed(frames)

    # ------------------------------------------------------------------ files

    @classmethod
    def from_state(cls, state: TableState) -> Self:
        """Make the store of which `state` returned this; the arrays are copied to the disk.

        Raises:
            MemoryError, OSError: see the class.
            ValueError: parts that do not fit each other.
        """
        state.check()
        rows, dim = state.weights.shape
        if state.scratch is None or state.memory is None:
            raise ValueError("rows on a disk need a folder and memory for some of them")
        if state.rounding_seed is not None:
            raise ValueError(ROUNDS_AT_RANDOM)
        store = cls(
            rows,
            dim,
            state.rule,
            scratch=state.scratch,
            memory=state.memory,
            dtype=state.dtype,
        )
        store._cache.restore_clock(state)
        arrays = [state.weights, *state.slots, state.row_states]
        for part in _parts(rows, min(len(store._row_of), 1 << 16)):
            frames = store._frames(_span(part))
            for own, given in zip(store._arrays, arrays, strict=True):
                own[frames] = given[part]
            store._changed(frames)
        history = state.step_history[0]
        store._steps_in_era = len(history)
        store._epsilon_factor = float(history[-1, 2]) if len(history) else 0.0
        return store

    def state(self) -> TableState:
        """Return all that the store holds; the arrays lie on the disk.

        They are what the table is until something is written. Rows that were never written, or not
        since the clock started anew, are written first.
        """
        with self._lock:
            for part in _parts(self._rows, len(self._row_of)):
                stale = _span(part)[self._era_of[part] != _PRESENT]
                self._dirty[self._frames(stale)] = True
            self._flush()
            weights, *slots, states = self._file.mapped()
            return replace(
                self._cache.state(),
                weights=weights.view(STORED[self.dtype]),
                slots=[slot.view(np.float32) for slot in slots],
                row_states=states.view(ROW_STATE)[:, 0],
                scratch=self._scratch,
                memory=self._memory,
            )

    def frozen(self) -> AbstractContextManager[object]:
        """Return a context in which others wait, so that a `state` is of one moment."""
        return self._lock

    def _flush(self) -> None:
        self._check_process()
        self._finish_prefetch()
        self._write_back(np.flatnonzero(self._dirty))

    # ------------------------------------------------------------------ bookkeeping

    def is_trained(self, ids: Ids | None = None) -> NDArray[np.bool_]:
        """Return whether rows were updated or marked as trained."""
        wanted = np.arange(self._rows) if ids is None else ids
        check_range(wanted, self._rows)
        flat = wanted.reshape(-1)
        trained = np.empty(flat.size, np.bool_)
        with self._lock:
            for part in _parts(flat.size, len(self._row_of)):
                trained[part] = self._cache.is_trained(self._frames(flat[part]))
        return trained.reshape(wanted.shape)

    @property
    def update_counts(self) -> NDArray[np.uint32]:
        """(rows,) how many updates touched each row."""
        return self._of_states("update_count")

    @property
    def last_update(self) -> NDArray[np.int64]:
        """(rows,) number of the last update that touched each row, counted from 1; 0: none."""
        return np.maximum(self._of_states("last_update"), 0)

    # ------------------------------------------------------------------ inner parts

    def _frames(self, ids: Ids) -> Ids:
        """Return the frames (...,) of rows ids (...,), which are all in memory then."""
        self._check_process()
        self._tick += 1
        frames = self._frame_of[ids]
        absent = frames < 0
        coming = self._prefetching
        crowded = coming is not None and ids.size + coming.rows.size > len(self._row_of)
        if coming is not None and absent.any() and (crowded or coming.concerns(ids[absent])):
            self._finish_prefetch()
            frames = self._frame_of[ids]
            absent = frames < 0
        here = frames[~absent]
        self._tick_of[here] = self._tick
        self._used[here] = True
        if absent.any():
            missing = np.unique(ids[absent])
            if missing.size + here.size > len(self._row_of):
                self._check_room(np.unique(ids).size)
            # What makes room for one part is written while that part is read.
            for part in _parts(missing.size, self._at_once):
                self._bring(missing[part])
            frames = self._frame_of[ids]
        return frames.astype(np.int64)

    def _check_process(self) -> None:
        """Refuse a forked child, whose writes would go into its parent's file.

        Raises:
            RuntimeError: this process is not the one that made the file.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                "this table's rows lie in a file that is shared with the process that made it: a "
                "child would change its parent's rows; save the table there and load it here"
            )

    def _bring(self, rows: Ids) -> None:
        offsets = self._file.offsets(rows)
        frames = self._free_frames(rows.size)
        self._load(rows, offsets, frames)
        self._publish(rows, frames)

    def _check_room(self, rows: int) -> None:
        if rows > len(self._row_of):
            raise MemoryError(
                f"a batch of {rows:,} distinct rows does not fit into the {len(self._row_of):,} "
                f"rows that memory={self._memory:,} bytes hold; give more, or smaller batches"
            )

    def _free_frames(self, count: int) -> Ids:
        """Take frames from rows that were not used lately, whose changes are written back.

        A hand goes round: it passes over frames that were used since it last came by, those of
        this turn, and those that rows are being read into.
        """
        frames, taken, total = len(self._row_of), [], 0
        coming = None if self._prefetching is None else self._prefetching.frames
        passed = 0
        while total < count:
            if passed > 3 * frames:
                raise MemoryError("the rows that are prefetched leave no room for a batch")
            window = (self._hand + np.arange(min(frames, 2 * (count - total) + 64))) % frames
            loose = self._tick_of[window] != self._tick
            if coming is not None:
                loose &= ~np.isin(window, coming)
            free = loose & ~self._used[window]
            chosen = window[free][: count - total]
            last = len(window)
            if len(chosen) == count - total and len(chosen):
                last = int(np.flatnonzero(free)[len(chosen) - 1]) + 1
            self._used[window[:last][loose[:last]]] = False
            self._tick_of[chosen] = self._tick
            self._hand = (self._hand + last) % frames
            passed += last
            taken.append(chosen)
            total += len(chosen)
        found = np.concatenate(taken)
        self._write_back(found[self._dirty[found]])
        left = self._row_of[found]
        left = left[(left >= 0) & (self._frame_of[left] == found)]  # not so after Ctrl-C
        self._frame_of[left] = -1
        self._row_of[found] = -1
        return found

    def _write_back(self, frames: Ids) -> None:
        if not frames.size:
            return
        self._finish_prefetch()  # what it reads may be written over
        for part in _parts(frames.size, self._at_once):
            rows = self._row_of[frames[part]]
            self._file.write(rows, frames[part])
            self._era_of[rows] = _PRESENT
            self._dirty[frames[part]] = False

    def _load(self, rows: Ids, offsets: Ids, frames: Ids) -> None:
        """Bring the records of rows, which are at offsets, into frames that nobody else uses."""
        era = self._era_of[rows]
        new = era == _NEVER
        self._file.read(offsets[~new], frames[~new])
        states = self._arrays[-1]
        states["last_step"][frames[era != _PRESENT]] = 0
        if new.any():
            starts = np.zeros((int(new.sum()), self.shape[1]), np.float32)
            fill_rows(starts, self._init, self._seed, rows[new])
            self._arrays[0][frames[new]] = self._cache._stored(starts)
            for slot, start in zip(self._arrays[1:-1], self._slot_starts(), strict=True):
                slot[frames[new]] = start
            states[frames[new]] = 0

    def _publish(self, rows: Ids, frames: Ids) -> None:
        self._row_of[frames], self._frame_of[rows] = rows, frames
        self._used[frames] = True

    def _finish_prefetch(self) -> None:
        prefetch = self._prefetching
        if prefetch is None:
            return
        if prefetch.has_come():  # else whoever needs these rows reads them, and gets the error
            self._publish(prefetch.rows, prefetch.frames)
        self._prefetching = None

    def _slot_starts(self) -> tuple[float, ...]:
        return self.rule.slot_starts if self.rule else ()

    def _changed(self, frames: Ids) -> None:
        self._dirty[frames] = True
        self._writes += 1

    def _translated(self, bags: Bags) -> Bags:
        check_range(bags.ids, self._rows)
        return replace(bags, ids=self._frames(bags.ids))

    def _full(self, values: Any, ids: Ids | None, dim: int) -> Floats:
        """Return values (n, dim) of rows ids, or of all, before any of them is written.

        Raises:
            ValueError: values of another number of rows, or of another dim.
        """
        rows = self._rows if ids is None else ids.size
        return np.broadcast_to(np.asarray(values, np.float32), (rows, dim))

    def _each(self, ids: Ids | None, change: Any, *, parts: bool = False) -> None:
        """Change rows of distinct ids, or all, as many at once as the cache holds."""
        wanted = None if ids is None else ids.reshape(-1)
        if wanted is not None:
            check_range(wanted, self._rows)
        with self._lock:
            for part in _parts(self._rows if wanted is None else wanted.size, len(self._row_of)):
                frames = self._frames(_span(part) if wanted is None else wanted[part])
                self._dirty[frames] = True
                try:
                    change(frames, part) if parts else change(frames)
                finally:
                    self._writes += 1

    def _snapshots(self) -> Iterator[tuple[slice, TableState]]:
        """Give copies of all rows, part by part, with the clock."""
        state = self._cache.state()
        for part in _parts(self._rows, min(len(self._row_of), 1 << 16)):
            frames = self._frames(_span(part))
            weights, *slots, states = (array[frames] for array in self._arrays)
            yield part, replace(state, weights=weights, slots=slots, row_states=states)

    def _of_states(self, name: str) -> NDArray[Any]:
        values = np.empty(self._rows, ROW_STATE[name])
        with self._lock:
            for part, state in self._snapshots():
                values[part] = state.row_states[name]
        return values


class _Prefetch:
    """Rows on their way from the disk into frames that nobody else uses."""

    def __init__(self, store: DiskStore, rows: Ids, offsets: Ids, frames: Ids) -> None:
        self.rows, self._offsets, self.frames = rows, offsets, frames
        self._read_all = False
        self._thread = threading.Thread(target=self._read, args=(store,), daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether all rows have come."""
        return not self._thread.is_alive()

    def concerns(self, ids: Ids) -> bool:
        """Return whether it has come, or rows ids (n,) are among those on their way."""
        return self.done or bool(np.isin(ids, self.rows).any())

    def has_come(self) -> bool:
        """Wait for the rows; return whether the disk gave them."""
        if self._thread.ident is not None:  # Ctrl-C kept it from starting
            self._thread.join()
        return self._read_all

    def _read(self, store: DiskStore) -> None:
        with suppress(OSError):
            store._load(self.rows, self._offsets, self.frames)
            self._read_all = True


def check_copyable(store: object) -> None:
    """Refuse a copy or a pickle of rows on a disk, which would bring them all into memory.

    Raises:
        TypeError: the rows lie on a disk.
    """
    if isinstance(store, DiskStore):
        raise TypeError(
            "a table whose rows lie on a disk cannot be copied or pickled: memory may not hold all "
            "rows; save it to a file, and load that with scratch= and memory="
        )


def _refuse_dense(rule: Rule | None) -> None:
    if rule is not None and not rule.supports_lazy:
        raise ValueError(f"every step of {rule} visits every row: too slow for a table on disk")


def _parts(size: int, at_once: int) -> Iterator[slice]:
    for start in range(0, size, at_once):
        yield slice(start, min(size, start + at_once))


def _span(part: slice) -> Ids:
    return np.arange(part.start, part.stop)


def _compacted(ids: Ids) -> tuple[Ids, Ids]:
    """Return distinct ids, ascending, and the position of each of ids (...,) among them."""
    distinct, compact = np.unique(ids, return_inverse=True)
    return distinct, np.ascontiguousarray(compact.reshape(ids.shape).astype(np.int64))
