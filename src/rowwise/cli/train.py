"""`rowwise train`: a text classifier from a file, and what its rows learned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli.errors import said_plainly
from rowwise.cli.read import UnreadableFile, read_columns

_EXAMPLE = """Train an embedding and a classifier on labelled texts.

Reads CSV, TSV, JSON lines or Parquet.

Trains Embedding -> mean over words -> Dense in Keras, with a part of the texts held out.

Saves model, table, vocabulary and labels; Ctrl-C ends it early and saves what was learned.

Example: rowwise train reviews.csv --text review --label stars --out model
"""


def train(
    file: Annotated[Path, typer.Argument(help="CSV, TSV, JSONL or Parquet.")],
    text: Annotated[str, typer.Option(help="Column of the texts.")],
    label: Annotated[str, typer.Option(help="Column of the labels.")],
    out: Annotated[Path, typer.Option(help="Folder for model, table and vocabulary.")],
    dim: Annotated[int, typer.Option(min=1, help="Length of a word's vector.")] = 32,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the texts.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per step.")] = 64,
    length: Annotated[int, typer.Option(min=1, help="Words of a text that are read.")] = 100,
    min_count: Annotated[int, typer.Option(min=1, help="Rarer words are unknown.")] = 2,
    max_size: Annotated[int, typer.Option(min=3, help="Rows of the table at most.")] = 50_000,
    validation: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Part of the texts that is held out.")
    ] = 0.2,
    optimizer: Annotated[str, typer.Option(help="Any of Keras's, by name.")] = "adam",
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Of the optimizer.")] = 0.01,
    words: Annotated[str, typer.Option(help="Words to show neighbours of, by comma.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of split and start.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder in use.")] = False,
) -> None:
    """Replaced by the help text below."""
    from rich.console import Console

    with said_plainly("train"):
        _check_folder(out, force)
        texts, labels = read_columns(file, text, label)
        _check(file, texts, labels, label)
        _check_optimizer(optimizer)

    from rowwise.cli.classifier import Settings, fit
    from rowwise.cli.model_folder import save
    from rowwise.cli.outcome import report

    settings = Settings(
        dim=dim,
        epochs=epochs,
        batch_size=batch_size,
        length=length,
        min_count=min_count,
        max_size=max_size,
        validation=validation,
        optimizer=optimizer,
        learning_rate=learning_rate,
        seed=seed,
    )
    console = Console()
    trained = fit(texts, labels, settings, console)
    if trained.interrupted:
        console.print("\nInterrupted: what was learned so far is kept", soft_wrap=True)
    # The vocabulary's words are in lower case.
    shown = [word.strip().lower() for word in words.split(",") if word.strip()]
    report(trained, shown, console)

    save(trained, out, length)
    console.print(f"\nSaved in {out}{os.sep}", soft_wrap=True, markup=False)
    console.print(
        f"Look on with: rowwise report {out}, rowwise neighbors {out} WORD",
        soft_wrap=True,
        markup=False,
    )
    if trained.interrupted:
        raise typer.Exit(130)


train.__doc__ = _EXAMPLE


def _check_folder(out: Path, force: bool) -> None:
    standing = next(path for path in (out, *out.parents) if path.exists())
    if not standing.is_dir():
        raise UnreadableFile(f"--out {str(out)!r}: {str(standing)!r} is a file; name a folder")
    if not os.access(standing, os.W_OK):
        raise UnreadableFile(f"--out {str(out)!r}: {str(standing)!r} cannot be written to")
    if standing == out and any(out.iterdir()) and not force:
        raise UnreadableFile(f"--out {str(out)!r} is not empty; --force writes into it")


def _check(file: Path, texts: list[str], labels: list[str], label: str) -> None:
    classes = set(labels)
    if len(classes) < 2:
        raise UnreadableFile(
            f"{str(file)!r}: column {label!r} needs two labels or more, and has "
            f"{', '.join(map(repr, classes)) or 'none'} in {len(texts)} rows"
        )
    if not any(text.strip() for text in texts):
        raise UnreadableFile(f"{str(file)!r}: every text is empty")


def _check_optimizer(name: str) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    try:
        keras.optimizers.get(name)
    except ValueError as error:
        raise UnreadableFile(f"--optimizer {name!r} is not one of Keras's") from error
