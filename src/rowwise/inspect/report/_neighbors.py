"""The neighbours that the report can show without the table."""

from __future__ import annotations

from typing import Any

import numpy as np

from rowwise.inspect.report._rows import Rows

_WORDS = 2_000
_NEIGHBORS = 8
_AT_ONCE = 256


def neighbors(rows: Rows) -> dict[str, Any]:
    """Of the rows trained most, the nearest trained rows by cosine.

    Returns:
        names of those rows; for each the list of (place in others, cosine); others: names;
        first: that of those rows whose vector is the longest.
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
        for line, places in zip(cosines, best, strict=True):
            near = [
                (others.setdefault(int(p), len(others)), round(float(line[p]), 4)) for p in places
            ]
            nearest.append(near)
    names = [rows.names[row] for row in trained[asked]]
    return {
        "names": names,
        "first": names[rows.norms[trained[asked]].argmax()] if names else "",
        "nearest": nearest,
        "others": [rows.names[trained[place]] for place in others],
    }
