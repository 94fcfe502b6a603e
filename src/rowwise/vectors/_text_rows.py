"""Rows as text: a word and its numbers a line, or numbers alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.errors import VectorsFileError
from rowwise.vectors._collector import BLOCK_ROWS, Collector
from rowwise.vectors._options import Options
from rowwise.vectors._packed_strings import encode_word, pack
from rowwise.vectors._reader import Reader
from rowwise.vectors._text_layout import MOST_LINE
from rowwise.vectors._word_matrix import WordMatrix

_BLOCK = 1 << 22
_TOO_FEW = 1
# Handlers of decoding errors under which a word's bytes can be told from its text.
_EXACT = ("strict", "surrogateescape", "surrogatepass")


def text_blocks(vectors: WordMatrix, separator: str, *, has_word: bool) -> Iterator[bytes]:
    """Yield the rows of vectors as text, some at a time.

    Each number has the fewest digits that read back as the same.
    """
    step = max(1, (1 << 18) // vectors.dim)
    for start in range(0, len(vectors), step):
        words, ends = pack(vectors.words[start : start + step])
        rows = vectors.matrix[start : start + step]
        wide = rows.astype(np.float64 if rows.dtype == np.float64 else np.float32, copy=False)
        yield _native.text_of_rows(words, ends, np.ascontiguousarray(wide), separator, has_word)


@dataclass(frozen=True)
class Block:
    """Hold the words (n,) and rows (n, D) of a part of the file.

    Attributes:
        words, rows: those that are wanted.
        lines: the number of each row's line.
        seen: how many rows the part has, wanted or not.
    """

    words: list[str]
    rows: NDArray[Any]
    lines: list[int]
    seen: int

    def where(self, i: int) -> str:
        """Return a name for row i."""
        return f"line {self.lines[i]}"


class TextLines:
    """Parse the rows of a text file, a block at a time.

    Args:
        reader: at the start of the first row.
        dim: numbers in a row.
        options: words that are not wanted are not parsed.
        first_line: its number, for messages.
        separator: between word and numbers.
        has_word: whether a word stands before the numbers.
    """

    def __init__(
        self,
        reader: Reader,
        dim: int,
        options: Options,
        *,
        first_line: int,
        separator: str = " ",
        has_word: bool = True,
    ) -> None:
        self.reader, self.dim, self.options = reader, dim, options
        self.line, self.separator, self.has_word = first_line, separator, has_word
        double = options.dtype == np.float64
        self._rows_of = _native.rows_of_text_float64 if double else _native.rows_of_text
        self._wanted = None
        # Words that are changed when decoded can be compared only afterwards.
        if has_word and options.words is not None and options.errors in _EXACT:
            encoded = [word.encode("utf-8", "surrogatepass") for word in options.words]
            if options.errors == "surrogateescape":
                encoded = [encode_word(word) for word in options.words if _escaped(word)]
            self._wanted = _native.Wanted(encoded)

    def blocks(self, collector: Collector) -> Iterator[Block]:
        """Yield blocks until the file ends, or `collector` wants no more."""
        buffer, held, start = np.empty(_BLOCK, np.uint8), 0, self.reader.at
        last = False
        while not collector.done and not (last and not held):
            got = self.reader.read_into(buffer.data[held:])
            last, size = got == 0, held + got
            left = collector.left
            limit = BLOCK_ROWS if left is None else min(left, BLOCK_ROWS)
            places, rows, (consumed, lines, seen), fault = self._rows_of(
                buffer, size, self.dim, self.separator, self.has_word, last, limit, self._wanted
            )
            if fault[0]:
                raise self._error(buffer.data[:size], fault)
            yield self._block(buffer.data, places, rows, seen, start)
            self.line += lines
            start += consumed
            held = size - consumed
            if held == len(buffer):
                if held >= MOST_LINE:
                    raise VectorsFileError(
                        self.reader.path,
                        f"line {self.line}",
                        found=f"no line break in {held:,} bytes",
                        expected="a row a line",
                        fix="pass format=... if it is in another format",
                    )
                buffer = np.concatenate([buffer, np.empty_like(buffer)])
            else:
                buffer[:held] = buffer[consumed:size].copy()

    def _block(
        self, text: memoryview, places: NDArray[np.int64], rows: NDArray[Any], seen: int, start: int
    ) -> Block:
        lines = (places[:, 2] + self.line).tolist()
        if not self.has_word:
            return Block([""] * len(lines), rows, lines, seen)
        spans = places[:, :2].tolist()
        errors = self.options.errors
        words: list[str] = []
        try:
            for begin, end in spans:
                words.append(str(text[begin:end], "utf-8", errors))
        except UnicodeDecodeError as error:
            begin = spans[len(words)][0]
            raise VectorsFileError(
                self.reader.path,
                f"line {lines[len(words)]}, byte {error.start + 1}",
                found=f"byte 0x{error.object[error.start]:02x} "
                f"(byte {start + begin + error.start} of the content)",
                expected=f"UTF-8 ({error.reason})",
                fix="pass errors='replace' or 'ignore', as in bytes.decode, to read on",
            ) from error
        return Block(words, rows, lines, seen)

    def _error(self, text: memoryview, fault: tuple[int, int, int, int]) -> VectorsFileError:
        kind, line, at, value = fault
        where = f"line {self.line + line}"
        numbers = f"{self.dim} number{'s' * (self.dim != 1)}"
        expected = f"a word and {numbers}" if self.has_word else numbers
        if kind == _TOO_FEW:
            start = bytes(text[at : at + 40]).split(b"\n")[0].decode(errors="backslashreplace")
            return VectorsFileError(
                self.reader.path,
                where,
                found=f"{max(value, 0)} numbers in the row that starts {start!r}",
                expected=expected,
                fix="the row is cut short: remove it, or download the file again",
            )
        end = bytes(text[at : at + 40]).replace(b"\n", b" ").replace(b"\t", b" ").split(b" ")[0]
        return VectorsFileError(
            self.reader.path,
            where,
            found=f"{end.decode(errors='backslashreplace')!r} after {value} numbers",
            expected=expected,
            fix="remove or mend the row",
        )


def _escaped(word: str) -> bool:
    try:
        word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
