"""Vectors as data frames of pandas and polars."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from rowwise.vectors._word_matrix import WordMatrix

WORD, VECTOR = "word", "vector"


def to_pandas(vectors: WordMatrix) -> Any:
    """Return a pandas DataFrame (V, D) with the words as index; the numbers are copied."""
    pandas = _imported("pandas")
    index = pandas.Index(vectors.words, dtype=object if not vectors.words else None, name=WORD)
    return pandas.DataFrame(np.array(vectors.matrix), index=index)


def to_polars(vectors: WordMatrix) -> Any:
    """Return a polars DataFrame with a column of words and one of vectors, arrays of length D."""
    polars = _imported("polars")
    rows = polars.Series(VECTOR, np.ascontiguousarray(vectors.matrix))
    return polars.DataFrame([polars.Series(WORD, vectors.words, dtype=polars.String), rows])


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"to_{name}() needs {name}; pip install {name}") from error
