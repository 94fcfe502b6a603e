"""`FastTextClassifier`: fastText's own `supervised` models, to predict with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.errors import VectorsFileError
from rowwise.sklearn._features import distinct
from rowwise.sklearn._losses import Floats, softmax
from rowwise.sklearn._words import Words, checked_texts, ranges
from rowwise.table import Table
from rowwise.text._columns import cells
from rowwise.vectors import _fasttext_file as parts
from rowwise.vectors._packed_strings import encode_word, pack
from rowwise.vectors._reader import opened

Ids = NDArray[np.int64]

_AT_ONCE = 1024  # texts
_TOKEN = re.compile(r"[^ \n\r\t\v\f\0]+")
_END = "</s>"  # stands at the end of every text
_PREFIX = "__label__"
_NGRAM_FACTOR = np.uint64(116049371)
_FNV_START, _FNV_FACTOR = 2166136261, np.uint32(16777619)
_MOST_COUNT = 10**15  # of labels in the training texts; fastText's own bound
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

    def __init__(self, model: _Model) -> None:
        self._model = model
        labels = [label.decode("utf-8", "replace") for label in model.labels]
        if all(label.startswith(_PREFIX) for label in labels):
            labels = [label.removeprefix(_PREFIX) for label in labels]
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
        return cls(_read(os.fspath(path)))

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
            if _END in tokens:  # fastText reads no further
                tokens = tokens[: tokens.index(_END)]
            yield [*tokens, _END]

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that have no row of their own."""
        return [
            token
            for token in _TOKEN.findall(text)
            if encode_word(token) not in self._model.words and not self._model.is_label(token)
        ]


@dataclass(frozen=True)
class _Model:
    """The contents of a file.

    Attributes:
        words, labels: the row of each word in `input`, and of each of K labels in `output`.
        counts: how many training texts had each label, descending.
        pruned: the row of each n-gram's hash, counted from the last word's; None: all have rows.
        input: (words + n-grams, dim).
        output: (K, dim); of hierarchical softmax, inner nodes of its tree.
    """

    header: parts.Header
    words: dict[bytes, int]
    labels: dict[bytes, int]
    counts: list[int]
    pruned: dict[int, int] | None
    input: parts.Matrix
    output: parts.Matrix

    def is_label(self, token: str) -> bool:
        """Return whether a token of a text is a label, which no row is taken of."""
        return token.startswith(_PREFIX) or encode_word(token) in self.labels

    def bags(self, tokens: Words) -> tuple[Ids, Ids]:
        """Return the rows (n,) of each text's words and n-grams, and offsets (texts + 1,)."""
        is_label = np.array([self.is_label(token) for token in tokens.distinct], bool)
        own = [
            [] if label else self._rows_of(token)
            for token, label in zip(tokens.distinct, is_label, strict=True)
        ]
        widths = np.array([len(rows) for rows in own], np.int64)
        flat = np.array([row for rows in own for row in rows], np.int64)
        texts = np.repeat(np.arange(len(tokens)), np.diff(tokens.offsets))
        indices, kept = tokens.indices, ~is_label[tokens.indices]
        indices, texts = indices[kept], texts[kept]
        ids = flat[ranges((np.cumsum(widths) - widths)[indices], widths[indices])]
        owners = np.repeat(texts, widths[indices])
        grams, gram_owners = self._word_ngrams(_hashes(tokens.distinct)[indices], texts)
        ids, owners = np.concatenate([ids, grams]), np.concatenate([owners, gram_owners])
        order = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=len(tokens))
        return ids[order], np.concatenate([[0], np.cumsum(counts)])

    def _rows_of(self, token: str) -> list[int]:
        """Return the rows of a word: its own, and those of its n-grams of characters."""
        raw, header = encode_word(token), self.header
        row = self.words.get(raw)
        rows = [] if row is None else [row]
        if header.max_length > 0 and token != _END:
            grams = _native.subwords(raw, header.min_length, header.max_length, header.buckets)
            rows += self._rows_of_hashes(np.array(grams, np.int64)).tolist()
        return rows

    def _word_ngrams(self, hashes: NDArray[np.uint64], texts: Ids) -> tuple[Ids, Ids]:
        """Return the rows of n-grams of words, and the text of each."""
        rows, owners, combined = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], hashes
        for n in range(2, self.header.word_ngrams + 1):
            if len(combined) < 2 or not self.header.buckets:
                break
            combined = combined[:-1] * _NGRAM_FACTOR + hashes[n - 1 :]
            begins = np.flatnonzero(texts[: len(combined)] == texts[n - 1 :])
            found = (combined[begins] % np.uint64(self.header.buckets)).astype(np.int64)
            left = self._is_kept(found)
            rows.append(self._rows_of_hashes(found[left]))
            owners.append(texts[begins[left]])
        return np.concatenate(rows), np.concatenate(owners)

    def _is_kept(self, hashes: Ids) -> NDArray[np.bool_]:
        if self.pruned is None:
            return np.ones(len(hashes), bool)
        return np.array([x in self.pruned for x in hashes.tolist()], bool)

    def _rows_of_hashes(self, hashes: Ids) -> Ids:
        if self.pruned is not None:
            kept = hashes[self._is_kept(hashes)]
            hashes = np.array([self.pruned[x] for x in kept.tolist()], np.int64)
        return hashes + len(self.words)


