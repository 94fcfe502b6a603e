"""Errors that Keras's programs meet, for the trainer to raise."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import jax.numpy as jnp
import numpy as np

from rowwise.jax._deferred_errors import DeferredErrors
from rowwise.jax._host_callback import call_table
from rowwise.keras._ids import validate_ids_in_range

# What a trainer that runs programs watches, and will raise errors of; None: no trainer runs.
# Empty: the model was not built when the trainer began.
running: ContextVar[list[Any] | None] = ContextVar("running", default=None)


class Rows(DeferredErrors):
    """The rows of a variable that is no table's (quantized, of half precision)."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.forget_programs("")
        self.program.bind_rows(shape[0])

    def check_ids(self, ids: Any) -> Any:
        """Return ids (...,) as int64, all of them rows; errors say what a model does to ids."""
        return validate_ids_in_range(ids, self.shape[0])

    def __reduce__(self) -> Any:
        return Rows, self.shape  # a copy of the variable has its own

    @classmethod
    def of(cls, variable: Any) -> Rows:
        """Return the rows of this variable."""
        own: Rows = variable.__dict__.setdefault("_rows_by_ids", cls(*variable.shape))
        return own


def no_errors(watched: list[DeferredErrors], after: Iterable[Any]) -> Any:
    """Return, in a program, whether () there is no error once the arrays `after` are there."""
    firsts = [jnp.ravel(array)[:1] for array in after if array is not None]
    keys = tuple(own.program.key for own in watched)
    return call_table(watched[0], "no_errors", (), np.bool_, *firsts, keys=keys)


def has_errors(watched: list[DeferredErrors]) -> bool:
    """Return whether programs have met errors that nobody has raised."""
    return any(own.program.failed for own in watched)


def forget_errors(watched: list[DeferredErrors]) -> None:
    """Forget the errors that programs have met."""
    for own in watched:
        own.pop_errors()


def raise_errors(watched: list[DeferredErrors]) -> None:
    """Raise the first error that programs have met, and forget all."""
    errors = [error for own in watched if own.program.failed for error in own.pop_errors()]
    if errors:
        raise errors[0]


# What is watched in the model of which a trainer is making a training step.
watching: ContextVar[list[DeferredErrors] | None] = ContextVar("watching", default=None)
