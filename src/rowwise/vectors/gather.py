"""Rows as they come from a file, gathered into one matrix."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.store._memory import available_bytes
from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.options import Options

# A name for row i of a block, for messages: "line 7".
Where = Callable[[int], str]


class Gathering:
    """Takes blocks of words and rows in the order of the file, and keeps what was asked for.

    The first of equal words stays. Memory is the result and one block: the matrix grows to what
    the part of the file read so far promises.

    Args:
        path: for messages.
        dim: length D of a row.
        options: limit, words, dtype and finiteness.
        expected: rows that the file says it has, if it does and can.
        fraction: part of the file that was read so far.
    """

    def __init__(
        self,
        path: str,
        dim: int,
        options: Options,
        *,
        expected: int | None = None,
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
        self._known = expected is not None or options.words is not None
        self._check_fits(self._most or 0 if self._known else 0, dim)
        self._rows = np.empty((self._most or 0 if self._known else 0, dim), options.dtype)

    @property
    def left(self) -> int | None:
        """Rows of the file that are still to be looked at, None for all of them."""
        return None if self.options.limit is None else self.options.limit - self.seen

    @property
    def done(self) -> bool:
        """Whether nothing that may follow is asked for."""
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
        """Takes words (n,) with rows (n, D), of `seen` rows that were looked at in the file."""
        start = self.seen
        self.seen += len(words) if seen is None else seen
        kept = self._kept(words)
        if kept is not None:
            rows = rows[kept]
        where = where or (lambda i: f"row {start + i}")
        taken = self._cast(rows, words, kept, where)
        used = len(self.index)
        self._make_room(used, used - len(taken))
        self._rows[used - len(taken) : used] = taken

    def result(self) -> tuple[list[str], NDArray[Any]]:
        """words (V,) and matrix (V, D); says once how many words were repeated."""
        if self._repeated:
            warnings.warn(
                f"{self.path}: rows of words that had come before were left out: {self._repeated}, "
                f"first {self._first_repeated!r}; the first of each stays",
                stacklevel=4,
            )
        if len(self._rows) != len(self.index):
            self._rows.resize((len(self.index), self._rows.shape[1]), refcheck=False)
        return list(self.index), self._rows

    def _kept(self, words: Sequence[str]) -> list[int] | None:
        """Places of the words to keep, now in the index; None for all of them."""
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
            taken = rows.astype(self.options.dtype, copy=False)
        if not self.options.finite:
            return taken
        if taken.dtype == np.float32 and taken.flags.c_contiguous:
            bad = _native.first_nonfinite(taken)
        else:
            finite = np.isfinite(taken)
            bad = -1 if finite.all() else int(np.argmin(finite))
        if bad < 0:
            return taken
        row, column = divmod(bad, taken.shape[1])
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

    def _make_room(self, needed: int, used: int) -> None:
        if needed <= len(self._rows):
            return
        fraction = self._fraction()
        guess = int(needed / fraction * 1.02) + 16 if 0 < fraction < 1 else needed
        rows = max(needed, guess if used == 0 else min(guess, needed + needed // 8))
        if self._most is not None:
            rows = max(needed, min(rows, self._most))
        self._check_fits(rows, self._rows.shape[1])
        if used == 0:
            self._rows = np.empty((rows, self._rows.shape[1]), self._rows.dtype)
        else:
            self._rows.resize((rows, self._rows.shape[1]), refcheck=False)

    def _check_fits(self, rows: int, dim: int) -> None:
        needed, available = rows * dim * self.options.dtype.itemsize, available_bytes()
        held = getattr(self, "_rows", np.empty(0)).nbytes
        if available is not None and needed - held > available:
            raise MemoryError(
                f"{self.path}: {rows:,} rows of {dim} {self.options.dtype} need {needed:,} bytes "
                f"and {available:,} are available; pass limit=..., words=... or dtype='float16'"
            )
