"""The protocol of a place for rows."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rowwise._init import Init
from rowwise.rules import Rule, StepParams
from rowwise.store._gradient import BagGradient, Bags, Floats, Ids, RowGradient
from rowwise.store._state import TableState


class RowStore(Protocol):
    """Rows, optimizer state and the last step of each row, in one place.

    Reads return up-to-date values and write nothing. Values go in and come out as contiguous
    arrays; ids are int64. A store that refuses a call has changed nothing.
    """

    @property
    def rule(self) -> Rule | None:
        """The update rule."""

    @property
    def steps(self) -> int:
        """Updates so far."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim)."""

    @property
    def nbytes(self) -> int:
        """Bytes of rows, slots and bookkeeping."""

    @property
    def device(self) -> str:
        """Where the rows lie: "cpu", "disk"."""

    @property
    def dtype(self) -> str:
        """How weights are stored: "float32", "bfloat16" or "float16"; all else is float32."""

    @property
    def version(self) -> int:
        """A number that rises at every write; caches are keyed by it."""

    # ------------------------------------------------------------------ reading

    def gather(self, ids: Ids, out: Floats) -> None:
        """Read rows ids (...,) into out (..., dim)."""

    def gather_bags(self, bags: Bags, out: Floats) -> None:
        """Read the weighted sum of each bag's rows into out (bags, dim); 0 where it is empty."""

    def gather_bags_max(self, bags: Bags, out: Floats, argmax: Ids) -> None:
        """Read the largest of each bag's values into out (bags, dim), and its position in the
        batch into argmax (bags, dim); 0 and -1 where the bag is empty; NaN is above all.
        """

    def prefetch(self, ids: Ids) -> None:
        """Begin to bring rows ids (...,) near, if they are far; nothing waits for it."""

    def synchronize(self) -> None:
        """Wait for the calls that a device still works on, and raise the bad id they found."""

    def read_slot(self, name: str) -> Floats:
        """Return the present values of a slot, (rows, dim) or (rows, 1), a fresh array."""

    # ------------------------------------------------------------------ gradients

    def bag_gradient(self, bags: Bags, values: Floats) -> BagGradient:
        """Return the gradient of bags whose own gradients are values (bags, dim)."""

    def bag_max_gradient(self, bags: Bags, argmax: Ids, values: Floats) -> RowGradient:
        """Return the gradient of `gather_bags_max`, by distinct ids."""

    def bag_weight_gradient(self, bags: Bags, values: Floats) -> Floats:
        """Return the gradient (n,) of the weights of bags whose gradients are values."""

    def coalesce(self, gradient: RowGradient | BagGradient) -> RowGradient:
        """Return distinct ids, ascending, with the sums of their gradients."""

    # ------------------------------------------------------------------ writing

    def apply(
        self,
        gradient: RowGradient | BagGradient,
        step: StepParams,
        frozen_row: int | None = None,
    ) -> None:
        """Make one step of the rule over all rows; a frozen row stays as it is, uncounted."""

    def renew(self, ids: Ids, starts: Floats) -> None:
        """Start rows ids (n,) anew with weights starts (n, dim), fresh slots and no updates."""

    def materialize(self, ids: Ids | None = None) -> None:
        """Bring rows up to date in place: those of ids, or all."""

    def write(self, values: Any, ids: Ids | None = None) -> None:
        """Set rows to values (n, dim): those of distinct ids (n,), or all."""

    def write_slot(self, name: str, values: Any, ids: Ids | None = None) -> None:
        """Set a slot of rows to values (n, dim) or (n, 1): those of distinct ids (n,), or all."""

    def set_rule(self, rule: Rule | None, *, keep_state: bool = False) -> None:
        """Step by another rule from now on: with fresh slots, or with those that there are."""

    def remap(self, source_rows: Ids, init: Init, seed: int | None) -> None:
        """Make row i what row source_rows[i] was; -1 makes a new row."""

    def check_room(self, rows: int) -> None:
        """Refuse a number of rows that does not fit beside those that there are."""

    # ------------------------------------------------------------------ bookkeeping

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the rule's slots."""

    @property
    def update_counts(self) -> NDArray[np.uint32]:
        """(rows,) how many updates touched each row."""

    @property
    def last_update(self) -> NDArray[np.int64]:
        """(rows,) number of the last update that touched each row, counted from 1; 0: none."""

    def is_trained(self, ids: Ids | None = None) -> NDArray[np.bool_]:
        """Return whether rows were updated or marked as trained."""

    def mark_trained(self, ids: Ids | None = None) -> None:
        """Record that rows hold values worth reading that no update brought."""

    def state(self) -> TableState:
        """Return all that the store holds; its own arrays, not copies."""

    def frozen(self) -> AbstractContextManager[object]:
        """Return a context in which writers wait, so that a `state` is of one moment."""
