"""The folder that `rowwise train` makes and the other commands read."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rowwise.cli._read import UsageError
from rowwise.table import Table
from rowwise.text._vocabulary import Vocabulary
from rowwise.vectors import Vectors, load

if TYPE_CHECKING:
    from rowwise.cli._classifier import Trained

MODEL = "model.keras"
TABLE = "table.safetensors"  # the trained rows, all that training needs, and the words
START = "start.safetensors"  # the rows before training
VOCABULARY = "vocabulary.json"
CLASSIFIER = "classifier.json"  # labels, words of a text that are read, losses and accuracies
WORDS = "words.csv"  # the label that each word speaks for


def save(trained: Trained, folder: Path, length: int) -> None:
    """Writes all of it."""
    save_rows(trained.table, trained.vocabulary, trained.start, folder)
    trained.model.save(folder / MODEL)
    labels, sure = trained.leaning()
    with (folder / WORDS).open("w", newline="", encoding="utf-8") as file:
        lines = zip(trained.vocabulary.tokens, labels, map("{:.4f}".format, sure), strict=True)
        csv.writer(file).writerows([("word", "label", "probability"), *lines])
    about = {"labels": trained.classes, "length": length, "history": trained.history}
    (folder / CLASSIFIER).write_text(json.dumps(about, indent=1) + "\n")


def save_rows(
    table: Table, vocabulary: Vocabulary, start: NDArray[np.float32], folder: Path
) -> None:
    """Writes what a training without labels has, too."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MODEL, CLASSIFIER, WORDS):  # of another training, that --force writes over
        (folder / name).unlink(missing_ok=True)
    table.vocabulary = vocabulary
    table.save(folder / TABLE)
    vocabulary.save(folder / VOCABULARY)
    Vectors(list(vocabulary.tokens), start).save(folder / START)


@dataclass(frozen=True)
class TrainedRows:
    """What there is to see of a trained table; of a bare table's file, the table alone."""

    table: Table
    history: dict[str, list[float]] | None = None
    start: NDArray[Any] | None = None
    row_labels: list[str] | None = None


def trained_rows(path: Path) -> TrainedRows:
    """Reads a folder that train made, or a table's file."""
    if not path.is_dir():
        return TrainedRows(Table.load(path))
    table = Table.load(path / TABLE)
    start = np.asarray(load(path / START).matrix)
    if not (path / CLASSIFIER).is_file():  # trained without labels
        return TrainedRows(table, start=start)
    with (path / WORDS).open(newline="", encoding="utf-8") as file:
        labels = [line["label"] for line in csv.DictReader(file)]
    return TrainedRows(table, classifier(path)["history"], start, labels)


def classifier(folder: Path) -> dict[str, Any]:
    """Labels, length, history.

    Raises:
        UsageError: train did not make this folder.
    """
    path = folder / CLASSIFIER
    if not path.is_file():
        raise UsageError(
            f"{str(folder)!r} has no {CLASSIFIER}; rowwise train makes it of texts with labels"
        )
    return dict(json.loads(path.read_text()))


def vocabulary(folder: Path) -> Vocabulary:
    """The words of the model."""
    return Vocabulary.load(folder / VOCABULARY)


def vectors(path: Path) -> Vectors:
    """The vectors of a folder that train made, or of any file of vectors."""
    return load(path / TABLE if (path / TABLE).is_file() else path)
