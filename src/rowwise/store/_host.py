"""Rows in this process's memory, or in a scratch file of it."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rowwise import _native, rules
from rowwise._ids import check_range, outside
from rowwise._init import Init, fill_stored
from rowwise.files._container import FileMapping
from rowwise.rules import Rule, StepParams
from rowwise.store._gradient import BagGradient, Bags, Floats, Ids, RowGradient
from rowwise.store._locks import new_lock
from rowwise.store._memory import STORED, Folder, check_fits, matrix, row_states
from rowwise.store._protocol import RowStore
from rowwise.store._state import TableState

# In a row's state, as its last update: none, but its values came from elsewhere.
_MARKED = -1


class HostStore:
    """Rows, slots and row states in host memory; see `RowStore` for the methods.

    Any number of threads may read at once. Writers wait for each other.

    Args:
        rows, dim: shape of the table.
        rule: the update rule, or None.
        init, seed: what the rows start with, see `rowwise.Table`.
        scratch: the folder on whose disk the arrays lie; None for memory.
        dtype: what weights are stored as: "float32", "bfloat16" or "float16".
        rounding_seed: of weights of 16 bits that are rounded at random; None: to nearest.

    Raises:
        MemoryError: the arrays do not fit in free memory.
        OSError: they do not fit in the scratch folder.
    """

    device = "cpu"

    def __init__(
        self,
        rows: int,
        dim: int,
        rule: Rule | None = None,
        *,
        init: Init = "zeros",
        seed: int | None = None,
        scratch: Folder | None = None,
        dtype: str = "float32",
        rounding_seed: int | None = None,
    ) -> None:
        if scratch is None:  # a disk's room is asked for when the files are made
            check_fits(rows, dim, rule, dtype=dtype)
        weights = matrix(rows, dim, scratch, STORED[dtype])
        self._begin(weights, row_states(rows, scratch), scratch, dtype, rounding_seed)
        fill_stored(self._weights, dtype, init, seed)
        self._bind(rule, self._new_slots(rule), slots_pristine=True)

    @classmethod
    def from_state(cls, state: TableState) -> Self:
        """Make the store of which `state` returned this; the arrays become its own.

        Raises:
            ValueError: parts that do not fit each other.
        """
        state.check()
        store = cls.__new__(cls)
        store._begin(
            state.weights, state.row_states, state.scratch, state.dtype, state.rounding_seed
        )
        store._bind(state.rule, state.slots, slots_pristine=state.slots_pristine)
        store.restore_clock(state)
        return store

    def restore_clock(self, state: TableState) -> None:
        """Take up the clock and count of steps of a state, of which the rows are already."""
        self._native.restore(state.step_history)
        self._native.slots_pristine = state.slots_pristine
        self.steps = state.steps

    def _begin(
        self,
        weights: NDArray[Any],
        states: NDArray[np.void],
        scratch: Folder | None,
        dtype: str,
        rounding_seed: int | None,
    ) -> None:
        self._weights, self._row_states, self._scratch = weights, states, scratch
        self.dtype, self.rounding_seed = dtype, rounding_seed
        self._mapping = FileMapping.under(weights)
        self._slots: list[Floats] = []
        self._native = self._new_native(weights)
        self._lock, self._process = new_lock(_native.ReentrantLock), os.getpid()
        self.rule: Rule | None = None
        self.steps = 0
        self._program: weakref.ref[_native.Program] | None = None

    def _new_native(self, weights: NDArray[Any]) -> _native.Table:
        states = self._row_states.view(np.uint8).reshape(-1)
        if self.dtype == "float32":
            return _native.Table(weights, states)
        native = _native.Table(weights.view(np.uint16), states, self.dtype)
        if self.rounding_seed is not None:
            native.round_at_random(self.rounding_seed)
        return native

    def resume_rounding(self, seed: int, steps: int) -> None:
        """Draw what another store would draw next, whose rows these are, up to date.

        Args:
            seed: its `rounding_seed`.
            steps: its updates so far.
        """
        with self._writing(changes_values=False):
            self._native.materialize()
            self._native.round_at_random(seed)
            self.rounding_seed, self.steps = seed, steps

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim)."""
        rows, dim = self._weights.shape
        return rows, dim

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self._native.steps

    @steps.setter
    def steps(self, steps: int) -> None:
        self._native.steps = steps

    @property
    def version(self) -> int:
        """Raised by every write."""
        return self._native.version

    @version.setter
    def version(self, version: int) -> None:
        self._native.version = version

    @property
    def nbytes(self) -> int:
        """Bytes of rows, slots and bookkeeping."""
        arrays = (self._weights, *self._slots, self._row_states)
        return sum(array.nbytes for array in arrays)

    # ------------------------------------------------------------------ reading

    def gather(self, ids: Ids, out: Floats) -> None:
        """Read rows ids (...,) into out (..., dim).

        Raises:
            IndexError: an id outside the table; nothing was written.
        """
        self._check_mapping()
        self._check(ids, self._native.gather(ids, out))

    def gather_bags(self, bags: Bags, out: Floats) -> None:
        """Read the weighted sum of each bag's rows into out (bags, dim); 0 where it is empty.

        Raises:
            IndexError: an id outside the table; nothing was written.
            ValueError: offsets that descend, or do not go from 0 to n; an array of another size.
        """
        self._check_mapping()
        self._check(bags.ids, self._native.gather_bags(bags.ids, bags.offsets, bags.weights, out))

    def gather_bags_max(self, bags: Bags, out: Floats, argmax: Ids) -> None:
        """Read the largest of each bag's values, and the first position that has it."""
        self._check_mapping()
        self._check(bags.ids, self._native.gather_bags_max(bags.ids, bags.offsets, out, argmax))

    def read_slot(self, name: str) -> Floats:
        """Return the present values of a slot, (rows, dim) or (rows, 1), a fresh array.

        Raises:
            KeyError: the rule has no such slot.
        """
        index = self._slot_index(name)
        values = np.empty(self._slots[index].shape, dtype=np.float32)
        self._check_mapping()
        self._native.read_slot(index, values)
        return values

    # ------------------------------------------------------------------ gradients

    def bag_gradient(self, bags: Bags, values: Floats) -> BagGradient:
        """Return the gradient of bags; nothing of the batch is copied but its weights."""
        return BagGradient(self._native.plan_bags(bags.ids, bags.offsets, bags.weights), values)

    def bag_max_gradient(self, bags: Bags, argmax: Ids, values: Floats) -> RowGradient:
        """Return the gradient of `gather_bags_max`, by distinct ids."""
        return RowGradient(
            *self._native.gather_bags_max_gradient(bags.ids, bags.offsets, argmax, values)
        )

    def bag_weight_gradient(self, bags: Bags, values: Floats) -> Floats:
        """Return the gradient (n,) of the weights of bags whose gradients are values."""
        out = np.empty(bags.ids.size, dtype=np.float32)
        self._check_mapping()
        self._check(bags.ids, self._native.bag_weight_gradient(bags.ids, bags.offsets, values, out))
        return out

    def coalesce(self, gradient: RowGradient | BagGradient) -> RowGradient:
        """Return distinct ids, ascending, with the sums of their gradients."""
        if isinstance(gradient, RowGradient):
            bags = Bags(gradient.ids, np.arange(gradient.ids.size + 1))
            gradient = self.bag_gradient(bags, gradient.values)
        return RowGradient(*self._native.sum_gradients(gradient.plan, gradient.values))

    # ------------------------------------------------------------------ writing

    def apply(
        self,
        gradient: RowGradient | BagGradient,
        step: StepParams,
        frozen_row: int | None = None,
    ) -> None:
        """Make one step of the rule over all rows, at the cost of the batch's rows.

        Raises:
            IndexError: an id outside the table; nothing has changed.
        """
        with self._writing():
            dense = self.rule is None or not self.rule.supports_lazy
            try:  # Ctrl-C comes as an exception after the step, too
                if frozen_row is None:
                    self._apply(gradient, step)
                else:
                    self._apply_excluding(gradient, step, frozen_row)
            finally:
                if dense:
                    self._native.materialize()

    def _apply(self, gradient: RowGradient | BagGradient, step: StepParams) -> None:
        params = _native.StepParams(self.steps + 1, *step)
        if isinstance(gradient, BagGradient):
            self._native.update_bags(gradient.plan, gradient.values, params)
        else:
            bad = self._native.update(gradient.ids, gradient.values, params)
            self._check(gradient.ids, bad)

    def _apply_excluding(
        self, gradient: RowGradient | BagGradient, step: StepParams, row: int
    ) -> None:
        """Make a step that leaves one row as it was, and uncounted."""
        moving = self.coalesce(gradient).without(row)
        # With a gradient of zero the row is brought up to date, and never lags behind.
        ids = np.append(moving.ids, row)
        values = np.vstack([moving.values, np.zeros((1, self.shape[1]), np.float32)])
        vector = np.empty((1, self.shape[1]), np.float32)
        self._native.gather(np.array([row]), vector)
        state, native, steps = self._row_states[row].copy(), self._native, self.steps
        try:
            self._apply(RowGradient(ids, values), step)
        finally:  # no call in here, after which Ctrl-C could come again
            if native.steps > steps:
                self._weights[row] = self._stored(vector)
                self._row_states["update_count"][row] = state["update_count"]
                self._row_states["last_update"][row] = state["last_update"]

    def renew(self, ids: Ids, starts: Floats) -> None:
        """Start rows ids (n,) anew with weights starts (n, dim), fresh slots and no updates.

        Raises:
            IndexError: an id outside the table; nothing has changed.
        """
        with self._writing():
            self._check(ids, self._native.renew(ids, starts))

    def materialize(self, ids: Ids | None = None) -> None:
        """Bring rows up to date in place; no value changes beyond rounding.

        Raises:
            IndexError: an id outside the table; nothing has changed.
        """
        with self._writing(changes_values=False):
            bad = self._native.materialize(ids)
            if ids is not None:
                self._check(ids, bad)

    def prefetch(self, ids: Ids) -> None:
        """Do nothing: all rows are in memory."""

    def synchronize(self) -> None:
        """Do nothing: a call raises its bad ids itself."""

    def write(self, values: Any, ids: Ids | None = None) -> None:
        """Set rows to values (n, dim): those of distinct ids (n,), or all."""
        with self._writing():
            self.materialize(ids)
            self._weights[slice(None) if ids is None else ids] = self._stored(values)

    def write_slot(self, name: str, values: Any, ids: Ids | None = None) -> None:
        """Set a slot of rows to values (n, dim) or (n, 1): those of distinct ids (n,), or all.

        Raises:
            KeyError: the rule has no such slot.
        """
        slot = self._slots[self._slot_index(name)]
        with self._writing():
            self.materialize(ids)
            self._make_slots_explicit()
            slot[slice(None) if ids is None else ids] = values

    def set_rule(self, rule: Rule | None, *, keep_state: bool = False) -> None:
        """Step by another rule from now on.

        Args:
            rule: or None for a table that is only read.
            keep_state: keep the slots, which must be of the same names and shape; otherwise they
                start anew.

        Raises:
            ValueError: keep_state, and the rule has other slots.
            MemoryError: the new slots do not fit in free memory. Nothing has changed.
        """
        names = rule.slot_names if rule else ()
        shapes = [(len(self._weights), rule.slot_dim(self.shape[1])) for _ in names] if rule else []
        mine = [slot.shape for slot in self._slots]
        if keep_state and (names, shapes) != (self.slot_names, mine):
            raise ValueError(
                f"{rule!r} has slots {names} of shapes {shapes}, "
                f"the table {self.slot_names} of {mine}"
            )
        with self._writing():
            if not keep_state and self._scratch is None:
                check_fits(*self.shape, rule, table=False)
            slots = self._slots if keep_state else self._new_slots(rule)
            self._native.materialize()
            pristine = not keep_state or self._native.slots_pristine
            self._bind(rule, slots, slots_pristine=pristine)

    def remap(self, source_rows: Ids, init: Init, seed: int | None) -> None:
        """Make row i what row source_rows[i] was, with slots and counts; -1 makes a new row.

        The arrays are new ones. See `rowwise.Table.remap` for arguments and errors.
        """
        kept, old = check_source_rows(source_rows, len(self._weights))
        with self._writing():
            new = HostStore(
                len(source_rows),
                self.shape[1],
                init=init,
                seed=seed,
                scratch=self._scratch,
                dtype=self.dtype,
                rounding_seed=self.rounding_seed,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said when the rule was set
                new.set_rule(self.rule)
                self._native.materialize()
                for mine, theirs in zip(self._arrays(), new._arrays(), strict=True):
                    theirs[kept] = mine[old]
                new._native.slots_pristine = self._native.slots_pristine
                new.steps, new.version = self.steps, self.version + 1
                # At once: Ctrl-C leaves the old rows or the new ones.
                parts = ("_weights", "_slots", "_row_states", "_native", "_mapping")
                vars(self).update({name: vars(new)[name] for name in parts})
                self._bind_program()

    def check_room(self, rows: int) -> None:
        """Refuse a number of rows that does not fit in free memory beside those that there are.

        Raises:
            MemoryError: with the bytes needed and available.
        """
        if self._scratch is None:
            check_fits(rows, self.shape[1], self.rule, dtype=self.dtype)

    # ------------------------------------------------------------------ frameworks' own writes

    def memory(self, slot: str | None = None) -> NDArray[Any]:
        """Return the live array of the weights or of a slot, for a tensor to be laid over it.

        Weights that are bfloat16 are their bits, as uint16.

        It holds present values only right after `materialize`. Before anyone writes to it,
        `begin_external_write` must be called.
        """
        return self._weights if slot is None else self._slots[self._slot_index(slot)]

    def begin_external_write(self, slot: str | None = None) -> None:
        """Bring all rows up to date, and record that the caller may now write to the memory."""
        with self._writing():
            self._native.materialize()
            if slot is not None:
                self._make_slots_explicit()

    def use_memory(self, weights: NDArray[Any]) -> None:
        """Take an array (rows, dim) of the caller's as the rows, with the values in it."""
        with self._writing():
            self._native.materialize()
            native = self._new_native(weights)
            native.steps, native.version = self.steps, self.version + 1
            kernel = self.rule or rules.SGD()
            pristine = self._native.slots_pristine
            native.set_rule(kernel.native(), self._slots, slots_pristine=pristine, **kernel.clock())
            self._weights, self._native = weights, native
            self._bind_program()

    def serve(self, program: _native.Program) -> None:
        """Let a program read and step the rows from now on, whatever memory they move to."""
        self._program = weakref.ref(program)
        self._bind_program()

    @property
    def program(self) -> _native.Program | None:
        """The program that reads and steps the rows, if there is one."""
        return None if self._program is None else self._program()

    def _bind_program(self) -> None:
        if self.program is not None:
            self.program.bind(self._native, self._lock)

    def record_external_step(self, ids: Ids) -> None:
        """Count a step that the caller made on the memory, with gradients for rows ids."""
        touched = np.unique(ids)
        with self._writing():
            counts, native = self._row_states["update_count"], self._native
            counted = counts[touched] + (counts[touched] < np.iinfo(np.uint32).max)
            # No call stands between these writes: Python raises Ctrl-C after calls.
            native.steps += 1
            counts[touched] = counted
            self._row_states["last_update"][touched] = native.steps

    def train_in_place(self, train: Callable[[Floats, NDArray[np.uint8]], None]) -> None:
        """Call a kernel that trains rows by itself, with the weights and row states (as bytes).

        Raises:
            ValueError: the weights are not float32.
        """
        if self.dtype != "float32":
            raise ValueError(f"rows of {self.dtype} cannot be trained in place; take float32")
        with self._writing():
            self._native.materialize()
            train(self._weights, self._row_states.view(np.uint8))

    # ------------------------------------------------------------------ bookkeeping

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the rule's slots."""
        return self.rule.slot_names if self.rule else ()

    @property
    def update_counts(self) -> NDArray[np.uint32]:
        """(rows,) how many updates touched each row."""
        self._check_mapping()
        return self._row_states["update_count"].copy()

    @property
    def last_update(self) -> NDArray[np.int64]:
        """(rows,) number of the last update that touched each row, counted from 1; 0: none."""
        self._check_mapping()
        return np.maximum(self._row_states["last_update"], 0)

    def is_trained(self, ids: Ids | None = None) -> NDArray[np.bool_]:
        """Return whether rows were updated or marked as trained.

        Raises:
            IndexError: an id outside the table.
        """
        self._check_mapping()
        states = self._row_states
        if ids is not None:
            check_range(ids, len(states))
            states = states[ids]
        return (states["update_count"] > 0) | (states["last_update"] == _MARKED)

    def touched_by_last_step(self, ids: Ids) -> NDArray[np.bool_]:
        """Return which rows of ids (n,), all of them the table's, the last update touched."""
        found: NDArray[np.bool_] = self._row_states["last_update"][ids] == self.steps
        return found

    def mark_trained(self, ids: Ids | None = None) -> None:
        """Record that rows hold values worth reading that no update brought.

        Raises:
            IndexError: an id outside the table.
        """
        states = self._row_states
        if ids is not None:
            check_range(ids, len(states))
        with self._writing():
            chosen = np.arange(len(states)) if ids is None else np.unique(ids)
            fresh = chosen[states["update_count"][chosen] == 0]
            states["last_update"][fresh] = _MARKED

    def counts(self) -> dict[str, NDArray[Any]]:
        """Return how often and when rows were updated, for files that hold the rows elsewhere."""
        self._check_mapping()
        return {
            "steps": np.array(self.steps),
            "update_counts": self._row_states["update_count"].copy(),
            "last_update": self._row_states["last_update"].copy(),
        }

    def load_counts(
        self, steps: NDArray[Any], update_counts: NDArray[Any], last_update: NDArray[Any]
    ) -> None:
        """Restore what `counts` returned.

        Raises:
            ValueError: the counts are of another number of rows.
        """
        rows = len(self._weights)
        if update_counts.shape != (rows,) or last_update.shape != (rows,):
            raise ValueError(f"counts of {update_counts.shape} rows for a table of {rows}")
        with self._writing():
            self._native.materialize()
            self._make_slots_explicit()  # whether a slot is pristine depends on the counts
            self._native.steps = int(steps)
            self._row_states["update_count"] = update_counts
            self._row_states["last_update"] = last_update

    def state(self) -> TableState:
        """Return all that the store holds; its own arrays, not copies."""
        self._check_mapping()
        return TableState(
            weights=self._weights,
            slots=list(self._slots),
            row_states=self._row_states,
            step_history=self._native.step_history(),
            steps=self.steps,
            rule=self.rule,
            slots_pristine=self._native.slots_pristine,
            scratch=self._scratch,
            rounding_seed=self.rounding_seed,
        )

    def frozen(self) -> AbstractContextManager[object]:
        """Return a context in which writers wait, so that a `state` is of one moment."""
        return self._lock

    # ------------------------------------------------------------------ inner parts

    def _writing(self, changes_values: bool = True) -> AbstractContextManager[object]:
        """Return a context in which other writers wait; the version rises if values change."""
        self._check_mapping()
        if self._scratch is not None and os.getpid() != self._process:
            raise RuntimeError(
                "this table's scratch file is shared with the process that made it: a child would "
                "change its parent's rows; save the table there and load it here"
            )
        return _native.WriterTurn(self._native, self._lock, changes_values)

    def _check(self, ids: Ids, bad: int) -> None:
        if bad >= 0:
            raise outside(ids, bad, len(self._weights))

    def _check_mapping(self) -> None:
        if self._mapping is not None:
            self._mapping.check()

    def _stored(self, values: Any) -> NDArray[Any]:
        """Return values as the table stores them, rounded to nearest."""
        if self.dtype == "float32":
            return np.asarray(values)
        values = np.ascontiguousarray(values, np.float32)
        stored = np.empty(values.shape, np.uint16)
        _native.narrow(values, self.dtype, stored)
        return stored.view(STORED[self.dtype])

    def _new_slots(self, rule: Rule | None) -> list[Floats]:
        if rule is None:
            return []
        rows, dim = self.shape
        slots = []
        for start in rule.slot_starts:
            slot = matrix(rows, rule.slot_dim(dim), self._scratch)
            if start:
                slot.fill(start)
            slots.append(slot)
        return slots

    def _bind(self, rule: Rule | None, slots: list[Floats], *, slots_pristine: bool) -> None:
        """Hand rule and slots to the kernels; every row is up to date."""
        warn_of_full_steps(rule, stacklevel=4)
        kernel = rule or rules.SGD()
        numbers, clock = kernel.native(), kernel.clock()
        before = self.rule, self._slots
        self.rule, self._slots = rule, slots
        try:
            self._native.set_rule(numbers, slots, slots_pristine=slots_pristine, **clock)
        except Exception:  # not Ctrl-C, which is raised once the call is done
            self.rule, self._slots = before
            raise

    def _make_slots_explicit(self) -> None:
        """Record that slots were written, so that none may be taken for its starting value."""
        self._native.slots_pristine = False

    def _arrays(self) -> list[NDArray[Any]]:
        return [self._weights, *self._slots, self._row_states]

    def _slot_index(self, name: str) -> int:
        if name not in self.slot_names:
            raise KeyError(f"no slot {name!r}; {self.rule!r} has {self.slot_names}")
        return self.slot_names.index(name)


def warn_of_full_steps(rule: Rule | None, stacklevel: int) -> None:
    """Warn of a rule without lazy updates."""
    if rule is not None and not rule.supports_lazy:
        warnings.warn(
            f"{rule} moves rows for more steps than can be made up for at once: "
            "every step visits every row",
            stacklevel=stacklevel + 1,
        )


def in_memory(store: RowStore) -> HostStore:
    """Return a store whose rows are one array of this process, as layers over it need.

    Raises:
        TypeError: the rows lie elsewhere.

    Example:
        >>> from rowwise import Table
        >>> in_memory(Table(5, 2, init="zeros").store).memory().shape
        (5, 2)
    """
    if isinstance(store, HostStore):
        return store
    raise TypeError(
        f"the table's rows lie on {store.device!r}, and no array holds them all, which layers and "
        "trainers of frameworks need; leave out memory=, or use Table.lookup and Table.update"
    )


def check_source_rows(source_rows: Ids, rows: int) -> tuple[Ids, Ids]:
    """Return which of source_rows are rows of a table, and these rows.

    Raises:
        IndexError, ValueError: see `rowwise.Table.remap`.
    """
    if not source_rows.size:
        raise ValueError("a table has at least one row; source_rows is empty")
    kept = np.flatnonzero(source_rows != -1)
    old = source_rows[kept]
    if (old < 0).any() or (old >= rows).any():
        bad = (source_rows < -1) | (source_rows >= rows)
        raise outside(source_rows, int(bad.argmax()), rows)
    ids, counts = np.unique(old, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"row {ids[counts > 1][0]} stands twice in source_rows")
    return kept, old
