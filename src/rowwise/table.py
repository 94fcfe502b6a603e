"""The table: rows of numbers that are looked up, and moved by a rule at the cost of the batch.

A row's life, in order: it is made (`__init__`), read (`lookup`), moved (`update`), and at times
brought up to date together with all the others (`sync`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rowwise import _native, growth, pooling, rules
from rowwise.checks import finite, iteration_of, positive, rate_of
from rowwise.ids import as_ids, outside
from rowwise.init import Init, fill
from rowwise.memory import ROW_STATE, Folder, check_fits, matrix, row_states
from rowwise.pooling import BagGradient
from rowwise.rules import Rule
from rowwise.unseen import KNOWN, Unseen, forget_mean, settle
from rowwise.vocabulary import Vocabulary

Floats = NDArray[np.float32]


class Table:
    """Rows of float32 vectors with an update rule, lazy and exact.

    An update touches the rows of its batch only. Rows that a dense optimizer would also have
    moved (by momentum, by weight decay) are brought up to date, in closed form, when they are
    next read, so that every value anyone sees is the one of dense training, to float32 rounding.

    Reads never write: any number of threads may look up at once. One thread at a time updates.

    Args:
        rows: number of rows, V; ids are 0..V-1.
        dim: length of a row's vector, D.
        rule: a `Rule`, the name of one ("sgd", "rmsprop", "adagrad", "adam", "adamw"), or None for
            a table that is only read.
        init: what the rows start with: "uniform" (in -0.05..0.05), "normal" (deviation 0.05),
            "zeros", an array (rows, dim), or a function of the shape that returns one.
        seed: for "uniform" and "normal".
        scratch: a folder on a disk, in whose room the table then lies instead of in memory; for
            tables larger than that. It leaves no file behind.

    Raises:
        ValueError: rows or dim below 1, an unknown rule or init, an array of another shape.
        MemoryError: table and slots do not fit in free memory.
        OSError: they do not fit in the scratch folder.

    Example:
        >>> import numpy as np
        >>> table = Table(5, 2, "sgd", init="zeros")
        >>> table.update([1, 3, 1], np.ones((3, 2)), learning_rate=0.5)
        >>> table.lookup([0, 1, 3])
        array([[ 0. ,  0. ],
               [-1. , -1. ],
               [-0.5, -0.5]], dtype=float32)
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        rule: Rule | str | None = None,
        *,
        init: Init = "uniform",
        seed: int | None = None,
        scratch: Folder | None = None,
    ) -> None:
        self.rows = positive("rows", rows)
        self.dim = positive("dim", dim)
        if self.rows >= 2**32:
            check_fits(self.rows, self.dim, 0)
            raise ValueError(f"rows={rows} is above the limit of {2**32 - 1}")
        chosen = rules.get(rule)
        self._scratch = scratch
        self._check_fits(self.rows, self._slots_of(chosen))
        self._weights = matrix(self.rows, self.dim, scratch)
        fill(self._weights, init, seed)
        self._states = row_states(self.rows, scratch)
        self._vocabulary: Vocabulary | None = None
        self._native = self._native_rows()
        self._steps = 0
        self._slots: list[Floats] = []
        self._use(chosen)

    # ------------------------------------------------------------------ reading

    def lookup(self, ids: Any, *, unseen: Unseen = "as-is") -> Floats:
        """The present vectors of the rows `ids`; the table does not change.

        Args:
            ids: (...,) integers, of any shape.
            unseen: what a row gives that was never trained nor marked as known: "as-is" (what it
                started with), "zero", "mean" (of the rows that are known, computed once after each
                update), or "error".

        Returns:
            vectors (..., dim) float32, a fresh array.

        Raises:
            IndexError: an id below 0 or not below `rows`.
            UnseenError: a row that is not known, and unseen="error". It is a LookupError.
            ValueError: unseen="mean" and no row is known.
            TypeError, ValueError: see `rowwise.ids.as_ids`.

        Example:
            >>> Table(5, 2).lookup([[4, 1, 4]]).shape
            (1, 3, 2)
        """
        ids = as_ids(ids)
        vectors = np.empty((*ids.shape, self.dim), dtype=np.float32)
        self.lookup_into(ids, vectors)
        if unseen != "as-is":
            settle(self, ids, vectors, unseen)
        return vectors

    def lookup_into(self, ids: NDArray[np.int64], vectors: Floats) -> None:
        """`lookup` into memory of the caller's: vectors (..., dim), contiguous."""
        bad = self._native.lookup(ids, vectors)
        if bad >= 0:
            raise outside(ids, bad, self.rows)

    def pool(
        self, ids: Any, offsets: Any = None, weights: Any = None, combiner: str = "mean"
    ) -> Floats:
        """Bags of rows reduced to one vector each, at no more memory than the result.

        Args:
            ids: (..., length), the last axis a bag; or (n,) with offsets.
            offsets: (bags + 1,) ascending from 0 to n: bag b is ids[offsets[b]:offsets[b + 1]].
            weights: a number for each id, 1 unless given.
            combiner: "mean" (divided by the sum of the weights), "sum", or "sqrtn" (divided by the
                root of the sum of their squares).

        Returns:
            vectors (..., dim) or (bags, dim) float32; 0 for a bag without ids or weight.

        Raises:
            IndexError, TypeError: bad ids, see `lookup`.
            ValueError: an unknown combiner; offsets or weights that do not fit the ids.

        Example:
            >>> table = Table(3, 2, init=np.array([[1, 2], [3, 4], [5, 6]]))
            >>> table.pool([[0, 2], [1, 1]])
            array([[3., 4.],
                   [3., 4.]], dtype=float32)
            >>> table.pool([0, 2, 1], offsets=[0, 2, 3], weights=[1, 1, 10], combiner="sum")
            array([[ 6.,  8.],
                   [30., 40.]], dtype=float32)
        """
        return pooling.pool(self, ids, offsets, weights, combiner)

    def to_numpy(self) -> Floats:
        """The present values of all rows, (rows, dim), a fresh array; the table does not change."""
        return self.lookup(np.arange(self.rows, dtype=np.int64))

    def slot(self, name: str) -> Floats:
        """The present values of a slot, (rows, dim), a fresh array.

        Raises:
            KeyError: the rule has no such slot.
        """
        values = np.empty(self.shape, dtype=np.float32)
        self._native.slot_values(self._slot_index(name), values)
        return values

    # ------------------------------------------------------------------ moving

    def update(
        self,
        ids: Any,
        gradients: Any,
        learning_rate: float | None = None,
        *,
        iteration: int | None = None,
        check_finite: bool = True,
    ) -> None:
        """One step of the rule over the whole table, at the cost of the batch.

        Gradients of the same id are summed in the order in which they stand. A row that is not
        in the batch has gradient zero, as in dense training; an empty batch is a step too.

        Args:
            ids: (...,) integers.
            gradients: (..., dim), cast to float32.
            learning_rate: of this step; `table.learning_rate` unless given.
            iteration: the step's number, counted from 1, in the rule's formula (Adam's bias
                corrections); one more than the updates so far unless given.
            check_finite: refuse NaN and infinity; False lets them into their rows.

        Raises:
            ValueError: the table has no rule; gradients of another shape, or not finite; a
                learning rate that is negative or not finite; an iteration below 1. Nothing has
                changed then.
            IndexError, TypeError: bad ids, see `lookup`. Nothing has changed then.
        """
        if self._rule is None:
            raise ValueError("the table has no rule; give one: Table(..., rule='adam')")
        ids = as_ids(ids)
        gradients = np.ascontiguousarray(gradients, dtype=np.float32)
        if gradients.shape != (*ids.shape, self.dim):
            raise ValueError(
                f"gradients have shape {gradients.shape}; ids of shape {ids.shape} in a table of "
                f"dim {self.dim} need {(*ids.shape, self.dim)}"
            )
        if check_finite:
            finite(gradients)

        def by_ids(numbers: _native.Numbers) -> None:
            bad = self._native.update(ids, gradients, numbers)
            if bad >= 0:
                raise outside(ids, bad, self.rows)

        self._step(by_ids, learning_rate, iteration)

    def sync(self) -> None:
        """Brings every row to now, in place; no value changes beyond rounding.

        Costs a pass over the table. Nothing needs it for correct values; it happens by itself
        every 65,535 steps, so that the clock can forget the past.
        """
        self._native.sync()

    # ------------------------------------------------------------------ growing

    def grow(self, rows: int, *, init: Init = "uniform", seed: int | None = None) -> None:
        """Adds rows at the end, up to `rows` in all; the others keep everything they have.

        A new row is one that no update has touched, with fresh slots, from now on. See `reorder`.

        Raises:
            ValueError: fewer rows than there are.
            MemoryError: the larger table does not fit beside the old one; nothing has changed.

        Example:
            >>> table = Table(3, 2, "adam", init="zeros")
            >>> table.grow(5)
            >>> table.shape
            (5, 2)
        """
        if positive("rows", rows) < self.rows:
            raise ValueError(
                f"rows={rows} is below the table's {self.rows}; reorder() can drop rows"
            )
        self._check_fits(rows, len(self.slot_names))
        old, vocabulary = np.arange(self.rows), self._vocabulary
        self.reorder(np.append(old, np.full(rows - self.rows, -1)), init=init, seed=seed)
        self._vocabulary = vocabulary  # its words have the rows they had

    def reorder(self, places: Any, *, init: Init = "uniform", seed: int | None = None) -> None:
        """Makes row i what row places[i] was, with its slots and counts; -1 makes a new row.

        Rows may be dropped, moved and added at once, as a new vocabulary asks for
        (`Vocabulary.places_in`). The table is synced first. It gets new memory: arrays from
        `buffer` are no longer its own; and it has no vocabulary until it is given the new one.

        Args:
            places: (new rows,) ids of this table, each at most once, or -1.
            init: what new rows start with, see `Table`; an array is (new rows, dim).
            seed: of init.

        Raises:
            IndexError, TypeError: places that are no rows.
            ValueError: no places, a row twice, an unknown init.
            MemoryError: the new table does not fit beside the old one.
        """
        growth.reorder(self, places, init, seed)

    # ------------------------------------------------------------------ knowing

    @property
    def rule(self) -> Rule | None:
        """The update rule. Setting one syncs the table and starts fresh slots."""
        return self._rule

    @rule.setter
    def rule(self, rule: Rule | str | None) -> None:
        chosen = rules.get(rule)
        if chosen is not None:
            self._check_fits(self.rows, len(chosen.slot_names), table=False)
        self.sync()
        self._use(chosen)

    @property
    def learning_rate(self) -> float:
        """Rate of a step that is given no other; starts as the rule's."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._learning_rate = rate_of(rate)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim)."""
        return (self.rows, self.dim)

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self._steps

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the rule's slots."""
        return self._rule.slot_names if self._rule else ()

    @property
    def updates(self) -> NDArray[np.uint32]:
        """(rows,) how many updates touched each row."""
        return self._states["updates"].copy()

    @property
    def last_update(self) -> NDArray[np.int64]:
        """(rows,) number of the last update that touched each row, counted from 1; 0: none."""
        return np.maximum(self._states["last_update"], 0)

    def untrained(self) -> NDArray[np.int64]:
        """Ids of the rows that no update has touched, ascending."""
        return np.flatnonzero(self._states["updates"] == 0)

    def known(self, ids: Any = None) -> NDArray[np.bool_]:
        """Whether rows were trained or marked as known: of ids (...,), or of all rows (rows,)."""
        states = self._states if ids is None else self._states[as_ids(ids)]
        return (states["updates"] > 0) | (states["last_update"] == KNOWN)

    def mark_known(self, ids: Any = None) -> None:
        """Says that rows hold something worth reading that no update brought: pretrained vectors,
        weights from a file. All rows, unless ids (...,) are given.

        Raises:
            IndexError, TypeError: bad ids, see `lookup`.
        """
        ids = np.arange(self.rows) if ids is None else np.unique(as_ids(ids))
        if ids.size and (ids[0] < 0 or ids[-1] >= self.rows):
            raise outside(ids, 0 if ids[0] < 0 else ids.size - 1, self.rows)
        fresh = ids[self._states["updates"][ids] == 0]
        self._states["last_update"][fresh] = KNOWN
        forget_mean(self)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """What the rows stand for; kept in the table's file. None unless it was given.

        Raises:
            ValueError: on setting one with more tokens than the table has rows.
        """
        return self._vocabulary

    @vocabulary.setter
    def vocabulary(self, vocabulary: Vocabulary | None) -> None:
        if vocabulary is not None and not isinstance(vocabulary, Vocabulary):
            raise TypeError(f"vocabulary must be a rowwise.Vocabulary, not {vocabulary!r}")
        if vocabulary is not None and len(vocabulary) > self.rows:
            raise ValueError(
                f"the vocabulary has {len(vocabulary)} tokens and the table {self.rows} rows; "
                f"grow({len(vocabulary)}) makes room"
            )
        self._vocabulary = vocabulary

    @property
    def nbytes(self) -> int:
        """Bytes of rows, slots and bookkeeping."""
        return self._weights.nbytes + sum(slot.nbytes for slot in self._slots) + self._states.nbytes

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        return (
            f"Table(rows={self.rows}, dim={self.dim}, rule={self._rule!r}, steps={self._steps}, "
            f"untrained={len(self.untrained())})"
        )

    # ------------------------------------------------------------------ keeping

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table, with everything that training needs to go on to the same bits.

        The table does not change. The file, of safetensors' format, appears whole or not at all,
        whatever happens on the way; docs/file-format.md has the promises. Beyond the table a save
        needs a few megabytes of memory.

        Raises:
            OSError: there is no room, or no permission; a file that was there stays.
        """
        from rowwise.files.table_file import save_table

        save_table(self, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        mmap: bool = False,
        scratch: Folder | None = None,
    ) -> Table:
        """Reads what `save` wrote.

        Args:
            path: of the file.
            mmap: leave rows in the file until they are read, so that opening takes no time however
                large the table is. Updates then change a copy in memory of the rows they touch,
                never the file. The rows' checksums are not looked at.
            scratch: see `Table`; for training a table that does not fit in memory.

        Raises:
            FileNotFoundError: there is no such file.
            DamagedFileError: it is not a table's file, or damaged. It is a ValueError.
            MemoryError, OSError: it does not fit in memory, or in the scratch folder.
            ValueError: mmap and scratch.
        """
        from rowwise.files.table_file import load_table

        return load_table(cls, path, mmap, scratch)

    def parts(self) -> dict[str, Any]:
        """All there is to the table, for a file or a copy: its own arrays, not copies of them."""
        return {
            "rule": self._rule,
            "learning_rate": self.learning_rate,
            "steps": self._steps,
            "fresh": self._native.fresh,
            "weights": self._weights,
            "slots": list(self._slots),
            "states": self._states,
            "past": self._native.past(),
            "vocabulary": self._vocabulary,
            "scratch": self._scratch,
        }

    def take(self, parts: dict[str, Any]) -> None:
        """Becomes the table of which `parts` gave these; it takes the arrays for its own.

        Raises:
            ValueError: they do not fit each other.
        """
        weights, states, slots = parts["weights"], parts["states"], parts["slots"]
        if states.shape != weights.shape[:1] or states.dtype != ROW_STATE:
            raise ValueError(f"states of shape {states.shape} for {len(weights)} rows")
        if len(slots) != self._slots_of(parts["rule"]):
            raise ValueError(f"{len(slots)} slots for {parts['rule']!r}")
        self._weights, self._states, self._slots = weights, states, slots
        self.rows, self.dim = weights.shape
        self._scratch = parts["scratch"]
        self._native = self._native_rows()
        self._follow(parts["rule"], fresh=parts["fresh"])
        self._native.restore(parts["past"])
        self.learning_rate, self._steps = parts["learning_rate"], parts["steps"]
        self._vocabulary = None
        self.vocabulary = parts["vocabulary"]

    def __getstate__(self) -> dict[str, Any]:
        parts = self.parts()
        for name in ("weights", "states"):
            parts[name] = parts[name].copy()
        return parts | {"slots": [slot.copy() for slot in self._slots], "scratch": None}

    def __setstate__(self, parts: dict[str, Any]) -> None:
        rows, dim = parts["weights"].shape
        own = parts | {
            "weights": matrix(rows, dim),
            "slots": [matrix(rows, dim) for _ in parts["slots"]],
            "states": row_states(rows),
        }
        for name in ("weights", "states"):
            own[name][:] = parts[name]
        for slot, values in zip(own["slots"], parts["slots"], strict=True):
            slot[:] = values
        self.take(own)

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        twin.__setstate__(self.__getstate__())
        return twin

    # ------------------------------------------------------------------ for adapters

    def buffer(self, slot: str | None = None) -> Floats:
        """The table's own memory of the weights, or of a slot: (rows, dim), not a copy.

        It holds the present values only right after `sync`. Whoever writes to a slot's buffer
        says so with `slots_written`.
        """
        return self._weights if slot is None else self._slots[self._slot_index(slot)]

    def refresh(self, ids: NDArray[np.int64]) -> None:
        """Brings the rows `ids` to now in the table's memory, where they may then be written.

        Raises:
            IndexError: an id outside the table; nothing has changed.
        """
        bad = self._native.refresh(ids)
        if bad >= 0:
            raise outside(ids, bad, self.rows)

    def stepped_from_outside(self, ids: NDArray[np.int64]) -> None:
        """Counts a step that somebody else made on the buffer, with gradients for rows `ids`."""
        self._steps += 1
        touched = np.unique(ids)
        self._states["updates"][touched] += 1
        self._states["last_update"][touched] = self._steps

    def states_buffer(self) -> NDArray[np.uint8]:
        """The table's own memory of its rows' bookkeeping, as bytes."""
        return self._states.view(np.uint8)

    def trained_outside(self, steps: int) -> None:
        """Says that somebody trained rows on the buffers, and has made `steps` steps in all."""
        self._steps = steps
        forget_mean(self)

    def update_bags(
        self, batch: BagGradient, learning_rate: float | None = None, iteration: int | None = None
    ) -> None:
        """`update` with the gradients of bags, which need not be written out id by id."""
        self._step(
            lambda numbers: self._native.update_bags(batch.plan, batch.gradients, numbers),
            learning_rate,
            iteration,
        )

    def statistics(self) -> dict[str, NDArray[Any]]:
        """How often and when rows were trained, for files that hold the weights elsewhere."""
        states = self._states
        return {
            "steps": np.array(self._steps),
            "updates": states["updates"].copy(),
            "last_update": states["last_update"].copy(),
        }

    def take_statistics(
        self, steps: NDArray[Any], updates: NDArray[Any], last_update: NDArray[Any]
    ) -> None:
        """Takes what `statistics` gave.

        Raises:
            ValueError: they are of another number of rows.
        """
        if updates.shape != (self.rows,) or last_update.shape != (self.rows,):
            raise ValueError(f"statistics of {updates.shape} rows for a table of {self.rows}")
        self.sync()  # whether a row's slots count depends on its updates
        self._steps = int(steps)
        self._states["updates"], self._states["last_update"] = updates, last_update
        self.slots_written()
        forget_mean(self)

    @contextmanager
    def keeping(self, row: int) -> Iterator[None]:
        """While it lasts, an update that touches `row` leaves it as it was, and uncounted."""
        vector, state = self.lookup([row])[0], self._states[row].copy()
        yield
        self._weights[row] = vector  # of now: the update has touched the row
        for name in ("updates", "last_update"):
            self._states[name][row] = state[name]

    def slots_written(self) -> None:
        """Says that slots were written from outside, so that none may be taken for its start."""
        self._native.fresh = False

    def retune(self, rule: Rule) -> None:
        """Other hyperparameters for the same slots, from the next step on.

        Raises:
            ValueError: the rule has other slots.
        """
        if rule.slot_names != self.slot_names:
            raise ValueError(f"{rule!r} has slots {rule.slot_names}, the table {self.slot_names}")
        self.sync()
        self._follow(rule, fresh=self._native.fresh)

    # ------------------------------------------------------------------ inner parts

    def _step(
        self,
        make: Callable[[_native.Numbers], None],
        learning_rate: float | None,
        iteration: int | None,
    ) -> None:
        """One step, which `make` makes of the rows; if it raises, nothing has changed."""
        if self._rule is None:
            raise ValueError("the table has no rule; give one: Table(..., rule='adam')")
        rate = self.learning_rate if learning_rate is None else rate_of(learning_rate)
        number = self._steps + 1 if iteration is None else iteration_of(iteration)
        scales = self._rule.scales(rate, number)
        keep = self._rule.keep(rate)
        if keep <= 0:  # logarithms of the decay would not exist: leave no row waiting for it
            self.sync()
        make(_native.Numbers(self._steps + 1, rate, keep, *scales))
        self._steps += 1
        if keep <= 0 or not self._rule.lazy or self._native.full:
            self.sync()

    def _check_fits(self, rows: int, slots: int, *, table: bool = True) -> None:
        if self._scratch is None:  # a disk's room is asked for when the files are made
            check_fits(rows, self.dim, slots, table=table)

    def _native_rows(self) -> _native.Rows:
        return _native.Rows(self._weights, self._states.view(np.uint8).reshape(-1))

    def _use(self, rule: Rule | None) -> None:
        """Takes up a rule, with fresh slots; every row is current."""
        self.learning_rate = rule.learning_rate if rule else 0.0
        self._slots = [
            matrix(self.rows, self.dim, self._scratch) for _ in range(self._slots_of(rule))
        ]
        for slot, start in zip(self._slots, rule.slot_starts if rule else (), strict=True):
            if start:
                slot.fill(start)
        self._follow(rule, fresh=True)

    def _follow(self, rule: Rule | None, *, fresh: bool) -> None:
        """Moves rows by `rule` from now on; every row is current."""
        if rule is not None and not rule.lazy:
            warnings.warn(
                f"{rule} moves rows for more steps than can be made up for at once: "
                "every step visits every row",
                stacklevel=4,
            )
        self._rule = rule
        kernel = rule or rules.SGD()
        self._native.follow(kernel.native(), self._slots, fresh=fresh, **kernel.clock())

    @staticmethod
    def _slots_of(rule: Rule | None) -> int:
        return len(rule.slot_names) if rule else 0

    def _slot_index(self, name: str) -> int:
        if name not in self.slot_names:
            raise KeyError(f"no slot {name!r}; {self._rule!r} has {self.slot_names}")
        return self.slot_names.index(name)


def set_num_threads(threads: int) -> None:
    """Sets how many threads the kernels use; results have the same bits for any number.

    Raises:
        ValueError: below 1.
    """
    _native.set_num_threads(positive("threads", threads))
