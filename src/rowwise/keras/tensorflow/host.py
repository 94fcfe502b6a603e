"""Calls of Python by a TensorFlow program, on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


class HostError(RuntimeError):
    """What TensorFlow is told of an error; the error itself is kept for the trainer to raise."""


def call(
    function: Callable[..., Any], dtype: Any, *arguments: Any, errors: list[Exception] | None = None
) -> Any:
    """What function(*arrays) gives: an array of this dtype, or several of a list of dtypes.

    At once where TensorFlow runs eagerly; else when the graph runs, in the order of the program.
    An error in a graph goes to `errors`; TensorFlow knows its text alone.
    """
    if tf.executing_eagerly():
        result = function(*(np.asarray(argument) for argument in arguments))
        return tf.nest.map_structure(tf.convert_to_tensor, result)

    def noting(*arrays: Any) -> Any:
        try:
            return function(*arrays)
        except Exception as error:
            if errors is not None:
                errors.append(error)
            raise HostError(f"{type(error).__name__}: {error}") from error

    return tf.numpy_function(noting, arguments, dtype)
