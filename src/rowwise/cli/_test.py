"""`rowwise test`: measure a classifier on texts with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli import _options as options
from rowwise.cli._errors import exit_on_error
from rowwise.cli._json import to_json
from rowwise.cli._read import Layout


def measure(
    model: options.Model,
    file: Annotated[Path, typer.Argument(help="File or folder of texts with labels.")],
    text: options.Text = "text",
    label: options.Label = "label",
    separator: options.Separator = None,
    header: options.Header = True,
    quotes: options.Quotes = None,
    encoding: options.Encoding = None,
    top: Annotated[
        int, typer.Option("--top", "-k", min=1, help="Number of labels of precision and recall.")
    ] = 1,
    as_json: options.AsJson = False,
) -> None:
    """Print accuracy, precision and recall, per label too, and a confusion table.

    Example: rowwise test model reviews_of_may.csv --text review --label stars
    """
    from rich.console import Console

    with exit_on_error("test"):
        from rowwise.cli._labelled import Columns, read_labelled
        from rowwise.cli._model_folder import load_any_classifier
        from rowwise.cli._summary import print_score, score

        loaded = load_any_classifier(model)
        columns = Columns(text, label, separator, Layout(encoding, header, quotes))
        found = score(loaded, read_labelled(file, columns), top)
    if as_json:
        typer.echo(to_json(found))
    else:
        print_score(found, Console())
