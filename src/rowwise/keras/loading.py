"""Opening Keras's files with our layer, and ours with Keras's."""

from __future__ import annotations

from typing import Any

import keras

from rowwise.keras.bridge import opening_embeddings_with
from rowwise.keras.embedding import Embedding


def load_model(filepath: Any, *, embedding: type = Embedding, **options: Any) -> Any:
    """`keras.saving.load_model`, with every embedding layer opened as ours.

    Weights, optimizer and its slots go on where they were. (`keras.saving.load_model` gives back
    the layer that was saved, once `rowwise.keras` is imported. Where rowwise is not installed,
    its `custom_objects={"rowwise>Embedding": keras.layers.Embedding}` opens our files.)

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
    with opening_embeddings_with(embedding):
        return keras.saving.load_model(filepath, **options)
