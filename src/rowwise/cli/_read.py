"""Columns of files, cell by cell as they stand: CSV, TSV, JSON lines, Parquet."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Cell = str | list[str] | None  # a list and None come from JSON lines and Parquet alone

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_HALF = re.compile("[\ud800-\udfff]")  # of a character, which JSON can have and no text file
KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


class UsageError(Exception):
    """Why a command cannot do what it was asked; the message names the cause and the fix."""


@dataclass(frozen=True)
class Layout:
    """How a file is to be read.

    Attributes:
        encoding: of its text; None: what its byte order mark says, else UTF-8.
        header: whether CSV and TSV begin with the names of their columns; without, columns go by
            number, from 1.
        quotes: whether cells may stand in quotation marks; None: in CSV, not in TSV.
    """

    encoding: str | None = None
    header: bool = True
    quotes: bool | None = None


def read_columns(path: Path, *names: str, layout: Layout = Layout()) -> list[list[Cell]]:
    """Return columns of a file, every row of it.

    A cell is text as it stands in the file. JSON's null, and Parquet's, is None.

    Args:
        path: .csv, .tsv, .jsonl (or .ndjson), .parquet; text also with .gz after it. Of other
            endings the file is TSV.
        names: of the columns.
        layout: see `Layout`.

    Raises:
        UsageError: no such file, broken content, no such column or several.
    """
    kind = kind_of(path)
    if kind == ".parquet":
        return _parquet_columns(path, names)
    if kind in (".jsonl", ".ndjson"):
        rows = _json_rows(path, layout)
        return _by_row(path, (_json_cells(path, *row, names) for row in rows), len(names))
    lines = _delimited_rows(path, kind == ".csv", layout)
    header = next(lines, None)
    if header is None:
        raise UsageError(f"{str(path)!r} is empty")
    if not layout.header:
        lines, header = _before(header, lines), [str(i) for i in range(1, len(header) + 1)]
    places = [_place(path, header, name) for name in names]
    return _by_row(path, (_cells(path, n, row, header, places) for n, row in enumerate(lines, 2)),
                   len(names))  # fmt: skip


def read_names(path: Path, layout: Layout = Layout()) -> list[str]:
    """Return the names of a file's columns; see `read_columns`."""
    kind = kind_of(path)
    if kind == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    if kind in (".jsonl", ".ndjson"):
        _, row = next(_json_rows(path, layout), (1, {}))
        return list(row)
    header = next(_delimited_rows(path, kind == ".csv", layout), [])
    return header if layout.header else [str(i) for i in range(1, len(header) + 1)]


def kind_of(path: Path) -> str:
    """Return a file's ending, without .gz, in lower case.

    Raises:
        UsageError: there is no such file.
    """
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; name a file")
    if not path.exists():
        raise UsageError(f"there is no file {str(path)!r}")
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_lines(path: Path, encoding: str | None = None) -> Iterator[str]:
    r"""Yield the lines of a text file, or of standard input for "-", without their ends.

    Lines end with \n or \r\n, and with nothing else that Unicode has for it.

    Raises:
        UsageError: bytes that are not text in this encoding; file, line and byte are named.
    """
    number = 0
    try:
        with _opened(path) as file:
            start = file.peek(4)[:4]
            found = next(
                (e for mark, e in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), None
            )
            used = encoding or found or "utf-8"
            if used.lower().replace("_", "-").startswith(("utf-16", "utf-32", "u16", "u32")):
                for text in io.StringIO(_decoded(file.read(), used, path), newline="\n"):
                    yield text.removesuffix("\n").removesuffix("\r")
                return
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode(used)
                except UnicodeDecodeError as error:
                    raise _not_text(path, f"line {number}, ", error, line, used) from None
                yield text.removesuffix("\n").removesuffix("\r")
    except LookupError:
        raise UsageError(f"--encoding {encoding!r} is not an encoding that Python knows") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UsageError(f"{str(path)!r} cannot be read after line {number}: {error}") from None


