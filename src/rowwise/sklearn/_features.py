"""Texts to weighted bags of rows: words, word n-grams and character n-grams.

A feature is known by a 64-bit hash, its key. Each key that enough training texts have has a row of
its own; others have none. A word's key is made of its code points, a word n-gram's of the keys of
its words, a character n-gram's of its code points, with marks for the ends of the word.

The weight of a feature that occurs n times in a text is (1 + log n) idf, where

    idf = 1 + log((1 + N) / (1 + df))

and df of N texts have the feature. The weights of a text's words and word n-grams have a sum of
squares of 1, and so have those of its character n-grams (Salton and Buckley, Term-weighting
approaches in automatic text retrieval, 1988).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise._mix import mix
from rowwise.sklearn._words import Words, is_unspaced, is_word, ranges
from rowwise.store import Bags

Keys = NDArray[np.uint64]
Ids = NDArray[np.int64]

_CHUNK = 1 << 21  # features at once
_UNSPACED_NGRAMS = 4  # of characters of a script without spaces
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_BEGIN, _END = 0x110000, 0x110001  # code points that no text has


@dataclass(frozen=True)
class Lexicon:
    """The facts about W distinct words that their letters alone tell.

    Attributes:
        keys: (W,) of the words.
        unspaced: (W,) whether the word is a character of a script without spaces.
        ngrams: (m,) keys of the words' character n-grams, word after word.
        offsets: (W + 1,) those of word i are ngrams[offsets[i]:offsets[i + 1]].
    """

    keys: Keys
    unspaced: NDArray[np.bool_]
    ngrams: Keys
    offsets: Ids

    @classmethod
    def of(cls, words: list[str], char_ngrams: tuple[int, int]) -> Lexicon:
        """Compute the keys of words and of their character n-grams, from the least length to the
        largest, the two ends of the word counted as characters.
        """
        count = len(words)
        if not count:
            empty = np.zeros(0, np.uint64)
            return cls(empty, np.zeros(0, bool), empty, np.zeros(1, np.int64))
        text = "".join(words).encode("utf-32-le", "surrogatepass")
        lengths = np.fromiter(map(len, words), np.int64, count)
        unspaced = np.fromiter(map(is_unspaced, words), bool, count)
        # Each word's code points between marks of its ends.
        starts = np.cumsum(lengths + 2) - (lengths + 2)
        codes = np.empty(int((lengths + 2).sum()), np.uint64)
        codes[starts], codes[starts + lengths + 1] = _BEGIN, _END
        codes[ranges(starts + 1, lengths)] = np.frombuffer(text, np.uint32)
        keys = _ngram_keys(codes, starts, lengths + 2)

        spelled = np.fromiter(map(is_word, words), bool, count) & ~unspaced
        parts, owners = [], []
        for n in range(char_ngrams[0], min(char_ngrams[1], int(lengths.max()) + 2) + 1):
            counts = np.where(spelled, np.maximum(lengths + 3 - n, 0), 0)
            begins = ranges(starts, counts)
            ngram = np.full(len(begins), np.uint64(n))
            for i in range(n):
                ngram = ngram * _FACTOR + codes[begins + i]
            parts.append(mix(ngram))
            owners.append(np.repeat(np.arange(count), counts))
        if not parts:
            return cls(keys, unspaced, np.zeros(0, np.uint64), np.zeros(count + 1, np.int64))
        owner = np.concatenate(owners)
        order = np.argsort(owner, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))])
        return cls(keys, unspaced, np.concatenate(parts)[order], offsets)


def _ngram_keys(codes: Keys, starts: Ids, lengths: Ids) -> Keys:
    """Return the key of each run of codes."""
    powers = np.cumprod(np.full(int(lengths.max()), _FACTOR))
    position = np.arange(len(codes)) - np.repeat(starts, lengths)
    return mix(np.add.reduceat(codes * powers[position], starts))


@dataclass(frozen=True)
class Text:
    """Words, and what is known of them: all that features are made of."""

    words: Words
    lexicon: Lexicon

    @classmethod
    def of(cls, words: Words, char_ngrams: tuple[int, int]) -> Text:
        """Complete words by their lexicon."""
        return cls(words, Lexicon.of(words.distinct, char_ngrams))

    def sequences(self, texts: Ids, word_ngrams: int) -> tuple[Keys, Ids]:
        """Return the keys (n,) of word n-grams of 2 words or more, and the text (n,) of each."""
        indices, lengths = self.words.select(texts)
        owner = np.repeat(np.arange(len(texts)), lengths)
        keys, first, _ = self._spans(indices, owner, word_ngrams)
        return keys, owner[first]

    def spans(self, word_ngrams: int) -> tuple[Keys, Ids, Ids]:
        """Return the keys (n,) of the first text's word n-grams, where they begin and how many
        words they have.
        """
        indices = self.words.indices[: self.words.offsets[1]]
        return self._spans(indices, np.zeros(len(indices), np.int64), word_ngrams)

    def _spans(
        self, indices: NDArray[np.int32], owner: Ids, word_ngrams: int
    ) -> tuple[Keys, Ids, Ids]:
        """Return keys, begins and lengths of n-grams; of scripts without spaces, of up to 4."""
        keys, unspaced = self.lexicon.keys[indices], self.lexicon.unspaced[indices]
        found, begins = [], []
        combined, together = keys, unspaced
        for n in range(2, max(word_ngrams, _UNSPACED_NGRAMS) + 1):
            if len(keys) < n:
                break
            combined = combined[:-1] * _FACTOR + keys[n - 1 :]
            together = together[:-1] & unspaced[n - 1 :]
            inside = owner[: len(combined)] == owner[n - 1 :]
            if n > word_ngrams:
                inside &= together
            begin = np.flatnonzero(inside)
            found.append(mix(combined[begin] + np.uint64(n)))
            begins.append(begin)
        if not found:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        lengths = np.repeat(np.arange(2, 2 + len(begins)), [len(begin) for begin in begins])
        return np.concatenate(found), np.concatenate(begins), lengths

    def chunks(self, texts: Ids) -> Iterator[Ids]:
        """Yield texts in parts of some millions of features."""
        widths = np.diff(self.lexicon.offsets) + _UNSPACED_NGRAMS
        starts = self.words.offsets
        size = np.concatenate([[0], np.cumsum(widths[self.words.indices])])[starts]
        part = np.cumsum(np.diff(size)[texts]) // _CHUNK
        yield from np.split(texts, np.flatnonzero(np.diff(part)) + 1)


@dataclass(frozen=True)
class Reading:
    """How texts become features.

    Attributes:
        lowercase: whether they are case folded.
        char_ngrams: shortest and longest n-gram of characters; (1, 0): none.
    """

    lowercase: bool = True
    char_ngrams: tuple[int, int] = (4, 4)

    def text(self, texts: Iterable[str]) -> Text:
        """Split texts into words and n-grams."""
        return Text.of(Words.of(texts, self.lowercase), self.char_ngrams)

    def __str__(self) -> str:
        case = "case folded" if self.lowercase else "case kept"
        shortest, longest = self.char_ngrams
        if shortest > longest:
            return case
        lengths = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
        return f"{case}, n-grams of {lengths} characters"


class Features:
    """The features that have rows: words first, then n-grams.

    Args:
        word_ngrams: longest n-gram of words; 1: none.
        char_ngrams: shortest and longest n-gram of characters; (1, 0): none.
        min_count: fewest texts that a word must be in.
        min_ngram_count: fewest texts that an n-gram must be in.
        max_features: most rows; features of more texts stay.

    Attributes:
        words: the words that have rows, in the order of their rows.
        rows: number of rows.
        counts: (rows,) number of texts that have each feature.
        texts: number of texts seen.
        chars: (rows,) whether the feature is an n-gram of characters.
    """

    def __init__(
        self,
        word_ngrams: int,
        char_ngrams: tuple[int, int],
        min_count: int,
        min_ngram_count: int,
        max_features: int,
    ) -> None:
        self.word_ngrams = word_ngrams
        self.char_ngrams = char_ngrams
        self.min_count, self.min_ngram_count = min_count, min_ngram_count
        self.max_features = max_features
        self.words: list[str] = []
        self.counts = np.zeros(0, np.int64)
        self.chars = np.zeros(0, bool)
        self.texts = 0
        self._keys = np.zeros(0, np.uint64)  # ascending
        self._rows = np.zeros(0, np.int64)  # of _keys

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.counts)

    @property
    def row_keys(self) -> Keys:
        """(rows,) key of each row."""
        keys = np.empty(self.rows, np.uint64)
        keys[self._rows] = self._keys
        return keys

    def restore(self, words: list[str], keys: Keys, counts: Ids, chars: Any, texts: int) -> None:
        """Become what another had as `words`, `row_keys`, `counts`, `chars` and `texts`."""
        self.words, self.counts, self.chars, self.texts = words, counts, chars, texts
        self._set_keys(keys)

    def copy(self) -> Features:
        """Return a copy that `learn` and `add_words` do not change."""
        twin = copy.copy(self)
        twin.words, twin.counts = list(self.words), self.counts.copy()
        return twin

    def subset(self, rows: Ids) -> Features:
        """Return features that have some of the rows, in their order."""
        part = copy.copy(self)
        words = [self.words[row] for row in rows[rows < len(self.words)]]
        keys = self.row_keys[rows]
        part.restore(words, keys, self.counts[rows], self.chars[rows], self.texts)
        return part

    def learn(self, text: Text, texts: Ids) -> Ids:
        """Count the features of texts, and give new ones rows.

        Returns:
            source rows (new rows,): the row that each row was before, or -1, for `Table.remap`.
        """
        lexicon = text.lexicon
        known_words = self._rows_of(lexicon.keys)
        grams, gram_of = distinct(lexicon.ngrams)
        word_counts = np.zeros(len(lexicon.keys), np.int64)
        gram_counts = np.zeros(len(grams), np.int64)
        pairs, pair_counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        for part in text.chunks(texts):
            indices, lengths = text.words.select(part)
            owner = np.repeat(np.arange(len(part)), lengths)
            word_counts += _texts_with(owner, indices, len(word_counts))
            widths = np.diff(lexicon.offsets)[indices]
            inside = ranges(lexicon.offsets[indices], widths)
            gram_counts += _texts_with(np.repeat(owner, widths), gram_of[inside], len(grams))
            keys, owner = text.sequences(part, self.word_ngrams)
            keys, key_of = distinct(keys)
            counts = _texts_with(owner, key_of, len(keys))
            pairs, pair_counts = _merged(pairs, pair_counts, keys, counts)
        self.texts += len(texts)

        new_words = np.flatnonzero((word_counts >= self.min_count) & (known_words < 0))
        new_words = new_words[np.argsort(-word_counts[new_words], kind="stable")]
        known = known_words >= 0
        self.counts[known_words[known]] += word_counts[known]
        new = []
        for keys, counts in ((pairs, pair_counts), (grams, gram_counts)):
            rows = self._rows_of(keys)
            self.counts[rows[rows >= 0]] += counts[rows >= 0]
            fresh = (rows < 0) & (counts >= self.min_ngram_count)
            new.append((keys[fresh], counts[fresh]))
        room = max(self.max_features - self.rows, 0)
        new_words = new_words[:room]
        room -= len(new_words)
        new = _most_frequent(new, room)
        source_rows = self._insert(
            [text.words.distinct[i] for i in new_words],
            lexicon.keys[new_words],
            word_counts[new_words],
            new,
        )
        return source_rows

    def add_words(self, words: list[str]) -> None:
        """Give more words rows, of which no text has been seen."""
        lexicon = Lexicon.of(words, (1, 0))
        unknown = np.flatnonzero(self._rows_of(lexicon.keys) < 0)
        unknown = unknown[: max(self.max_features - self.rows, 0)]
        none = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        counts = np.zeros(len(unknown), np.int64)
        self._insert([words[i] for i in unknown], lexicon.keys[unknown], counts, [none, none])

    def _insert(
        self,
        words: list[str],
        word_keys: Keys,
        word_counts: Ids,
        new: list[tuple[Keys, Ids]],
    ) -> Ids:
        """Put new words behind the old words and new n-grams at the end."""
        old_words, old_rows = len(self.words), self.rows
        fresh = sum(len(keys) for keys, _ in new)
        source_rows = np.concatenate(
            [
                np.arange(old_words),
                np.full(len(words), -1),
                np.arange(old_words, old_rows),
                np.full(fresh, -1),
            ]
        )
        split = [old_words]
        keys = [*np.split(self.row_keys, split), *(keys for keys, _ in new)]
        counts = [*np.split(self.counts, split), *(counts for _, counts in new)]
        chars = [*np.split(self.chars, split)]
        chars += [np.full(len(new[0][0]), False), np.full(len(new[1][0]), True)]
        keys.insert(1, word_keys)
        counts.insert(1, word_counts)
        chars.insert(1, np.full(len(words), False))
        self.words += words
        self.counts, self.chars = np.concatenate(counts), np.concatenate(chars)
        self._set_keys(np.concatenate(keys))
        return source_rows

    def _set_keys(self, row_keys: Keys) -> None:
        self._rows = np.argsort(row_keys, kind="stable")
        self._keys = row_keys[self._rows]

    def _rows_of(self, keys: Keys) -> Ids:
        """Return the row of each key, -1 for keys without one."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._rows[place], -1)

    def idf(self) -> NDArray[np.float32]:
        """Return the inverse document frequency (rows,) of features."""
        return (1 + np.log((1 + self.texts) / (1 + self.counts))).astype(np.float32)

    def encoder(self, text: Text) -> Encoder:
        """Return the encoder that makes bags of texts."""
        lexicon = text.lexicon
        rows = self._rows_of(lexicon.ngrams)
        found = rows >= 0
        ends = np.concatenate([[0], np.cumsum(found)])[lexicon.offsets]
        return Encoder(self, text, self._rows_of(lexicon.keys), rows[found], ends, self.idf())


