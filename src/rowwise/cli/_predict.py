"""`rowwise predict`: print the labels of texts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from rowwise.cli import _options as options
from rowwise.cli._errors import exit_on_error
from rowwise.cli._json import to_json
from rowwise.cli._read import Layout, UsageError, read_lines


def predict(
    context: typer.Context,
    model: options.Model,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts; - reads them from standard input, one a line."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="File of texts: columns, lines of fastText, or plain lines.")
    ] = None,
    text: options.Text = "text",
    header: options.Header = True,
    quotes: options.Quotes = None,
    encoding: options.Encoding = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            "-k",
            min=1,
            help="Number of labels per text. [default: 1; all above one half, if a text may have "
            "several]",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Least probability of a label that is printed. [default: 0; one half, if a text "
            "may have several]",
            show_default=False,
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", "-p", help="Print the probability of each label.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object per line, with the unknown words too."),
    ] = False,
) -> None:
    """Print the labels of texts, one line for each text, in their order.

    Tabs separate the labels of a text, the most probable first, each with its probability if that
    is asked for.

    Example: rowwise predict demo/model "a socket that waits for a connection"
    """
    with exit_on_error("predict"):
        if file is None and texts:
            _check_for_files(texts, column=text if _is_given(context, "text") else None)
        wanted = _texts(texts, file, text, Layout(encoding, header, quotes))
        for line in label(model, wanted, top, threshold):
            if as_json:
                typer.echo(to_json(line))
                continue
            cells = [
                (found["label"], f"{found['probability']:.4f}") if probabilities
                else (found["label"],)
                for found in line["labels"]
            ]  # fmt: skip
            typer.echo("\t".join(_one_line(cell) for pair in cells for cell in pair))


def _one_line(cell: str) -> str:
    return cell.replace("\n", " ").replace("\r", " ").replace("\t", " ")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_for_files(texts: list[str], column: str | None) -> None:
    """Warn of a text that is the name of a file; refuse it beside the name of a column.

    Raises:
        UsageError: a column is named, and there is no file to read it from.
    """
    named = next((text for text in texts if _is_file(text)), None)
    if named is not None and column is not None:
        raise UsageError(
            f"{named!r} is labelled as a text; --file {shlex.quote(named)} reads the texts in it"
        )
    if column is not None:
        raise UsageError(f"--text {column} names a column of --file, which is not given")
    if named is not None and len(texts) == 1:
        typer.echo(
            f"rowwise predict: {named!r} is labelled as a text; --file {shlex.quote(named)} reads "
            "the texts in that file",
            err=True,
        )


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than a name may be, or with a character 0
        return False


def _texts(texts: list[str] | None, file: Path | None, column: str, layout: Layout) -> list[str]:
    if (file is None) == (not texts):
        raise UsageError("give texts, or - for standard input, or --file")
    if file is not None:
        from rowwise.cli._labelled import read_texts

        return read_texts(file, column, layout)
    return list(read_lines(Path("-"), layout.encoding)) if texts == ["-"] else list(texts or ())


def label(
    folder: Path, texts: list[str], count: int | None = None, threshold: float | None = None
) -> list[dict[str, Any]]:
    """Return each text with its most probable labels and its unknown words.

    Args:
        folder: a model's.
        texts: to label.
        count: most labels of a text; 1 unless given, any number if texts may have several.
        threshold: least probability of a label; 0 unless given, or, where texts may have several
            and count is not given either, one half.
    """
    from rowwise.cli._model_folder import load_any_classifier

    model = load_any_classifier(folder)
    probabilities = model.predict_proba(texts)
    if count is None and threshold is None and model.multilabel_:
        given = model.predict(texts).astype(bool)
    else:
        given = probabilities >= (threshold or 0)
    if count is None:
        count = len(model.classes_) if model.multilabel_ else 1
    return [
        {
            "text": text,
            "labels": [
                {"label": str(model.classes_[i]), "probability": float(row[i])}
                for i in order[:count]
                if chosen[i]
            ],
            "unknown": model.unknown_words(text),
        }
        for text, row, order, chosen in zip(
            texts, probabilities, model._ranking(probabilities), given, strict=True
        )
    ]
