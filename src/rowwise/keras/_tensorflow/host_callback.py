"""Calls of Python by a TensorFlow program, on NumPy arrays."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from rowwise.keras._tensorflow.internals import is_exporting


class HostError(RuntimeError):
    """The error that TensorFlow sees; the one behind it is deferred for the trainer."""


def deferred_errors() -> deque[Exception]:
    """Return a place for errors of graphs, until the trainer raises them; no caller's loop does."""
    return deque(maxlen=64)


class WeakCallback:
    """function(owner, *more, *arrays), for graphs, which TensorFlow keeps: the owner may go."""

    def __init__(self, function: Callable[..., Any], owner: Any, *more: Any) -> None:
        self._function, self._owner, self._more = function, weakref.ref(owner), more

    def __call__(self, *arrays: Any) -> Any:
        """Call the function."""
        owner = self._owner()
        if owner is None:
            raise RuntimeError("the table that this graph reads is gone")
        return self._function(owner, *self._more, *arrays)

    def deferring(self, errors: deque[Exception]) -> Callable[..., Any]:
        """Return the callback for a graph; its errors go to `errors`, too."""

        def call(*arrays: Any) -> Any:
            try:
                return self(*arrays)
            except Exception as error:
                errors.append(error)
                raise HostError(f"{type(error).__name__}: {error}") from error

        return call


def call(
    function: WeakCallback, dtype: Any, *arguments: Any, errors: deque[Exception] | None = None
) -> Any:
    """Return function(*arrays): an array of this dtype, or several of a list of dtypes.

    It is called at once where TensorFlow runs eagerly; else when the graph runs, in the order of
    the program. An error in a graph goes to `errors`; TensorFlow knows its text alone.

    Raises:
        NotImplementedError: the graph is for a place where there is no Python.
    """
    if tf.executing_eagerly():
        result = function(*(np.asarray(argument) for argument in arguments))
        return tf.nest.map_structure(tf.convert_to_tensor, result)
    if is_exporting():
        raise NotImplementedError(
            "a function to be exported trains or writes a table, which is done in this process "
            "alone; export what reads it, as model.export() does"
        )
    errors = deferred_errors() if errors is None else errors
    return tf.numpy_function(function.deferring(errors), arguments, dtype)
