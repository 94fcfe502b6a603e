"""Vectors as text: word2vec's and fastText's with a header line, GloVe's without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowwise import _native
from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.gather import Gathering
from rowwise.vectors.layout import MOST_LINE, check_promise, head_of, layout_of
from rowwise.vectors.options import Options
from rowwise.vectors.sink import writing
from rowwise.vectors.source import Source, opened
from rowwise.vectors.vectors import Vectors

_BLOCK = 1 << 22
_NO_LIMIT = 1 << 62
_TOO_FEW, _NOT_A_NUMBER = 1, 2


def read_text(path: str, options: Options, *, header: bool | None = None) -> Vectors:
    """Reads word and numbers a line, with or without a header line; None to find out.

    A row is split at single spaces (byte 0x20) from the right, so that words may hold spaces.

    Raises:
        VectorsFileError: see `rowwise.vectors.load`.
    """
    layout = layout_of(path, head_of(path), header)
    with opened(path) as source:
        check_promise(source, layout)
        source.read(min(layout.skip, source.bound), "the header")
        gathering = Gathering(
            path, layout.dim, options, expected=layout.rows, fraction=source.fraction
        )
        lines = TextLines(source, layout.dim, options, first_line=1 + (layout.rows is not None))
        for block in lines.blocks(gathering):
            gathering.add(block.words, block.rows, block.where, seen=block.seen)
        if layout.rows is not None and not gathering.done and gathering.seen != layout.rows:
            raise _broken_promise(path, layout.rows, gathering.seen)
    return Vectors(*gathering.result())


def write_text(vectors: Vectors, path: str, *, header: bool) -> None:
    """Writes word and numbers a line, each number in the fewest digits that read back the same.

    Raises:
        ValueError: a word holds a line break, or is such that it would be read as something else.
    """
    for word in vectors.words:
        if "\n" in word:
            raise ValueError(
                f"word {word!r} holds a line break, which text cannot; save as .safetensors"
            )
    if not header and vectors.words and vectors.words[0].startswith("\ufeff"):
        raise ValueError(
            f"the first word {vectors.words[0]!r} starts with a byte order mark, which readers "
            "of text drop; save with a header, as .vec, or as .safetensors"
        )
    with writing(path) as file:
        if header:
            file.write(f"{len(vectors)} {vectors.dim}\n".encode())
        for text in text_blocks(vectors, " ", has_word=True):
            file.write(text)


def text_blocks(vectors: Vectors, separator: str, *, has_word: bool) -> Iterator[bytes]:
    """The rows of vectors as text, some at a time."""
    step = max(1, (1 << 18) // vectors.dim)
    for start in range(0, len(vectors), step):
        words, ends = joined(vectors.words[start : start + step])
        rows = vectors.matrix[start : start + step]
        wide = rows.astype(np.float64 if rows.dtype == np.float64 else np.float32, copy=False)
        yield _native.text_of_rows(words, ends, np.ascontiguousarray(wide), separator, has_word)


def joined(words: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """words as bytes one after the other, and where each ends."""
    encoded = [encoded_word(word) for word in words]
    ends = np.fromiter(accumulate(map(len, encoded)), np.int64, len(encoded))
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def encoded_word(word: str) -> bytes:
    """A word's bytes; those that were no UTF-8 and came in by "surrogateescape" as they were.

    Raises:
        ValueError: a lone surrogate, which UTF-8 cannot hold.
    """
    try:
        return word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"word {word!r} holds a lone surrogate, which UTF-8 cannot") from error


@dataclass(frozen=True)
class Block:
    """words (n,) and rows (n, D) of a part of the file; `seen` rows were looked at for them."""

    words: list[str]
    rows: NDArray[Any]
    lines: list[int]
    seen: int

    def where(self, i: int) -> str:
        """A name for row i."""
        return f"line {self.lines[i]}"


class TextLines:
    """The rows of a text file, parsed a block at a time.

    Args:
        source: at the start of the first row.
        dim: numbers in a row.
        options: words that are not wanted are not parsed.
        first_line: its number, for messages.
        separator: between word and numbers.
        has_word: whether a word stands before the numbers.
    """

    def __init__(
        self,
        source: Source,
        dim: int,
        options: Options,
        *,
        first_line: int,
        separator: str = " ",
        has_word: bool = True,
    ) -> None:
        self.source, self.dim, self.options = source, dim, options
        self.line, self.separator, self.has_word = first_line, separator, has_word
        double = options.dtype == np.float64
        self._rows_of = _native.rows_of_text_float64 if double else _native.rows_of_text
        self._wanted = None
        # Words that are changed when decoded can be compared only afterwards.
        if has_word and options.words is not None and options.errors in _EXACT:
            encoded = [word.encode("utf-8", "surrogatepass") for word in options.words]
            if options.errors == "surrogateescape":
                encoded = [encoded_word(word) for word in options.words if _escaped(word)]
            self._wanted = _native.Wanted(encoded)

    def blocks(self, gathering: Gathering) -> Iterator[Block]:
        """Blocks until the file ends, or `gathering` wants no more."""
        buffer, held, start = np.empty(_BLOCK, np.uint8), 0, self.source.at
        last = False
        while not last and not gathering.done:
            got = self.source.read_into(buffer.data[held:])
            last, size = got == 0, held + got
            left = gathering.left
            limit = _NO_LIMIT if left is None else left
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
                        self.source.path,
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
                self.source.path,
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
                self.source.path,
                where,
                found=f"{max(value, 0)} numbers in the row that starts {start!r}",
                expected=expected,
                fix="the row is cut short: remove it, or download the file again",
            )
        end = bytes(text[at : at + 40]).replace(b"\n", b" ").replace(b"\t", b" ").split(b" ")[0]
        return VectorsFileError(
            self.source.path,
            where,
            found=f"{end.decode(errors='backslashreplace')!r} after {value} numbers",
            expected=expected,
            fix="remove or mend the row",
        )


_EXACT = ("strict", "surrogateescape", "surrogatepass")


def _escaped(word: str) -> bool:
    try:
        word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _broken_promise(path: str, promised: int, found: int) -> VectorsFileError:
    fewer = found < promised
    return VectorsFileError(
        path,
        "line 1",
        found=f"{found:,} rows",
        expected=f"{promised:,}, as the header says",
        fix=f"the file is cut short: download it again, or pass limit={found}"
        if fewer
        else f"mend the header, or pass limit={promised}",
    )
