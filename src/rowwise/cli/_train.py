"""`rowwise train`: rows from a file of texts, with labels or without."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rowwise.cli._errors import exit_on_error
from rowwise.cli._read import UsageError

_HELP = """Train an embedding: on labelled texts a classifier, on any text word vectors.

supervised: CSV, TSV, JSON lines or Parquet; Embedding -> mean over words -> Dense, in Keras.

skipgram, cbow: text with a sentence a line, or a column of such a file; word2vec's training.

Saves table, vocabulary and model; Ctrl-C ends it early and saves what was learned.

Example: rowwise train reviews.csv --text review --label stars --out model

Example: rowwise train corpus.txt --objective skipgram --out vectors
"""


class Objective(StrEnum):
    """What the rows are trained for."""

    supervised = "supervised"
    skipgram = "skipgram"
    cbow = "cbow"


# Options that one way of training has and the other has not.
_OF_LABELS = ("label", "batch_size", "length", "validation", "optimizer", "init_from")
_OF_VECTORS = ("window", "negative", "sample")


def train(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV, TSV, JSONL, Parquet; or text, - reads it.")],
    out: Annotated[Path, typer.Option(help="Folder for table, vocabulary and model.")],
    objective: Annotated[Objective, typer.Option(help="Labels, or words that stand near.")] = (
        Objective.supervised
    ),
    text: Annotated[str | None, typer.Option(help="Column of the texts.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    dim: Annotated[
        int | None,
        typer.Option(min=1, help="Length of a word's vector. (32; word vectors: 100)"),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the texts.")] = 5,
    min_count: Annotated[
        int | None,
        typer.Option(min=1, help="Rarer words are unknown, or left out. (2; word vectors: 5)"),
    ] = None,
    max_size: Annotated[
        int | None, typer.Option(min=3, help="Rows at most. (50000; word vectors: no bound)")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=0.0, help="Of the start. (0.01; skipgram: 0.025; cbow: 0.05)"),
    ] = None,
    words: Annotated[str, typer.Option(help="Words to show neighbours of, by comma.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of split and start.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder in use.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object; all else to standard error.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts per step.", rich_help_panel="Labels")
    ] = 64,
    length: Annotated[
        int, typer.Option(min=1, help="Words of a text that are read.", rich_help_panel="Labels")
    ] = 100,
    validation: Annotated[
        float,
        typer.Option(
            min=0.01, max=0.9, help="Part of the texts held out.", rich_help_panel="Labels"
        ),
    ] = 0.2,
    optimizer: Annotated[
        str, typer.Option(help="Any of Keras's, by name.", rich_help_panel="Labels")
    ] = "adam",
    init_from: Annotated[
        Path | None,
        typer.Option(help="Vectors that the rows start from.", rich_help_panel="Labels"),
    ] = None,
    window: Annotated[
        int,
        typer.Option(min=1, help="How far a near word may be.", rich_help_panel="Word vectors"),
    ] = 5,
    negative: Annotated[
        int, typer.Option(min=1, help="Random words per near one.", rich_help_panel="Word vectors")
    ] = 5,
    sample: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Words more frequent than this are thinned out; 0: none.",
            rich_help_panel="Word vectors",
        ),
    ] = 1e-3,
) -> None:
    """Replaced by the help text below."""
    from rich.console import Console

    with exit_on_error("train"):
        _check_options(context, objective)
        _check_folder(out, force)
        if objective is Objective.supervised and (text is None or label is None):
            raise ValueError(
                "--text and --label name the columns of texts and labels; text without labels is "
                "for --objective skipgram or cbow"
            )

    console = Console(stderr=as_json)
    shown = [word.strip().lower() for word in words.split(",") if word.strip()]
    if objective is Objective.supervised:
        from rowwise.cli import _supervised

        outcome = _supervised.run(
            file,
            str(text),
            str(label),
            out,
            shown,
            console,
            init_from=init_from,
            dim=dim,
            epochs=epochs,
            batch_size=batch_size,
            length=length,
            min_count=min_count or 2,
            max_size=max_size or 50_000,
            validation=validation,
            optimizer=optimizer,
            learning_rate=0.01 if learning_rate is None else learning_rate,
            seed=seed,
        )
    else:
        from rowwise.cli import _word_vectors

        usual = 0.025 if objective is Objective.skipgram else 0.05  # word2vec's own
        outcome = _word_vectors.run(
            file,
            text,
            out,
            shown,
            console,
            objective=objective.value,
            dim=dim or 100,
            epochs=epochs,
            min_count=min_count or 5,
            max_size=max_size,
            learning_rate=usual if learning_rate is None else learning_rate,
            window=window,
            negative=negative,
            sample=sample,
            seed=seed,
        )
    console.print(f"\nSaved in {out}{os.sep}", soft_wrap=True, markup=False)
    console.print(
        f"Look on with: rowwise report {out}, rowwise view {out}, rowwise neighbors {out} WORD",
        soft_wrap=True,
        markup=False,
    )
    if as_json:
        typer.echo(json.dumps({"out": str(out), **outcome}))
    if outcome["interrupted"]:
        raise typer.Exit(130)


train.__doc__ = _HELP


def _check_options(context: typer.Context, objective: Objective) -> None:
    foreign = _OF_VECTORS if objective is Objective.supervised else _OF_LABELS
    for name in foreign:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(
                f"--{name.replace('_', '-')} is not for --objective {objective.value}; leave it out"
            )


def _check_folder(out: Path, force: bool) -> None:
    standing = next(path for path in (out, *out.parents) if path.exists())
    if not standing.is_dir():
        raise UsageError(f"--out {str(out)!r}: {str(standing)!r} is a file; name a folder")
    if not os.access(standing, os.W_OK):
        raise UsageError(f"--out {str(out)!r}: {str(standing)!r} cannot be written to")
    if standing == out and any(out.iterdir()) and not force:
        raise UsageError(f"--out {str(out)!r} is not empty; --force writes into it")
