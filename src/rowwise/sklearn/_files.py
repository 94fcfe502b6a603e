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
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rowwise.files._container import Container, write
from rowwise.sklearn._features import Features
from rowwise.sklearn._model import BagModel
from rowwise.table import Table
from rowwise.text import Vocabulary

Classifier = TypeVar("Classifier")  # a `TextClassifier`

TABLE, HEAD, CLASSIFIER = "table.safetensors", "head.safetensors", "classifier.safetensors"
_FORMAT = "rowwise text classifier 1"


def save(model: Any, folder: str | os.PathLike[str]) -> None:
    """Write a classifier into a folder, which is made if it is not there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.table_.save(folder / TABLE)
    model._model.head.save(folder / HEAD)
    write(folder / CLASSIFIER, _features_arrays(model._features), _about(model))


def save_quantized(model: Any, folder: str | os.PathLike[str], keep: float) -> None:
    """Write a smaller classifier into a folder: rows of 8-bit integers, the longest of them.

    Args:
        model: fitted.
        folder: made if it is not there.
        keep: part of the rows that stay: those whose length times idf is largest.

    Raises:
        ValueError: keep is not in 0..1.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep} is not in 0..1")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vectors = model.table_.to_numpy()
    worth = np.linalg.norm(vectors, axis=1) * model._features.idf()
    count = max(round(keep * len(worth)), 1)
    rows = np.sort(np.argsort(-worth, kind="stable")[:count])
    features = model._features.subset(rows)
    scales = np.maximum(np.abs(vectors[rows]).max(axis=1), 1e-30).astype(np.float32) / 127
    arrays = _features_arrays(features)
    arrays["rows"] = np.rint(vectors[rows] / scales[:, None]).astype(np.int8)
    arrays["scales"] = scales
    arrays["head"] = model._model.head.to_numpy()
    arrays["vocabulary"] = np.frombuffer(Vocabulary(features.words).to_json(), np.uint8)
    write(folder / CLASSIFIER, arrays, _about(model))


def load(make: type[Classifier], folder: str | os.PathLike[str]) -> Classifier:
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
            parameters = about["parameters"]
            if isinstance(parameters["char_ngrams"], list):
                parameters["char_ngrams"] = tuple(parameters["char_ngrams"])
            model: Any = make(**parameters)
            model.classes_ = np.array(about["classes"])
            model.multilabel_ = about["multilabel"]
            model.history_ = {
                name: [np.nan if value is None else value for value in values]
                for name, values in about["history"].items()
            }
            model.best_epoch_, model.n_iter_ = about["best_epoch"], about["n_iter"]
            arrays = {name: file.read(name) for name in file.entries}
            if "rows" in arrays:
                words = Vocabulary.from_json(arrays["vocabulary"].tobytes())
                values = arrays["rows"] * arrays["scales"][:, None]
                table, head = (Table(*v.shape, init=v) for v in (values, arrays["head"]))
                table.vocabulary = words
            else:
                table, head = Table.load(folder / TABLE), Table.load(folder / HEAD)
            model._model = BagModel(table, head, model.multilabel_)
            if table.vocabulary is None or table.rows != len(arrays["keys"]):
                raise ValueError(f"{TABLE} does not fit it")
            model._features = model._new_features()
            model._features.restore(
                list(table.vocabulary.tokens),
                arrays["keys"].view(np.uint64),
                arrays["counts"].astype(np.int64),
                arrays["chars"],
                about["texts"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise file.damaged(str(error)) from error
    return model


def _features_arrays(features: Features) -> dict[str, Any]:
    return {
        "keys": features.row_keys.view(np.int64),
        "counts": np.minimum(features.counts, 2**31 - 1).astype(np.int32),
        "chars": features.chars,
    }


def _about(model: Any) -> dict[str, str]:
    parameters = {name: value for name, value in model.get_params().items() if name != "init_from"}
    about = {
        "parameters": parameters,
        "classes": model.classes_.tolist(),
        "multilabel": bool(model.multilabel_),
        "history": {
            name: [None if np.isnan(value) else value for value in values]
            for name, values in model.history_.items()
        },
        "best_epoch": model.best_epoch_,
        "n_iter": model.n_iter_,
        "texts": model._features.texts,
    }
    return {"format": _FORMAT, "classifier": json.dumps(about, default=_plain, allow_nan=False)}


def _plain(value: Any) -> Any:
    """Return a NumPy number as JSON can hold it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a parameter or label {value!r} cannot be saved")
