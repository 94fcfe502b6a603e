"""Words with their vectors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise._neighbors import nearest
from rowwise.vectors._frames import to_pandas, to_polars
from rowwise.vectors._gensim import from_gensim, to_gensim
from rowwise.vectors._save import save
from rowwise.vectors._subwords import Subwords
from rowwise.vectors._word_matrix import WordMatrix


class Vectors(WordMatrix):
    """Hold words, and a matrix with a row for each.

    Attributes:
        words: V strings, each once.
        matrix: (V, D) float16, float32 or float64.
        subwords: fastText's character n-grams, from which words that are not among `words` get
            a vector; None for vectors of any other origin.

    Args:
        words: the words in the order of the rows.
        matrix: (V, D), or what NumPy makes it from; integers become float32.
        subwords: see above.

    Raises:
        ValueError: another number of rows than of words, no columns, a word twice.
        TypeError: a word that is no string.

    Example:
        >>> vectors = Vectors(["tea", "cup"], [[1.0, 2.0], [3.0, 4.0]])
        >>> vectors["cup"].tolist(), "pot" in vectors, len(vectors), vectors.dim
        ([3.0, 4.0], False, 2, 2)
    """

    def __init__(
        self, words: Iterable[str], matrix: Any, *, subwords: Subwords | None = None
    ) -> None:
        super().__init__(list(words), np.asarray(matrix), subwords)
        if self.matrix.dtype not in (np.float16, np.float32, np.float64):
            self.matrix = self.matrix.astype(np.float32)
        shape = self.matrix.shape
        if len(shape) != 2 or shape[0] != len(self.words) or shape[1] < 1:
            raise ValueError(
                f"matrix has shape {shape}; {len(self.words)} words need ({len(self.words)}, D)"
            )
        self._index = {word: i for i, word in enumerate(self.words)}
        for i, word in enumerate(self.words):
            if not isinstance(word, str):
                raise TypeError(f"word {word!r} of row {i} is not a string")
            if self._index[word] != i:
                raise ValueError(f"word {word!r} has two rows, {i} and {self._index[word]}")

    def __getitem__(self, word: str) -> NDArray[Any]:
        """Return the vector (D,) of a word, a view of the matrix.

        Raises:
            KeyError: the word has no row.
        """
        if word not in self._index:
            more = "; vector_of(word) makes one of its n-grams" if self.subwords else ""
            raise KeyError(f"word {word!r} is not among the {len(self)} words{more}")
        return self.matrix[self._index[word]]

    def vector_of(self, word: str) -> NDArray[Any]:
        """Return the vector (D,) of any word: its row, or the mean of its character n-grams.

        As in fastText, a word without n-grams (too short a one) gets zeros.

        Raises:
            KeyError: the word has no row, and these vectors have no `subwords`.
        """
        if word in self._index or self.subwords is None:
            return self[word]
        return self.subwords.vector_of(word).astype(self.matrix.dtype)

    def row_of(self, word: str) -> int | None:
        """Return the row of a word, None if it has none."""
        return self._index.get(word)

    def nearest(
        self, query: str | NDArray[Any], k: int = 10, without: Iterable[str] = ()
    ) -> list[tuple[str, float]]:
        """Return the k words nearest to a word, itself left out, or to a vector (D,), with cosines.

        Args:
            query: a word, or a vector.
            k: how many.
            without: words that are left out.

        Raises:
            KeyError: see `vector_of`.

        Example:
            >>> vectors = Vectors(["tea", "cup", "sky"], [[1.0, 0.0], [0.8, 0.6], [0.0, -1.0]])
            >>> [(word, round(cosine, 3)) for word, cosine in vectors.nearest("tea", 2)]
            [('cup', 0.8), ('sky', 0.0)]
        """
        if isinstance(query, str):
            without = [query, *without]
            query = self.vector_of(query)
        rows = [row for row in map(self.row_of, without) if row is not None]
        ids, cosines = nearest(self.matrix, np.asarray(query), k, rows)
        return [(self.words[i], float(c)) for i, c in zip(ids, cosines, strict=True)]

    def analogy(self, a: str, b: str, c: str, k: int = 10) -> list[tuple[str, float]]:
        """Return what stands to c as b stands to a: the k words nearest to b - a + c, with cosines.

        The three are brought to length 1 first and left out of the answer (3CosAdd: Levy and
        Goldberg, Linguistic Regularities in Sparse and Explicit Word Representations, 2014).

        Raises:
            KeyError: see `vector_of`.
        """
        one, two, three = (_unit(self.vector_of(word)) for word in (a, b, c))
        return self.nearest(two - one + three, k, without=[a, b, c])

    def save(self, path: str | os.PathLike[str], format: str | None = None) -> None:
        """Write a file, or a folder of several; see `rowwise.vectors.save`.

        Example:
            >>> import os, tempfile
            >>> from pathlib import Path
            >>> path = os.path.join(tempfile.mkdtemp(), "tiny.txt")
            >>> Vectors(["tea", "cup"], [[1.0, 2.5], [3.0, 4.0]]).save(path)
            >>> print(Path(path).read_text(), end="")
            tea 1 2.5
            cup 3 4
        """
        save(self, path, format)

    @classmethod
    def from_gensim(cls, keyed_vectors: Any) -> Vectors:
        """Return the vectors of a gensim `KeyedVectors` or `FastTextKeyedVectors` in memory."""
        found = from_gensim(keyed_vectors)
        return cls(found.words, found.matrix, subwords=found.subwords)

    def to_gensim(self) -> Any:
        """Return a gensim `KeyedVectors` with these words and vectors; needs gensim."""
        return to_gensim(self)

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame: the index `word`, and a column for each number of the vectors.

        Raises:
            ModuleNotFoundError: pandas is not installed.

        Example:
            >>> frame = Vectors(["tea", "cup"], [[1.0, 2.0], [3.0, 4.0]]).to_pandas()
            >>> frame.loc["cup"].tolist(), frame.index.name
            ([3.0, 4.0], 'word')
        """
        return to_pandas(self)

    def to_polars(self) -> Any:
        """Return a polars DataFrame with the columns of a Parquet file: `word` and `vector`.

        Raises:
            ModuleNotFoundError: polars is not installed.
        """
        return to_polars(self)

    def __contains__(self, word: object) -> bool:
        return word in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __repr__(self) -> str:
        more = ", with subwords" if self.subwords else ""
        return f"Vectors({len(self)} words, dim={self.dim}, {self.matrix.dtype}{more})"


def _unit(vector: NDArray[Any]) -> NDArray[Any]:
    wide = vector.astype(np.float64)
    return wide / (np.linalg.norm(wide) or 1.0)
