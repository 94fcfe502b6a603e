"""Keras variables on a table: its weights, the slots of its optimizer, a sum of gradients."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import keras
import numpy as np
import torch
from keras.src.backend import in_stateless_scope
from numpy.typing import NDArray

from rowwise.memory import matrix
from rowwise.table import Table
from rowwise.torch.parameter import TableParameter


class TableVariable(keras.Variable):
    """The embeddings: a trainable (rows, dim) float32 variable on a `rowwise.Table`.

    To Keras it is a variable like any other. `optimizers.py` sees to it that an optimizer's step
    reaches the table as ids and gradients.
    """

    table: Table
    frozen_row: int | None = None  # that training leaves alone

    def _initialize(self, value: Any) -> None:
        array = keras.ops.convert_to_tensor(value).detach().cpu().numpy()
        self.table = Table(*array.shape, init=array)
        self._value = TableParameter(self.table, requires_grad=self.trainable)
        self.forget_optimizers()

    def forget_optimizers(self) -> None:
        """No optimizer has this table in its care."""
        self.keeper: weakref.ref[Any] | None = None  # the optimizer whose rule the table has
        self.lazy = False  # whether the table makes its steps, and not Keras
        self.batches: list[NDArray[np.int64]] = []  # ids of the gradients being applied
        # Slots of every optimizer that came by: optimizer -> {slot name: variable}
        self.slots: weakref.WeakKeyDictionary[Any, dict[str, SlotVariable]] = (
            weakref.WeakKeyDictionary()
        )
        self.accumulators: weakref.WeakKeyDictionary[Any, AccumulatorVariable] = (
            weakref.WeakKeyDictionary()
        )

    def update(self, ids: Any, gradients: Any, *args: Any, **options: Any) -> None:
        """`Table.update`; the frozen row, if there is one, stays what it is."""
        row = self.frozen_row
        if row is None:
            self.table.update(ids, gradients, *args, **options)
            return
        moving = ids != row
        # With a gradient of zero the row is brought to now, and need not be made up for later.
        ids = np.append(ids[moving], row)
        gradients = np.vstack([gradients[moving], np.zeros((1, self.table.dim), np.float32)])
        with self.table.keeping(row):
            self.table.update(ids, gradients, *args, **options)

    def check_rows_may_change(self) -> None:
        """Raises ValueError where an optimizer has slots that would not follow the table's rows."""
        gc.collect()  # optimizers that nobody has any more are often in cycles
        keeper = self.keeper() if self.keeper is not None and self.lazy else None
        for optimizer in self.slots:
            if optimizer is not keeper:
                raise ValueError(
                    f"{self.path}: the optimizer {optimizer.name!r} keeps slots for "
                    f"{self.shape[0]} rows outside the table; change the rows before compile(), "
                    "or compile again with a new optimizer afterwards"
                )

    def lie_over_new_memory(self) -> None:
        """Takes up the memory of the table, which has been reordered, and so do its optimizer's
        slots. Gradients of the old rows, and sums of them, are dropped.
        """
        self._value.lie_over_new_memory()
        self._shape = self.table.shape
        for slots in self.slots.values():
            for slot in slots.values():
                slot.value.lie_over_new_memory()
                slot._shape = self.table.shape
        for accumulator in self.accumulators.values():
            accumulator.start_anew(*self.table.shape)
        self.batches = []

    def __getstate__(self) -> dict[str, Any]:
        # A copy has its own optimizer, or none yet.
        dropped = ("keeper", "lazy", "batches", "slots", "accumulators")
        return {name: value for name, value in self.__dict__.items() if name not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget_optimizers()


class SlotVariable(keras.Variable):
    """One slot of a table, as the optimizer's variable: (rows, dim) float32, not trainable."""

    def __init__(self, table: Table, slot: str, name: str) -> None:
        self.table, self.slot = table, slot
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)

    def _initialize(self, value: Any) -> None:
        self.lie_over(self.table)

    def lie_over(self, table: Table) -> None:
        """Takes the slot's memory of `table` for its own."""
        self.table = table
        self._value = TableParameter(table, self.slot, requires_grad=False)
        self._shape = table.shape


class AccumulatorVariable(keras.Variable):
    """Sums of gradients over several batches, of a table's rows: (rows, dim) float32.

    Only rows that a batch touched are visited.
    """

    def __init__(self, rows: int, dim: int, name: str) -> None:
        self._extent = (rows, dim)
        self._touched: list[NDArray[np.int64]] = []
        # What Keras adds to gradients in which the sums are already.
        self.nothing = keras.Variable(0.0, trainable=False, name="nothing")
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)

    def _initialize(self, value: Any) -> None:
        memory = torch.from_numpy(matrix(*self._extent))
        self._value = torch.nn.Parameter(memory, requires_grad=False)

    def start_anew(self, rows: int, dim: int) -> None:
        """Sums of zero for another number of rows."""
        self._extent, self._shape, self._touched = (rows, dim), (rows, dim), []
        self._initialize(None)

    @property
    def _sums(self) -> NDArray[np.float32]:
        return self._value.detach().numpy()

    def assign(self, value: Any) -> Any:
        """Takes the sums from `value`, with whichever rows are not zero."""
        result = super().assign(value)
        self._touched = [np.flatnonzero(self._sums.any(axis=1))]
        return result

    @property
    def touched(self) -> NDArray[np.int64]:
        """Ids (m,) of the rows that are summed, ascending; a sum may be zero."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *self._touched]))

    @touched.setter
    def touched(self, ids: NDArray[np.int64]) -> None:
        self._touched = [ids]

    def add(self, ids: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
        """Adds gradients (n, dim) of the rows ids (n,), each of them once."""
        self._sums[ids] += gradients
        self._touched.append(ids)

    def take(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The rows touched so far, ascending, and their sums, which are zero again."""
        ids = self.touched
        sums = self._sums[ids]
        self._sums[ids] = 0
        self._touched = []
        return ids, sums

    def forget(self) -> None:
        """All sums are zero again."""
        if not in_stateless_scope():
            self.take()
