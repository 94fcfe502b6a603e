"""Neighbours that the report can show without the table."""

from __future__ import annotations

from typing import Any

import numpy as np

from rowwise.inspect.report._rows import Rows

_COSINES = 1 << 30  # computed at most: those of every pair of 32,768 rows
_NEIGHBORS = 8
_AT_ONCE = 256


def neighbors(rows: Rows) -> dict[str, Any]:
    """Find the nearest trained rows, by cosine, of every trained row, or of those updated most.

    Returns:
        names: of rows; the first n are those with neighbours; asked: n; ids: (n, k), where in
        names the neighbours of each stand, the nearest first; cosines: (n, k), in thousandths;
        first: the name of the row, of those n, whose vector is the longest.
    """
    trained = np.flatnonzero(rows.trained & (rows.norms > 0))
    order = trained[np.argsort(-rows.updates[trained].astype(np.int64), kind="stable")]
    units = rows.vectors[order] / rows.norms[order, None]
    asked = min(len(order), _COSINES // max(len(order), 1))
    k = max(min(_NEIGHBORS, len(order) - 1), 0)
    ids, cosines = np.empty((asked, k), np.int64), np.empty((asked, k), np.int64)
    for start in range(0, asked, _AT_ONCE):
        stop = min(start + _AT_ONCE, asked)
        found = units[start:stop] @ units.T
        found[np.arange(stop - start), np.arange(start, stop)] = -np.inf
        best = np.sort(np.argpartition(-found, k, axis=1)[:, :k], axis=1)
        near = np.take_along_axis(found, best, axis=1)
        nearest_first = np.argsort(-near, axis=1, kind="stable")
        ids[start:stop] = np.take_along_axis(best, nearest_first, axis=1)
        near = np.take_along_axis(near, nearest_first, axis=1)
        cosines[start:stop] = np.rint(1000 * near)
    # Of the rows that are not asked about, those that are near to one.
    others = np.unique(ids[ids >= asked])
    ids[ids >= asked] = asked + np.searchsorted(others, ids[ids >= asked])
    named = [rows.names[row] for row in order[[*range(asked), *others]]]
    return {
        "names": named,
        "asked": asked,
        "ids": ids.tolist(),
        "cosines": cosines.tolist(),
        "first": named[rows.norms[order[:asked]].argmax()] if asked else "",
    }
