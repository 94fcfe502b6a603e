"""The application: its commands and its version."""

from typing import Annotated

import typer

import rowwise
from rowwise.cli._autotune import autotune
from rowwise.cli._bench import bench
from rowwise.cli._convert import convert
from rowwise.cli._inspect import inspect
from rowwise.cli._neighbors import analogy, neighbors
from rowwise.cli._predict import predict
from rowwise.cli._quantize import quantize
from rowwise.cli._report import report
from rowwise.cli._test import measure
from rowwise.cli._train import train
from rowwise.cli._view import view

app = typer.Typer(
    help="Train embedding tables, look at what they learned, convert vectors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    train, predict, autotune, quantize, neighbors, analogy, inspect, report, view, convert,
    bench,
):  # fmt: skip
    app.command()(command)
app.command("test")(measure)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(rowwise.__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train embedding tables, look at what they learned, convert vectors."""
