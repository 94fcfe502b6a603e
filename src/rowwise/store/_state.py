"""The whole state of a table, for a file, a copy, or another placement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.rules import Rule
from rowwise.store._memory import ROW_STATE, STORED, Folder, matrix, row_states
from rowwise.text import Vocabulary


@dataclass(frozen=True)
class TableState:
    """The whole of a table. The arrays are the table's own, not copies.

    Attributes:
        weights: (rows, dim) float32; float16, or the bits of bfloat16 as uint16.
        slots: for each of the rule's slots a float32 array, (rows, dim), or (rows, 1) for a rule
            with one number a row.
        row_states: (rows,) of `ROW_STATE`: last step, update count and last update of each row.
        step_history: the clock's records, (steps, 3) float64, and its closed coefficients.
        steps: updates so far.
        rule: the update rule, or None.
        learning_rate: of a step that is given no other.
        slots_pristine: whether slots of rows without updates hold their starting values.
        vocabulary: what the rows stand for, or None.
        scratch: the folder on whose disk the arrays lie, or None for memory.
        rounding_seed: of weights that are rounded at random; None: to nearest.
        memory: bytes of memory for rows that lie on a disk; None: all are in reach as arrays.
    """

    weights: NDArray[Any]
    slots: list[NDArray[np.float32]]
    row_states: NDArray[np.void]
    step_history: tuple[NDArray[np.float64], NDArray[np.float64]]
    steps: int = 0
    rule: Rule | None = None
    learning_rate: float = 0.0
    slots_pristine: bool = True
    vocabulary: Vocabulary | None = None
    scratch: Folder | None = None
    memory: int | None = None
    rounding_seed: int | None = None

    @property
    def dtype(self) -> str:
        """Name of the type that weights are stored as."""
        return next(name for name, kind in STORED.items() if kind == self.weights.dtype)

    def check(self) -> None:
        """Refuse parts that do not fit each other.

        Raises:
            ValueError: with the part that does not fit.
        """
        (rows, dim), rule = self.weights.shape, self.rule
        if self.weights.dtype not in STORED.values():
            raise ValueError(f"weights of {self.weights.dtype}")
        if self.rounding_seed is not None and self.dtype == "float32":
            raise ValueError("weights of float32 are not rounded at random")
        if self.row_states.shape != (rows,) or self.row_states.dtype != ROW_STATE:
            raise ValueError(f"row states of shape {self.row_states.shape} for {rows} rows")
        if len(self.slots) != (len(rule.slot_names) if rule else 0):
            raise ValueError(f"{len(self.slots)} slots for {rule!r}")
        for slot in self.slots:
            if rule and slot.shape != (rows, rule.slot_dim(dim)):
                raise ValueError(f"a slot of shape {slot.shape} for {rows} rows of {dim}, {rule!r}")

    def copy(self) -> TableState:
        """Return the same state in memory of its own."""
        rows, dim = self.weights.shape
        copied: dict[str, Any] = {
            "weights": matrix(rows, dim, dtype=self.weights.dtype),
            "slots": [matrix(*slot.shape) for slot in self.slots],
            "row_states": row_states(rows),
        }
        copied["weights"][:] = self.weights
        copied["row_states"][:] = self.row_states
        for new, old in zip(copied["slots"], self.slots, strict=True):
            new[:] = old
        return replace(self, **copied, scratch=None, memory=None)
