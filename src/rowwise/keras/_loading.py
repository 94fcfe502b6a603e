"""Opening Keras's files with our layer, and ours with Keras's."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from rowwise.keras._assets import refuse_without_assets
from rowwise.keras._dynamic import DynamicEmbedding
from rowwise.keras._embedding import Embedding
from rowwise.keras._ids import id_layers_in


def load_model(filepath: Any, *, embedding: type = Embedding, **options: Any) -> Any:
    """Call `keras.saving.load_model`, and open every embedding layer as ours.

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
        'rowwise.keras._embedding'
    """
    with _opening_embeddings_with(embedding):
        return keras.saving.load_model(filepath, **options)


# Where files written on the torch backend say that their optimizer is; others have it elsewhere.
_TORCH_OPTIMIZERS = "keras.src.backend.torch.optimizers."

# The class to open embedding layers as, while `load_model` runs.
_layer: ContextVar[Any] = ContextVar("layer", default=None)


@contextmanager
def _opening_embeddings_with(layer: type) -> Iterator[None]:
    """Open saved embedding layers, Keras's or ours, as a `layer`."""
    token = _layer.set(layer)
    try:
        yield
    finally:
        _layer.reset(token)


def retrieve_class(
    original: Any, name: Any, registered_name: Any, module: Any, *args: Any, **kwargs: Any
) -> Any:
    """Find the class of a saved object. Wraps Keras's function."""
    if _layer.get() is not None and str(module).startswith(_TORCH_OPTIMIZERS):
        module = "keras.optimizers"
    saved_embedding = registered_name == "rowwise>Embedding" or (
        name == "Embedding" and module == "keras.layers"
    )
    if saved_embedding and _layer.get() is not None:
        return _layer.get()
    return original(name, registered_name, module, *args, **kwargs)


# Models compiled with jit_compile="auto".
_automatic: weakref.WeakSet[Any] = weakref.WeakSet()


def compile_model(original: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Compile a model, and record whether it left `jit_compile` alone. Wraps Keras's method."""
    given = inspect.signature(original).bind(model, *args, **kwargs).arguments
    (_automatic.add if given.get("jit_compile", "auto") == "auto" else _automatic.discard)(model)
    return original(model, *args, **kwargs)


def compile_config(original: Any, model: Any) -> Any:
    """Return what a file says of `compile`. Wraps Keras's method.

    Keras writes what "auto" came to: on JAX that all is compiled, elsewhere that nothing is.
    """
    config = original(model)
    if config and model in _automatic and id_layers_in(model):
        config["jit_compile"] = "auto"
    return config


def compile_from_config(original: Any, model: Any, config: Any) -> Any:
    """Compile a model as its file says, decided anew on this backend. Wraps Keras's method."""
    if _layer.get() is not None:
        optimizer = config.get("optimizer")
        module = optimizer.get("module") if isinstance(optimizer, dict) else None
        if config.get("jit_compile") or str(module).startswith(_TORCH_OPTIMIZERS):
            config = {**config, "jit_compile": "auto"}
    return original(model, config)


def refuse_weights_alone(original: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Save or load the weights of a model without rows on a disk. Wraps Keras's functions.

    Raises:
        ValueError: a layer has rows on a disk, whose table's file is an asset, and there are none.
    """
    skipped = kwargs.get("objects_to_skip") or ()
    for layer in id_layers_in(model):
        on_disk = isinstance(layer, Embedding | DynamicEmbedding) and layer._is_on_disk()
        if on_disk and not any(layer is one for one in skipped):
            refuse_without_assets(layer)
    return original(model, *args, **kwargs)


def refuse_legacy_file(original: Any, model: Any, *args: Any, **options: Any) -> Any:
    """Write a model as Keras 2 did, which has no place for ids. Wraps Keras's function.

    It refuses before Keras empties the file and takes the optimizer out of the model's config.

    Raises:
        ValueError: a layer has ids, or rows on a disk.
    """
    for layer in id_layers_in(model):
        if isinstance(layer, DynamicEmbedding):
            raise ValueError(
                f"an .h5 file of a whole model holds no ids, and {layer.name!r} is a "
                "DynamicEmbedding; save the model as .keras"
                + ("" if layer._is_on_disk() else ", or its weights as .weights.h5")
            )
        if isinstance(layer, Embedding) and layer._is_on_disk():
            raise ValueError(
                f"an .h5 file holds no rows from a disk, as those of layer {layer.name!r} are; "
                "save the model as .keras"
            )
    return original(model, *args, **options)


def refuse_legacy_weights(original: Any, group: Any, model: Any, *args: Any, **options: Any) -> Any:
    """Read the weights of a file as Keras 2 wrote it, without ids. Wraps Keras's functions.

    Raises:
        ValueError: a layer has ids, of which the file's rows would be other ones'.
    """
    for layer in id_layers_in(model):
        if isinstance(layer, DynamicEmbedding):
            raise ValueError(
                f"an .h5 file of a whole model holds no ids, and {layer.name!r} is a "
                "DynamicEmbedding; load a .keras file, or weights from .weights.h5"
            )
    return original(group, model, *args, **options)
