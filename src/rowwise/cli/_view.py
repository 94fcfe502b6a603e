"""`rowwise view`: explore the rows of tables in a browser."""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from rowwise.cli import _options as options
from rowwise.cli._errors import exit_on_error
from rowwise.cli._model_folder import (
    CLASSIFIER,
    START,
    TABLE,
    WORDS,
    load_vectors,
    trained_rows,
)
from rowwise.cli._read import Layout as FileLayout
from rowwise.cli._read import UsageError, read_columns, read_names
from rowwise.cli._spinner import spinner
from rowwise.inspect._layout import Layout, Method
from rowwise.inspect._summary import counted, names_of
from rowwise.inspect.view import Explorer, Server, Snapshot
from rowwise.store._table_file import is_table


class Plane(StrEnum):
    """A way to place rows in a plane."""

    components = "components"
    umap = "umap"
    tsne = "tsne"


def view(
    tables: Annotated[
        list[Path],
        typer.Argument(
            metavar="TABLE...",
            help="Folders that train made, table files, or files of vectors; the last is shown.",
        ),
    ],
    columns: Annotated[
        Path | None,
        typer.Option(
            help="CSV, TSV, JSONL or Parquet file with a column word; the others colour rows."
        ),
    ] = None,
    align: Annotated[
        bool,
        typer.Option(
            "--align",
            help="Rotate the other tables onto the last one; for tables of different trainings.",
        ),
    ] = False,
    layout: Annotated[
        Plane,
        typer.Option(
            help="What places the rows: principal components, or umap or tsne, for one table."
        ),
    ] = Plane.components,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any that is free.")
    ] = 0,
    browser: Annotated[
        bool, typer.Option(help="Open the page in a browser, or only print its address.")
    ] = True,
    source_format: options.SourceFormat = None,
    limit: options.Limit = None,
    errors: options.Errors = "strict",
    encoding: options.Encoding = None,
    as_json: options.AsJson = False,
) -> None:
    """Stand in for the help text below."""
    with exit_on_error("view"), spinner("reading"):
        reading = {"format": source_format, "limit": limit, "errors": errors}
        more = _columns(tables, columns, FileLayout(encoding))
        if layout is Plane.components:
            explorer = Explorer(_snapshots(tables, **reading), more, align)
        else:
            explorer = _laid_out(tables, layout, more, **reading)
        title = " and ".join(table.resolve().name for table in tables)
        server = Server(explorer, title, port)
    if as_json:
        typer.echo(json.dumps({"address": server.address, "rows": len(explorer.words)}))
    else:
        typer.echo(f"{counted(len(explorer.words), 'row')}: {server.address}")
        typer.echo("Only this machine can open it, at this address alone. Ctrl-C ends it.")
    with server, suppress(KeyboardInterrupt), _in_browser(server.address, browser):
        server.serve_forever()


view.__doc__ = """Explore rows in a browser: search, neighbours, colours, selection.

A slider moves the rows between several tables, or between the start and the end of a training.

Example: rowwise view demo/model

Example: rowwise view monday.safetensors friday.safetensors --columns words.csv
"""


@contextmanager
def _in_browser(address: str, wanted: bool) -> Iterator[None]:
    """Open an address in a browser without showing it to this machine's other users.

    They can read the browser's command line. So that names a file which only this user can read
    and which leads on to the address.
    """
    if not wanted:
        yield
        return
    with TemporaryDirectory(prefix="rowwise-view-") as folder:  # of this user alone
        file = Path(folder) / "page.html"
        file.write_text(f'<meta http-equiv="refresh" content="0; url={address}">\n')
        webbrowser.open(file.as_uri())
        yield


def _snapshots(tables: list[Path], **reading: Any) -> list[Snapshot]:
    snapshots = []
    for path in tables:
        if len(tables) == 1 and (path / START).is_file():
            snapshots.append(_of_vectors(path / START, "start"))
        snapshots.append(_snapshot(path, path.resolve().name, **reading))
    return snapshots


def _snapshot(path: Path, name: str, **reading: Any) -> Snapshot:
    if not path.is_dir() and not is_table(path):
        return _of_vectors(path, name, **reading)
    if path.is_dir() and not any((path / file).is_file() for file in (TABLE, CLASSIFIER)):
        return _of_vectors(path, name, **reading)  # of another program
    table = trained_rows(path).table
    words = None if table.vocabulary is None else names_of(table, np.arange(table.rows))
    return Snapshot(name, table.to_numpy(), words, table.update_counts, table.is_trained())


def _of_vectors(path: Path, name: str, **reading: Any) -> Snapshot:
    vectors = load_vectors(path, **reading)
    return Snapshot(name, np.asarray(vectors.matrix, np.float32), vectors.words)


def _laid_out(
    tables: list[Path], plane: Plane, columns: dict[str, dict[str, str]], **reading: Any
) -> Explorer:
    if len(tables) > 1:
        raise UsageError(f"--layout {plane.value} places the rows of one table; name one alone")
    snapshot = _snapshot(tables[0], tables[0].resolve().name, **reading)
    method: Method = "umap" if plane is Plane.umap else "tsne"
    layout = Layout.of(snapshot.vectors, method, snapshot.updates)
    return Explorer([snapshot], columns, layout=layout)


def _columns(
    tables: list[Path], extra: Path | None, layout: FileLayout
) -> dict[str, dict[str, str]]:
    """Return the columns of the last folder and of a file: a value by word, for each name."""
    columns: dict[str, dict[str, str]] = {}
    for file, how in ((tables[-1] / WORDS, FileLayout()), (extra, layout)):
        if file is None or (file is not extra and not file.is_file()):
            continue
        names = [name for name in read_names(file, how) if name != "word"]
        words, *values = read_columns(file, "word", *names, layout=how)
        columns |= {
            name: {str(word): str(cell or "") for word, cell in zip(words, cells, strict=True)}
            for name, cells in zip(names, values, strict=True)
        }
    return columns
