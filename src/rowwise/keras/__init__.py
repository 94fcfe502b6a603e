"""Keras 3 layers on rowwise tables, on Keras's backends torch, JAX and TensorFlow.

Change `from keras.layers import Embedding` into `from rowwise.keras import Embedding`; models,
`compile`, `fit`, optimizers, schedules, callbacks and files stay as they are.
"""

import rowwise.keras._backend  # noqa: F401  (first: says what is missing, if anything is)
from rowwise.keras import _patches
from rowwise.keras._backup import BackupAndRestore
from rowwise.keras._embed_reduce import EmbedReduce
from rowwise.keras._embedding import Embedding
from rowwise.keras._export import export_scope
from rowwise.keras._loading import load_model
from rowwise.keras._rowwise_adagrad import RowwiseAdagrad

__all__ = [
    "BackupAndRestore",
    "EmbedReduce",
    "Embedding",
    "RowwiseAdagrad",
    "export_scope",
    "load_model",
]

_patches.install()
