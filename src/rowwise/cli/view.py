"""`rowwise view`: the rows of tables, explored in a browser on this machine."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from rowwise.cli.errors import said_plainly
from rowwise.cli.model_folder import START, TABLE, WORDS
from rowwise.cli.read import read_columns, read_names
from rowwise.cli.waiting import waiting
from rowwise.inspect._summary import names_of
from rowwise.inspect.view import Explorer, Moment, Server
from rowwise.store._table_file import is_table
from rowwise.table import Table
from rowwise.vectors import load


def view(
    tables: Annotated[
        list[Path],
        typer.Argument(
            metavar="TABLE...", help="Folders that train made, tables, or vectors; the last counts."
        ),
    ],
    columns: Annotated[
        Path | None,
        typer.Option(
            help="CSV, TSV, JSONL or Parquet with a column word, to colour by the others."
        ),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align", help="Turn the others upon the last: of other trainings.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Replaced by the help text below."""
    with said_plainly("view"), waiting("reading"):
        explorer = Explorer(_moments(tables), _columns(tables, columns), align)
        title = " and ".join(table.resolve().name for table in tables)
        server = Server(explorer, title, port)
    if as_json:
        typer.echo(json.dumps({"address": server.address, "rows": len(explorer.words)}))
    else:
        typer.echo(f"{len(explorer.words):,} rows: {server.address}")
        typer.echo("Only this machine can open it, by this address alone. Ctrl-C ends it.")
    if browser:
        import webbrowser

        webbrowser.open(server.address)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


view.__doc__ = """Explore rows in a browser: search, neighbours, colours, selection.

Several tables, or a folder that train made, are moments of a slider, on which the rows move.

Example: rowwise view demo/model

Example: rowwise view monday.safetensors friday.safetensors --columns words.csv
"""


def _moments(tables: list[Path]) -> list[Moment]:
    moments = []
    for path in tables:
        if len(tables) == 1 and (path / START).is_file():
            moments.append(_moment(path / START, "start"))
        name = path.resolve().name
        moments.append(_moment(path / TABLE if (path / TABLE).is_file() else path, name))
    return moments


def _moment(path: Path, name: str) -> Moment:
    if not is_table(path):
        vectors = load(path)
        return Moment(name, np.asarray(vectors.matrix, np.float32), vectors.words)
    table = Table.load(path)
    words = None if table.vocabulary is None else names_of(table, np.arange(table.rows))
    return Moment(name, table.to_numpy(), words, table.update_counts)


def _columns(tables: list[Path], extra: Path | None) -> dict[str, dict[str, str]]:
    """Of the last folder, and of a file: a value by word, for each name."""
    columns: dict[str, dict[str, str]] = {}
    for file in (tables[-1] / WORDS, extra):
        if file is None or (file is not extra and not file.is_file()):
            continue
        names = [name for name in read_names(file) if name != "word"]
        words, *values = read_columns(file, "word", *names)
        columns |= {
            name: dict(zip(words, cells, strict=True))
            for name, cells in zip(names, values, strict=True)
        }
    return columns
