"""`FastTextClassifier`: fastText's own `supervised` models, to predict with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.sklearn._fasttext_losses import Output
from rowwise.sklearn._fasttext_model import END, PREFIX, Model, read_model
from rowwise.sklearn._features import distinct
from rowwise.sklearn._losses import Floats
from rowwise.sklearn._words import Words, checked_texts
from rowwise.table import Table
from rowwise.text._columns import cells
from rowwise.vectors import _fasttext_file
from rowwise.vectors._packed_strings import encode_word

_AT_ONCE = 1024  # texts
_TOKEN = re.compile(r"[^ \n\r\t\v\f\0]+")


class FastTextClassifier:
    """Predict with a model that fastText's `supervised` trained: a `.bin` or a quantized `.ftz`.

    Labels and probabilities are those that fastText prints, with n-grams of words and characters
    and with any loss. As in fastText, texts are split at ASCII's white space alone; give them as
    the training texts were prepared, in lower case for instance.

    `rowwise.vectors.load` reads the vectors of a `.bin`'s words.

    Attributes:
        classes_: (K,) labels, the most frequent first, without the prefix `__label__`.
        multilabel_: whether each label has a probability of its own and a text any number of
            labels: of models with the loss one-vs-all.

    Example:
        >>> model = FastTextClassifier.load("lid.176.ftz")  # doctest: +SKIP
        >>> model.predict(["Ceci n'est pas une pipe"])  # doctest: +SKIP
        array(['fr'], dtype='<U3')
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._output = Output(model.output, model.header.loss, model.counts)
        labels = [label.decode("utf-8", "replace") for label in model.labels]
        if all(label.startswith(PREFIX) for label in labels):
            labels = [label.removeprefix(PREFIX) for label in labels]
        self.classes_ = np.array(labels)
        self.multilabel_ = model.header.loss == _fasttext_file.ONE_VS_ALL

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FastTextClassifier:
        """Read a model's file; it may be compressed or in a zip archive.

        Raises:
            FileNotFoundError: there is no such file.
            VectorsFileError: it is damaged, no fastText model, or one of word vectors. It is a
                ValueError.
        """
        return cls(read_model(os.fspath(path)))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label (n,) of each text, or which labels (n, K) it has.

        A text has the labels with a probability of a half or more.
        """
        probabilities = self.predict_proba(X)
        if self.multilabel_:
            return (probabilities > 0.5).astype(np.int64)
        return self.classes_[self._ranking(probabilities)[:, 0]]

    def predict_proba(self, X: Any) -> Floats:
        """Return the probabilities (n, K) of labels that fastText prints, as in `classes_`.

        fastText adds 0.00001 to each; with hierarchical softmax, to each factor of it. So those
        of softmax sum to 1 + 0.00001 K, those of hierarchical softmax to a little more than 1.
        Those of negative sampling and one-vs-all are each for itself, sigmoids from fastText's
        table with steps of 1/32, and sum to anything.
        """
        return self._output.probabilities(self.decision_function(X))

    def decision_function(self, X: Any) -> Floats:
        """Return the scores (n, K) that the probabilities are made of.

        Those of hierarchical softmax are the logarithms of the probabilities.
        """
        vectors = self.transform(X)
        scores = np.empty((len(vectors), len(self.classes_)), np.float32)
        for start in range(0, len(vectors), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            scores[part] = self._output.scores(vectors[part])
        return scores

    def _ranking(self, probabilities: Floats) -> NDArray[np.int64]:
        """Return labels (n, K), the most probable first."""
        preferred = self._output.preferred
        order = np.argsort(-probabilities[:, preferred], axis=1, kind="stable")
        return preferred[order]

    def transform(self, X: Any) -> Floats:
        """Return the mean (n, dim) of the rows of each text's words and n-grams.

        Args:
            X: n texts; a list or a column (NumPy, pandas, polars, pyarrow).

        Raises:
            TypeError: a text that is not a string.
        """
        texts = list(cells(X, "X"))
        found = np.zeros((len(texts), self._model.header.dim), np.float32)
        for start in range(0, len(texts), _AT_ONCE):
            tokens = Words.of_tokens(self._tokens(texts[start : start + _AT_ONCE], start))
            ids, offsets = self._model.bags(tokens)
            rows, ids = distinct(ids.view(np.uint64))
            if len(rows):
                table = Table.from_pretrained(self._model.input[rows.view(np.int64)])
                found[start : start + _AT_ONCE] = _mean(table, ids, offsets)
        return found

    def _tokens(self, texts: list[str], first: int) -> Iterator[list[str]]:
        for text in checked_texts(texts, first):
            tokens = _TOKEN.findall(text)
            if END in tokens:  # fastText reads no further
                tokens = tokens[: tokens.index(END)]
            yield [*tokens, END]

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that have no row of their own."""
        return [
            token
            for token in _TOKEN.findall(text)
            if encode_word(token) not in self._model.words and not self._model.is_label(token)
        ]


def _mean(table: Table, ids: NDArray[np.int64], offsets: NDArray[np.int64]) -> Floats:
    """Return the means (n, dim) of bags of rows, as fastText rounds them."""
    parts = 1 / np.maximum(np.diff(offsets), 1)
    return table.pool(ids, offsets, combiner="sum") * parts.astype(np.float32)[:, None]
