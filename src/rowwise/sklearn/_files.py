"""A text classifier's files: a folder with its rows, its layer, and what it knows of features.

    table.safetensors       the rows, with all that training needs, and their words
    head.safetensors        the linear layer, likewise
    classifier.safetensors  keys and counts of features; parameters, labels and history as JSON,
                            and the checksums of the other two

A quantized classifier is the last file alone: rows as 8-bit integers with a scale each, and the
layer, of which nothing can be trained further.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rowwise.files._atomic import replacing_together
from rowwise.files._container import Container, write, write_into
from rowwise.sklearn._features import Features
from rowwise.sklearn._model import BagModel
from rowwise.store._table_file import blaming, contents
from rowwise.table import Table
from rowwise.text import Vocabulary

TABLE, HEAD, CLASSIFIER = "table.safetensors", "head.safetensors", "classifier.safetensors"
_FORMAT = "rowwise text classifier 1"

T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """The contents of a classifier's files.

    Attributes:
        features: those that have rows.
        model: rows and layer.
        about: what else there is, as JSON holds it.
    """

    features: Features
    model: BagModel
    about: dict[str, Any]


def save(stored: Stored, folder: str | os.PathLike[str]) -> None:
    """Write a classifier into a folder, which is made if it is not there.

    A process that is killed leaves the old files, the new ones or, where it was between the first
    name and the last, files that `load` refuses.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = (TABLE, HEAD, CLASSIFIER)
    with replacing_together([folder / name for name in names]) as (*temporaries, last):
        tables = (stored.model.table, stored.model.head)
        for table, temporary in zip(tables, temporaries, strict=True):
            with table.store.frozen():
                write_into(temporary, *contents(table.state()))
        sums = {n: _checksum(Path(path)) for n, path in zip(names, temporaries, strict=False)}
        write_into(last, _arrays(stored.features), _about(stored, sums))


def save_quantized(stored: Stored, folder: str | os.PathLike[str], keep: float) -> None:
    """Write a smaller classifier into a folder: rows of 8-bit integers, a part of them.

    Args:
        stored: the classifier.
        folder: made if it is not there.
        keep: part of the rows that stay: those whose length times idf is largest.

    Raises:
        ValueError: keep is not above 0 and at most 1.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep} must be above 0 and at most 1")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vectors = stored.model.table.to_numpy()
    worth = np.linalg.norm(vectors, axis=1) * stored.features.idf()
    count = max(round(keep * len(worth)), 1)
    rows = np.sort(np.argsort(-worth, kind="stable")[:count])
    features = stored.features.subset(rows)
    scales = np.maximum(np.abs(vectors[rows]).max(axis=1), 1e-30).astype(np.float32) / 127
    arrays = _arrays(features)
    arrays["rows"] = np.rint(vectors[rows] / scales[:, None]).astype(np.int8)
    arrays["scales"] = scales
    arrays["head"] = stored.model.head.to_numpy()
    arrays["vocabulary"] = np.frombuffer(Vocabulary(features.words).to_json(), np.uint8)
    write(folder / CLASSIFIER, arrays, _about(stored, {}))


def load(folder: str | os.PathLike[str], make: Callable[[Stored], T]) -> T:
    """Read a classifier from a folder, and return what `make` makes of it.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: a file is not what was written, or not what was written with the others,
            or `make` finds that its parts do not fit.
    """
    folder = Path(folder)
    with Container(folder / CLASSIFIER) as file, blaming(file):
        if file.about.get("format") != _FORMAT:
            raise file.damaged(f"its format is {file.about.get('format')!r}, not {_FORMAT!r}")
        about = json.loads(file.about["classifier"])
        arrays = {name: file.read(name) for name in file.entries}
        if "rows" in arrays:
            table, head = _dequantized(arrays), _plain_table(arrays["head"])
        else:
            for name in (TABLE, HEAD):
                _check_sum(file, folder / name, about["checksums"][name])
            table, head = Table.load(folder / TABLE), Table.load(folder / HEAD)
        if table.vocabulary is None:
            raise ValueError(f"{TABLE} has no words")
        _check_arrays(arrays, table, head)
        features = Features(**_settings(about["features"]))
        features.restore(
            list(table.vocabulary.tokens),
            arrays["keys"].view(np.uint64),
            arrays["counts"].astype(np.int64),
            arrays["chars"],
            _whole("number of texts", about["texts"]),
        )
        return make(Stored(features, BagModel(table, head, bool(about["multilabel"])), about))


def _checksum(path: Path) -> str:
    with Container(path) as file:
        return file.checksum


def _check_sum(file: Container, path: Path, written: Any) -> None:
    found = _checksum(path)
    if found != written:
        raise file.damaged(
            f"{path.name} has the checksum {found}, and one with {written!r} was saved: "
            "it is another's, or was changed since; copy both files from one folder"
        )


def _dequantized(arrays: Mapping[str, NDArray[Any]]) -> Table:
    rows, scales = arrays["rows"], arrays["scales"]
    if rows.ndim != 2 or rows.dtype != np.int8 or scales.shape != rows.shape[:1]:
        raise ValueError(f"its rows have shape {rows.shape}, and their scales {scales.shape}")
    table = _plain_table(rows * scales[:, None])
    table.vocabulary = Vocabulary.from_json(arrays["vocabulary"].tobytes(), limit=len(rows))
    return table


def _check_arrays(arrays: Mapping[str, NDArray[Any]], table: Table, head: Table) -> None:
    if head.rows != table.dim + 1:
        raise ValueError(f"its layer has {head.rows} rows, and its words {table.dim} numbers")
    for name, dtype in (("keys", np.int64), ("counts", np.int32), ("chars", np.bool_)):
        array = arrays[name]
        if array.dtype != dtype or array.shape != (table.rows,):
            raise ValueError(
                f"its {name} are {array.dtype} of shape {array.shape}, for {table.rows} rows"
            )
    if (arrays["counts"] < 0).any():
        raise ValueError("a feature is counted in fewer than 0 texts")


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    shortest, longest = given["char_ngrams"]
    settings = given | {"char_ngrams": (shortest, longest)}
    for name, value in {**given, "char_ngrams": shortest, "longest": longest}.items():
        _whole(name, value)
    return settings


def _whole(name: str, value: Any) -> int:
    """Return a number that counts something.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"its {name} is {value!r}")
    return value


def _plain_table(values: Any) -> Table:
    return Table(*values.shape, init=values)


def _arrays(features: Features) -> dict[str, Any]:
    return {
        "keys": features.row_keys.view(np.int64),
        "counts": np.minimum(features.counts, 2**31 - 1).astype(np.int32),
        "chars": features.chars,
    }


def _about(stored: Stored, checksums: Mapping[str, str]) -> dict[str, str]:
    features = stored.features
    about = stored.about | {
        "multilabel": bool(stored.model.multilabel),
        "texts": features.texts,
        "checksums": dict(checksums),
        "features": {
            "word_ngrams": features.word_ngrams,
            "char_ngrams": features.char_ngrams,
            "min_count": features.min_count,
            "min_ngram_count": features.min_ngram_count,
            "max_features": features.max_features,
        },
    }
    return {"format": _FORMAT, "classifier": json.dumps(about, default=_python, allow_nan=False)}


def _python(value: Any) -> Any:
    """Return a NumPy number as JSON can hold it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a parameter or label {value!r} cannot be saved")
