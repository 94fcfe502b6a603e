"""Rows on a disk in Keras's files: their table's file is an asset of the layer."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NoReturn

# Whether Keras saves the assets of layers beside their variables.
_saving_assets: ContextVar[bool] = ContextVar("saving_assets", default=False)


def save_state(
    original: Any, saveable: Any, weights_store: Any, assets_store: Any, *args: Any, **kwargs: Any
) -> Any:
    """Save variables and assets of a layer, and of those within. Wraps Keras's function."""
    before = _saving_assets.set(assets_store is not None)
    try:
        return original(saveable, weights_store, assets_store, *args, **kwargs)
    finally:
        _saving_assets.reset(before)


def check_saves_assets(layer: Any) -> None:
    """Refuse to save the variables of a layer with rows on a disk where its assets are not saved.

    Raises:
        ValueError: see `refuse_without_assets`.
    """
    if not _saving_assets.get():
        refuse_without_assets(layer)


def refuse_without_assets(layer: Any) -> NoReturn:
    """Refuse variables alone of a layer with rows on a disk.

    Raises:
        ValueError: with what to save instead.
    """
    raise ValueError(
        "variables and files of weights alone have no rows from a disk, as those of layer "
        f"{layer.name!r} are; take model.save(path) and keras.saving.load_model(path) for the "
        "whole model, or layer.table.save(path) (layer.dynamic.save(path) of a DynamicEmbedding) "
        "for the rows"
    )
