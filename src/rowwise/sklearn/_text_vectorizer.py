"""`TextVectorizer`: texts as pooled vectors of their words, by scikit-learn's conventions."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from rowwise._untrained import mean_of_trained
from rowwise.errors import UntrainedError
from rowwise.sklearn._text_classifier import TextClassifier
from rowwise.sklearn._words import Words, is_word
from rowwise.table import Table
from rowwise.text._columns import cells
from rowwise.vectors import Vectors

Floats = NDArray[np.float32]

_AT_ONCE = 2048  # texts
_POOLINGS = ("mean", "sum", "max")
_Untrained = Literal["skip", "zeros", "mean", "error"]


class TextVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn texts into vectors: the mean, the sum or the maximum of their words' vectors.

    Nothing is trained. With a table, words are split as its vocabulary says, else as Unicode
    Standard Annex 29 says. In pretrained vectors a word is looked up as it stands, then in lower
    case, then case folded; fastText's n-grams give a vector to words that have none.

    Args:
        vectors: pretrained `rowwise.vectors.Vectors`, a fitted `TextClassifier` (the rows of its
            words), or a `rowwise.Table` with a vocabulary, whose present rows are read. Clones
            share it, so that a search over parameters needs no more memory.
        pooling: "mean", "sum" or "max" (the largest of each number).
        untrained: what a word gives that has no vector, or a row that was never trained: "skip" (as
            if the word were not there), "zeros", "mean" (of all vectors), or "error". Punctuation
            marks and emoji without a vector are always left out.

    Example:
        >>> vectors = Vectors(["tea", "cup"], [[1.0, 2.0], [3.0, 4.0]])
        >>> TextVectorizer(vectors).fit_transform(["A cup of Tea", "", "cup!"])
        array([[2., 3.],
               [0., 0.],
               [3., 4.]], dtype=float32)
    """

    def __init__(
        self,
        vectors: Vectors | Table | TextClassifier,
        *,
        pooling: str = "mean",
        untrained: str = "skip",
    ) -> None:
        self.vectors = vectors
        self.pooling = pooling
        self.untrained = untrained

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Check the parameters; texts and labels are not looked at.

        Raises:
            ValueError: a parameter that is none of those there are; a table without vocabulary.
            TypeError: vectors of another type.
            NotFittedError: a classifier that is not fitted.
        """
        if self.pooling not in _POOLINGS:
            raise ValueError(
                f"pooling={self.pooling!r} is not one of {', '.join(map(repr, _POOLINGS))}"
            )
        if self.untrained not in get_args(_Untrained):
            raise ValueError(
                f"untrained={self.untrained!r} is not one of "
                f"{', '.join(map(repr, get_args(_Untrained)))}"
            )
        if isinstance(self.vectors, Vectors):
            self._dim = int(self.vectors.matrix.shape[1])
            return self
        table = self._table()
        if table.vocabulary is None:
            raise ValueError(
                "the table has no words for its rows; set table.vocabulary to a rowwise.Vocabulary"
            )
        self._dim = table.dim
        return self

    def transform(self, X: Any) -> Floats:
        """Return the vectors (n, D) of texts; zeros for a text without words.

        Args:
            X: n texts; a list or a column (NumPy, pandas, polars, pyarrow).

        Raises:
            UntrainedError: a word without a vector, and untrained="error".
            TypeError: a text that is not a string.
        """
        check_is_fitted(self)
        texts = list(cells(X, "X"))
        found = np.zeros((len(texts), self._n_features_out), np.float32)
        for start in range(0, len(texts), _AT_ONCE):
            words = self._split(texts[start : start + _AT_ONCE])
            if words.distinct:
                found[start : start + _AT_ONCE] = self._pool(words, start)
        return found

    def _pool(self, words: Words, start: int) -> Floats:
        vectors, known = self._vectors_of(words.distinct)
        indices, offsets = words.indices.astype(np.int64), words.offsets
        left = known.copy()
        if self.untrained != "skip":
            left |= np.fromiter(map(is_word, words.distinct), bool, len(left))
            if not known[left].all():
                if self.untrained == "error":
                    self._refuse(words, known | ~left, start)
                vectors[~known] = 0 if self.untrained == "zeros" else self._mean()
        taken = left[indices]
        offsets = np.concatenate([[0], np.cumsum(taken)])[offsets]
        indices = indices[taken]
        return Table.from_pretrained(vectors).pool(indices, offsets, combiner=self.pooling)

    def _refuse(self, words: Words, known: NDArray[np.bool_], start: int) -> None:
        first = np.flatnonzero(~known[words.indices])[0]
        text = start + int(np.searchsorted(words.offsets, first, "right")) - 1
        raise UntrainedError(
            f"word {words.distinct[words.indices[first]]!r} of the text at position {text} has no "
            "vector; untrained='skip', 'zeros' or 'mean' gives something for it"
        )

    def _split(self, texts: list[str]) -> Words:
        if isinstance(self.vectors, Table):
            assert self.vectors.vocabulary is not None
            return Words.of_tokens(self.vectors.vocabulary._splitter(texts))
        lowercase = isinstance(self.vectors, TextClassifier) and self.vectors.lowercase_
        return Words.of(texts, lowercase)

    def _vectors_of(self, words: list[str]) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the vectors (W, D) of words, and which of them (W,) are any."""
        if isinstance(self.vectors, Vectors):
            return _pretrained(self.vectors, words)
        table = self._table()
        vocabulary = table.vocabulary
        assert vocabulary is not None
        known = np.ones(len(words), bool)
        if vocabulary.oov_token is None:  # unknown words have no row
            known[:] = [word in vocabulary for word in words]
        rows = np.zeros(len(words), np.int64)
        rows[known] = vocabulary.lookup([words[i] for i in np.flatnonzero(known)])
        known[known] = table.is_trained(rows[known])
        return table.lookup(rows), known

    def _mean(self) -> Floats:
        if isinstance(self.vectors, Vectors):
            return self.vectors.matrix.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean_of_trained(self._table().store)

    def _table(self) -> Table:
        if isinstance(self.vectors, TextClassifier):
            check_is_fitted(self.vectors)
            return self.vectors.table_
        if isinstance(self.vectors, Table):
            return self.vectors
        raise TypeError(
            f"vectors={self.vectors!r} is neither rowwise.vectors.Vectors, nor a rowwise.Table, "
            "nor a TextClassifier; rowwise.vectors.load reads a file"
        )

    @property
    def _n_features_out(self) -> int:  # for get_feature_names_out
        return self._dim

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_dim")

    def __sklearn_clone__(self) -> Self:
        return type(self)(**self.get_params(deep=False))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _pretrained(vectors: Vectors, words: list[str]) -> tuple[Floats, NDArray[np.bool_]]:
    found = np.zeros((len(words), vectors.dim), np.float32)
    rows = np.fromiter((_row_of(vectors, word) for word in words), np.int64, len(words))
    known = rows >= 0
    found[known] = vectors.matrix[rows[known]]
    if vectors.subwords is not None:
        for i in np.flatnonzero(~known).tolist():
            if is_word(words[i]) and vectors.subwords.bucket_ids(words[i]):
                found[i], known[i] = vectors.subwords.vector_of(words[i]), True
    return found, known


def _row_of(vectors: Vectors, word: str) -> int:
    rows = map(vectors.row_of, (word, word.lower(), word.casefold()))
    return next((row for row in rows if row is not None), -1)
