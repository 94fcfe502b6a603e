"""`rowwise train`: train a text classifier, or word vectors."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rowwise.cli import _options as options
from rowwise.cli._errors import exit_on_error
from rowwise.cli._json import to_json
from rowwise.cli._new_folder import NewFolder
from rowwise.cli._read import Layout, UsageError

_HELP = """Train a text classifier on texts with labels, or word vectors on any text.

supervised: columns of CSV, TSV, JSON lines or Parquet, lines of fastText (__label__NAME text), or a
folder with a folder of text files per label. Whole texts are read. A part of the texts is held out,
and the epoch with the lowest loss on it is kept.

skipgram, cbow: text with a sentence a line, or a column of such a file; word2vec's training.

Ctrl-C ends training early and saves what was learned.

Example: rowwise train reviews.csv --text review --label stars --out model

Example: rowwise train corpus.txt --objective skipgram --out vectors
"""
_LABELS, _VECTORS = "Texts with labels", "Word vectors"


class Objective(StrEnum):
    """The task that rows are trained for."""

    supervised = "supervised"
    skipgram = "skipgram"
    cbow = "cbow"


# Options that one way of training has and the other has not.
_OF_LABELS = (
    "label", "separator", "batch_size", "validation", "validation_file", "test_file", "patience",
    "word_ngrams", "char_ngrams", "balanced", "init_from", "keep_case", "refit", "header", "quotes",
)  # fmt: skip
_OF_VECTORS = ("window", "negative", "sample")


def train(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="File or folder of texts; - reads text for word vectors.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    objective: Annotated[
        Objective, typer.Option(help="What to train: a classifier, or word vectors.")
    ] = Objective.supervised,
    text: Annotated[
        str | None,
        typer.Option(
            help="Column of the texts; a number with --no-header. [default: text]",
            show_default=False,
            rich_help_panel="Reading",
        ),
    ] = None,
    label: options.Label = "label",
    separator: options.Separator = None,
    header: options.Header = True,
    quotes: options.Quotes = None,
    encoding: options.Encoding = None,
    dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Length of a row. [default: 16 or more, by the number of labels; vectors: 100]",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Largest number of passes over the texts. [default: 100; vectors: 5]",
            show_default=False,
        ),
    ] = None,
    min_count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of texts that a word must be in to have a row; of vectors, how often it "
            "must occur. [default: 1; vectors: 5]",
            show_default=False,
        ),
    ] = None,
    max_size: Annotated[
        int | None,
        typer.Option(
            min=3,
            help="Largest number of rows. [default: 1000000; vectors: no bound]",
            show_default=False,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Learning rate at the start. [default: 0.001; skipgram: 0.025; cbow: 0.05]",
            show_default=False,
        ),
    ] = None,
    words: Annotated[
        str, typer.Option(help="Words whose neighbours are printed, separated by commas.")
    ] = "",
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed for the split and the initial weights.")
    ] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the model in a folder that has files.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; all else to standard error.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of texts per step. [default: 8 to 512, by the number of texts]",
            show_default=False,
            rich_help_panel=_LABELS,
        ),
    ] = None,
    validation: Annotated[
        float,
        typer.Option(
            min=0.01, max=0.9, help="Part of the texts held out.", rich_help_panel=_LABELS
        ),
    ] = 0.1,
    validation_file: Annotated[
        Path | None,
        typer.Option(
            help="File of held-out texts, in place of a part of FILE.", rich_help_panel=_LABELS
        ),
    ] = None,
    test_file: Annotated[
        Path | None,
        typer.Option(
            help="File of texts that training does not see, to test on.", rich_help_panel=_LABELS
        ),
    ] = None,
    patience: Annotated[
        int,
        typer.Option(
            min=1,
            help="Training ends after so many epochs without a lower held-out loss.",
            rich_help_panel=_LABELS,
        ),
    ] = 3,
    word_ngrams: Annotated[
        int,
        typer.Option(min=1, help="Longest n-gram of words.", rich_help_panel=_LABELS),
    ] = 2,
    char_ngrams: Annotated[
        str,
        typer.Option(
            help="Length of the n-grams of characters, such as 4 or 3-5; 0 for none; auto for 4, "
            "or 2-5 if the loss is then clearly lower.",
            rich_help_panel=_LABELS,
        ),
    ] = "auto",
    keep_case: Annotated[
        bool | None,
        typer.Option(
            "--keep-case/--fold-case",
            help="Tell upper case from lower case, or not. [default: if the loss is then clearly "
            "lower]",
            show_default=False,
            rich_help_panel=_LABELS,
        ),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            help="Train on the held-out texts too in the end, if all have 2 million characters "
            "or less.",
            rich_help_panel=_LABELS,
        ),
    ] = True,
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced", help="Give rare labels more weight in the loss.", rich_help_panel=_LABELS
        ),
    ] = False,
    init_from: Annotated[
        Path | None,
        typer.Option(help="File or folder of vectors to start from.", rich_help_panel=_LABELS),
    ] = None,
    window: Annotated[
        int,
        typer.Option(
            min=1, help="Largest distance of words that are near.", rich_help_panel=_VECTORS
        ),
    ] = 5,
    negative: Annotated[
        int,
        typer.Option(min=1, help="Number of random words per near word.", rich_help_panel=_VECTORS),
    ] = 5,
    sample: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Frequency above which words are thinned out; 0 for none.",
            rich_help_panel=_VECTORS,
        ),
    ] = 1e-3,
) -> None:
    """Stand in for the help text below."""
    from rich.console import Console

    console = Console(stderr=as_json)
    shown = [word.strip() for word in words.split(",") if word.strip()]
    with exit_on_error("train"):
        _check_options(context, objective)
        with NewFolder(out, force) as folder:
            if objective is Objective.supervised:
                outcome = _train_classifier(
                    file,
                    Layout(encoding, header, quotes),
                    (text or "text", label, separator),
                    folder,
                    shown,
                    console,
                    validation_file=validation_file,
                    test_file=test_file,
                    init_from=init_from,
                    dim=dim,
                    word_ngrams=word_ngrams,
                    char_ngrams=parse_char_ngrams(char_ngrams),
                    min_count=min_count or 1,
                    max_features=max_size or 1_000_000,
                    lowercase="auto" if keep_case is None else not keep_case,
                    refit=refit,
                    max_epochs=epochs or 100,
                    patience=patience,
                    validation_fraction=validation,
                    learning_rate=0.001 if learning_rate is None else learning_rate,
                    batch_size=batch_size,
                    class_weight="balanced" if balanced else None,
                    random_state=seed,
                )
            else:
                from rowwise.cli import _word_vectors

                usual = 0.025 if objective is Objective.skipgram else 0.05  # word2vec's own
                outcome = _word_vectors.run(
                    file,
                    text,
                    folder,
                    [word.lower() for word in shown],
                    console,
                    encoding=encoding,
                    objective=objective.value,
                    dim=dim or 100,
                    epochs=epochs or 5,
                    min_count=min_count or 5,
                    max_size=max_size,
                    learning_rate=usual if learning_rate is None else learning_rate,
                    window=window,
                    negative=negative,
                    sample=sample,
                    seed=seed,
                )
    print_saved(out, console)
    if as_json:
        typer.echo(to_json({"out": str(out), **outcome}))
    if outcome["interrupted"]:
        raise typer.Exit(130)


train.__doc__ = _HELP


def print_saved(out: Path, console: Any) -> None:
    """Print where a model is, and what can be done with it."""
    console.print(f"\nSaved in {out}{os.sep}", soft_wrap=True, markup=False)
    console.print(
        f"Look on with: rowwise report {out}, rowwise view {out}, rowwise neighbors {out} WORD",
        soft_wrap=True,
        markup=False,
    )


def parse_char_ngrams(text: str) -> int | tuple[int, int] | Literal["auto"]:
    """Return the lengths of character n-grams that a user asked for.

    Raises:
        UsageError: it is neither a number, nor two, nor "auto".
    """
    if text == "auto":
        return "auto"
    shortest, dash, longest = text.partition("-")
    try:
        return (int(shortest), int(longest)) if dash else int(shortest)
    except ValueError:
        raise UsageError(
            f"--char-ngrams {text!r} is neither a length, nor two such as 3-5, nor auto"
        ) from None


def _train_classifier(
    file: Path,
    layout: Layout,
    names: tuple[str, str, str | None],
    out: NewFolder,
    words: list[str],
    console: Any,
    **parameters: Any,
) -> dict[str, Any]:
    from rowwise.cli import _supervised
    from rowwise.cli._labelled import Columns

    if parameters["learning_rate"] <= 0:
        raise UsageError(f"--learning-rate {parameters['learning_rate']} is not above 0")
    columns = Columns(*names, layout)
    return _supervised.run(file, columns, out, words, console, **parameters)


def _check_options(context: typer.Context, objective: Objective) -> None:
    foreign = _OF_VECTORS if objective is Objective.supervised else _OF_LABELS
    for name in foreign:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"--{name.replace('_', '-')} is not for --objective {objective.value}; leave it out"
            )
