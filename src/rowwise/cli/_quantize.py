"""`rowwise quantize`: write a classifier as a tenth of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli import _options as options
from rowwise.cli._errors import exit_on_error
from rowwise.cli._json import to_json
from rowwise.cli._new_folder import NewFolder
from rowwise.cli._read import Layout


def quantize(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that train made.")],
    out: Annotated[Path, typer.Option(help="Folder for the smaller model.")],
    keep: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, help="Part of the rows that stay, those that count most."),
    ] = 0.6,
    test_file: Annotated[
        Path | None,
        typer.Option(help="File of texts with labels, to print what the smaller model loses."),
    ] = None,
    text: options.Text = "text",
    label: options.Label = "label",
    separator: options.Separator = None,
    header: options.Header = True,
    quotes: options.Quotes = None,
    encoding: options.Encoding = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the model in a folder that has files.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a smaller model: rows of 8-bit integers, without what only training needs.

    predict and test read it as they read the larger one.

    Example: rowwise quantize model --out small --test-file reviews_of_may.csv
    """
    with exit_on_error("quantize"), NewFolder(out, force) as folder:
        from rowwise.cli._labelled import Columns, read_labelled
        from rowwise.cli._model_folder import load_classifier
        from rowwise.cli._summary import score

        large = load_classifier(model)
        large.save_quantized(folder.path, keep)
        accuracies = None
        if test_file is not None:
            columns = Columns(text, label, separator, Layout(encoding, header, quotes))
            data = read_labelled(test_file, columns)
            small = load_classifier(folder.path)
            accuracies = [score(each, data)["accuracy"] for each in (large, small)]
        sizes = [_size(model), _size(folder.path)]
        folder.place()
    if as_json:
        typer.echo(to_json({"out": str(out), "bytes": sizes, "accuracy": accuracies}))
        return
    typer.echo(f"{out}: {sizes[1]:,} bytes in place of {sizes[0]:,}")
    if accuracies is not None:
        typer.echo(f"Accuracy {accuracies[1]:.4f} in place of {accuracies[0]:.4f}")


def _size(folder: Path) -> int:
    """Return the bytes of a model's own files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
