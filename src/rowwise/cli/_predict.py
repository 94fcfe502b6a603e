"""`rowwise predict`: labels of new texts from what `rowwise train` saved."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rowwise.cli._errors import exit_on_error
from rowwise.cli._model_folder import MODEL, classifier, vocabulary
from rowwise.cli._read import UsageError, read_columns


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that train made.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; - reads them, one a line.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="CSV, TSV, JSONL or Parquet.")] = None,
    text: Annotated[str, typer.Option(help="Column of the texts in that file.")] = "text",
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="Labels per text.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object per line.")] = False,
) -> None:
    """Label texts with a model that train has saved.

    Prints the probability, the label, and the words that the model does not know.

    Example: rowwise predict demo/model "a socket that waits for a connection"
    """
    with exit_on_error("predict"):
        wanted = _texts(texts, file, text)
        for line in label(model, wanted, count):
            if as_json:
                typer.echo(json.dumps(line))
                continue
            guesses = ", ".join(f"{part:.3f} {name}" for name, part in line["labels"])
            unknown = f"  (unknown: {', '.join(line['unknown'])})" if line["unknown"] else ""
            typer.echo(f"{guesses}  {line['text']}{unknown}")


def _texts(texts: list[str] | None, file: Path | None, column: str) -> list[str]:
    if (file is None) == (not texts):
        raise UsageError("give texts, or - for standard input, or --file")
    if file is not None:
        return read_columns(file, column)[0]
    return sys.stdin.read().splitlines() if texts == ["-"] else list(texts or ())


def label(folder: Path, texts: list[str], count: int) -> list[dict[str, Any]]:
    """Each text with its most likely labels and their probabilities, and its unknown words."""
    about = classifier(folder)
    os.environ.setdefault("KERAS_BACKEND", "torch")
    from rowwise.cli._classifier import ids_of
    from rowwise.keras import load_model
    from rowwise.text._tokenizing import words

    words_known = vocabulary(folder)
    if not texts:
        return []
    model = load_model(folder / MODEL)
    parts = model.predict(ids_of(texts, words_known, about["length"]), verbose=0)
    best = (-parts).argsort(axis=1, kind="stable")[:, :count]
    return [
        {
            "text": text,
            "labels": [(about["labels"][i], float(row[i])) for i in chosen],
            "unknown": [
                w for w in words(text, lowercase=words_known.lowercase) if w not in words_known
            ],
        }
        for text, row, chosen in zip(texts, parts, best, strict=True)
    ]
