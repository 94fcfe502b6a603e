"""gensim's KeyedVectors, to and from memory. Its files are pickles, which are never opened."""

from __future__ import annotations

from typing import Any

import numpy as np

from rowwise.vectors._subwords import Subwords
from rowwise.vectors._word_matrix import WordMatrix


def from_gensim(keyed_vectors: Any) -> WordMatrix:
    """Return the vectors of a `KeyedVectors`, with the n-grams of a `FastTextKeyedVectors`.

    Raises:
        TypeError: it is neither.
    """
    inner = getattr(keyed_vectors, "wv", keyed_vectors)  # a model holds its vectors as .wv
    words, matrix = (getattr(inner, name, None) for name in ("index_to_key", "vectors"))
    if words is None or matrix is None:
        raise TypeError(f"{type(keyed_vectors).__name__} is no gensim KeyedVectors")
    grams = getattr(inner, "vectors_ngrams", None)
    subwords = None
    if grams is not None and len(grams) and inner.max_n > 0:
        buckets = np.ascontiguousarray(grams, dtype=np.float32)
        subwords = Subwords(buckets, int(inner.min_n), int(inner.max_n))
    return WordMatrix([str(word) for word in words], np.array(matrix), subwords)


def to_gensim(vectors: WordMatrix) -> Any:
    """Return a gensim `KeyedVectors`, without n-grams."""
    from gensim.models import KeyedVectors

    keyed_vectors = KeyedVectors(vectors.dim, dtype=vectors.matrix.dtype)
    if len(vectors):
        keyed_vectors.add_vectors(list(vectors.words), vectors.matrix)
    return keyed_vectors
