"""The table: rows of numbers that are looked up, and updated by a rule at the cost of the batch.

A row's life, in order: it is made (`__init__`), read (`lookup`), updated (`update`), and at times
brought up to date together with all the others (`materialize`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rowwise import _native, _pooling, _untrained, rules
from rowwise._checks import check_finite as refuse_nonfinite
from rowwise._checks import check_iteration, check_learning_rate, positive
from rowwise._ids import as_ids
from rowwise._init import Init, checked_seed
from rowwise._untrained import Untrained
from rowwise.rules import Rule, StepParams
from rowwise.store import (
    BagGradient,
    DiskStore,
    Folder,
    HostStore,
    RowGradient,
    RowStore,
    TableState,
)
from rowwise.store._disk import ROUNDS_AT_RANDOM, check_copyable
from rowwise.store._memory import bytes_of, check_fits, stored_as
from rowwise.store._table_file import load_state, save_state
from rowwise.text import Vocabulary

Floats = NDArray[np.float32]


class Table:
    """Rows of float32 vectors (or of 16 bits: `dtype=`) with an update rule, lazy and exact.

    An update touches the rows of its batch only. Rows that a dense optimizer would also have
    changed (by momentum, by weight decay) are brought up to date, in closed form, when they are
    next read, so that every value anyone sees is the one of dense training, to float32 rounding.

    Reads never write: any number of threads may look up at once (with `memory=`, one at a time).
    Writers wait for each other.

    Args:
        rows: number of rows, V; ids are 0..V-1.
        dim: length of a row's vector, D.
        rule: a `Rule`, the name of one ("sgd", "rmsprop", "adagrad", "adam", "adamw"), or None for
            a table that is only read.
        init: what the rows start with: "uniform" (in -0.05..0.05), "normal" (deviation 0.05),
            "unit-normal" (deviation 1), "zeros", an array (rows, dim), or a function of the shape
            that returns one. The rows of an array count as trained.
        seed: for "uniform" and "normal". A row's start depends on the seed and its id alone.
        scratch: a folder on a disk, in whose room the table then lies instead of in memory; for
            tables larger than that. It leaves no file behind.
        memory: with scratch, bytes of memory (a number, or "8GiB") for the rows used lately. The
            others are read from the disk row by row, many at once, where without it they are
            pages of the system's.
        dtype: how weights are stored, "float32", "bfloat16" or "float16"; the last two in half the
            memory. Slots, arithmetic and what lookups return are float32 in any case.
        rounding: how a weight of 16 bits is rounded. "nearest": after each step, touched or not, as
            in dense training. "stochastic": up or down at random when a step touches its row, up
            the likelier the nearer that is, so that steps too small for the weight's last bit are
            not lost. docs/exactness.md says what is promised of both.

    Raises:
        ValueError: rows or dim below 1, an unknown rule, init, dtype or rounding, an array of
            another shape; rounding at random with memory.
        MemoryError: table and slots do not fit in free memory.
        OSError: they do not fit in the scratch folder, or there is none.

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
        memory: int | str | None = None,
        dtype: Any = "float32",
        rounding: str = "nearest",
    ) -> None:
        rows, dim = positive("rows", rows), positive("dim", dim)
        if rows >= 2**32:
            if scratch is None:
                check_fits(rows, dim)
            raise ValueError(f"rows={rows} is above the limit of {2**32 - 1}")
        chosen = rules.get(rule)
        stored = stored_as(dtype)
        if rounding not in ("nearest", "stochastic"):
            raise ValueError(f"rounding={rounding!r} is not 'nearest' or 'stochastic'")
        if rounding == "stochastic":
            if stored == "float32":
                raise ValueError("rounding='stochastic' is for weights of 16 bits: give dtype=")
            seed = checked_seed(seed)
        self.store: RowStore = _store(
            rows, dim, chosen, init, seed, scratch, memory, stored, rounding == "stochastic"
        )
        self._learning_rate = chosen.learning_rate if chosen else 0.0
        self._vocabulary: Vocabulary | None = None
        self._mark_given(init)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        rule: Rule | str | None = None,
        *,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        init: Init = "uniform",
        seed: int | None = None,
    ) -> Self:
        """Make a table from vectors that were trained elsewhere; their rows count as trained.

        Args:
            embeddings: (V, D) numbers (NumPy, or a tensor on the CPU), or
                `rowwise.vectors.Vectors`.
            rule: see `Table`.
            vocabulary: V words in the order of their ids; those of the vectors unless given. Only
                with `Vectors`.
            init: what words start with that have no vector, see `rowwise.vectors.rows_for`.
            seed: of init.

        Raises:
            TypeError: vocabulary without words to look up.
            ValueError: embeddings that are not (V, D).

        Example:
            >>> Table.from_pretrained(np.eye(3)).is_trained().tolist()
            [True, True, True]
        """
        from rowwise.vectors import pretrained_rows

        pretrained = pretrained_rows(embeddings, vocabulary, init, seed=seed)
        rows, dim = pretrained.rows.shape
        table = cls(rows, dim, rule, init=lambda _: pretrained.rows)
        table.mark_trained(np.flatnonzero(pretrained.found))
        if isinstance(vocabulary, Vocabulary):
            table.vocabulary = vocabulary
        return table

    @classmethod
    def of_store(cls, store: RowStore) -> Self:
        """Make a table of the rows in a store, which becomes its own."""
        table = cls.__new__(cls)
        table.store = store
        table._learning_rate = store.rule.learning_rate if store.rule else 0.0
        table._vocabulary = None
        return table

    # ------------------------------------------------------------------ reading

    def lookup(self, ids: Any, *, untrained: Untrained = "as-is") -> Floats:
        """Return the present vectors of rows; the table does not change.

        Args:
            ids: (...,) integers, of any shape.
            untrained: what a row gives that was never trained nor marked as trained: "as-is" (what
                it started with), "zeros", "mean" (of the trained rows, computed once after each
                update), or "error".

        Returns:
            vectors (..., dim) float32, a fresh array.

        Raises:
            IndexError: an id below 0 or not below `rows`.
            UntrainedError: a row that is not trained, and untrained="error". It is a LookupError.
            ValueError: untrained="mean" and no row is trained.
            TypeError, ValueError: see `rowwise._ids.as_ids`.

        Example:
            >>> Table(5, 2).lookup([[4, 1, 4]]).shape
            (1, 3, 2)
        """
        ids = as_ids(ids)
        vectors = np.empty((*ids.shape, self.dim), dtype=np.float32)
        self.store.gather(ids, vectors)
        if untrained != "as-is":
            _untrained.fill_untrained(self.store, ids, vectors, untrained)
        return vectors

    def prefetch(self, ids: Any) -> None:
        """Begin to read the next batch's rows from the disk while this one is trained.

        No value depends on it. It does something for tables with `memory=` alone.

        Args:
            ids: (...,) integers.

        Raises:
            IndexError, TypeError, ValueError: bad ids, see `lookup`.
        """
        self.store.prefetch(as_ids(ids))

    def pool(
        self, ids: Any, offsets: Any = None, weights: Any = None, combiner: str = "mean"
    ) -> Floats:
        """Reduce bags of rows to one vector each, at no more memory than the result.

        Args:
            ids: (..., length), the last axis a bag; or (n,) with offsets.
            offsets: (bags + 1,) ascending from 0 to n: bag b is ids[offsets[b]:offsets[b + 1]].
            weights: a number for each id, 1 unless given; not with "max".
            combiner: "mean" (divided by the sum of the weights), "sum", "sqrtn" (divided by the
                root of the sum of their squares), or "max" (the largest of each number).

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
        return _pooling.pool(self.store, ids, offsets, weights, combiner)

    def to_numpy(self) -> Floats:
        """Return the present values of all rows, (rows, dim), a fresh array."""
        return self.lookup(np.arange(self.rows, dtype=np.int64))

    def slot(self, name: str) -> Floats:
        """Return the present values of a slot, (rows, dim) or (rows, 1), a fresh array.

        Raises:
            KeyError: the rule has no such slot.
        """
        return self.store.read_slot(name)

    def __getitem__(self, ids: Any) -> Floats:
        return self.lookup(np.arange(self.rows)[ids] if isinstance(ids, slice) else ids)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a table's present values are always a copy; copy=False cannot be had")
        return self.to_numpy().astype(dtype or np.float32, copy=False)

    def __dlpack__(self, *, copy: bool | None = None, **options: Any) -> Any:
        if copy is False:
            raise BufferError(
                "a table's present values are always a copy; copy=False cannot be had"
            )
        return self.to_numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # memory of the CPU

    # ------------------------------------------------------------------ updating

    def update(
        self,
        ids: Any,
        gradients: Any,
        learning_rate: float | None = None,
        *,
        iteration: int | None = None,
        check_finite: bool = True,
    ) -> None:
        """Make one step of the rule over the whole table, at the cost of the batch.

        Gradients of the same id are summed in the order in which they stand, 64 at a time. A row
        that is not in the batch has gradient zero, as in dense training; an empty batch is a step
        too.

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
        ids = as_ids(ids)
        gradients = np.ascontiguousarray(gradients, dtype=np.float32)
        self._check_gradients(ids, gradients)
        if check_finite:
            refuse_nonfinite(gradients)
        self.apply(RowGradient(ids, gradients), learning_rate, iteration=iteration)

    def apply(
        self,
        gradient: RowGradient | BagGradient,
        learning_rate: float | None = None,
        *,
        iteration: int | None = None,
        frozen_row: int | None = None,
    ) -> None:
        """Make one step with a gradient by row, or by bags; NaN and infinity enter their rows.

        Args:
            gradient: ids and values may have more axes than `RowGradient` says.
            learning_rate, iteration: see `update`.
            frozen_row: a row that stays as it is, and uncounted.

        Raises:
            ValueError, IndexError: see `update`. Nothing has changed then.
        """
        self.store.apply(gradient, self._step_params(learning_rate, iteration), frozen_row)

    def _check_gradients(self, ids: NDArray[np.int64], gradients: Floats) -> None:
        if gradients.shape != (*ids.shape, self.dim):
            raise ValueError(
                f"gradients have shape {gradients.shape}; ids of shape {ids.shape} in a table of "
                f"dim {self.dim} need {(*ids.shape, self.dim)}"
            )

    def _step_params(self, learning_rate: float | None, iteration: int | None) -> StepParams:
        rule = self.rule
        if rule is None:
            raise ValueError("the table has no rule; give one: Table(..., rule='adam')")
        rate = self._learning_rate if learning_rate is None else check_learning_rate(learning_rate)
        step = self.steps + 1 if iteration is None else check_iteration(iteration)
        return rule.step_params(rate, step)

    def materialize(self, ids: Any = None) -> None:
        """Bring rows up to date in place; no value changes beyond rounding.

        Nothing needs it for correct values. For all rows it costs a pass over the table, which
        happens by itself every 65,535 steps, so that the clock can forget the past.

        Args:
            ids: (...,) integers; all rows unless given.

        Raises:
            IndexError, TypeError: bad ids, see `lookup`.
        """
        self.store.materialize(None if ids is None else as_ids(ids))

    # ------------------------------------------------------------------ growing

    def grow(self, rows: int, *, init: Init = "uniform", seed: int | None = None) -> None:
        """Add rows at the end, up to `rows` in all; the others keep everything they have.

        A new row is one that no update has touched, with fresh slots, from now on. See `remap` for
        init: an array is (rows, dim), of which the new rows' values are taken.

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
            raise ValueError(f"rows={rows} is below the table's {self.rows}; remap() can drop rows")
        self.store.check_room(rows)
        source_rows = np.full(rows, -1)
        source_rows[: self.rows] = np.arange(self.rows)
        self._move_rows(source_rows, init, seed)

    def remap(self, source_rows: Any, *, init: Init = "uniform", seed: int | None = None) -> None:
        """Make row i what row source_rows[i] was, with its slots and counts; -1 makes a new row.

        Rows may be dropped, moved and added at once, as a new vocabulary asks for
        (`Vocabulary.indexer_from`). The table gets new memory, and has no vocabulary until it is
        given the new one.

        Args:
            source_rows: (new rows,) ids of this table, each at most once, or -1.
            init: what new rows start with, see `Table`; an array is (new rows, dim), and its rows
                count as trained.
            seed: of init.

        Raises:
            IndexError, TypeError: source_rows that are no rows.
            ValueError: no source_rows, a row twice, an unknown init.
            MemoryError: the new table does not fit beside the old one. Nothing has changed then.
        """
        self._move_rows(as_ids(source_rows).reshape(-1), init, seed)
        self._vocabulary = None

    def _move_rows(self, source_rows: NDArray[np.int64], init: Init, seed: int | None) -> None:
        self.store.remap(source_rows, init, seed)
        self._mark_given(init, np.flatnonzero(source_rows < 0))

    def _mark_given(self, init: Init, ids: NDArray[np.int64] | None = None) -> None:
        """Mark rows, or all, as trained where the caller gave their values."""
        if not isinstance(init, str) and not callable(init):
            self.store.mark_trained(ids)

    # ------------------------------------------------------------------ knowing

    @property
    def rows(self) -> int:
        """Number of rows, V."""
        return self.store.shape[0]

    @property
    def dim(self) -> int:
        """Length of a row's vector, D."""
        return self.store.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim)."""
        return self.store.shape

    @property
    def dtype(self) -> str:
        """How weights are stored: "float32", "bfloat16" or "float16"."""
        return self.store.dtype

    @property
    def rounding(self) -> str | None:
        """How weights of 16 bits are rounded: "nearest" or "stochastic"; None of float32."""
        if self.dtype == "float32":
            return None
        store = self.store
        at_random = isinstance(store, HostStore) and store.rounding_seed is not None
        return "stochastic" if at_random else "nearest"

    @property
    def nbytes(self) -> int:
        """Bytes of rows, slots and bookkeeping."""
        return self.store.nbytes

    @property
    def rule(self) -> Rule | None:
        """The update rule. Setting one brings all rows up to date and starts fresh slots."""
        return self.store.rule

    @rule.setter
    def rule(self, rule: Rule | str | None) -> None:
        chosen = rules.get(rule)
        self.store.set_rule(chosen)
        self._learning_rate = chosen.learning_rate if chosen else 0.0

    def set_hyperparameters(self, rule: Rule) -> None:
        """Step by a rule with the same slots from the next step on, and keep the slots.

        Raises:
            ValueError: the rule has other slots.
        """
        self.store.set_rule(rule, keep_state=True)

    @property
    def learning_rate(self) -> float:
        """Rate of a step that is given no other; starts as the rule's."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._learning_rate = check_learning_rate(rate)

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self.store.steps

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the rule's slots."""
        return self.store.slot_names

    @property
    def update_counts(self) -> NDArray[np.uint32]:
        """(rows,) how many updates touched each row."""
        return self.store.update_counts

    @property
    def last_update(self) -> NDArray[np.int64]:
        """(rows,) number of the last update that touched each row, counted from 1; 0: none."""
        return self.store.last_update

    def untrained(self) -> NDArray[np.int64]:
        """Return the ids of rows that are not trained, ascending; see `is_trained`."""
        return np.flatnonzero(~self.store.is_trained())

    def is_trained(self, ids: Any = None) -> NDArray[np.bool_]:
        """Return whether rows were updated, or marked as trained.

        Args:
            ids: (...,) integers; all rows (rows,) unless given.

        Raises:
            IndexError, TypeError: bad ids, see `lookup`.
        """
        return self.store.is_trained(None if ids is None else as_ids(ids))

    def mark_trained(self, ids: Any = None) -> None:
        """Record that rows hold values worth reading that no update brought.

        Vectors that were trained elsewhere are such values. Rows given as an array, by
        `from_pretrained` or by a file are marked already.

        Args:
            ids: (...,) integers; all rows unless given.

        Raises:
            IndexError, TypeError: bad ids, see `lookup`.
        """
        self.store.mark_trained(None if ids is None else as_ids(ids))

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words that rows stand for, kept in the table's file; None unless given.

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

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        words = "" if self._vocabulary is None else f", vocabulary={self._vocabulary!r}"
        stored = "" if self.dtype == "float32" else f", dtype={self.dtype!r}"
        if self.rounding == "stochastic":
            stored += ", rounding='stochastic'"
        # To count them on a disk is a pass over it.
        count = "" if self.store.device == "disk" else f", untrained={len(self.untrained())}"
        return (
            f"Table(rows={self.rows}, dim={self.dim}{stored}, rule={self.rule!r}, "
            f"steps={self.steps}{count}{words})"
        )

    # ------------------------------------------------------------------ files and copies

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table, with everything that training needs to go on to the same bits.

        The table does not change, and updates of other threads wait. The file, of safetensors'
        format, appears whole or not at all, whatever happens on the way; docs/file-format.md has
        the promises. Beyond the table a save needs a few megabytes of memory.

        Raises:
            OSError: there is no room, or no permission; a file that was there stays.
        """
        with self.store.frozen():
            save_state(self._completed(self.store.state()), path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        mmap: bool = False,
        scratch: Folder | None = None,
        memory: int | str | None = None,
    ) -> Self:
        """Read what `save` wrote.

        Args:
            path: of the file.
            mmap: leave rows in the file until they are read, so that opening takes no time however
                large the table is. Updates then change a copy in memory of the rows they touch,
                never the file. The rows' checksums are not looked at.
            scratch, memory: see `Table`; for training a table that does not fit in memory.

        Raises:
            FileNotFoundError: there is no such file.
            DamagedFileError: it is not a table's file, or damaged. It is a ValueError.
            MemoryError, OSError: it does not fit in memory, or in the scratch folder.
            ValueError: mmap and scratch; memory without scratch.
        """
        return load_state(
            path,
            lambda state, _: cls.from_state(state),
            mmap=mmap,
            scratch=scratch,
            memory=cached_bytes(memory, scratch),
        )

    def state(self) -> TableState:
        """Return all that the table consists of: its own arrays, not copies of them."""
        return self._completed(self.store.state())

    @classmethod
    def from_state(cls, state: TableState) -> Self:
        """Make the table of which `state` returned this; the arrays become its own.

        Raises:
            ValueError: parts that do not fit each other.
        """
        table = cls.__new__(cls)
        table.load_state(state)
        return table

    def load_state(self, state: TableState) -> None:
        """Become the table of which `state` returned this; the arrays become its own.

        Raises:
            ValueError: parts that do not fit each other; nothing has changed.
        """
        rate = check_learning_rate(state.learning_rate)
        kind = HostStore if state.memory is None else DiskStore
        self.store = kind.from_state(state)
        self._learning_rate = rate
        self._vocabulary = None
        self.vocabulary = state.vocabulary

    def become(self, other: Table) -> None:
        """Take over the rows and all else of another table, which is not to be used any more."""
        self.__dict__.update(other.__dict__)

    def __getstate__(self) -> TableState:
        check_copyable(self.store)
        with self.store.frozen():
            return self._completed(self.store.state()).copy()

    def __setstate__(self, state: TableState) -> None:
        self.load_state(state.copy())  # onto huge pages

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.from_state(self.__getstate__())

    def _completed(self, state: TableState) -> TableState:
        return replace(state, learning_rate=self._learning_rate, vocabulary=self._vocabulary)


def cached_bytes(memory: int | str | None, scratch: Folder | None) -> int | None:
    """Return the bytes that memory= says, or None.

    Raises:
        TypeError, ValueError: no size, or one without a folder for the other rows.
    """
    if memory is None:
        return None
    if scratch is None:
        raise ValueError(f"memory={memory!r} is for rows on a disk; give scratch= a folder there")
    return bytes_of(memory)


def _store(
    rows: int,
    dim: int,
    rule: Rule | None,
    init: Init,
    seed: int | None,
    scratch: Folder | None,
    memory: int | str | None,
    dtype: str,
    rounds_at_random: bool,
) -> HostStore | DiskStore:
    cached = cached_bytes(memory, scratch)
    if cached is None or scratch is None:
        return HostStore(
            rows,
            dim,
            rule,
            init=init,
            seed=seed,
            scratch=scratch,
            dtype=dtype,
            rounding_seed=seed if rounds_at_random else None,
        )
    if rounds_at_random:
        raise ValueError(ROUNDS_AT_RANDOM)
    return DiskStore(
        rows, dim, rule, init=init, seed=seed, scratch=scratch, memory=cached, dtype=dtype
    )


def set_num_threads(threads: int) -> None:
    """Set how many threads the kernels use; results have the same bits for any number.

    Unless set, it is the environment's OMP_NUM_THREADS, or else as many as the process may use
    processors (`taskset`). Where the system grants fewer, those do the work, with one warning.

    Raises:
        ValueError: below 1.
    """
    _native.set_num_threads(positive("threads", threads))
