"""gensim's KeyedVectors: through gensim and memory, never through a pickle."""

from __future__ import annotations

from typing import Any

import numpy as np

from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.subwords import Subwords
from rowwise.vectors.vectors import Vectors


def from_gensim(keyed_vectors: Any) -> Vectors:
    """The words and vectors of a `KeyedVectors`, with the n-grams of a `FastTextKeyedVectors`.

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
    return Vectors([str(word) for word in words], np.array(matrix), subwords=subwords)


def to_gensim(vectors: Vectors) -> Any:
    """A gensim `KeyedVectors`; n-grams are left behind."""
    from gensim.models import KeyedVectors

    keyed_vectors = KeyedVectors(vectors.dim, dtype=vectors.matrix.dtype)
    if len(vectors):
        keyed_vectors.add_vectors(list(vectors.words), vectors.matrix)
    return keyed_vectors


def refuse(path: str, *_: Any) -> Vectors:
    """Says how to get the vectors out of a pickle.

    Raises:
        VectorsFileError: always.
    """
    raise VectorsFileError(
        path,
        found="a pickle, which can run any code when it is opened",
        expected="a format that holds nothing but words and numbers",
        fix="if you trust it, export it where gensim is installed: "
        "gensim.models.KeyedVectors.load('x.kv').save_word2vec_format('x.bin', binary=True); "
        "or hand over what gensim has loaded: rowwise.vectors.load(keyed_vectors)",
    )


def refuse_to_write(vectors: Vectors, path: str) -> None:
    """gensim's own files are pickles.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"{path!r}: gensim's own format is a pickle, which is never written here; "
        "vectors.to_gensim().save(path) has gensim write it"
    )
