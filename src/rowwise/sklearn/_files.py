"""A text classifier's files: a folder with its rows, its layer, and what it knows of features.

    table.safetensors       the rows, with all that training needs, and their words
    head.safetensors        the linear layer, likewise
    classifier.safetensors  keys and counts of features; parameters, labels and history as JSON

A quantized classifier is the last file alone: rows as 8-bit integers with a scale each, and the
layer, of which nothing can be trained further.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rowwise.files._container import Container, write
from rowwise.sklearn._features import Features
from rowwise.sklearn._model import BagModel
from rowwise.table import Table
from rowwise.text import Vocabulary

TABLE, HEAD, CLASSIFIER = "table.safetensors", "head.safetensors", "classifier.safetensors"
_FORMAT = "rowwise text classifier 1"


@dataclass(frozen=True)
class Stored:
    """What a classifier's files hold.

    Attributes:
        features: those that have rows.
        model: rows and layer.
        about: what else there is, as JSON holds it.
    """

    features: Features
    model: BagModel
    about: dict[str, Any]


def save(stored: Stored, folder: str | os.PathLike[str]) -> None:
    """Write a classifier into a folder, which is made if it is not there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored.model.table.save(folder / TABLE)
    stored.model.head.save(folder / HEAD)
    write(folder / CLASSIFIER, _arrays(stored.features), _about(stored))


def save_quantized(stored: Stored, folder: str | os.PathLike[str], keep: float) -> None:
    """Write a smaller classifier into a folder: rows of 8-bit integers, a part of them.

    Args:
        stored: the classifier.
        folder: made if it is not there.
        keep: part of the rows that stay: those whose length times idf is largest.

    Raises:
        ValueError: keep is not in 0..1.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep} is not in 0..1")
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
    write(folder / CLASSIFIER, arrays, _about(stored))


def load(folder: str | os.PathLike[str]) -> Stored:
    """Read a classifier from a folder.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: a file is not what was written.
    """
    folder = Path(folder)
    with Container(folder / CLASSIFIER) as file:
        if file.about.get("format") != _FORMAT:
            raise file.damaged(f"its format is {file.about.get('format')!r}, not {_FORMAT!r}")
        try:
            about = json.loads(file.about["classifier"])
            arrays = {name: file.read(name) for name in file.entries}
            if "rows" in arrays:
                values = arrays["rows"] * arrays["scales"][:, None]
                table, head = _plain_table(values), _plain_table(arrays["head"])
                table.vocabulary = Vocabulary.from_json(arrays["vocabulary"].tobytes())
            else:
                table, head = Table.load(folder / TABLE), Table.load(folder / HEAD)
            if table.vocabulary is None or table.rows != len(arrays["keys"]):
                raise ValueError(f"{TABLE} does not fit it")
            settings = about["features"]
            features = Features(**settings | {"char_ngrams": tuple(settings["char_ngrams"])})
            features.restore(
                list(table.vocabulary.tokens),
                arrays["keys"].view(np.uint64),
                arrays["counts"].astype(np.int64),
                arrays["chars"],
                about["texts"],
            )
            return Stored(features, BagModel(table, head, about["multilabel"]), about)
        except (KeyError, TypeError, ValueError) as error:
            raise file.damaged(str(error)) from error


def _plain_table(values: Any) -> Table:
    return Table(*values.shape, init=values)


def _arrays(features: Features) -> dict[str, Any]:
    return {
        "keys": features.row_keys.view(np.int64),
        "counts": np.minimum(features.counts, 2**31 - 1).astype(np.int32),
        "chars": features.chars,
    }


def _about(stored: Stored) -> dict[str, str]:
    features = stored.features
    about = stored.about | {
        "multilabel": bool(stored.model.multilabel),
        "texts": features.texts,
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
