"""Where Keras writes models for serving: there is no Python then, neither table nor checks."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from keras.src.export.saved_model_export_archive import SavedModelExportArchive

from rowwise.keras.around import around

exporting: ContextVar[bool] = ContextVar("exporting", default=False)  # whether one is being written


def _while_exporting(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    before = exporting.set(True)
    try:
        return original(self, *args, **kwargs)
    finally:
        exporting.reset(before)


for _method in ("track", "add_endpoint", "write_out"):
    around(SavedModelExportArchive, _method)(_while_exporting)