def _opened(path: Path) -> Any:
    if str(path) == "-":
        stream: Any = sys.stdin.buffer
        return nullcontext(stream if hasattr(stream, "peek") else io.BufferedReader(stream))
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; name a file")
    try:
        return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def _decoded(content: bytes, encoding: str, path: Path) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_text(path, "", error, content, encoding) from None


def _not_text(
    path: Path, where: str, error: UnicodeDecodeError, content: bytes, encoding: str
) -> UsageError:
    shown = f", byte {error.start + 1} (0x{content[error.start]:02x})" if content else ""
    return UsageError(
        f"{str(path)!r}: {where.removesuffix(', ')}{shown if where else shown.removeprefix(', ')} "
        f"is not {encoding.upper()}; name the encoding, such as --encoding cp1252"
    )


def _before(first: list[str], rest: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rest


def _delimited_rows(path: Path, commas: bool, layout: Layout) -> Iterator[list[str]]:
    quoted = commas if layout.quotes is None else layout.quotes
    lines = read_lines(path, layout.encoding)
    if not quoted:
        separator = "," if commas else "\t"
        yield from (line.split(separator) for line in lines if line)
        return
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(
        (line + "\n" for line in lines), delimiter="," if commas else "\t", strict=True
    )
    try:
        # A blank line is no row.
        yield from (row for row in reader if row)
    except csv.Error as error:
        what = str(error)
        if "unexpected end" in what:
            what = "a quotation mark is opened and never closed"
        raise UsageError(
            f"{str(path)!r}, line {reader.line_num}: {what}; --no-quotes takes quotation marks as "
            "they stand"
        ) from None


def _place(path: Path, header: list[str], name: str) -> int:
    found = header.count(name)
    if found > 1:
        raise UsageError(f"{str(path)!r} has {found} columns {name!r}; rename all but one")
    if not found:
        raise UsageError(
            f"{str(path)!r} has no column {name!r}; its columns are {', '.join(map(repr, header))}"
        )
    return header.index(name)


def _cells(
    path: Path, number: int, row: list[str], header: list[str], places: list[int]
) -> list[Cell]:
    if len(row) != len(header):
        raise UsageError(
            f"{str(path)!r}: row {number} has {len(row)} cells, and the first row {len(header)}"
        )
    return [row[place] for place in places]


def _by_row(path: Path, rows: Iterable[list[Cell]], count: int) -> list[list[Cell]]:
    columns: list[list[Cell]] = [[] for _ in range(count)]
    for row in rows:
        for column, cell in zip(columns, row, strict=True):
            column.append(cell)
    return columns


def _json_rows(path: Path, layout: Layout) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_lines(path, layout.encoding), 1):
        if not line.strip():
            continue
        try:  # numbers stay as they stand
            row = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{str(path)!r}, line {number}: it is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UsageError(f"{str(path)!r}, line {number}: it is not a JSON object")
        yield number, row


def _json_cells(path: Path, number: int, row: dict[str, Any], names: tuple[str, ...]) -> list[Cell]:
    for name in names:
        if name not in row:
            raise UsageError(
                f"{str(path)!r}, line {number} has no column {name!r}; its columns are "
                f"{', '.join(map(repr, row))}"
            )
    return [_cell(path, f"line {number}", name, row[name]) for name in names]


def _cell(path: Path, where: str, name: str, value: Any) -> Cell:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return None
    if isinstance(value, str):
        return _HALF.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return [_HALF.sub("\N{REPLACEMENT CHARACTER}", part) for part in value]
    raise UsageError(f"{str(path)!r}, {where}: {name!r} is not text: {str(value)[:40]}")


def _parquet(path: Path) -> Any:
    from pyarrow import ArrowInvalid, parquet

    try:
        return parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error}") from None


def _parquet_columns(path: Path, names: tuple[str, ...]) -> list[list[Cell]]:
    file = _parquet(path)
    for name in names:
        _place(path, list(file.schema_arrow.names), name)
    try:
        table = file.read(columns=list(names))
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error}") from None
    columns = []
    for name in names:
        column: list[Cell] = []
        for number, value in enumerate(table[name].to_pylist(), 1):
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = str(value)
            column.append(_cell(path, f"row {number}", name, value))
        columns.append(column)
    return columns
