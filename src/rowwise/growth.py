"""A table with other rows: some added, some dropped, some moved."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from rowwise.ids import as_ids, outside
from rowwise.init import Init

if TYPE_CHECKING:
    from rowwise.table import Table


def reorder(table: Table, places: Any, init: Init, seed: int | None) -> None:
    """Makes row i what row places[i] was; see `Table.reorder`."""
    places = as_ids(places).reshape(-1)
    old = places[places != -1]
    if not places.size:
        raise ValueError("a table has at least one row; places is empty")
    if old.size and (old.min() < 0 or old.max() >= table.rows):
        bad = (places < -1) | (places >= table.rows)
        raise outside(places, int(bad.argmax()), table.rows)
    ids, counts = np.unique(old, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"row {ids[counts > 1][0]} stands twice in places")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the rule was taken up
        scratch = table.parts()["scratch"]
        new = type(table)(
            len(places), table.dim, table.rule, init=init, seed=seed, scratch=scratch
        ).parts()
        table.sync()
        parts = table.parts()
        to = np.flatnonzero(places != -1)
        for mine, theirs in zip(_arrays(parts), _arrays(new), strict=True):
            theirs[to] = mine[old]
        of_rows = {name: new[name] for name in ("weights", "slots", "states", "vocabulary")}
        table.take(parts | of_rows)


def _arrays(parts: dict[str, Any]) -> list[Any]:
    return [parts["weights"], *parts["slots"], parts["states"]]
