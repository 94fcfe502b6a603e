"""Texts with labels, from a file of columns, of fastText's lines, or from a folder of texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.cli._read import KINDS, Cell, Layout, UsageError, kind_of, read_columns, read_lines

_PREFIX = "__label__"


@dataclass(frozen=True)
class Labelled:
    """Texts and the labels of each.

    Attributes:
        texts: n texts.
        labels: n lists of labels.
        several: whether a text can have several labels, or none.
        unlabelled: number of texts without a label that were left out.
    """

    texts: list[str]
    labels: list[list[str]]
    several: bool = False
    unlabelled: int = 0

    def classes(self) -> list[str]:
        """Return the distinct labels, sorted."""
        return sorted({label for labels in self.labels for label in labels})

    def targets(self, classes: list[str]) -> NDArray[Any]:
        """Return what a classifier learns: labels (n,), or (n, K) of 0 and 1 if they are several.

        Labels that are not among the classes are left out of the latter.
        """
        if not self.several:
            return np.array([labels[0] for labels in self.labels])
        column = {label: i for i, label in enumerate(classes)}
        targets = np.zeros((len(self.texts), len(classes)), np.int64)
        for row, labels in enumerate(self.labels):
            targets[row, [column[label] for label in labels if label in column]] = 1
        return targets


@dataclass(frozen=True)
class Columns:
    """Where texts and labels stand.

    Attributes:
        text, label: names of the columns; numbers, counted from 1, without a header.
        separator: what stands between the labels of a cell; None: a cell is one label.
        layout: see `Layout`.
    """

    text: str = "text"
    label: str = "label"
    separator: str | None = None
    layout: Layout = Layout()  # noqa: RUF009


def read_labelled(path: Path, columns: Columns) -> Labelled:
    """Read texts and labels.

    Args:
        path: a file of columns, see `read_columns`; a text file with lines of fastText, each
            beginning with __label__NAME, several times if need be; or a folder with a folder of
            text files per label.
        columns: of a file of columns.

    Raises:
        UsageError: it cannot be read, or has no text with a label.
    """
    if path.is_dir():
        found = _read_folder(path, columns.layout.encoding)
    elif has_prefixes(path, columns.layout.encoding):
        found = _read_prefixed(path, columns.layout.encoding)
    else:
        texts, labels = read_columns(path, columns.text, columns.label, layout=columns.layout)
        found = _of_cells(texts, labels, columns.separator)
    if not found.texts:
        raise UsageError(f"{str(path)!r} has no text with a label")
    return found


def read_texts(path: Path, text: str, layout: Layout) -> list[str]:
    """Read texts alone, one for every row; the text of an empty cell is ""."""
    if has_prefixes(path, layout.encoding):
        return _read_prefixed(path, layout.encoding).texts
    if kind_of(path) not in KINDS and not _is_table(path, layout.encoding):
        return list(read_lines(path, layout.encoding))
    (cells,) = read_columns(path, text, layout=layout)
    return [_text_of(cell) for cell in cells]


def has_prefixes(path: Path, encoding: str | None) -> bool:
    """Return whether a text file has lines of fastText."""
    if kind_of(path) in KINDS:
        return False
    first = next((line for line in read_lines(path, encoding) if line.strip()), "")
    return first.startswith(_PREFIX)


def _is_table(path: Path, encoding: str | None) -> bool:
    return "\t" in next(read_lines(path, encoding), "")


def _read_prefixed(path: Path, encoding: str | None) -> Labelled:
    texts, labels, unlabelled = [], [], 0
    for line in read_lines(path, encoding):
        if not line.strip():
            continue
        found = []
        while line.startswith(_PREFIX):
            label, _, line = line.removeprefix(_PREFIX).partition(" ")
            found.append(label)
            line = line.lstrip(" \t")
        if found:
            texts.append(line)
            labels.append(list(dict.fromkeys(found)))
        else:
            unlabelled += 1
    several = any(len(found) > 1 for found in labels)
    return Labelled(texts, labels, several, unlabelled)


def _read_folder(path: Path, encoding: str | None) -> Labelled:
    texts, labels = [], []
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            for file in sorted(folder.rglob("*")):
                if file.is_file() and not file.name.startswith("."):
                    texts.append("\n".join(read_lines(file, encoding)))
                    labels.append([folder.name])
    if not texts:
        raise UsageError(f"{str(path)!r} has no folders with texts; a folder's name is the label")
    return Labelled(texts, labels)


def _of_cells(texts: list[Cell], labels: list[Cell], separator: str | None) -> Labelled:
    several = separator is not None or any(isinstance(cell, list) for cell in labels)
    kept_texts, kept_labels, unlabelled = [], [], 0
    for text, cell in zip(texts, labels, strict=True):
        if isinstance(cell, list):
            parts = cell
        elif cell is None or not cell.strip():
            parts = []
        elif separator is not None:
            parts = [part.strip() for part in cell.split(separator) if part.strip()]
        else:
            parts = [cell]
        if not parts and not several:
            unlabelled += 1
            continue
        kept_texts.append(_text_of(text))
        kept_labels.append(list(dict.fromkeys(parts)))
    return Labelled(kept_texts, kept_labels, several, unlabelled)


def _text_of(cell: Cell) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else " ".join(cell)
