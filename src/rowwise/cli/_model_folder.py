"""The folder that `rowwise train` makes and the other commands read."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rowwise.cli._json import to_json
from rowwise.cli._read import UsageError
from rowwise.store._table_file import is_table
from rowwise.table import Table
from rowwise.text import Vocabulary
from rowwise.vectors import Vectors, load
from rowwise.vectors._load import part_of
from rowwise.vectors._options import Options

if TYPE_CHECKING:
    from rowwise.sklearn import FastTextClassifier, TextClassifier

TABLE = "table.safetensors"  # the trained rows, all that training needs, and the words
START = "start.safetensors"  # of word vectors, the rows before training
CLASSIFIER = "classifier.safetensors"  # of a classifier, what its rows stand for, and its labels
SUMMARY = "classifier.json"  # of a classifier, labels, losses and accuracies
WORDS = "words.csv"  # of a classifier, the label that each word alone is given


def save_classifier(model: TextClassifier, summary: dict[str, Any], folder: Path) -> None:
    """Write a classifier, a summary, and the label of each word."""
    model.save(folder)
    labels, probabilities = word_labels(model)
    with (folder / WORDS).open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(("word", "label", "probability"))
        writer.writerows(
            zip(model._features.words, labels, map("{:.4f}".format, probabilities), strict=True)
        )
    (folder / SUMMARY).write_text(to_json(summary) + "\n", encoding="utf-8")


def word_labels(model: TextClassifier) -> tuple[list[str], NDArray[np.float32]]:
    """Return the label of a text that has only a word's row, for each word, and how probable."""
    head = model._model.head.to_numpy()
    vectors = model.table_[np.arange(len(model._features.words))]
    probabilities = model._model.probabilities(vectors @ head[:-1] + head[-1])
    labels = model.classes_[probabilities.argmax(axis=1)]
    return [str(label) for label in labels], probabilities.max(axis=1)


def save_vectors(
    table: Table, vocabulary: Vocabulary, start: NDArray[np.float32], folder: Path
) -> None:
    """Write word vectors, and the rows before training."""
    table.vocabulary = vocabulary
    table.save(folder / TABLE)
    Vectors(list(vocabulary.tokens), start).save(folder / START)


@dataclass(frozen=True)
class TrainedRows:
    """A trained table, with what its folder holds besides; a bare file gives the table alone.

    Attributes:
        table: its rows that have words, of a classifier; else all.
        history: values per epoch, by metric.
        start: (rows, dim) before training.
        row_labels: the label of each row's word.
        summary: what train found out.
    """

    table: Table
    history: dict[str, list[float]] | None = None
    start: NDArray[Any] | None = None
    row_labels: list[str] | None = None
    summary: dict[str, Any] | None = None


def trained_rows(path: Path) -> TrainedRows:
    """Read a folder that train made, a table's file, or any file of vectors."""
    if not path.is_dir():
        return TrainedRows(Table.load(path) if is_table(path) else _table_of(load_vectors(path)))
    if (path / CLASSIFIER).is_file():
        return _classifier_rows(path)
    if not (path / TABLE).is_file():
        raise UsageError(f"folder {str(path)!r} has no {TABLE}; rowwise train makes it")
    start = np.asarray(load(path / START).matrix) if (path / START).is_file() else None
    return TrainedRows(Table.load(path / TABLE), start=start)


def _classifier_rows(path: Path) -> TrainedRows:
    model = load_classifier(path)
    table = word_rows(model.table_)
    summary = None
    if (path / SUMMARY).is_file():
        summary = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
    return TrainedRows(table, model.history_, None, word_labels(model)[0], summary)


def word_rows(table: Table) -> Table:
    """Return a table's rows that have words; n-grams have none."""
    vocabulary = table.vocabulary
    if vocabulary is not None and len(vocabulary) < table.rows:
        table.remap(np.arange(len(vocabulary)))
        table.vocabulary = vocabulary
    return table


def load_classifier(folder: Path) -> TextClassifier:
    """Read a classifier.

    Raises:
        UsageError: train did not make this folder of texts with labels.
    """
    from rowwise.sklearn import TextClassifier

    if not folder.exists():
        raise UsageError(f"there is no folder {str(folder)!r}")
    if not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is a file; name a folder that rowwise train made")
    if not (folder / CLASSIFIER).is_file():
        raise UsageError(
            f"{str(folder)!r} has no {CLASSIFIER}; rowwise train makes it of texts with labels"
        )
    return TextClassifier.load(folder)


def load_any_classifier(path: Path) -> TextClassifier | FastTextClassifier:
    """Read a classifier's folder, or the file of one that fastText trained.

    Raises:
        UsageError: see `load_classifier`.
        VectorsFileError: a file that is no such model.
    """
    if path.is_file():
        from rowwise.sklearn import FastTextClassifier

        return FastTextClassifier.load(path)
    return load_classifier(path)


def load_vectors(path: Path, *, format: str | None = None, **options: Any) -> Vectors:
    """Return the vectors of a folder that train made, or of any file of vectors.

    Args:
        path: a file may be one of a zip archive.
        format, options: see `rowwise.vectors.load`.
    """
    if (path / TABLE).is_file():
        return load(path / TABLE, format=format, **options)
    if (path / CLASSIFIER).is_file():  # a quantized classifier
        table = load_classifier(path).table_
        words = [] if table.vocabulary is None else list(table.vocabulary.tokens)
        known = {"limit": None, "words": None, "dtype": "float32", "errors": "strict"}
        chosen = Options.validated(**known | options, finite=True)
        return part_of(Vectors(words, table[np.arange(len(words))]), chosen)
    return load(path, format=format, **options)


def _table_of(vectors: Vectors) -> Table:
    table = Table.from_pretrained(vectors.matrix)
    table.vocabulary = Vocabulary(vectors.words)
    return table
