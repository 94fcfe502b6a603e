"""Opening Keras's files with our layer, and ours with Keras's."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
from keras.src.saving import serialization_lib
from keras.src.trainers.trainer import Trainer

from rowwise.keras.around import around
from rowwise.keras.embedding import Embedding
from rowwise.keras.inputs import layers_of_ids


def load_model(filepath: Any, *, embedding: type = Embedding, **options: Any) -> Any:
    """`keras.saving.load_model`, with every embedding layer opened as ours.

    Weights, optimizer and its slots go on where they were, on another backend, too, and what is
    compiled is decided anew there. (A file of a model with Keras's layer alone, written on
    TensorFlow, says `jit_compile=False`, and keeps it: set `model.jit_compile = True` on JAX.)

    (`keras.saving.load_model` gives back the layer that was saved, once `rowwise.keras` is
    imported. Where rowwise is not installed, its
    `custom_objects={"rowwise>Embedding": keras.layers.Embedding}` opens our files.)

    Args:
        filepath: a `.keras` file, written with our layer or with Keras's.
        embedding: the class to open embedding layers as; `keras.layers.Embedding` goes the other
            way.
        **options: of `keras.saving.load_model` (custom_objects, compile, safe_mode).

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Embedding(5, 2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(folder + "/model.keras")
        ...     type(load_model(folder + "/model.keras").layers[0]).__module__
        'rowwise.keras.embedding'
    """
    with _opening_embeddings_with(embedding):
        return keras.saving.load_model(filepath, **options)


# Where files written on the torch backend say that their optimizer is; others have it elsewhere.
_TORCH_OPTIMIZERS = "keras.src.backend.torch.optimizers."

_stand_in: ContextVar[Any] = ContextVar("stand_in", default=None)


@contextmanager
def _opening_embeddings_with(layer: type) -> Iterator[None]:
    """While it lasts, a saved embedding layer, Keras's or ours, is opened as a `layer`."""
    token = _stand_in.set(layer)
    try:
        yield
    finally:
        _stand_in.reset(token)


@around(serialization_lib, "_retrieve_class_or_fn")
def _retrieve(
    original: Any, name: Any, registered_name: Any, module: Any, *args: Any, **kwargs: Any
) -> Any:
    if _stand_in.get() is not None and str(module).startswith(_TORCH_OPTIMIZERS):
        module = "keras.optimizers"
    saved_embedding = name == "Embedding" and module in ("keras.layers", "rowwise.keras.embedding")
    if saved_embedding and _stand_in.get() is not None:
        return _stand_in.get()
    return original(name, registered_name, module, *args, **kwargs)


# Models compiled as their backend sees fit.
_automatic: weakref.WeakSet[Any] = weakref.WeakSet()


@around(Trainer, "compile")
def _compile(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    asked = inspect.signature(original).bind(self, *args, **kwargs).arguments
    (_automatic.add if asked.get("jit_compile", "auto") == "auto" else _automatic.discard)(self)
    return original(self, *args, **kwargs)


@around(Trainer, "get_compile_config")
def _compile_config(original: Any, self: Any) -> Any:
    """Keras writes what "auto" came to: on JAX that all is compiled, elsewhere that nothing is."""
    config = original(self)
    if config and self in _automatic and layers_of_ids(self):
        config["jit_compile"] = "auto"
    return config


@around(Trainer, "compile_from_config")
def _compile_again(original: Any, self: Any, config: Any) -> Any:
    """The same for files that Keras's layer alone was in."""
    if _stand_in.get() is not None:
        optimizer = config.get("optimizer")
        module = optimizer.get("module") if isinstance(optimizer, dict) else None
        if config.get("jit_compile") or str(module).startswith(_TORCH_OPTIMIZERS):
            config = {**config, "jit_compile": "auto"}
    return original(self, config)
