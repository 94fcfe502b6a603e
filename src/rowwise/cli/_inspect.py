"""`rowwise inspect`: print facts about a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rowwise.cli._errors import exit_on_error
from rowwise.cli._model_folder import trained_rows
from rowwise.inspect import summary


def inspect(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE", help="Folder that train made, table file, or file of vectors."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print facts about a table: rows, rule, steps, untrained rows, norms, duplicates.

    Example: rowwise inspect demo/model
    """
    with exit_on_error("inspect"):
        about = summary(trained_rows(table).table)
    if as_json:
        typer.echo(json.dumps(about))
        return
    width = max(map(len, about))
    for name, value in about.items():
        typer.echo(f"{name.replace('_', ' '):<{width}}  {_formatted(value)}")


def _formatted(value: Any) -> str:
    """Return a fact as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_formatted(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) or "(padding)" for item in value) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
