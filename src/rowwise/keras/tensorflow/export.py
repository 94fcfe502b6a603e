"""Where Keras writes models for serving: a table goes with them as an array, and is gathered."""

from __future__ import annotations

from typing import Any

from keras.src.backend.tensorflow.export import TFExportArchive
from keras.src.export.saved_model_export_archive import SavedModelExportArchive

from rowwise.keras.around import around
from rowwise.keras.tensorflow.variable import OnTable


@around(TFExportArchive, "_backend_track_layer")
def _track(original: Any, self: Any, layer: Any) -> Any:
    for variable in layer.variables:
        if isinstance(variable, OnTable):
            variable.export()
            self.__dict__.setdefault("_exported_tables", []).append(variable)
    return original(self, layer)


@around(SavedModelExportArchive, "write_out")
def _write_out(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return original(self, *args, **kwargs)
    finally:
        for variable in self.__dict__.pop("_exported_tables", ()):
            variable.exported = None
