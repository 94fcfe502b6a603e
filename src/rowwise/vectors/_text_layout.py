"""How text is laid out: with a header line or without, and how many numbers a row has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rowwise.errors import VectorsFileError
from rowwise.vectors._reader import Reader, count_lines, opened

_SHOWN_LINES = 100
_MOST_HEADER = 256
_MOST_DIGITS = 19
MOST_DIM = 1 << 31
MOST_LINE = 1 << 23


@dataclass(frozen=True)
class TextLayout:
    """Describe a text file.

    Attributes:
        dim: numbers in a row.
        rows: as the header says, None without one.
        skip: bytes before the first row.
    """

    dim: int
    rows: int | None
    skip: int


def head_of(path: str, size: int = 1 << 16) -> bytes:
    """Return the first bytes of a file's content, and more until the first two lines are whole."""
    head = bytearray()
    buffer = memoryview(bytearray(size))
    breaks = 0
    with opened(path) as reader:
        while breaks < 2 and len(head) < MOST_LINE and (got := reader.read_into(buffer)):
            head += buffer[:got]
            breaks += bytes(buffer[:got]).count(b"\n")
    return bytes(head)


def layout_of(path: str, head: bytes, header: bool) -> TextLayout:
    """Return the layout of a text file that begins with `head`.

    Raises:
        VectorsFileError: no rows at all, or no header where there must be one.
    """
    skip, lines = _lines_of(head)
    first = lines[0]
    if header:
        promised = header_of(first)
        if promised is None:
            raise VectorsFileError(
                path,
                "line 1",
                found=_shown(first),
                expected="a header: number of words and length of a vector",
                fix="pass format='glove' if there is none",
            )
        return TextLayout(promised[1], promised[0], skip + len(first) + 1)
    dim = _usual_dim(lines[:_SHOWN_LINES], None)
    if dim < 1:
        raise VectorsFileError(
            path,
            "line 1",
            found=_shown(first) if head else "an empty file",
            expected="a word and numbers, with spaces between",
            fix="pass format=... if it is in a format of its own",
        )
    return TextLayout(dim, None, skip)


def has_header(path: str, head: bytes) -> bool:
    """Return whether the first line is a header, and not a word with one number.

    Only where rows have one number does it take the whole file to tell: its lines are counted.
    """
    _, lines = _lines_of(head)
    promised = header_of(lines[0])
    if promised is None:
        return False
    rows, dim = promised
    rest = lines[1 : _SHOWN_LINES + 1]
    if not any(line.strip(b" \r") for line in rest):
        return True
    usual = _usual_dim(rest, dim)
    if usual != 1 or dim != 1:
        return usual != 1
    return rows == count_lines(path) - 1


def header_of(line: bytes) -> tuple[int, int] | None:
    """Return the two whole numbers that a line consists of, or None.

    Example:
        >>> header_of(b"400000 50"), header_of(b"tea 50")
        ((400000, 50), None)
    """
    if len(line) > _MOST_HEADER:
        return None
    fields = [field for field in line.rstrip(b" \r").split(b" ") if field]
    if len(fields) != 2 or not all(f.isdigit() and len(f) <= _MOST_DIGITS for f in fields):
        return None
    return int(fields[0]), int(fields[1])


def check_promise(reader: Reader, layout: TextLayout) -> None:
    """Refuse a header that no file of this size can keep, before any memory is asked for."""
    if layout.rows is None:
        return
    if not 1 <= layout.dim < MOST_DIM:
        raise VectorsFileError(
            reader.path, "line 1", found=f"vectors of {layout.dim}", expected="1 or more numbers"
        )
    least = layout.rows * (2 * layout.dim + 1) - 1
    if least > reader.bound:
        raise VectorsFileError(
            reader.path,
            "line 1",
            found=f"a header that promises {layout.rows:,} rows of {layout.dim}",
            expected=f"at most what {reader.bound:,} bytes can hold; these take {least:,}",
            fix="the file is cut short, or this is no header (then pass format='glove')",
        )


def numbers_at_end(line: bytes) -> int:
    """Count the numbers at the end of a row; what stands first is the word, be it a number too.

    Example:
        >>> numbers_at_end(b"new york 1 -2.5 3e-4")
        3
    """
    count, end = 0, len(line.rstrip(b" \r"))
    while (space := line.rfind(b" ", 0, end)) >= 0:
        if space + 1 < end:
            if not is_number(line[space + 1 : end]):
                break
            count += 1
        end = space
    return count


def is_number(field: bytes) -> bool:
    """Return whether a field is a number, in one pass over it.

    Example:
        >>> [is_number(f) for f in (b"-1.5e+3", b".5", b"nan", b".", b"1x")]
        [True, True, True, False, False]
    """
    body = (field[1:] if field.startswith((b"+", b"-")) else field).lower()
    if body in (b"nan", b"inf", b"infinity"):
        return True
    mantissa, e, exponent = body.partition(b"e")
    if e and not exponent[exponent.startswith((b"+", b"-")) :].isdigit():
        return False
    whole, _, decimals = mantissa.partition(b".")
    return (whole + decimals).isdigit()


def _lines_of(head: bytes) -> tuple[int, list[bytes]]:
    """Return the length of the byte order mark, and the lines that are whole."""
    skip = 3 if head.startswith(b"\xef\xbb\xbf") and not head.startswith(b"\xef\xbb\xbf ") else 0
    lines = head[skip:].split(b"\n")
    if len(lines) > 2 and len(head) < MOST_LINE:
        lines.pop()  # cut in the middle, or empty
    return skip, lines


def _usual_dim(lines: list[bytes], favourite: int | None) -> int:
    """Return the count of numbers that most rows have; of equally frequent ones, the favourite."""
    counts = Counter(numbers_at_end(line) for line in lines if line.strip(b" \r"))
    if not counts:
        return 0
    most = max(counts.values())
    usual = [dim for dim, count in counts.items() if count == most]
    return favourite if favourite in usual else usual[0]


def _shown(line: bytes) -> str:
    text = line[:60].decode(errors="backslashreplace")
    return repr(text + ("..." if len(line) > 60 else ""))
