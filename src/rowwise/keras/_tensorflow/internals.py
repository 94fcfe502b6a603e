"""Everything private to TensorFlow that this package uses.

What a version of TensorFlow does not have is left out, and models train, predict and export as
before. Then registrations of gradients stay for good, TensorFlow refuses `tf.saved_model.save` of a
model in words of its own, and a frozen graph that calls a table is not refused.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable, ResourceVariable

from rowwise.keras import _scopes


def _module(name: str) -> Any:
    """Return a module of TensorFlow's, or None where a version has none of this name."""
    try:
        return importlib.import_module(f"tensorflow.python.{name}")
    except ImportError:
        return None


convert_to_constants = _module("framework.convert_to_constants")
function_serialization = _module("saved_model.function_serialization")
save_context = _module("saved_model.save_context")
saved_model_exported_concrete = _module("eager.polymorphic_function.saved_model_exported_concrete")

__all__ = [
    "BaseResourceVariable",
    "ResourceVariable",
    "custom_gradient",
    "export_scope",
    "graphs",
    "is_exporting",
    "keep_with",
    "points_that_write_graphs",
]


def keep_with(graph: Any, thing: Any) -> None:
    """Keep a thing as long as a graph."""
    if not hasattr(graph, "_rowwise_kept"):
        graph._rowwise_kept = []
    graph._rowwise_kept.append(thing)


# ---------------------------------------------------------------------- gradients

_registry: dict[str, Any] = getattr(getattr(ops, "gradient_registry", None), "_registry", {})


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `tf.custom_gradient(function)`, of which nothing outlives the graph that calls it.

    In a graph TensorFlow registers each gradient under a name of its own, for good, and with it
    all that the graph holds. Here the graph holds the gradient, and the registry refers to it.
    """
    differentiable = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        results = differentiable(*arguments)
        if not tf.executing_eagerly():
            _release_with_graph(tf.nest.flatten(results)[0].op)
        return results

    return call


def _release_with_graph(operation: Any) -> None:
    """Make the registration of an operation's gradient end with the operation's graph."""
    name = operation.get_attr("_gradient_op_type").decode()
    entry = _registry.get(name, {})
    if "type" not in entry:
        return
    held = weakref.ref(entry["type"])
    keep_with(operation.graph, entry["type"])

    def gradient(operation: Any, *gradients: Any) -> Any:
        return held()(operation, *gradients)  # type: ignore[misc]

    entry["type"] = gradient
    weakref.finalize(operation.graph, _registry.pop, name, None).atexit = False


# ---------------------------------------------------------------------- exporting


def is_exporting() -> bool:
    """Return whether a graph is being made for a place where there is no Python."""
    if tf.executing_eagerly() or not isinstance(ops.get_default_graph(), tf.__internal__.FuncGraph):
        return False
    return _scopes.exporting.get() or (save_context is not None and save_context.in_save_context())


def graphs() -> Iterator[Any]:
    """Yield the function graph being made, then those around it."""
    graph = ops.get_default_graph()
    while isinstance(graph, tf.__internal__.FuncGraph):
        yield graph
        graph = graph.outer_graph


@contextlib.contextmanager
def export_scope() -> Iterator[None]:
    """Trace functions for a place where there is no Python, those already traced anew."""
    with contextlib.ExitStack() as scopes:
        scopes.enter_context(_scopes.export_scope())
        if save_context is not None and not save_context.in_save_context():
            scopes.enter_context(save_context.save_context(tf.saved_model.SaveOptions()))
        yield


def points_that_write_graphs() -> list[tuple[Any, str, Callable[..., Any]]]:
    """Return the functions through which graphs are frozen or saved, with what checks them.

    Each is (owner, name, wrapper), as `_patches.Patch` takes them.
    """
    points: list[tuple[Any, str, Callable[..., Any]]] = [
        (getattr(convert_to_constants, "_FunctionConverterData", None), "__init__", _freeze),
        (function_serialization, "serialize_concrete_function", _serialize),
        (saved_model_exported_concrete, "_map_captures_to_created_tensors", _map_captures),
    ]
    return [
        (owner, name, do) for owner, name, do in points if name in getattr(owner, "__dict__", ())
    ]


def _freeze(original: Any, data: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Read the graph of a function to be frozen, unless it calls a table."""
    _refuse_calls(func.graph.captures, func)
    return original(data, func, *args, **kwargs)


def _serialize(original: Any, concrete_function: Any, *args: Any, **kwargs: Any) -> Any:
    """Write a function to be saved, unless it calls a table."""
    _refuse_calls(concrete_function.graph.captures, concrete_function)
    return original(concrete_function, *args, **kwargs)


def _map_captures(original: Any, captures: Any, tensor_map: Any, function: Any) -> Any:
    """Map what a signature to be saved captures, unless it calls a table."""
    _refuse_calls(captures, function)
    return original(captures, tensor_map, function)


def _refuse_calls(captures: Any, function: Any) -> None:
    for captured, _ in captures:
        parent = getattr(captured, "_rowwise_variable", None)
        variable = parent and parent()
        if variable is not None:
            raise ValueError(
                f"the function {function.name.decode()} calls the table of {variable.path} in "
                "this process: it was traced before it was exported. Trace it anew within `with "
                "rowwise.keras.export_scope():` (for instance by `tf.function(model)"
                ".get_concrete_function(...)`), where rows are gathered from a tf.Variable of "
                "their present values; or use model.export()"
            )
