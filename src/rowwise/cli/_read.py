"""Columns of text from CSV, TSV, JSON lines and Parquet, through pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class UsageError(Exception):
    """Why a file's columns cannot be had; the message names the file and the fix."""


def read_columns(path: Path, *names: str) -> list[list[str]]:
    """Columns of a file as strings; rows in which one of them is missing are left out.

    Args:
        path: .csv, .tsv, .jsonl (or .ndjson) or .parquet; text files also with .gz after it.
        names: of the columns.

    Returns:
        one list of strings per name.

    Raises:
        UsageError: no such file, another ending, broken content, no such column or several.
    """
    import pyarrow as pa

    table = _table(path)
    for name in names:
        found = table.column_names.count(name)
        if found > 1:
            raise UsageError(f"{str(path)!r} has {found} columns {name!r}; rename all but one")
        if not found:
            raise UsageError(
                f"{str(path)!r} has no column {name!r}; its columns are "
                f"{', '.join(map(repr, table.column_names))}"
            )
    try:
        columns = [table[name].cast(pa.string()).to_pylist() for name in names]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"{str(path)!r}: a column is not text: {error}") from error
    rows = [row for row in zip(*columns, strict=True) if None not in row]
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]


def read_names(path: Path) -> list[str]:
    """The names of a file's columns; see `read_columns`."""
    return list(_table(path).column_names)


def _table(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}")
    import pyarrow as pa

    try:
        return _read(path)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error}") from error


def _read(path: Path) -> Any:
    suffixes = path.name.lower().removesuffix(".gz").rpartition(".")
    match suffixes[2]:
        case "csv" | "tsv" as kind:
            from pyarrow import csv

            return csv.read_csv(
                path,
                # Quoted texts may hold line breaks.
                parse_options=csv.ParseOptions(
                    delimiter="," if kind == "csv" else "\t", newlines_in_values=True
                ),
                convert_options=csv.ConvertOptions(strings_can_be_null=False),
            )
        case "jsonl" | "ndjson":
            from pyarrow import json

            return json.read_json(path)
        case "parquet":
            from pyarrow import parquet

            return parquet.read_table(path)
    raise UsageError(f"{str(path)!r}: the ending must be .csv, .tsv, .jsonl, .ndjson or .parquet")
