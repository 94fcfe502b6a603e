"""`rowwise inspect`: what a table file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rowwise.cli.errors import said_plainly
from rowwise.inspect import summary
from rowwise.table import Table


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
        typer.echo(f"{name:<{width}}  {shown(value)}")


def shown(value: Any) -> str:
    """A fact as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) or "(padding)" for item in value) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
