"""The layer where this Keras lacks what rowwise builds on: Keras's own, trained densely.

Nothing here knows anything that is private to Keras.
"""

from __future__ import annotations

import warnings
from typing import Any

import keras

BackupAndRestore = keras.callbacks.BackupAndRestore
load_model = keras.models.load_model

reason = ""  # why there are no tables


@keras.saving.register_keras_serializable(package="rowwise")
class Embedding(keras.layers.Embedding):
    """`keras.layers.Embedding`; options of rowwise's that need a table are refused."""

    def __init__(
        self,
        *args: Any,
        freeze_mask_row: bool = False,
        untrained: str = "as-is",
        rounding: str | None = None,
        **kwargs: Any,
    ) -> None:
        if freeze_mask_row or untrained != "as-is" or rounding is not None:
            raise ValueError(f"freeze_mask_row, untrained and rounding need a table: {reason}")
        super().__init__(*args, **kwargs)

    @property
    def table(self) -> Any:
        """Raise ValueError: there is none."""
        raise ValueError(f"layer {self.name!r} has no table: {reason}")


def warn(error: ImportError) -> None:
    """Warn, once, that layers are Keras's own from now on."""
    global reason
    reason = f"rowwise does not fit Keras {keras.__version__} ({error})"
    warnings.warn(
        f"{reason}; rowwise.keras.Embedding is Keras's layer here, trained densely. Another "
        "version of Keras brings the tables back: see rowwise's extra [keras]",
        stacklevel=3,
    )
