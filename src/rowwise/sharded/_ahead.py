"""Rows of the next batch, sent while a step is computed; exact.

A step changes the rows of its batch by their gradients. Any other row it changes by its learning
rate alone, which is known before: such a row can be read as it will be, and sent early. Which rows
those are is known from the lookups of the step's own batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rowwise.rules import StepParams
from rowwise.sharded._batch import Request
from rowwise.sharded._exchange import Pending
from rowwise.store import HostStore, RowGradient, TableState
from rowwise.store._memory import row_states

Ids = NDArray[np.int64]


@dataclass
class Ahead:
    """The rows asked for and sent ahead of a batch that is looked up after the next step.

    Attributes:
        ids: the batch.
        wanted: its distinct rows.
        wanted_at: updates when it was asked for.
        late: (m,) which of them come after the step.
        vectors: the others, on their way.
        asked, asked_late: (n,) rows that other ranks ask of this one, and which come after it.
        counts_late: (ranks,) how many come after it, by the rank that asks.
        step: the step that is to come.
        version: of the local store, after that step.
        valid: whether the step was that one, and touched no row that was sent early.
    """

    ids: Ids
    wanted: Request
    wanted_at: int
    late: NDArray[np.bool_]
    vectors: Pending
    asked: Ids
    asked_late: NDArray[np.bool_]
    counts_late: list[int]
    step: StepParams
    version: int
    valid: bool = True

    def after_step(self, step: StepParams, touched: Ids) -> None:
        """Check what was assumed, once the step was made with gradients for rows touched (n,)."""
        early = self.asked[~self.asked_late]
        self.valid = self.valid and step == self.step and not np.isin(early, touched).any()


def split_counts(flags: NDArray[np.bool_], counts: list[int]) -> list[int]:
    """Count the flags of each of the runs, of which counts are the lengths."""
    ends = np.cumsum(counts)
    return [int(flags[end - n : end].sum()) for end, n in zip(ends, counts, strict=True)]


def store_after(local: HostStore, step: StepParams) -> HostStore | None:
    """Return a store, only to be read, of the rows as they are after a step without gradients.

    It lies over the same memory, and its clock is one step ahead.

    Returns:
        None if a step visits every row, and so no row can be read before it.
    """
    rule, state = local.rule, local.state()
    if rule is None or not rule.supports_lazy or step.decay_factor <= 0:
        return None
    dim = local.shape[1]
    alone = HostStore.from_state(
        TableState(
            weights=np.zeros((1, dim), np.float32),
            slots=[np.zeros((1, slot.shape[1]), np.float32) for slot in state.slots],
            row_states=row_states(1),
            step_history=state.step_history,
            steps=state.steps,
            rule=rule,
        )
    )
    alone.apply(RowGradient(np.empty(0, np.int64), np.empty((0, dim), np.float32)), step)
    history = alone.state().step_history
    if len(history[0]) != len(state.step_history[0]) + (not rule.is_stationary):
        return None  # the clock begins anew with this step
    return HostStore.from_state(
        TableState(
            weights=state.weights,
            slots=state.slots,
            row_states=state.row_states,
            step_history=history,
            steps=state.steps + 1,
            rule=rule,
            slots_pristine=state.slots_pristine,
        )
    )
