"""Rows for a vocabulary from pretrained vectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rowwise._init import Init, fill
from rowwise.text._vocabulary import Vocabulary
from rowwise.vectors._vectors import Vectors

_NAMED = 5


@dataclass(frozen=True)
class Coverage:
    """Count the words of a vocabulary that have pretrained vectors.

    Attributes:
        words: in the vocabulary, mask and unknown not counted.
        found: of them, with a row of their own.
        by_subwords: of the others, with a vector from their character n-grams.
        missing: the others, in the vocabulary's order.
    """

    words: int
    found: int
    by_subwords: int
    missing: list[str]

    def __str__(self) -> str:
        part = f" ({100 * self.found / self.words:.1f}%)" if self.words else ""
        more = f", {self.by_subwords} more by their subwords" if self.by_subwords else ""
        named = ", ".join(map(repr, self.missing[:_NAMED]))
        dots = ", ..." if len(self.missing) > _NAMED else ""
        missing = f"; missing: {named}{dots}" if self.missing else ""
        return f"{self.found} of {self.words} words found{part}{more}{missing}"


class Pretrained(NamedTuple):
    """Hold the rows of a vocabulary, and how many of them are pretrained.

    Attributes:
        rows: (V, D) float32.
        found: (V,) bool, which rows are pretrained.
        coverage: the counts, to print; None where the vectors came without words.
    """

    rows: NDArray[np.float32]
    found: NDArray[np.bool_]
    coverage: Coverage | None


def pretrained_rows(
    embeddings: Any,
    vocabulary: Vocabulary | Iterable[str] | None,
    init: Init,
    *,
    seed: int | None,
) -> Pretrained:
    """Return the rows that `from_pretrained` of a table or a layer starts with.

    Args:
        embeddings: (V, D) numbers (NumPy, or a tensor on the CPU), all of which count as
            pretrained; or `Vectors`.
        vocabulary: V words in the order of the rows; those of the vectors if None.
        init, seed: see `rows_for`.

    Raises:
        TypeError: a vocabulary without words to look up.
        ValueError: embeddings that are not (V, D).
    """
    if isinstance(embeddings, Vectors):
        words = embeddings.words if vocabulary is None else vocabulary
        return rows_for(embeddings, words, init, seed=seed)
    if vocabulary is not None:
        raise TypeError("vocabulary= needs words with their vectors, rowwise.vectors.Vectors")
    if hasattr(embeddings, "detach"):  # a tensor that may need a gradient
        embeddings = embeddings.detach()
    values = np.asarray(embeddings, dtype=np.float32)
    if values.ndim != 2:
        raise ValueError(f"embeddings have shape {values.shape}; a table needs (rows, dim)")
    return Pretrained(values, np.ones(len(values), np.bool_), None)


def rows_for(
    vectors: Vectors,
    vocabulary: Vocabulary | Iterable[str],
    init: Init = "uniform",
    *,
    seed: int | None = None,
) -> Pretrained:
    """Return the rows of a table for a vocabulary: pretrained where there is a vector.

    Args:
        vectors: as `rowwise.vectors.load` gives them; those with `subwords` have a vector for
            nearly every word.
        vocabulary: V entries in the order of the rows.
        init: what other rows start with, "uniform", "normal", "zeros", values (V, D) or
            what makes them of a shape; see `rowwise.Table`. The mask's row is zeros.
        seed: of init.

    Returns:
        rows (V, D) float32, found (V,) bool, and a `Coverage` to print.

    Example:
        >>> from rowwise.vectors import Vectors
        >>> vectors = Vectors(["tea", "cup"], [[1.0, 2.0], [3.0, 4.0]])
        >>> rows, found, coverage = rows_for(vectors, ["cup", "pot"], "zeros")
        >>> rows.tolist(), found.tolist()
        ([[3.0, 4.0], [0.0, 0.0]], [True, False])
        >>> print(coverage)
        1 of 2 words found (50.0%); missing: 'pot'
    """
    if isinstance(vocabulary, str | bytes):
        raise TypeError(f"vocabulary must be a list of words, not one string {vocabulary[:20]!r}")
    words = list(vocabulary)
    mask = vocabulary.mask_token if isinstance(vocabulary, Vocabulary) else None
    special = {mask, vocabulary.oov_token} if isinstance(vocabulary, Vocabulary) else set()
    rows = np.zeros((len(words), vectors.dim), np.float32)
    fill(rows, init, seed)
    found = np.zeros(len(words), np.bool_)
    source_rows = np.fromiter(
        (-1 if (row := vectors.row_of(word)) is None else row for word in words),
        np.int64,
        len(words),
    )
    found[:] = source_rows >= 0
    rows[found] = vectors.matrix[source_rows[found]]
    exact = int(sum(found[i] for i, word in enumerate(words) if word not in special))
    by_subwords = 0
    missing: list[str] = []
    for i in np.flatnonzero(~found).tolist():
        word = words[i]
        if word in special:
            continue
        if vectors.subwords is not None and vectors.subwords.bucket_ids(word):
            rows[i] = vectors.vector_of(word)
            found[i] = True
            by_subwords += 1
        else:
            missing.append(word)
    if mask is not None and words:
        rows[0], found[0] = 0.0, False
    counted = sum(word not in special for word in words)
    return Pretrained(rows, found, Coverage(counted, exact, by_subwords, missing))
