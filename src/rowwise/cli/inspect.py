"""`rowwise inspect`: what a table file holds."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from rowwise.cli.errors import said_plainly
from rowwise.table import Table

_SHOWN = 8
_AT_ONCE = 1 << 16  # rows


def inspect(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="As Table.save wrote it.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what a table file holds: rows, rule, steps, rows never trained, norms, duplicates.

    Example: rowwise inspect demo/model/table.safetensors
    """
    with said_plainly("inspect"):
        about = summary(Table.load(table))
    if as_json:
        typer.echo(json.dumps(about))
        return
    width = max(map(len, about))
    for name, value in about.items():
        typer.echo(f"{name:<{width}}  {_short(value)}")


def summary(table: Table) -> dict[str, Any]:
    """Facts about a table, as JSON can hold them."""
    updates, untrained = table.updates, table.untrained()
    norms, distinct = _norms_and_distinct(table)
    low, middle, high = np.quantile(norms, [0.05, 0.5, 0.95]).tolist()
    return {
        "rows": table.rows,
        "dim": table.dim,
        "bytes": table.nbytes,
        "rule": repr(table.rule),
        "slots": list(table.slot_names),
        "steps": table.steps,
        "words": None if table.vocabulary is None else len(table.vocabulary),
        "updates of a row": {
            "least": int(updates.min()),
            "median": float(np.median(updates)),
            "most": int(updates.max()),
        },
        "never trained": len(untrained),
        "never trained, such as": _named(table, untrained[:_SHOWN]),
        "trained most": _named(
            table, np.argsort(-updates.astype(np.int64), kind="stable")[:_SHOWN]
        ),
        "norms": {"5%": low, "50%": middle, "95%": high, "largest": float(norms.max())},
        "rows of zeros": int((norms == 0).sum()),
        "rows that repeat another": table.rows - distinct,
        "not finite": int((~np.isfinite(norms)).sum()),
    }


def _norms_and_distinct(table: Table) -> tuple[Any, int]:
    """The norm (rows,) of each row, and how many different rows there are."""
    norms = []
    seen: set[bytes] = set()
    for start in range(0, table.rows, _AT_ONCE):
        rows = table.lookup(np.arange(start, min(start + _AT_ONCE, table.rows)))
        norms.append(np.sqrt(np.einsum("vd,vd->v", rows, rows, dtype=np.float64)))
        seen.update(blake2b(row, digest_size=16).digest() for row in rows)
    return np.concatenate(norms), len(seen)


def _named(table: Table, rows: Any) -> list[Any]:
    """The words of rows, or their ids where the table has none."""
    words = () if table.vocabulary is None else table.vocabulary.tokens
    return [words[row] if row < len(words) else int(row) for row in rows]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) or "(padding)" for item in value) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
