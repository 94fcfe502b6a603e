"""Keras variables on a table: its weights, the slots of its optimizer, a sum of gradients."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras.src.backend import in_stateless_scope
from numpy.typing import NDArray

from rowwise.keras.in_care import InCare
from rowwise.keras.row_sums import RowSums
from rowwise.table import Table
from rowwise.torch._parameter import TableParameter


class TableVariable(InCare, keras.Variable):
    """The embeddings: a trainable (rows, dim) float32 variable on a `rowwise.Table`.

    To Keras it is a variable like any other. `bridge.py` sees to it that an optimizer's step
    reaches the table as ids and gradients.
    """

    def _initialize(self, value: Any) -> None:
        array = keras.ops.convert_to_tensor(value).detach().cpu().numpy()
        self.table = Table(*array.shape, init=lambda _: array)
        self._value = TableParameter(self.table, requires_grad=self.trainable)
        self.forget_optimizers()

    def forget_optimizers(self) -> None:
        """No optimizer has this table in its care."""
        super().forget_optimizers()
        self.batches: list[NDArray[np.int64]] = []  # ids of the gradients being applied

    def lie_over_new_memory(self) -> None:
        """Takes up the memory of the table, which has been reordered, and so do its optimizer's
        slots. Gradients of the old rows, and sums of them, are dropped.
        """
        self._value.grad = None
        self._value.rebind(self.table)
        self._shape = self.table.shape
        for slots in self.slots.values():
            for slot in slots.values():
                slot.value.rebind(self.table)
                slot._shape = self.table.shape
        for accumulator in self.accumulators.values():
            accumulator.start_anew(*self.table.shape)
        self.batches = []


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

    def leave(self) -> None:
        """From now on the numbers are Keras's; they lie in memory of their own already."""


class AccumulatorVariable(keras.Variable):
    """Sums of gradients over several batches, of a table's rows: (rows, dim) float32."""

    def __init__(self, variable: TableVariable, name: str) -> None:
        self.by_row = RowSums(*variable.table.shape)
        # What Keras adds to gradients in which the sums are already.
        self.nothing = keras.Variable(0.0, trainable=False, name="nothing")
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)

    def _initialize(self, value: Any) -> None:
        self._value = torch.nn.Parameter(torch.from_numpy(self.by_row.sums), requires_grad=False)

    def start_anew(self, rows: int, dim: int) -> None:
        """Sums of zero for another number of rows."""
        self.by_row.start_anew(rows, dim)
        self._shape = (rows, dim)
        self._initialize(None)

    def assign(self, value: Any) -> Any:
        """Takes the sums from `value`, with whichever rows are not zero."""
        result = super().assign(value)
        self.by_row.written()
        return result

    def forget(self) -> None:
        """All sums are zero again."""
        if not in_stateless_scope():
            self.by_row.take()
