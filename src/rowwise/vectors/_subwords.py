"""fastText's character n-grams: vectors for words that have no row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.vectors._packed_strings import encode_word, pack


@dataclass(frozen=True)
class Subwords:
    """Hold rows for character n-grams, found by hash.

    A word w has the n-grams g of "<w>" with min_length..max_length characters (but not the
    brackets alone), and each the row hash(g) mod B of `buckets`. Then

        vector(w) = (row(w) + sum_g buckets[g]) / (1 + number of g)    if w has a row of its own
        vector(w) = sum_g buckets[g] / number of g                     otherwise

    Attributes:
        buckets: (B, D) float32.
        min_length, max_length: of an n-gram, in characters.

    Reference:
        Bojanowski, Grave, Joulin, Mikolov: Enriching Word Vectors with Subword Information, 2017.

    Example:
        >>> grams = Subwords(np.eye(4, dtype=np.float32), min_length=3, max_length=3)
        >>> grams.vector_of("tea").shape  # "<te", "tea" and "ea>"
        (4,)
        >>> float(grams.vector_of("tea").sum())
        1.0
    """

    buckets: NDArray[np.float32]
    min_length: int
    max_length: int

    def bucket_ids(self, word: str) -> list[int]:
        """Return the rows of a word's n-grams; none for the end of a sentence "</s>"."""
        if word == "</s>":
            return []
        raw = encode_word(word)
        return _native.subwords(raw, self.min_length, self.max_length, len(self.buckets))

    def vector_of(self, word: str) -> NDArray[np.float32]:
        """Return the mean (D,) of a word's n-grams; zeros if it has none."""
        ids = self.bucket_ids(word)
        if not ids:
            return np.zeros(self.buckets.shape[1], np.float32)
        return self.buckets[ids].mean(axis=0, dtype=np.float64).astype(np.float32)

    def add_to(self, words: list[str], rows: NDArray[np.float32]) -> None:
        """Turn words' own rows (V, D) into their vectors, in place."""
        self._mix(words, rows, undo=False)

    def remove_from(self, words: list[str], rows: NDArray[np.float32]) -> None:
        """Turn words' vectors (V, D) into their own rows, in place."""
        self._mix(words, rows, undo=True)

    def _mix(self, words: list[str], rows: NDArray[np.float32], undo: bool) -> None:
        text, ends = pack(words)
        _native.mix_subwords(text, ends, rows, self.buckets, self.min_length, self.max_length, undo)