@dataclass(frozen=True)
class Encoder:
    """Texts as bags of rows.

    Attributes:
        word_rows: (W,) row of each distinct word, or -1.
        gram_rows: (m,) rows of the words' character n-grams, word after word.
        gram_offsets: (W + 1,) where those of each word begin.
        idf: (rows,).
    """

    features: Features
    text: Text
    word_rows: Ids
    gram_rows: Ids
    gram_offsets: Ids
    idf: NDArray[np.float32]

    def pairs(self, texts: Ids) -> tuple[Ids, Ids]:
        """Return the rows (n,) of all features of texts, and the text (n,) of each."""
        indices, lengths = self.text.words.select(texts)
        owner = np.repeat(np.arange(len(texts)), lengths)
        words = self.word_rows[indices]
        widths = np.diff(self.gram_offsets)[indices]
        grams = self.gram_rows[ranges(self.gram_offsets[indices], widths)]
        keys, sequence_owner = self.text.sequences(texts, self.features.word_ngrams)
        sequences = self.features._rows_of(keys)
        rows = np.concatenate([words, sequences, grams])
        owners = np.concatenate([owner, sequence_owner, np.repeat(owner, widths)])
        known = rows >= 0
        return rows[known], owners[known]

    def occurrences(self) -> tuple[Ids, Ids, NDArray[np.float64]]:
        """Return where the features of the first text occur.

        Returns:
            rows (n,), positions (n,) of words, and parts (n,): an n-gram of k words occurs at each
            of them with a part of 1/k.
        """
        length = int(self.text.words.offsets[1])
        indices = self.text.words.indices[:length]
        widths = np.diff(self.gram_offsets)[indices]
        grams = self.gram_rows[ranges(self.gram_offsets[indices], widths)]
        keys, first, lengths = self.text.spans(self.features.word_ngrams)
        sequences = np.repeat(self.features._rows_of(keys), lengths)
        rows = np.concatenate([self.word_rows[indices], grams, sequences])
        positions = np.concatenate(
            [np.arange(length), np.repeat(np.arange(length), widths), ranges(first, lengths)]
        )
        parts = np.concatenate([np.ones(length + len(grams)), np.repeat(1 / lengths, lengths)])
        known = rows >= 0
        return rows[known], positions[known], parts[known]

    def bags(self, texts: Ids) -> Bags:
        """Return the bag of each text: its distinct rows, ascending, and their weights."""
        rows, owners = self.pairs(texts)
        total = max(self.features.rows, 1)
        pairs = np.sort(owners * total + rows)
        firsts = first_of_each(pairs)
        counts = np.diff(np.append(firsts, len(pairs)))
        owners, rows = np.divmod(pairs[firsts], total)
        weights = (1 + np.log(counts, dtype=np.float32)) * self.idf[rows]
        group = 2 * owners + self.features.chars[rows]
        squares = np.bincount(group, np.square(weights), 2 * len(texts)).astype(np.float64)
        weights /= np.sqrt(squares)[group]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(texts)))])
        return Bags(rows, offsets, weights.astype(np.float32))