def _read(path: str) -> _Model:
    with opened(path) as reader:
        header = parts.read_header(reader)
        if header.model != parts.SUPERVISED:
            raise VectorsFileError(
                path,
                found="a model of word vectors",
                expected="one that fastText's supervised trained",
                fix="rowwise.vectors.load reads it",
            )
        if header.loss not in range(1, 5) or not 1 <= header.word_ngrams < 1 << 10:
            raise parts.unlikely(
                path, f"loss {header.loss}, n-grams of {header.word_ngrams} words", header
            )
        entries, word_count, label_count, pruned_count = parts.read_entries(reader, header)
        words: dict[bytes, int] = {}
        labels: dict[bytes, int] = {}
        counts = []
        for entry in entries:
            if entry.is_label:
                counts.append(entry.count)
            found = labels if entry.is_label else words
            found[entry.text] = len(found)
        if (len(words), len(labels)) != (word_count, label_count) or not labels:
            raise parts.unlikely(path, f"{len(labels)} labels, {len(words)} words", header)
        if min(counts) < 0 or sum(counts) >= _MOST_COUNT:
            raise parts.unlikely(
                path, f"labels with counts of {min(counts)} to {max(counts)}", header
            )
        pruned = None
        if pruned_count >= 0:
            pairs = reader.read_array(8 * pruned_count, "the pruned n-grams").view("<i4")
            pruned = dict(pairs.reshape(-1, 2).tolist())
        given, output = parts.read_matrix(reader, header), parts.read_matrix(reader, header)
    grams = _ngram_rows(header, pruned)
    if given.shape[0] < word_count + grams or min((pruned or {0: 0}).values(), default=0) < 0:
        raise parts.unlikely(path, f"{given.shape[0]} rows of {word_count} words", header)
    if output.shape[0] != label_count:
        raise parts.unlikely(path, f"{output.shape[0]} rows of {label_count} labels", header)
    return _Model(header, words, labels, counts, pruned, given, output)


def _ngram_rows(header: parts.Header, pruned: dict[int, int] | None) -> int:
    """Return how many rows the n-grams of a model need."""
    if pruned is not None:
        return max(pruned.values(), default=-1) + 1
    return header.buckets if header.max_length > 0 or header.word_ngrams > 1 else 0


def _hashes(tokens: list[str]) -> NDArray[np.uint64]:
    """Return fastText's hash (W,) of each token: FNV-1a of signed bytes, as a signed number."""
    text, ends = pack(tokens)
    signed = text.view(np.int8).astype(np.int32).view(np.uint32)
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    lengths = ends - starts
    hashes = np.full(len(tokens), _FNV_START, np.uint32)
    longest_first = np.argsort(-lengths, kind="stable")
    for place in range(int(lengths.max(initial=0))):
        some = longest_first[: np.searchsorted(-lengths[longest_first], -place)]
        hashes[some] = (hashes[some] ^ signed[starts[some] + place]) * _FNV_FACTOR
    return hashes.view(np.int32).astype(np.int64).view(np.uint64)


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
    weights = [*counts, *[_MOST_COUNT] * (labels - 1)]
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
