"""A layer's embeddings on a table, as every backend sees them: the optimizer that owns them."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any, cast

import keras
import numpy as np
from numpy.typing import NDArray

from rowwise._binding import DenseFallback, OptimizerBinding
from rowwise._init import Init
from rowwise.keras._initial_values import Draw, Sampler, blocks, constant, draw_of
from rowwise.store import Folder, RowGradient
from rowwise.table import Table

# For messages of rows on a disk: how all of them are kept, and what cannot do it.
WITHOUT_AN_ARRAY = (
    "layer.table.save(path) writes all rows to a file, and model.save(path) the model. "
    "get_weights, .weights.h5 and .h5 files, EarlyStopping(restore_best_weights=True) and "
    "model.export need all rows in memory"
)

_NOT_COPIED = ("binding", "slots", "accumulators")


class TableVariableBase:
    """Mixed into each backend's `TableVariable`, before `keras.Variable`.

    Attributes:
        table: the table that holds the rows.
        binding: the optimizer whose rule the table follows, and whether its steps are sparse.
        slots: for every optimizer that was bound, its slots by name, as variables.
        accumulators: for every optimizer that sums gradients over batches, the variable of sums.
        scratch, memory: of a table on a disk, see `rowwise.Table`.
        rounding: of weights of 16 bits, see `rowwise.Table`; None: they are float32.
        frozen_row: a row that training leaves as it is, or None.
        refused: why no layer has a table, whatever its options: Keras is of a version not known.
    """

    table: Table
    scratch: Folder | None = None
    memory: int | str | None = None
    rounding: str | None = None
    shape: tuple[int, int]
    _dtype: str
    path: str
    regularizer: Any
    constraint: Any
    frozen_row: int | None = None
    refused: str | None = None
    options: Any = None  # of the optimizer, as the rule was made of them

    def __init__(
        self,
        *args: Any,
        scratch: Folder | None = None,
        memory: int | str | None = None,
        rounding: str | None = None,
        **options: Any,
    ) -> None:
        self.scratch, self.memory, self.rounding = scratch, memory, rounding
        super().__init__(*args, **options)

    def forget_optimizers(self) -> None:
        """Start without an optimizer."""
        self.binding = OptimizerBinding()
        self.slots: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()
        self.accumulators: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def _initialize_with_initializer(self, initializer: Any) -> None:
        """Start the rows with what an initializer gives, drawn straight into the table."""
        draw = draw_of(initializer, self.shape)
        if self.on_disk and draw is not None and draw.table_init is not None:
            # Rows on a disk are drawn when they are first read.
            seed = draw.seed if isinstance(draw.seed, int) else None
            self._initialize(self._new_table(self.shape, draw.table_init, seed))
            return
        if draw is not None and draw.distribution == "constant":
            sample: Sampler | None = constant(draw.a)
        else:
            sample = None if draw is None else self.sampler(draw)
        if sample is None:
            super()._initialize_with_initializer(initializer)  # type: ignore[misc]
            return
        table = self._new_table(self.shape, "zeros")
        for first, end in blocks(self.shape):
            values = sample(first * table.dim, (end - first, table.dim))
            table.store.write(values, np.arange(first, end))
        self._initialize(table)

    def _new_table(self, shape: tuple[int, int], init: Init, seed: int | None = None) -> Table:
        """Return a new table, where the variable's rows are to lie, in its dtype."""
        rows, dim = shape
        if self.rounding == "stochastic":
            # Keras, too, draws seeds of Python's random numbers, which its set_random_seed sets.
            seed = random.getrandbits(63)
        return Table(
            rows,
            dim,
            init=init,
            seed=seed,
            scratch=self.scratch,
            memory=self.memory,
            dtype=self._dtype,
            rounding=self.rounding or "nearest",
        )

    def _table_of(self, values: NDArray[Any]) -> Table:
        """Return a new table of values (rows, dim)."""
        rows, dim = values.shape
        if self._dtype == "float32":
            return self._new_table((rows, dim), lambda _: values)
        table = self._new_table((rows, dim), "zeros")
        for first, end in blocks((rows, dim)):  # not all of them as float32 at once
            table.store.write(values[first:end], np.arange(first, end))
        return table

    @property
    def on_disk(self) -> bool:
        """Whether the rows lie on a disk."""
        return self.memory is not None

    def check_in_memory(self, what: str) -> None:
        """Refuse what needs all rows as an array, where they lie on a disk.

        Raises:
            RuntimeError: with what to do instead.
        """
        if self.on_disk:
            raise RuntimeError(
                f"{self.path} does not support {what}: its rows lie on a disk, and memory may not "
                f"hold all rows. For vectors, call the layer with ids; {WITHOUT_AN_ARRAY}"
            )

    def prefetch(self, ids: Any) -> None:
        """Begin to read rows ids (...,) from the disk; see `rowwise.Table.prefetch`."""
        self.table.prefetch(ids)

    def check_batch(self, ids: Any) -> None:
        """Refuse a gradient of rows ids (n,) on a disk of which memory cannot hold all at once.

        The rows of gradients that it is to be summed up with count, too.

        Raises:
            MemoryError: with the number of distinct rows.
        """
        if not self.on_disk:
            return
        owner, store = self.binding.owner, cast(Any, self.table.store)
        if owner is not None and owner in self.accumulators:
            ids = np.concatenate([ids, self.accumulators[owner].sums.touched])
        store.check_batch(ids)

    # ------------------------------------------------------------------ what a backend defines

    def _initialize(self, value: Any) -> None:
        """Start with a table, or with values (rows, dim)."""
        raise NotImplementedError

    def sampler(self, draw: Draw) -> Sampler | None:
        """Return what draws Keras's numbers block by block; None: it would draw others."""
        raise NotImplementedError

    def slot_in_memory(self, slot: str, name: str) -> Any:
        """Return a variable `name` over a slot of the table."""
        raise NotImplementedError

    def make_accumulator(self, name: str) -> Any:
        """Return a variable `name` of sums of the table's gradients."""
        raise NotImplementedError

    @classmethod
    def why_dense(cls, dtype: str) -> str | None:
        """Return why a new table of dtype would not serve where Keras makes variables, or None."""
        return None

    def check_supported(self, optimizer: Any) -> None:
        """Refuse an optimizer that the backend cannot follow by sparse steps.

        Raises:
            DenseFallback: with the cause.
        """

    def rebind_table(self) -> None:
        """Follow the table to its new memory and number of rows, and so do slots and sums.

        Gradients of the old rows, and sums of them, are dropped.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ binding

    def make_slot(self, slot: str, name: str) -> Any:
        """Return a variable `name` of a slot of the table."""
        return DiskSlot(name) if self.on_disk else self.slot_in_memory(slot, name)

    def detach_slots(self, optimizer: Any) -> None:
        """Copy the slots of every other optimizer out of the table, which gets new ones."""
        for other, slots in self.slots.items():
            for slot in slots.values() if other is not optimizer else ():
                slot.detach()

    def fall_back_to_dense(self, reason: DenseFallback) -> None:
        """Leave the steps to Keras from now on, over all rows; slots keep their values.

        Raises:
            ValueError: the rows lie on a disk.
        """
        self.check_may_be_dense(reason)
        self.table.rule = None
        self.binding.fall_back_to_dense(reason, rows=self.shape[0], name=self.path, stacklevel=3)

    def check_may_be_dense(self, reason: DenseFallback) -> None:
        """Refuse steps over all rows where these lie on a disk.

        Raises:
            ValueError: with the reason for such steps.
        """
        if self.on_disk:
            raise ValueError(
                f"{self.path}: {reason}; an embedding on a disk is stepped by a rule alone: choose "
                "other options, or leave out scratch and memory"
            )

    def read_scalar(self, read: Callable[[], Any]) -> float | None:
        """Return a number that an optimizer keeps; None while a program is still making it."""
        value = np.asarray(keras.ops.convert_to_numpy(read()))
        return None if value.ndim else float(value)

    def step_table(self, table: Table, ids: Any, gradients: Any, rate: float, number: int) -> None:
        """Make step `number` of the table's rule with gradients (n, dim) of rows ids (n,)."""
        gradient = RowGradient(ids, np.ascontiguousarray(gradients, dtype=np.float32))
        table.apply(gradient, rate, iteration=number, frozen_row=self.frozen_row)

    def check_rows_may_change(self) -> None:
        """Refuse a change of rows that slots outside the table would not follow.

        Raises:
            ValueError: with the optimizer that has such slots.
        """
        gc.collect()  # optimizers that nobody has any more are often in cycles
        owner = self.binding.owner if self.binding.mode == "sparse" else None
        for optimizer in self.slots:
            if optimizer is not owner:
                raise ValueError(
                    f"{self.path}: the optimizer {optimizer.name!r} keeps slots for "
                    f"{self.shape[0]} rows outside the table; change the rows before compile(), "
                    "or compile again with a new optimizer afterwards"
                )

    def __getstate__(self) -> dict[str, Any]:
        # A copy has its own optimizer, or none yet.
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget_optimizers()


class DiskSlot(keras.Variable):
    """A slot on the disk: Keras gets a number in its place, which nobody reads."""

    def __init__(self, name: str) -> None:
        super().__init__(0.0, dtype="float32", trainable=False, name=name)

    def rebind(self, table: Table) -> None:
        """Do nothing: the table has the slot."""

    def detach(self) -> None:
        """Do nothing: the slot goes when the table gets another optimizer's."""


def slot_shape(table: Table) -> tuple[int, int]:
    """Return the shape of a slot of a table: (rows, dim), or (rows, 1)."""
    return table.rows, table.rule.slot_dim(table.dim) if table.rule else table.dim


def variable_of(value: Any) -> Any:
    """Return the variable that a value is of, where that is known, or what was given.

    On TensorFlow a variable's value is a `tf.Variable`, which optimizers take in its place.
    """
    return getattr(value, "owner", value)


def tables_of(model: Any) -> list[Any]:
    """Return the variables of a model that are tables."""
    return [v for v in model.variables if isinstance(v, TableVariableBase)]
