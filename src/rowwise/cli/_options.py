"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_PANEL = "Reading"

Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="Folder that train made, or fastText's own model (.bin, .ftz)."
    ),
]
Text = Annotated[
    str,
    typer.Option(help="Column of the texts; a number with --no-header.", rich_help_panel=_PANEL),
]
Label = Annotated[
    str,
    typer.Option(help="Column of the labels; a number with --no-header.", rich_help_panel=_PANEL),
]
Separator = Annotated[
    str | None,
    typer.Option(help="What separates several labels in a cell.", rich_help_panel=_PANEL),
]
Header = Annotated[
    bool,
    typer.Option(
        "--header/--no-header",
        help="Whether the first row names the columns; else they go by number, from 1.",
        rich_help_panel=_PANEL,
    ),
]
Quotes = Annotated[
    bool | None,
    typer.Option(
        "--quotes/--no-quotes",
        help="Whether quotation marks enclose cells. [default: in CSV, not in TSV]",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        help="Encoding of the file, such as cp1252. [default: its byte order mark's, else UTF-8]",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
SourceFormat = Annotated[
    str | None, typer.Option("--from", help="Format of the file. [default: found out]",
                             show_default=False)
]  # fmt: skip
Limit = Annotated[int | None, typer.Option(min=1, help="Read no more rows than this.")]
Errors = Annotated[
    str, typer.Option(help="What to do with words that are not UTF-8: strict, replace or ignore.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
