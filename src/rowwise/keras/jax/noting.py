"""Errors that a JAX program meets, noted for the trainer to raise.

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

from rowwise.keras.given_ids import ids_in_range
from rowwise.keras.jax.host import HostCall, call

# Whether a trainer runs the programs, and will raise what they note.
running: ContextVar[bool] = ContextVar("running", default=False)


def noted(method: Callable[..., None]) -> Callable[..., None]:
    """The method, as a trainer's program calls it: once there is an error, it writes zeros."""

    @functools.wraps(method)
    def noting(self: Noting, out: Any, *arguments: Any) -> None:
        try:
            if not self.errors:
                method(self, out, *arguments)
        except Exception as error:
            self.errors.append(error)
        if self.errors:
            out[...] = 0

    return noting


class Noting:
    """Part of what programs call on the host."""

    shape: Any  # (rows, ...)

    def forget_programs(self) -> None:
        """There is no program, and no error."""
        self.errors: list[Exception] = []
        self._calls: dict[Any, HostCall] = {}

    def calling(self, method: str, *more: Any) -> HostCall:
        """A call of the host, the same one whenever it is asked for."""
        return self._calls.setdefault((method, *more), HostCall(self, method, *more))

    def checked_ids(self, out: Any, ids: Any) -> None:
        """ids (...,) int32, all of them rows."""
        out[...] = ids_in_range(ids, self.shape[0])

    check_ids = noted(checked_ids)


class Rows(Noting):
    """The rows of a variable that is no table's (quantized, of half precision)."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.forget_programs()

    def __reduce__(self) -> Any:
        return Rows, self.shape  # a copy of the variable has its own

    @classmethod
    def of(cls, variable: Any) -> Rows:
        """Those of this variable."""
        own: Rows = variable.__dict__.setdefault("_rows_by_ids", cls(*variable.shape))
        return own


class Watch:
    """Whether anything that a model's programs call has noted an error."""

    def __init__(self, noting: list[Noting]) -> None:
        self._noting = [weakref.ref(own) for own in noting]
        self._call = HostCall(self, "write_unspoilt")

    def unspoilt(self, after: Iterable[Any]) -> Any:
        """Whether () there is no error, in a program, once the arrays `after` are there."""
        firsts = [jnp.ravel(array)[:1] for array in after if array is not None]
        return call(self._call, (), np.bool_, *firsts)

    def write_unspoilt(self, out: Any, *after: Any) -> None:
        """`unspoilt`, as a program asks for it."""
        own = (reference() for reference in self._noting)
        out[...] = not any(noting.errors for noting in own if noting is not None)


# Of the model of which a trainer is making a training step.
watching: ContextVar[Watch | None] = ContextVar("watching", default=None)
