"""Words with a matrix: what a file of vectors holds, whatever its format."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from rowwise.vectors._subwords import Subwords


class WordMatrix:
    """Hold words, a matrix with a row for each, and the n-grams of a fastText model.

    Attributes:
        words: V strings.
        matrix: (V, D) float16, float32 or float64.
        subwords: character n-grams for words that are not among `words`, or None.
    """

    def __init__(
        self, words: list[str], matrix: NDArray[Any], subwords: Subwords | None = None
    ) -> None:
        self.words, self.matrix, self.subwords = words, matrix, subwords

    @property
    def dim(self) -> int:
        """Return the length D of a vector."""
        return int(self.matrix.shape[1])

    def __len__(self) -> int:
        return len(self.words)
