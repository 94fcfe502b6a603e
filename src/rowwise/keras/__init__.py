"""Keras 3 layers on rowwise tables (torch backend).

Change `from keras.layers import Embedding` into `from rowwise.keras import Embedding`; models,
`compile`, `fit`, optimizers, schedules, callbacks and files stay as they are.
"""

try:
    import keras as _keras
except ModuleNotFoundError as _error:
    raise ImportError(
        f"keras cannot be imported, for want of {_error.name}; install keras and torch, and set "
        "the environment variable KERAS_BACKEND=torch before keras is imported"
    ) from _error

if _keras.backend.backend() != "torch":
    raise ImportError(
        f"rowwise.keras runs on Keras's torch backend, and Keras is using "
        f"{_keras.backend.backend()!r}; set the environment variable KERAS_BACKEND=torch before "
        "keras is imported"
    )

import rowwise.keras.torch_optimizers  # noqa: F401  (those step tables, too)
from rowwise.keras.backup import BackupAndRestore
from rowwise.keras.embed_reduce import EmbedReduce
from rowwise.keras.embedding import Embedding
from rowwise.keras.loading import load_model

__all__ = ["BackupAndRestore", "EmbedReduce", "Embedding", "load_model"]
