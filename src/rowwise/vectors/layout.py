"""How a text file of vectors is laid out: header or none, and how many numbers a row has."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.source import Source, opened

_HEADER = re.compile(rb" *(\d{1,19}) +(\d{1,19})[ \r]*")
_NUMBER = re.compile(
    rb"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|nan|inf|infinity)", re.IGNORECASE
)
_SHOWN_LINES = 100
MOST_DIM = 1 << 31
MOST_LINE = 1 << 26


@dataclass(frozen=True)
class Layout:
    """dim: numbers in a row; rows: as the header says, None without one; skip: bytes before."""

    dim: int
    rows: int | None
    skip: int


def head_of(path: str, size: int = 1 << 16) -> bytes:
    """The first bytes of a file's content, and more until the first two lines are whole."""
    head = bytearray()
    with opened(path) as source:
        while True:
            more = memoryview(bytearray(size))
            got = source.read_into(more)
            head += more[:got]
            if not got or head.count(b"\n", 0) > 1 or len(head) >= MOST_LINE:
                return bytes(head)


def layout_of(path: str, head: bytes, header: bool | None) -> Layout:
    """The layout of a text file that begins with `head`; `header` None to find out.

    Raises:
        VectorsFileError: no rows at all, or no header where there must be one.
    """
    skip = 3 if head.startswith(b"\xef\xbb\xbf") and not head.startswith(b"\xef\xbb\xbf ") else 0
    lines = head[skip:].split(b"\n")
    if len(lines) > 2 and len(head) < MOST_LINE:
        lines.pop()  # cut in the middle, or empty
    first = lines[0]
    promised = _HEADER.fullmatch(first)
    if header and promised is None:
        raise VectorsFileError(
            path,
            "line 1",
            found=_shown(first),
            expected="a header: number of words and length of a vector",
            fix="pass format='glove' if there is none",
        )
    if promised is not None and header is not False:
        rows, dim = int(promised[1]), int(promised[2])
        if header or _is_header(path, rows, dim, lines[1 : _SHOWN_LINES + 1]):
            return Layout(dim, rows, skip + len(first) + 1)
    dim = _usual_dim(lines[:_SHOWN_LINES], None)
    if dim < 1:
        raise VectorsFileError(
            path,
            "line 1",
            found=_shown(first) if head else "an empty file",
            expected="a word and numbers, with spaces between",
            fix="pass format=... if it is in a format of its own",
        )
    return Layout(dim, None, skip)


def check_promise(source: Source, layout: Layout) -> None:
    """Refuses a header that no file of this size can keep, before any memory is asked for."""
    if layout.rows is None:
        return
    if not 1 <= layout.dim < MOST_DIM:
        raise VectorsFileError(
            source.path, "line 1", found=f"vectors of {layout.dim}", expected="1 or more numbers"
        )
    least = layout.rows * (2 * layout.dim + 1) - 1
    if least > source.bound:
        raise VectorsFileError(
            source.path,
            "line 1",
            found=f"a header that promises {layout.rows:,} rows of {layout.dim}",
            expected=f"at most what {source.bound:,} bytes can hold; these take {least:,}",
            fix="the file is cut short, or this is no header (then pass format='glove')",
        )


def _is_header(path: str, rows: int, dim: int, lines: list[bytes]) -> bool:
    """Whether "rows dim" is a header before such lines, or a word with the one number `dim`."""
    if not lines or not any(line.strip(b" \r") for line in lines):
        return True
    usual = _usual_dim(lines, dim)
    if usual != 1 or dim != 1:
        return usual != 1
    return rows == _lines_in(path) - 1


def _usual_dim(lines: list[bytes], favourite: int | None) -> int:
    """The count of numbers that most rows have; of equally frequent ones, the favourite."""
    counts = Counter(numbers_at_end(line) for line in lines if line.strip(b" \r"))
    if not counts:
        return 0
    most = max(counts.values())
    usual = [dim for dim, count in counts.items() if count == most]
    return favourite if favourite in usual else usual[0]


def numbers_at_end(line: bytes) -> int:
    """Numbers at the end of a row; what stands first is the word, be it a number too."""
    fields = [field for field in line.rstrip(b" \r").split(b" ")[1:] if field]
    for count, field in enumerate(reversed(fields)):
        if not _NUMBER.fullmatch(field):
            return count
    return len(fields)


def _lines_in(path: str) -> int:
    count, ended = 0, True
    buffer = bytearray(1 << 20)
    with opened(path) as source:
        while got := source.read_into(memoryview(buffer)):
            count += buffer.count(b"\n", 0, got)
            ended = buffer[got - 1] == 10
    return count + (not ended)


def _shown(line: bytes) -> str:
    text = line[:60].decode(errors="backslashreplace")
    return repr(text + ("..." if len(line) > 60 else ""))
