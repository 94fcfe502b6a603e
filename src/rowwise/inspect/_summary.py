"""Facts about a table: its size, its training, the norms of its rows."""

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
    """Return facts about a table, as JSON can hold them.

    Returns:
        rows, dim, bytes, rule, slots, steps; vocabulary: its number of words, or None;
        update_counts: of a row, at least, in the median, at most; untrained: how many rows, and
        untrained_rows: the first of them; most_updated_rows, padding left out; norms: quantiles
        and the largest;
        zero_rows, duplicate_rows, nonfinite_rows: how many.

    Example:
        >>> facts = summary(Table(3, 2, init="zeros"))
        >>> facts["rows"], facts["untrained"], facts["zero_rows"]
        (3, 3, 3)
    """
    updates, untrained = table.update_counts, table.untrained()
    most = np.argsort(-updates.astype(np.int64), kind="stable")
    most = most[most != padding_row(table)][:_NAMED]
    norms, distinct = _norms_and_distinct(table)
    low, middle, high = np.quantile(norms, [0.05, 0.5, 0.95]).tolist()
    return {
        "rows": table.rows,
        "dim": table.dim,
        "bytes": table.nbytes,
        "rule": _describe(table.rule),
        "slots": list(table.slot_names),
        "steps": table.steps,
        "vocabulary": None if table.vocabulary is None else len(table.vocabulary),
        "update_counts": {
            "min": int(updates.min()),
            "median": float(np.median(updates)),
            "max": int(updates.max()),
        },
        "untrained": len(untrained),
        "untrained_rows": names_of(table, untrained[:_NAMED]),
        "most_updated_rows": names_of(table, most[updates[most] > 0]),
        "norms": {"p5": low, "p50": middle, "p95": high, "max": float(norms.max())},
        "zero_rows": int((norms == 0).sum()),
        "duplicate_rows": table.rows - distinct,
        "nonfinite_rows": int((~np.isfinite(norms)).sum()),
    }


def names_of(table: Table, rows: NDArray[Any]) -> list[Any]:
    """Return the words of rows (n,), or their ids where the table has no words for them."""
    words = () if table.vocabulary is None else table.vocabulary.tokens
    return [words[row] if row < len(words) else int(row) for row in rows]


def padding_row(table: Table) -> int:
    """Return the row that stands for padding, -1 if none does.

    The mask makes its gradient zero: it can have updates, but never moves.
    """
    vocabulary = table.vocabulary
    return -1 if vocabulary is None or vocabulary.mask_token is None else 0


def display_name(name: str | int) -> str:
    """Return a row's name for people: its word, "(padding)" for "", "row 7" for an id."""
    return f"row {name}" if isinstance(name, int) else name or "(padding)"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, in the singular for one.

    Example:
        >>> counted(1, "row"), counted(2000, "row")
        ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _describe(rule: Rule | None) -> str | None:
    """Return a rule's name with its hyperparameters that are on; the rate is each step's own."""
    if rule is None:
        return None
    on = [
        f"{field.name}={value!r}"
        for field in fields(rule)
        if field.name != "learning_rate" and (value := getattr(rule, field.name))
    ]
    return f"{type(rule).__name__}({', '.join(on)})"


def _norms_and_distinct(table: Table) -> tuple[NDArray[np.float64], int]:
    """Return the norm (rows,) of each row, and how many different rows there are."""
    norms = []
    seen: set[bytes] = set()
    for start in range(0, table.rows, _AT_ONCE):
        rows = table.lookup(np.arange(start, min(start + _AT_ONCE, table.rows)))
        norms.append(np.sqrt(np.einsum("vd,vd->v", rows, rows, dtype=np.float64)))
        seen.update(blake2b(row, digest_size=16).digest() for row in rows)
    return np.concatenate(norms), len(seen)
