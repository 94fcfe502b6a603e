"""Read the folder of a static embedding, as model2vec and sentence-transformers share it.

model.safetensors holds a row per token, tokenizer.json says which token a row is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import VectorsFileError
from rowwise.vectors._collector import WordList, collect
from rowwise.vectors._manifest import whole_set
from rowwise.vectors._options import Options
from rowwise.vectors._safetensors import TensorRows, tensors_of
from rowwise.vectors._word_matrix import WordMatrix

# In config.json: a token that was added for the format's sake, and is left out again.
ADDED = "rowwise_added"
INNER = "0_StaticEmbedding"
_TABLES = ("embeddings", "embedding.weight")


def read_static_folder(path: str, options: Options) -> WordMatrix:
    """Read the folder, or the model.safetensors in it."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if not (folder / "model.safetensors").is_file() and (folder / INNER).is_dir():
        folder = folder / INNER
    model = folder / "model.safetensors"
    with whole_set(model):
        tokens = _tokens(folder / "tokenizer.json")
        added = _added(folder / "config.json")
        with tensors_of(model) as file:
            rows = _rows(model, file, len(tokens))
            shape = rows.shape
            if tokens and tokens[-1] == added:
                tokens, shape = tokens[:-1], (shape[0] - 1, *shape[1:])
            return collect(str(model), WordList(tokens), rows, shape, options)


class _Reweighted:
    """Give a row per token, where tokens share rows (`mapping`) or have weights of their own."""

    def __init__(
        self, rows: NDArray[Any], mapping: NDArray[Any] | None, weights: NDArray[Any] | None
    ) -> None:
        self._rows, self._mapping, self._weights = rows, mapping, weights
        count = len(rows) if mapping is None else len(mapping)
        self.shape: tuple[int, ...] = (count, *rows.shape[1:])

    def __getitem__(self, part: slice) -> NDArray[Any]:
        rows = self._rows[part if self._mapping is None else self._mapping[part]]
        if self._weights is None:
            return rows
        return np.asarray(rows * self._weights[part, None].astype(np.float32))


def _rows(path: Path, file: Any, tokens: int) -> TensorRows | _Reweighted:
    names = set(file.keys())
    table = next((name for name in _TABLES if name in names), None)
    if table is None:
        raise VectorsFileError(
            path,
            found=f"tensors {', '.join(sorted(names)[:8]) or 'none'}",
            expected=" or ".join(map(repr, _TABLES)),
            fix="is it a static embedding? Others have no vector per token",
        )
    rows = TensorRows(path, file, table)
    if len(rows.shape) != 2 or not names & {"mapping", "weights"}:
        return rows
    mapping, weights = (_column(path, file, name) for name in ("mapping", "weights"))
    if mapping is not None and not _within(mapping, rows.shape[0]):
        raise VectorsFileError(path, found="a mapping to rows that are not there")
    count = rows.shape[0] if mapping is None else len(mapping)
    if weights is not None and len(weights) != count:
        raise VectorsFileError(
            path, found=f"weights of shape {weights.shape}", expected=f"({count},)"
        )
    return _Reweighted(rows[:], mapping, weights)


def _within(mapping: NDArray[Any], rows: int) -> bool:
    integers = mapping.dtype.kind in "iu" and len(mapping) > 0
    return integers and bool(mapping.min() >= 0 and mapping.max() < rows)


def _column(path: Path, file: Any, name: str) -> NDArray[Any] | None:
    """Return a tensor with one number per token, None if there is no such tensor."""
    if name not in file.keys():  # noqa: SIM118 - it is no dictionary
        return None
    column = TensorRows(path, file, name)
    if len(column.shape) != 1:
        raise VectorsFileError(
            path, found=f"{name} of shape {column.shape}", expected="one number per token"
        )
    return column[:]


def _tokens(path: Path) -> list[str]:
    """Return the token of each row."""
    try:
        about = json.loads(path.read_bytes())
        vocabulary = about["model"]["vocab"]
        if isinstance(vocabulary, dict):
            ids = {i: token for token, i in vocabulary.items()}
        else:  # with a score each
            ids = {i: entry[0] for i, entry in enumerate(vocabulary)}
        for token in about.get("added_tokens") or ():
            ids[token["id"]] = token["content"]
        tokens = [ids[i] for i in range(len(ids))]
        if not all(isinstance(token, str) for token in tokens):
            raise TypeError("a token is no string")
    except FileNotFoundError:
        raise VectorsFileError(
            path, found="no such file", expected="the tokenizer beside model.safetensors"
        ) from None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, AttributeError) as error:
        raise VectorsFileError(
            path,
            found=f"no tokenizer with a vocabulary ({type(error).__name__}: {error})",
            expected="ids 0, 1, 2... each with a token",
        ) from error
    return tokens


def _added(path: Path) -> str | None:
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return about.get(ADDED) if isinstance(about, dict) else None
