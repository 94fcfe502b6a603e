"""Errors that a JAX program meets, deferred for the trainer to raise.

A program cannot raise an error that says what to do, and its state would be lost. So a trainer's
program goes on with zeros, and gives back the state that it was given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

import jax.numpy as jnp
import numpy as np

from rowwise import _native
from rowwise.keras._ids import validate_ids_in_range
from rowwise.keras._jax.host_callback import HostCallback, call_from_python, call_table

# What a trainer that runs programs watches, and will raise errors of; None: no trainer runs.
# Empty: the model was not built when the trainer began.
running: ContextVar[list[Any] | None] = ContextVar("running", default=None)


def defers_errors(method: Callable[..., None]) -> Callable[..., None]:
    """Wrap a method for a trainer's program: once there is an error, it writes zeros."""

    @functools.wraps(method)
    def deferring(self: DeferredErrors, out: Any, *arguments: Any) -> None:
        try:
            if not self.program.failed:
                method(self, out, *arguments)
        except Exception as error:
            self._errors.append(error)
            self.program.fail()
        if self.program.failed:
            out[...] = 0

    return deferring


class DeferredErrors:
    """Mixed into what programs call on the host: its native calls and callbacks, and their errors.

    Attributes:
        shape: (rows, ...).
        program: what programs call natively.
    """

    shape: Any
    program: _native.Program

    def forget_programs(self, path: str) -> None:
        """Start without a program, and without an error; `path` names this in messages."""
        self.program = _native.Program(path)
        self._errors: list[Exception] = []
        self._callbacks: dict[Any, HostCallback] = {}

    def callback(self, method: str, *more: Any) -> HostCallback:
        """Return a call of the host, the same one whenever it is asked for."""
        return self._callbacks.setdefault((method, *more), HostCallback(self, method, *more))

    def call(self, out: Any, method: str, *attributes_and_arrays: Any) -> None:
        """Answer a program that calls the table by way of Python."""
        attributes = [a for a in attributes_and_arrays if isinstance(a, tuple)]
        arrays = attributes_and_arrays[len(attributes) :]
        call_from_python(self.program, method, attributes, out, arrays)

    def validate(self, out: Any, ids: Any) -> None:
        """Write ids (...,) int32, all of them rows."""
        out[...] = validate_ids_in_range(ids, self.shape[0])

    def pop_errors(self) -> list[Exception]:
        """Return the errors that programs have met, and forget them."""
        errors = [self._explained(failure) for failure in self.program.pop_failures()]
        errors += self._errors
        self._errors = []
        return errors

    def _explained(self, failure: Any) -> Exception:
        """Return the error of a failure that native code has recorded."""
        kind, text, rate, iteration, dtype, shape, ids = failure
        try:
            if kind == "ids":
                array = np.frombuffer(ids, jnp.dtype(dtype)).reshape(shape)
                validate_ids_in_range(array, self.shape[0])
            elif kind == "step":
                self.check_step_params(rate, iteration)
        except (IndexError, TypeError, ValueError) as error:
            return error
        return MemoryError(text) if kind == "memory" else RuntimeError(text)

    def check_step_params(self, rate: float, iteration: int) -> None:
        """Refuse a step that the table's rule does not make.

        Raises:
            ValueError: with the number that is out of bounds.
        """


class Rows(DeferredErrors):
    """The rows of a variable that is no table's (quantized, of half precision)."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.forget_programs("")
        self.program.bind_rows(shape[0])

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
