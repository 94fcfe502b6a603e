"""What a table's variable knows, on every backend: in which optimizer's care it is."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from rowwise.store import RowGradient
from rowwise.table import Table

_NOT_COPIED = ("keeper", "lazy", "slots", "accumulators")


class InCare:
    """Part of a backend's `TableVariable`, beside `keras.Variable`."""

    table: Table
    shape: tuple[int, int]
    path: str
    frozen_row: int | None = None  # that training leaves alone

    def forget_optimizers(self) -> None:
        """No optimizer has this table in its care."""
        self.keeper: weakref.ref[Any] | None = None  # the optimizer whose rule the table has
        self.lazy = False  # whether the table makes its steps, and not Keras
        # Slots of every optimizer that came by: optimizer -> {slot name: variable}
        self.slots: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()
        self.accumulators: weakref.WeakKeyDictionary[Any, keras.Variable] = (
            weakref.WeakKeyDictionary()
        )

    def check_followed_by_rows(self, optimizer: Any) -> None:
        """Raises NoRule where the backend cannot follow what a rule could."""

    def part_from_others(self, optimizer: Any) -> None:
        """From now on the slots of other optimizers keep what they are, beside the table."""
        for other, slots in self.slots.items():
            for slot in slots.values() if other is not optimizer else ():
                slot.leave()

    def leave_to_keras(self) -> None:
        """From now on Keras makes the steps."""
        self.table.rule = None
        self.lazy = False

    def number(self, read: Callable[[], Any]) -> float | None:
        """What a number of an optimizer's is now; None while a program is still making it."""
        value = np.asarray(keras.ops.convert_to_numpy(read()))
        return None if value.ndim else float(value)

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

    def __getstate__(self) -> dict[str, Any]:
        # A copy has its own optimizer, or none yet.
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget_optimizers()


def but_for(
    frozen_row: int | None, ids: NDArray[np.int64], gradients: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """ids (n,) and gradients (n, dim) without those of the frozen row, if there is one."""
    if frozen_row is None:
        return ids, gradients
    moving = ids != frozen_row
    return ids[moving], gradients[moving]


def step_but_for(
    frozen_row: int | None,
    table: Table,
    ids: NDArray[np.int64],
    gradients: NDArray[np.float32],
    rate: float,
    iteration: int,
) -> None:
    """`Table.apply`; the frozen row, if there is one, stays what it is."""
    gradient = RowGradient(ids, np.ascontiguousarray(gradients, dtype=np.float32))
    table.apply(gradient, rate, iteration=iteration, frozen_row=frozen_row)
