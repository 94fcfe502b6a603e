"""Facts about a table: how much it holds, what was trained, how long its rows are."""

from __future__ import annotations

from dataclasses import fields
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.rules import Rule
from rowwise.table import Table

_AT_ONCE = 1 << 16  # rows
_NAMED = 8


def summary(table: Table) -> dict[str, Any]:
    """Rows, rule, steps, updates, rows never trained, norms, duplicates, as JSON can hold them.

    Example:
        >>> facts = summary(Table(3, 2, init="zeros"))
        >>> facts["rows"], facts["never trained"], facts["rows of zeros"]
        (3, 3, 3)
    """
    updates, untrained = table.update_counts, table.untrained()
    most = np.argsort(-updates.astype(np.int64), kind="stable")[:_NAMED]
    norms, distinct = _norms_and_distinct(table)
    low, middle, high = np.quantile(norms, [0.05, 0.5, 0.95]).tolist()
    return {
        "rows": table.rows,
        "dim": table.dim,
        "bytes": table.nbytes,
        "rule": _described(table.rule),
        "slots": list(table.slot_names),
        "steps": table.steps,
        "words": None if table.vocabulary is None else len(table.vocabulary),
        "updates of a row": {
            "least": int(updates.min()),
            "median": float(np.median(updates)),
            "most": int(updates.max()),
        },
        "never trained": len(untrained),
        "never trained, such as": names_of(table, untrained[:_NAMED]),
        "trained most": names_of(table, most[updates[most] > 0]),
        "norms": {"5%": low, "50%": middle, "95%": high, "largest": float(norms.max())},
        "rows of zeros": int((norms == 0).sum()),
        "rows that repeat another": table.rows - distinct,
        "not finite": int((~np.isfinite(norms)).sum()),
    }


def names_of(table: Table, rows: NDArray[Any]) -> list[Any]:
    """The words of rows (n,), or their ids where the table has no words for them."""
    words = () if table.vocabulary is None else table.vocabulary.tokens
    return [words[row] if row < len(words) else int(row) for row in rows]


def shown(name: str | int) -> str:
    """A row's name for people: its word, "(padding)" for the empty one, "row 7" for an id."""
    return f"row {name}" if isinstance(name, int) else name or "(padding)"


def _described(rule: Rule | None) -> str | None:
    """The rule and its hyperparameters that are on; the rate is each step's own."""
    if rule is None:
        return None
    on = [
        f"{field.name}={value!r}"
        for field in fields(rule)
        if field.name != "learning_rate" and (value := getattr(rule, field.name))
    ]
    return f"{type(rule).__name__}({', '.join(on)})"


def _norms_and_distinct(table: Table) -> tuple[NDArray[np.float64], int]:
    """The norm (rows,) of each row, and how many different rows there are."""
    norms = []
    seen: set[bytes] = set()
    for start in range(0, table.rows, _AT_ONCE):
        rows = table.lookup(np.arange(start, min(start + _AT_ONCE, table.rows)))
        norms.append(np.sqrt(np.einsum("vd,vd->v", rows, rows, dtype=np.float64)))
        seen.update(blake2b(row, digest_size=16).digest() for row in rows)
    return np.concatenate(norms), len(seen)
