"""Collect rows as they come from a file into one matrix."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.errors import VectorsFileError
from rowwise.store._memory import available_bytes
from rowwise.vectors._options import Options
from rowwise.vectors._word_matrix import WordMatrix

_BLOCK = 1 << 22
# Rows that are read at once, however short they are: what Python holds of each is larger.
BLOCK_ROWS = 1 << 16
# A name for row i of a block, for messages: "line 7".
Where = Callable[[int], str]


class Words(Protocol):
    """Words that are read in order, some at a time."""

    count: int

    def take(self, count: int) -> list[str]:
        """Return the next words, `count` or as many as there are."""
        ...


class WordList:
    """Words that are in memory."""

    def __init__(self, words: list[str]) -> None:
        self.count, self._words, self._read = len(words), words, 0

    def take(self, count: int) -> list[str]:
        """Return the next words, `count` or as many as there are."""
        self._read += count
        return self._words[self._read - count : self._read]


class Collector:
    """Take blocks of words and rows in the order of the file, and keep what was asked for.

    Of equal words the first stays. Memory is the result and one block: the matrix grows to what
    the part of the file read so far promises.

    Args:
        path: for messages.
        dim: length D of a row.
        options: limit, words, dtype and finiteness.
        expected: rows that the file says it has, if it says so.
        holds_expected: whether the file is long enough for them, so that memory for all of them
            can be asked for at once.
        fraction: part of the file that was read so far.
    """

    def __init__(
        self,
        path: str,
        dim: int,
        options: Options,
        *,
        expected: int | None = None,
        holds_expected: bool = True,
        fraction: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.path, self.options = path, options
        self.index: dict[str, int] = {}
        self.seen = 0
        self._repeated, self._first_repeated = 0, ""
        self._fraction = fraction
        bounds = [expected, options.limit]
        if options.words is not None:
            bounds.append(len(options.words))
        self._most = min((bound for bound in bounds if bound is not None), default=None)
        known = (expected is not None and holds_expected) or options.words is not None
        rows = self._most or 0 if known else 0
        self._rows = np.empty((0, dim), options.dtype)
        self._check_fits(rows)
        self._rows = np.empty((rows, dim), options.dtype)

    @property
    def left(self) -> int | None:
        """Return how many rows of the file are still to be read, None for all of them."""
        return None if self.options.limit is None else self.options.limit - self.seen

    @property
    def done(self) -> bool:
        """Return whether nothing that may follow is asked for."""
        words = self.options.words
        return self.left == 0 or (words is not None and len(self.index) == len(words))

    def add(
        self,
        words: Sequence[str],
        rows: NDArray[Any],
        where: Where | None = None,
        *,
        seen: int | None = None,
    ) -> None:
        """Take words (n,) with rows (n, D), for which `seen` rows of the file were read.

        Raises:
            VectorsFileError: a number that is not finite, or too large for the dtype.
            MemoryError: the rows so far do not fit.
        """
        start = self.seen
        self.seen += len(words) if seen is None else seen
        kept = self._kept(words)
        if kept is not None:
            rows = rows[kept]
        where = where or (lambda i: f"row {start + i}")
        block = self._cast(rows, words, kept, where)
        used = len(self.index)
        self._reserve(used, used - len(block))
        self._rows[used - len(block) : used] = block

    def result(self) -> WordMatrix:
        """Return words (V,) and matrix (V, D); warn once how many words were repeated."""
        if self._repeated:
            warnings.warn(
                f"{self.path}: rows of words that had come before were left out: {self._repeated}, "
                f"first {self._first_repeated!r}; the first of each stays",
                stacklevel=4,
            )
        if len(self._rows) != len(self.index):
            self._rows.resize((len(self.index), self._rows.shape[1]), refcheck=False)
        return WordMatrix(list(self.index), self._rows)

    def _kept(self, words: Sequence[str]) -> list[int] | None:
        """Put the words to keep into the index; return their places, None for all of them."""
        index, wanted = self.index, self.options.words
        if wanted is None:
            block = dict(zip(words, range(len(index), len(index) + len(words)), strict=True))
            if len(block) == len(words) and index.keys().isdisjoint(block):
                index.update(block)
                return None
        kept = []
        for i, word in enumerate(words):
            if wanted is not None and word not in wanted:
                continue
            if word in index:
                self._first_repeated = self._first_repeated if self._repeated else word
                self._repeated += 1
                continue
            index[word] = len(index)
            kept.append(i)
        return kept

    def _cast(
        self, rows: NDArray[Any], words: Sequence[str], kept: list[int] | None, where: Where
    ) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            block = rows.astype(self.options.dtype, copy=False)
        if not self.options.finite:
            return block
        if block.dtype == np.float32 and block.flags.c_contiguous:
            bad = _native.first_nonfinite(block)
        else:
            finite = np.isfinite(block)
            bad = -1 if finite.all() else int(np.argmin(finite))
        if bad < 0:
            return block
        row, column = divmod(bad, block.shape[1])
        i = row if kept is None else kept[row]
        value = rows[row, column]
        if np.isfinite(value):
            raise VectorsFileError(
                self.path,
                where(i),
                found=f"{value} in the vector of {words[i]!r}",
                expected=f"what {self.options.dtype} can hold",
                fix="take dtype='float32'",
            )
        raise VectorsFileError(
            self.path,
            where(i),
            found=f"{value} as number {column + 1} of {words[i]!r}",
            expected="finite numbers",
            fix="remove the row, or pass finite=False to keep it as it is",
        )

    def _reserve(self, needed: int, used: int) -> None:
        if needed <= len(self._rows):
            return
        rows = needed + needed // 8
        if used == 0 and 0 < (fraction := self._fraction()) < 1:
            guess = int(needed / fraction * 1.02) + 16
            rows = guess if self._fits(guess) else rows
        if self._most is not None:
            rows = max(needed, min(rows, self._most))
        self._check_fits(rows)
        if used == 0:
            self._rows = np.empty((rows, self._rows.shape[1]), self._rows.dtype)
        else:
            self._rows.resize((rows, self._rows.shape[1]), refcheck=False)

    def _fits(self, rows: int) -> bool:
        available = available_bytes()
        return available is None or self._bytes_of(rows) - self._rows.nbytes <= available

    def _bytes_of(self, rows: int) -> int:
        return rows * self._rows.shape[1] * self._rows.itemsize

    def _check_fits(self, rows: int) -> None:
        if not self._fits(rows):
            raise MemoryError(
                f"{self.path}: {rows:,} rows of {self._rows.shape[1]} {self._rows.dtype} need "
                f"{self._bytes_of(rows):,} bytes and {available_bytes() or 0:,} are available; "
                "pass limit=..., words=... or dtype='float16'"
            )


def collect(
    path: str,
    words: Words,
    rows: Any,
    shape: tuple[int, ...],
    options: Options,
    *,
    are_there: bool = True,
) -> WordMatrix:
    """Return the part that was asked for of words and of rows, which are read in lockstep.

    Args:
        path: for messages.
        words: as many as there are rows.
        rows: anything whose slices, taken in order, are arrays (n, D).
        shape: of all rows, (V, D).
        options: what was asked for.
        are_there: whether all rows are known to be there, not just said to be.

    Raises:
        VectorsFileError: there is not a word for each row.
    """
    if len(shape) != 2 or shape[0] != words.count or shape[1] < 1:
        raise VectorsFileError(
            path,
            found=f"{words.count:,} words for a matrix of shape {tuple(shape)}",
            expected="a word for each row",
            fix="look whether the two are of one model",
        )
    collector = Collector(path, shape[1], options, expected=shape[0], holds_expected=are_there)
    step = min(BLOCK_ROWS, max(1, _BLOCK // (shape[1] * 4)))
    for start in range(0, shape[0], step):
        if collector.done:
            break
        stop = min(start + step, shape[0])
        if collector.left is not None:
            stop = min(stop, start + collector.left)
        collector.add(words.take(stop - start), np.asarray(rows[start:stop]))
    return collector.result()
