"""Neighbours that the report can show without the table."""

from __future__ import annotations

from typing import Any

import numpy as np

from rowwise.inspect.report._rows import Rows

_WORDS = 2_000
_NEIGHBORS = 8
_AT_ONCE = 256


def neighbors(rows: Rows) -> dict[str, Any]:
    """Find the nearest trained rows, by cosine, of the rows with the most updates.

    Returns:
        names: of those rows; nearest: for each a list of (index in others, cosine); others: names;
        first: the name of the row, among those, whose vector is the longest.
    """
    trained = np.flatnonzero(rows.trained & (rows.norms > 0))
    order = np.argsort(-rows.updates[trained].astype(np.int64), kind="stable")
    asked = order[:_WORDS]
    units = rows.vectors[trained] / rows.norms[trained, None]
    others: dict[int, int] = {}
    nearest = []
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        cosines = units[some] @ units.T
        cosines[np.arange(len(some)), some] = -np.inf
        best = np.argsort(-cosines, axis=1, kind="stable")[:, : min(_NEIGHBORS, len(trained) - 1)]
        for line, ids in zip(cosines, best, strict=True):
            near = [(others.setdefault(int(p), len(others)), round(float(line[p]), 4)) for p in ids]
            nearest.append(near)
    names = [rows.names[row] for row in trained[asked]]
    return {
        "names": names,
        "first": names[rows.norms[trained[asked]].argmax()] if names else "",
        "nearest": nearest,
        "others": [rows.names[trained[row]] for row in others],
    }
