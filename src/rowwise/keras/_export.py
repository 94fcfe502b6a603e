"""Models written for places where there is no Python: rows are gathered from arrays."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

from rowwise.keras._backend import backend


def export_scope() -> AbstractContextManager[None]:
    """Make functions that are traced within the scope gather rows from an array.

    On JAX and TensorFlow a function traced elsewhere calls the table in this process. Within the
    scope it holds the rows as they are now, and can be frozen, converted and saved. `model.export`
    and `tf.saved_model.save(model, ...)` need no scope of yours.

    Example (on TensorFlow):
        with rowwise.keras.export_scope():
            served = tf.function(model).get_concrete_function(tf.TensorSpec((None, 3), tf.int32))
        frozen = convert_variables_to_constants_v2(served)
    """
    return backend.export_scope()


def add_endpoint(
    original: Any, archive: Any, name: Any, fn: Any, input_signature: Any = None, **kwargs: Any
) -> Any:
    """Add an endpoint whose function gathers from arrays. Wraps Keras's `ExportArchive` method."""
    if input_signature is None:  # of a function that has been traced
        return original(archive, name, fn, input_signature, **kwargs)

    @functools.wraps(fn)
    def traced(*args: Any, **options: Any) -> Any:
        with export_scope():
            return fn(*args, **options)

    return original(archive, name, traced, input_signature, **kwargs)


def export_model(original: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Write a model for serving. Wraps Keras's `Model.export`."""
    with export_scope():
        return original(model, *args, **kwargs)
