"""`FastTextClassifier`: fastText's own `supervised` models, to predict with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise.sklearn._fasttext_model import END, MOST_COUNT, PREFIX, Model, read_model
from rowwise.sklearn._features import distinct
from rowwise.sklearn._losses import Floats, softmax
from rowwise.sklearn._words import Words, checked_texts
from rowwise.table import Table
from rowwise.text._columns import cells
from rowwise.vectors import _fasttext_file as parts
from rowwise.vectors._packed_strings import encode_word

_AT_ONCE = 1024  # texts
_TOKEN = re.compile(r"[^ \n\r\t\v\f\0]+")
_SIGMOID_LIMIT, _SIGMOID_STEPS = 8.0, 32  # per unit: fastText has a table of the sigmoid


class FastTextClassifier:
    """Predict with a model that fastText's `supervised` trained: a `.bin` or a quantized `.ftz`.

    Labels and probabilities are fastText's own, with n-grams of words and characters and with any
    loss. It adds 0.00001 to each probability that it prints (with hierarchical softmax, to each
    factor of it), which is not done here. As in fastText, texts are split at ASCII's white space
    alone; give them as the training texts were prepared, in lower case for instance.

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
        labels = [label.decode("utf-8", "replace") for label in model.labels]
        if all(label.startswith(PREFIX) for label in labels):
            labels = [label.removeprefix(PREFIX) for label in labels]
        self.classes_ = np.array(labels)
        self.multilabel_ = model.header.loss == parts.ONE_VS_ALL

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
        """Return the most probable label (n,) of each text, or which labels (n, K) it has."""
        scores = self.decision_function(X)
        if self.multilabel_:
            return (scores > 0).astype(np.int64)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: Any) -> Floats:
        """Return the probabilities (n, K) of labels, in the order of `classes_`.

        Those of negative sampling and one-vs-all do not sum to 1.
        """
        scores = self.decision_function(X)
        if self._model.header.loss == parts.HIERARCHICAL_SOFTMAX:
            return np.exp(scores)
        if self._model.header.loss == parts.SOFTMAX:
            return softmax(scores)
        return _sigmoid(scores)

    def decision_function(self, X: Any) -> Floats:
        """Return the scores (n, K) of labels; of hierarchical softmax, log-probabilities."""
        hidden, output = self.transform(X), self._model.output
        scores = hidden @ output[np.arange(output.shape[0])].T
        if self._model.header.loss == parts.HIERARCHICAL_SOFTMAX:
            return _log_probabilities(scores, self._model.counts)
        return scores

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
                found[start : start + _AT_ONCE] = table.pool(ids, offsets)
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


def _sigmoid(scores: Floats) -> Floats:
    """Return fastText's sigmoid: that of the score rounded down to a 32nd, 0 or 1 beyond 8."""
    floor = np.floor(np.clip(scores, -_SIGMOID_LIMIT, _SIGMOID_LIMIT) * _SIGMOID_STEPS)
    found = 1 / (1 + np.exp(-floor / _SIGMOID_STEPS))
    found[scores < -_SIGMOID_LIMIT] = 0
    found[scores > _SIGMOID_LIMIT] = 1
    return found.astype(np.float32)


def _log_probabilities(scores: Floats, counts: list[int]) -> Floats:
    """Return the logarithms (n, K) of the leaves' probabilities in the tree of labels.

    Args:
        scores: (n, K), of the inner nodes; the last is not used.
        counts: of the labels, descending.
    """
    labels = len(counts)
    found = np.zeros((len(scores), labels), np.float32)
    # From the root down: what a node's leaves have in common.
    common = {2 * labels - 2: np.zeros(len(scores), np.float32)}
    children = _huffman(counts)
    for node in range(2 * labels - 2, labels - 1, -1):
        score, above = scores[:, node - labels], common.pop(node)
        for child, sign in zip(children[node - labels], (1, -1), strict=True):
            common[child] = (above - np.logaddexp(0, sign * score)).astype(np.float32)
    for label, value in common.items():
        found[:, label] = value
    return found


def _huffman(counts: list[int]) -> list[tuple[int, int]]:
    """Return the left and right child of each inner node; leaves are numbered first."""
    labels = len(counts)
    weights = [*counts, *[MOST_COUNT] * (labels - 1)]
    leaf, node = labels - 1, labels
    children = []
    for inner in range(labels, 2 * labels - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        weights[inner] = weights[pair[0]] + weights[pair[1]]
        children.append((pair[0], pair[1]))
    return children