def first_of_each(ordered: NDArray[Any]) -> Ids:
    """Return the index of the first of each run of equal values."""
    if not len(ordered):
        return np.zeros(0, np.int64)
    return np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])


def distinct(keys: Keys) -> tuple[Keys, Ids]:
    """Return the distinct keys, ascending, and which of them each key is.

    np.unique does the same by hashing, at a hundred times the time for millions of keys.
    """
    order = np.argsort(keys)
    ordered = keys[order]
    firsts = first_of_each(ordered)
    which = np.empty(len(keys), np.int64)
    which[order] = np.repeat(np.arange(len(firsts)), np.diff(np.append(firsts, len(keys))))
    return ordered[firsts], which


def _texts_with(owner: Ids, feature: NDArray[Any], count: int) -> Ids:
    """Return in how many texts each of `count` features occurs."""
    pairs = np.sort(owner * max(count, 1) + feature)
    return np.bincount(pairs[first_of_each(pairs)] % max(count, 1), minlength=count)[:count]


def _merged(a: Keys, a_counts: Ids, b: Keys, b_counts: Ids) -> tuple[Keys, Ids]:
    keys, key_of = distinct(np.concatenate([a, b]))
    both = np.concatenate([a_counts, b_counts])
    return keys, np.bincount(key_of, both, len(keys)).astype(np.int64)


def _most_frequent(new: list[tuple[Keys, Ids]], room: int) -> list[tuple[Keys, Ids]]:
    """Return the features in most texts, `room` of them at most, in the order they were given."""
    counts = np.concatenate([counts for _, counts in new])
    if len(counts) <= room:
        return new
    chosen = np.zeros(len(counts), bool)
    chosen[np.argsort(-counts, kind="stable")[:room]] = True
    split = np.split(chosen, [len(new[0][0])])
    return [(keys[part], c[part]) for (keys, c), part in zip(new, split, strict=True)]
