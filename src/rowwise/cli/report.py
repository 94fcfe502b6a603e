"""`rowwise report`: what the rows learned, as one HTML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli.errors import said_plainly
from rowwise.cli.model_folder import learned
from rowwise.cli.waiting import waiting


def report(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder that train made, or a table.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write. [default: report.html in MODEL]")
    ] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "What the rows learned",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Write a page that shows what the rows learned; it opens with no network.

    Curves, the rows as points, nearest neighbours, updates per row, how far rows moved.

    Example: rowwise report demo/model
    """
    with said_plainly("report"), waiting("writing the page"):
        from rowwise.inspect.report import write_report

        shown = learned(model)
        folder = model if model.is_dir() else model.parent
        target = out or folder / "report.html"
        write_report(
            target,
            shown.table,
            title=title,
            history=shown.history,
            start=shown.start,
            leaning=shown.leaning,
        )
    address = target.resolve().as_uri()
    typer.echo(
        json.dumps({"out": str(target), "address": address}) if as_json else f"Written: {address}"
    )
