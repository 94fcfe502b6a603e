"""The folder that `rowwise train` makes and the other commands read."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rowwise.cli.read import UnreadableFile
from rowwise.table import Table
from rowwise.vectors import Vectors, load
from rowwise.vocabulary import Vocabulary

if TYPE_CHECKING:
    from rowwise.cli.classifier import Trained

MODEL = "model.keras"
TABLE = "table.safetensors"  # the trained rows, all that training needs, and the words
START = "start.safetensors"  # the rows before training
VOCABULARY = "vocabulary.json"
CLASSIFIER = "classifier.json"  # labels, words of a text that are read, losses and accuracies
WORDS = "words.csv"  # the label that each word speaks for


def save(trained: Trained, folder: Path, length: int) -> None:
    """Writes all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    trained.model.save(folder / MODEL)
    trained.table.vocabulary = trained.vocabulary
    trained.table.save(folder / TABLE)
    trained.vocabulary.save(folder / VOCABULARY)
    tokens = list(trained.vocabulary.tokens)
    Vectors(tokens, trained.start).save(folder / START)
    labels, sure = trained.leaning()
    with (folder / WORDS).open("w", newline="", encoding="utf-8") as file:
        lines = zip(tokens, labels, map("{:.4f}".format, sure), strict=True)
        csv.writer(file).writerows([("word", "label", "probability"), *lines])
    about = {"labels": trained.classes, "length": length, "history": trained.history}
    (folder / CLASSIFIER).write_text(json.dumps(about, indent=1) + "\n")


@dataclass(frozen=True)
class Learned:
    """What there is to see of a trained table; of a bare table's file, the table alone."""

    table: Table
    history: dict[str, list[float]] | None = None
    start: NDArray[Any] | None = None
    leaning: list[str] | None = None


def learned(path: Path) -> Learned:
    """Reads a folder that train made, or a table's file."""
    if not path.is_dir():
        return Learned(Table.load(path))
    table = Table.load(path / TABLE)
    start = load(path / START).matrix
    with (path / WORDS).open(newline="", encoding="utf-8") as file:
        labels = [line["label"] for line in csv.DictReader(file)]
    return Learned(table, classifier(path)["history"], np.asarray(start), labels)


def classifier(folder: Path) -> dict[str, Any]:
    """Labels, length, history.

    Raises:
        UnreadableFile: train did not make this folder.
    """
    path = folder / CLASSIFIER
    if not path.is_file():
        raise UnreadableFile(f"{str(folder)!r} has no {CLASSIFIER}; rowwise train makes such")
    return dict(json.loads(path.read_text()))


def vocabulary(folder: Path) -> Vocabulary:
    """The words of the model."""
    return Vocabulary.load(folder / VOCABULARY)


def vectors(path: Path) -> Vectors:
    """The vectors of a folder that train made, or of any file of vectors."""
    return load(path / TABLE if (path / TABLE).is_file() else path)
