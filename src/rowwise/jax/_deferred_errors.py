"""Errors that a program meets on the host, deferred for whoever runs it to raise.

A program cannot raise an error that says what to do, and its state would be lost. So it goes on
with zeros, and gives back the state that it was given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from rowwise import _native
from rowwise._ids import checked
from rowwise.errors import UntrainedError
from rowwise.jax._host_callback import HostCallback, call_from_python

_ERRORS = {"memory": MemoryError, "untrained": UntrainedError, "value": ValueError}


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
        program: what programs call.
        is_native: whether they call it without Python, where they can.
        has_effects: whether JAX keeps calls that change something, and knows when they are done
            (`jax.effects_barrier`). Where not, programs start faster, half a millisecond a step;
            their results must be used, and waited for.
    """

    shape: Any
    program: Any
    is_native = True
    has_effects = False

    def forget_programs(self, path: str) -> None:
        """Start without a program, and without an error; `path` names this in messages.

        Programs made before whose errors nobody pops call the new one from now on.
        """
        before = self.__dict__.get("program")
        self.program = _native.Program(path, 0 if before is None else before.lasting_key)
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

    def check_ids(self, ids: Any) -> Any:
        """Return ids (...,) as int64, all of them rows.

        Raises:
            IndexError, TypeError, ValueError: see `rowwise._ids.checked`.
        """
        return checked(ids, self.shape[0])

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
                self.check_ids(np.frombuffer(ids, jnp.dtype(dtype)).reshape(shape))
            elif kind == "step":
                self.check_step_params(rate, iteration)
        except (IndexError, TypeError, ValueError) as error:
            return error
        return _ERRORS.get(kind, RuntimeError)(text)

    def check_step_params(self, rate: float, iteration: int) -> None:
        """Refuse a step that the table's rule does not make.

        Raises:
            ValueError: with the number that is out of bounds.
        """
