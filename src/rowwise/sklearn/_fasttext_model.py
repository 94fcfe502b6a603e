"""Models of fastText's `supervised`: the contents of their files, and the rows of a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.errors import VectorsFileError
from rowwise.sklearn._fasttext_losses import MOST_COUNT
from rowwise.sklearn._words import Words, ranges
from rowwise.vectors import _fasttext_file as parts
from rowwise.vectors._packed_strings import encode_word, pack
from rowwise.vectors._reader import opened

Ids = NDArray[np.int64]

END = "</s>"  # stands at the end of every text
PREFIX = "__label__"
_NGRAM_FACTOR = np.uint64(116049371)
_FNV_START, _FNV_FACTOR = 2166136261, np.uint32(16777619)


@dataclass(frozen=True)
class Model:
    """The contents of a model's file.

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
        return token.startswith(PREFIX) or encode_word(token) in self.labels

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
        if header.max_length > 0 and token != END:
            grams = _native.subwords(raw, header.min_length, header.max_length, header.buckets)
            rows += self._rows_of_hashes(np.array(grams, np.int64)).tolist()
        return rows

    def _word_ngrams(self, hashes: NDArray[np.uint64], texts: Ids) -> tuple[Ids, Ids]:
        """Return the rows of n-grams of words by where they begin, and the text of each."""
        rows, first, combined = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], hashes
        for n in range(2, self.header.word_ngrams + 1):
            if len(combined) < 2 or not self.header.buckets:
                break
            combined = combined[:-1] * _NGRAM_FACTOR + hashes[n - 1 :]
            begins = np.flatnonzero(texts[: len(combined)] == texts[n - 1 :])
            found = (combined[begins] % np.uint64(self.header.buckets)).astype(np.int64)
            left = self._is_kept(found)
            rows.append(self._rows_of_hashes(found[left]))
            first.append(begins[left])
        begins = np.concatenate(first)
        order = np.argsort(begins, kind="stable")
        return np.concatenate(rows)[order], texts[begins[order]]

    def _is_kept(self, hashes: Ids) -> NDArray[np.bool_]:
        if self.pruned is None:
            return np.ones(len(hashes), bool)
        return np.array([x in self.pruned for x in hashes.tolist()], bool)

    def _rows_of_hashes(self, hashes: Ids) -> Ids:
        if self.pruned is not None:
            kept = hashes[self._is_kept(hashes)]
            hashes = np.array([self.pruned[x] for x in kept.tolist()], np.int64)
        return hashes + len(self.words)


def read_model(path: str) -> Model:
    """Read a model from a file; it may be compressed or in a zip archive.

    Raises:
        FileNotFoundError: there is no such file.
        VectorsFileError: it is damaged, no fastText model, or one of word vectors.
    """
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
        if min(counts) < 0 or sum(counts) >= MOST_COUNT:
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
    return Model(header, words, labels, counts, pruned, given, output)


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
