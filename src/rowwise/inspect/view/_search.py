"""Find words by their letters among millions, as fast as somebody types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_BREAK = "\n"


class Search:
    """Look words up by their letters; upper and lower case count as equal.

    The words stand in one string, a line each, which Python's own search reads fast.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._rows = {word: row for row, word in reversed(list(enumerate(words)))}
        folded = [_folded(word) for word in words]
        self._text = _BREAK.join(["", *folded, ""])
        lengths = np.fromiter(map(len, folded), np.int64, len(folded))
        self._starts = np.concatenate([[0], np.cumsum(lengths + 1)])[:-1]  # of the breaks

    def row_of(self, word: str) -> int | None:
        """Return the first row of this very word, else of one that differs in case, else None."""
        if word in self._rows:
            return self._rows[word]
        return next(self._found(f"{_BREAK}{_folded(word)}{_BREAK}"), None)

    def __call__(self, text: str, k: int) -> NDArray[np.int64]:
        """Return at most k rows: those that are the text, then begin with it, then hold it."""
        wanted = _folded(text)
        rows: dict[int, None] = {}
        if wanted:
            for pattern in (f"{_BREAK}{wanted}{_BREAK}", f"{_BREAK}{wanted}", wanted):
                for row in self._found(pattern):
                    if len(rows) == k:
                        break
                    rows[row] = None
        return np.array([*rows], np.int64)

    def _found(self, pattern: str) -> Iterator[int]:
        at = self._text.find(pattern)
        while at >= 0:
            inside = at + pattern.startswith(_BREAK)
            row = int(np.searchsorted(self._starts, inside)) - 1
            yield row
            if row + 1 == len(self._starts):
                return
            at = self._text.find(pattern, int(self._starts[row + 1]))


def _folded(word: str) -> str:
    return word.casefold().replace(_BREAK, " ")
