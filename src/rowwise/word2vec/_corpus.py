"""`Corpus`: a text as ids of words."""

from __future__ import annotations

import gzip
import os
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rowwise._checks import positive
from rowwise.text._columns import cells
from rowwise.text._tokenizing import Splitter
from rowwise.text._vocabulary import Vocabulary


@dataclass(frozen=True)
class Corpus:
    """The sentences of a text, as ids of a vocabulary that has frequent words first.

    Attributes:
        vocabulary: V words.
        counts: (V,) how often each word occurs.
        ids: (n,) of the words in the vocabulary, sentence after sentence.
        ends: (sentences,) the index in ids at which each sentence ends.

    Example:
        >>> corpus = Corpus.from_texts(["the tea the cup", "a cup"], min_count=2)
        >>> list(corpus.vocabulary), corpus.ids.tolist(), corpus.ends.tolist()
        (['the', 'cup'], [0, 0, 1, 1], [3, 4])
    """

    vocabulary: Vocabulary
    counts: NDArray[np.int64]
    ids: NDArray[np.int32]
    ends: NDArray[np.int64]

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        *,
        min_count: int = 5,
        max_size: int | None = None,
        split: Any = "words",
        lowercase: bool | None = None,
    ) -> Corpus:
        """Read sentences.

        Args:
            texts: strings, a sentence each; a list, an iterable or a column.
            min_count: rarer words are left out of the sentences.
            max_size: words at most; the most frequent stay.
            split, lowercase: how texts become words, see `rowwise.Vocabulary`.

        Raises:
            ValueError: no word is frequent enough.
        """
        splitter = Splitter(split, lowercase)
        tokens = splitter(cells(texts, "texts"))
        vocabulary = Vocabulary([], split=split, lowercase=lowercase)
        return cls._of(tokens, vocabulary, min_count, max_size)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Corpus:
        """Read a file in UTF-8, a sentence a line, plain or gzip; options as in `from_texts`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line is no UTF-8, the gzip is damaged, or no word is frequent enough.
        """
        name = os.fspath(path)
        with open(name, "rb") as file:
            return cls.from_texts(lines(file, name), **options)

    @classmethod
    def _of(
        cls,
        sentences: Iterable[list[str]],
        empty: Vocabulary,
        min_count: int,
        max_size: int | None,
    ) -> Corpus:
        positive("min_count", min_count)
        index: defaultdict[str, int] = defaultdict()
        index.default_factory = index.__len__  # the next number
        found, lengths = array("i"), array("q")
        for tokens in sentences:
            found.extend(map(index.__getitem__, tokens))
            lengths.append(len(tokens))
        numbers = np.frombuffer(found, np.int32)
        counts = np.bincount(numbers, minlength=len(index))
        chosen = np.argsort(-counts, kind="stable")
        chosen = chosen[counts[chosen] >= min_count]
        if max_size is not None:
            chosen = chosen[: positive("max_size", max_size)]
        if not len(chosen):
            most = int(counts.max(initial=0))
            raise ValueError(
                f"no word occurs {min_count} times: the most frequent of {len(index)} occurs "
                f"{most} times; give a smaller min_count or more text"
            )
        new_ids = np.full(len(index), -1, np.int32)
        new_ids[chosen] = np.arange(len(chosen))
        words = list(index)
        ids = new_ids[numbers]
        kept_before = np.concatenate([[0], np.cumsum(ids >= 0)])
        return cls(
            vocabulary=empty.with_tokens(words[number] for number in chosen),
            counts=counts[chosen],
            ids=ids[ids >= 0],
            ends=kept_before[np.cumsum(np.frombuffer(lengths, np.int64))],
        )


def lines(file: BinaryIO, name: str) -> Iterator[str]:
    """Yield the lines of an open file in UTF-8; the file is gzip if its name ends so.

    Raises:
        ValueError: a line is no UTF-8, or the gzip is damaged; the line is named.
    """
    plain: Any = gzip.GzipFile(fileobj=file) if name.endswith(".gz") else file
    number = 0
    try:
        for number, line in enumerate(plain, 1):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{name!r}, line {number}: byte {error.start + 1} "
                    f"(0x{line[error.start]:02x}) is no UTF-8; convert the file"
                ) from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{name!r} cannot be read after line {number}: {error}") from None
