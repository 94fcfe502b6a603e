"""Read words from a file of lines, some at a time."""

from __future__ import annotations

from collections.abc import Iterator

from rowwise.errors import VectorsFileError
from rowwise.vectors._options import Options
from rowwise.vectors._reader import Reader, opened

_BLOCK = 1 << 20
_MOST_LINE = 1 << 20


class WordLines:
    """Read a word a line, or one column of several that tabs separate.

    Args:
        reader: at the start of the file.
        count: how many words there are.
        options: how they are decoded.
        skip: lines before the first word's.
        column: the column of the words, from 0; None where a line is a word, tabs and all.
    """

    def __init__(
        self,
        reader: Reader,
        count: int,
        options: Options,
        *,
        skip: int = 0,
        column: int | None = None,
    ) -> None:
        self.path, self.count = reader.path, count
        self._lines = _lines_of(reader)
        self._options, self._column, self._line = options, column, skip + 1
        for _ in range(skip):
            next(self._lines, None)

    def take(self, count: int) -> list[str]:
        """Return the next words, `count` or as many as there are.

        Raises:
            VectorsFileError: a word is not UTF-8, or a line has no such column.
        """
        words: list[str] = []
        while len(words) < count and (line := next(self._lines, None)) is not None:
            words.append(self._word_of(line))
            self._line += 1
        return words

    def _word_of(self, line: bytes) -> str:
        raw = line.removesuffix(b"\r")
        if self._column is not None:
            fields = raw.split(b"\t", self._column + 1)
            if len(fields) <= self._column:
                raise VectorsFileError(
                    self.path,
                    f"line {self._line}",
                    found=f"{len(fields)} columns",
                    expected=f"{self._column + 1}",
                )
            raw = fields[self._column]
        try:
            return self._options.decode(raw)
        except UnicodeDecodeError as error:
            raise VectorsFileError(
                self.path,
                f"line {self._line}, byte {error.start + 1}",
                found=f"byte 0x{error.object[error.start]:02x}",
                expected=f"UTF-8 ({error.reason})",
                fix="pass errors='replace' or 'ignore', as in bytes.decode, to read on",
            ) from error


def _lines_of(reader: Reader) -> Iterator[bytes]:
    """Yield lines without their line breaks; memory is a block and a line."""
    held = b""
    buffer = memoryview(bytearray(_BLOCK))
    while got := reader.read_into(buffer):
        *lines, held = (held + bytes(buffer[:got])).split(b"\n")
        yield from lines
        if len(held) > _MOST_LINE:
            raise VectorsFileError(
                reader.path, found=f"a line of more than {_MOST_LINE:,} bytes", expected="a word"
            )
    if held:
        yield held


def first_line(path: str) -> bytes:
    """Return the first line of a file, without its line break."""
    with opened(path) as reader:
        return next(_lines_of(reader), b"")
