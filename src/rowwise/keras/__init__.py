"""Keras 3 layers on rowwise tables, on Keras's backends torch, JAX and TensorFlow.

Change `from keras.layers import Embedding` into `from rowwise.keras import Embedding`; models,
`compile`, `fit`, optimizers, schedules, callbacks and files stay as they are.
"""

try:
    import rowwise.keras._backend  # noqa: F401  (first: says what is missing, if anything is)
    from rowwise.keras import _patches
    from rowwise.keras._backup import BackupAndRestore
    from rowwise.keras._dynamic import DynamicEmbedding
    from rowwise.keras._embed_reduce import EmbedReduce
    from rowwise.keras._embedding import Embedding
    from rowwise.keras._encoded_ids import encode_ids
    from rowwise.keras._export import export_scope
    from rowwise.keras._loading import load_model
    from rowwise.keras._rowwise_adagrad import RowwiseAdagrad

    __all__ = [
        "BackupAndRestore",
        "DynamicEmbedding",
        "EmbedReduce",
        "Embedding",
        "RowwiseAdagrad",
        "encode_ids",
        "export_scope",
        "load_model",
    ]
    _patches.install()
except ImportError as error:
    if not (error.name or "").startswith("keras."):  # something else is missing, and it says what
        raise
    from rowwise.keras._without_tables import BackupAndRestore, Embedding, load_model, warn

    __all__ = ["BackupAndRestore", "Embedding", "load_model"]
    warn(error)
