"""Errors that a JAX program meets, noted for the trainer to raise.

A program cannot raise an error that says what to do, and its state would be lost. So a trainer's
program goes on with zeros, to no step of any variable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from rowwise.keras.given_ids import ids_in_range
from rowwise.keras.jax.host import HostCall

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

    def unspoilt(self, out: Any, *after: Any) -> None:
        """Whether () there is no error to be raised, once the arrays `after` are there."""
        out[...] = not self.errors

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
