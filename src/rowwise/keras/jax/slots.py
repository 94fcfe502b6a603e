"""What an optimizer keeps beside a table's weights, on JAX: slots, and sums of gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rowwise.keras.jax.on_table import OnTable
from rowwise.keras.jax.passes import WHOLE, rows_in
from rowwise.table import Table

if TYPE_CHECKING:
    from rowwise.keras.jax.variable import TableVariable


class _BesideWeights(OnTable):
    """A variable that is the table's, until Keras makes the steps."""

    def __init__(self, name: str) -> None:
        self._numbers: NDArray[np.float32] | None = None  # once Keras makes the steps
        super().__init__(np.zeros(()), dtype="float32", trainable=False, name=name)
        self._ndim = 2

    def _initialize(self, value: Any) -> None:
        self._value = value  # for Keras to read a shape off

    def lie_over(self, table: Table) -> None:
        """Takes its part of `table` for its own."""
        self.table, self._shape, self._value = table, table.shape, None
        self._numbers = None

    def leave(self) -> None:
        """From now on the numbers are Keras's, which makes the steps."""
        if self._numbers is None:
            self._numbers = self.whole()

    def whole(self) -> NDArray[np.float32]:
        """The present values (rows, dim)."""
        return self._in_table() if self._numbers is None else self._numbers

    def take(self, values: NDArray[np.float32]) -> None:
        """Takes values (rows, dim)."""
        if self._numbers is None:
            self._into_table(values)
        else:
            self._numbers = values.copy()

    def _in_table(self) -> NDArray[np.float32]:
        raise NotImplementedError

    def _into_table(self, values: NDArray[np.float32]) -> None:
        raise NotImplementedError


class SlotVariable(_BesideWeights):
    """One slot of a table, as the optimizer's variable: (rows, dim) float32, not trainable."""

    def __init__(self, table: Table, slot: str, name: str) -> None:
        self._slot = slot
        super().__init__(name)
        self.lie_over(table)

    def _in_table(self) -> NDArray[np.float32]:
        return self.table.slot(self._slot)

    def _into_table(self, values: NDArray[np.float32]) -> None:
        self.table.materialize()
        self.table.store.write_slot(self._slot, values)


class AccumulatorVariable(_BesideWeights):
    """Sums of gradients over several batches: as its token, by how much each pass counts."""

    def __init__(self, variable: TableVariable, name: str) -> None:
        super().__init__(name)
        self._passes = variable.passes
        self.lie_over(variable._table)
        self.start_anew()

    def start_anew(self) -> None:
        """Sums of zero."""
        self._shape = self.table.shape
        self._weights = np.zeros(self._passes.size, np.float32)

    def token(self) -> NDArray[np.float32]:
        """(size,) how much each pass counts."""
        return self._weights

    def take_token(self, token: Any) -> None:
        """Takes back how much each pass counts."""
        self._weights = np.array(token)

    def _in_table(self) -> NDArray[np.float32]:
        sums = np.zeros(self._shape, np.float32)
        ids, gradients = self._passes.summed(self.table, self._weights)
        sums[ids] = gradients.reshape(len(ids), self.table.dim)
        return sums

    def _into_table(self, values: NDArray[np.float32]) -> None:
        self.start_anew()
        self._weights[self._passes.keep(-1, *rows_in(values))] = WHOLE
