"""Errors that a JAX program meets, deferred for the trainer to raise.

A program cannot raise an error that says what to do, and its state would be lost. So a trainer's
program goes on with zeros, and gives back the state that it was given.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

import jax.numpy as jnp
import numpy as np

from rowwise.keras._ids import validate_ids_in_range
from rowwise.keras._jax.host_callback import HostCallback, call

# What a trainer that runs programs watches, and will raise errors of; None: no trainer runs.
# Empty: the model was not built when the trainer began.
running: ContextVar[list[Any] | None] = ContextVar("running", default=None)


def defers_errors(method: Callable[..., None]) -> Callable[..., None]:
    """Wrap a method for a trainer's program: once there is an error, it writes zeros."""

    @functools.wraps(method)
    def deferring(self: DeferredErrors, out: Any, *arguments: Any) -> None:
        try:
            if not self.errors:
                method(self, out, *arguments)
        except Exception as error:
            self.errors.append(error)
        if self.errors:
            out[...] = 0

    return deferring


class DeferredErrors:
    """Mixed into what programs call on the host: its callbacks, and the errors they met."""

    shape: Any  # (rows, ...)

    def forget_programs(self) -> None:
        """Start without a program, and without an error."""
        self.errors: list[Exception] = []
        self._callbacks: dict[Any, HostCallback] = {}

    def callback(self, method: str, *more: Any) -> HostCallback:
        """Return a call of the host, the same one whenever it is asked for."""
        return self._callbacks.setdefault((method, *more), HostCallback(self, method, *more))

    def validate_now(self, out: Any, ids: Any) -> None:
        """Write ids (...,) int32, all of them rows."""
        out[...] = validate_ids_in_range(ids, self.shape[0])

    validate = defers_errors(validate_now)


class Rows(DeferredErrors):
    """The rows of a variable that is no table's (quantized, of half precision)."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.forget_programs()

    def __reduce__(self) -> Any:
        return Rows, self.shape  # a copy of the variable has its own

    @classmethod
    def of(cls, variable: Any) -> Rows:
        """Return the rows of this variable."""
        own: Rows = variable.__dict__.setdefault("_rows_by_ids", cls(*variable.shape))
        return own


class ErrorWatch:
    """Whether anything that a model's programs call has met an error."""

    def __init__(self, watched: list[DeferredErrors]) -> None:
        self._watched = [weakref.ref(own) for own in watched]
        self._callback = HostCallback(self, "write_no_errors")

    def no_errors(self, after: Iterable[Any]) -> Any:
        """Return, in a program, whether () there is no error once the arrays `after` are there."""
        firsts = [jnp.ravel(array)[:1] for array in after if array is not None]
        return call(self._callback, (), np.bool_, *firsts)

    def write_no_errors(self, out: Any, *after: Any) -> None:
        """Answer `no_errors` on the host."""
        for reference in self._watched:
            watched = reference()
            if watched is not None and watched.errors:
                out[...] = False
                return
        out[...] = True


def has_errors(watched: list[DeferredErrors]) -> bool:
    """Return whether programs have met errors that nobody has raised."""
    return any(own.errors for own in watched)


def raise_errors(watched: list[DeferredErrors]) -> None:
    """Raise the first error that programs have met, and forget all."""
    errors = []
    for own in watched:
        errors += own.errors
        own.errors.clear()
    if errors:
        raise errors[0]


# The watch of the model of which a trainer is making a training step.
watching: ContextVar[ErrorWatch | None] = ContextVar("watching", default=None)
