"""`rowwise report`: write an HTML file about what the rows learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli._errors import exit_on_error
from rowwise.cli._model_folder import trained_rows
from rowwise.cli._spinner import spinner


def report(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="Folder that train made, table file, or file of vectors."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write. [default: report.html in MODEL]")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "What the rows learned",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a page that shows what the rows learned; it opens without a network.

    Of a classifier it begins with accuracy, confusion, mistakes, and the words that decide. Then it
    has curves, the rows as points, nearest neighbours, and updates per row.

    Example: rowwise report demo/model
    """
    with exit_on_error("report"), spinner("writing the page"):
        from rowwise.inspect.report import write_report

        found = trained_rows(model)
        folder = model if model.is_dir() else model.parent
        target = out or folder / "report.html"
        write_report(
            target,
            found.table,
            title=title,
            history=found.history,
            start=found.start,
            row_labels=found.row_labels,
            classifier=found.summary,
        )
    address = target.resolve().as_uri()
    typer.echo(
        json.dumps({"out": str(target), "address": address}) if as_json else f"Written: {address}"
    )
