"""Split texts into words as Unicode Standard Annex 29 says."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

# A segment between two word boundaries that does not begin with white space: a word, a number, a
# punctuation mark, an emoji. (?w) makes \b the boundary of Annex 29.
_SEGMENT = regex.compile(r"(?w)\S.*?\b", regex.DOTALL)
# Scripts written without spaces; there Annex 29 makes a word of each character.
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Javanese}\p{Tai_Tham}]\p{M}*"
)
_SURROGATE = regex.compile(r"[\ud800-\udfff]")  # half of a character; no file can hold it
_WORD = regex.compile(r"[\w&&[^_]]", regex.V1)


def split_words(text: str, *, lowercase: bool = True) -> list[str]:
    """Return the words, numbers, punctuation marks and emoji of a text, in Unicode's form NFKC.

    Args:
        text: a text.
        lowercase: whether words are case folded.

    Example:
        >>> split_words("Don't panic: cafe\N{COMBINING ACUTE ACCENT}s have 2.5 stars!")
        ["don't", 'panic', ':', 'cafés', 'have', '2.5', 'stars', '!']
    """
    return _SEGMENT.findall(_normalized(text, lowercase))


def _normalized(text: str, lowercase: bool) -> str:
    if not text.isascii():
        text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
        text = unicodedata.normalize("NFKC", text)
        if lowercase:  # folding can undo the normal form
            return unicodedata.normalize("NFKC", text.casefold())
    return text.lower() if lowercase else text


def checked_texts(texts: Iterable[str], first: int = 0) -> Iterator[str]:
    """Yield texts; the position of the first one is told in an error.

    Raises:
        TypeError: a text that is not a string.
    """
    for position, text in enumerate(texts, first):
        if not isinstance(text, str):
            raise TypeError(
                f"text {text!r} at position {position} is not a string; give '' for no text"
            )
        yield text


def _split(texts: Iterable[str], lowercase: bool) -> Iterator[list[str]]:
    for text in checked_texts(texts):
        yield _SEGMENT.findall(_normalized(text, lowercase))


@dataclass(frozen=True)
class Words:
    """Texts as indices of their distinct words.

    Attributes:
        distinct: W distinct words, in the order of their first appearance.
        indices: (n,) int32, into `distinct`, text after text.
        offsets: (texts + 1,) int64: text i has indices[offsets[i]:offsets[i + 1]].
    """

    distinct: list[str]
    indices: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[str], lowercase: bool) -> Words:
        """Split texts.

        Raises:
            TypeError: a text that is not a string.
        """
        return cls.of_tokens(_split(texts, lowercase))

    @classmethod
    def of_tokens(cls, texts: Iterable[list[str]]) -> Words:
        """Index the words of texts that are split already."""
        index: defaultdict[str, int] = defaultdict()
        index.default_factory = index.__len__  # the next number
        parts: list[NDArray[np.int32]] = []
        lengths: list[int] = []
        for words in texts:
            parts.append(np.fromiter(map(index.__getitem__, words), np.int32, len(words)))
            lengths.append(len(words))
        ends = np.cumsum([0, *lengths], dtype=np.int64)
        indices = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        return cls(list(index), indices, ends)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def select(self, texts: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the indices of some texts, one after the other, and the length of each."""
        lengths = self.offsets[texts + 1] - self.offsets[texts]
        return self.indices[ranges(self.offsets[texts], lengths)], lengths


def is_word(word: str) -> bool:
    """Return whether a segment has a letter or a digit; punctuation and emoji have none."""
    return _WORD.search(word) is not None


def is_unspaced(word: str) -> bool:
    """Return whether a segment is a character of a script written without spaces."""
    return _UNSPACED.fullmatch(word) is not None


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return starts[0], starts[0] + 1, ... for lengths[0] numbers, then from starts[1] on, ..."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
