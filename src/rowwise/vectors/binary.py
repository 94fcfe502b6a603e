"""word2vec's binary format: a header line, then word, space and float32 numbers."""

from __future__ import annotations

import re

import numpy as np

from rowwise import _native
from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.gather import Gathering
from rowwise.vectors.layout import MOST_DIM, head_of
from rowwise.vectors.options import Options
from rowwise.vectors.sink import writing
from rowwise.vectors.source import Source, opened
from rowwise.vectors.text import encoded_word
from rowwise.vectors.vectors import Vectors

_BLOCK = 1 << 22
_MOST_WORD = 1 << 20
_HEADER = re.compile(rb" *(\d{1,19}) +(\d{1,19}) *\r?\n")


def read_binary(path: str, options: Options) -> Vectors:
    """Reads what word2vec writes with `-binary 1`, and gensim with `binary=True`.

    Raises:
        VectorsFileError: see `rowwise.vectors.load`.
    """
    head = head_of(path, 64)
    header = _HEADER.match(head)
    if header is None:
        raise VectorsFileError(
            path,
            "line 1",
            found=repr(head[:40]),
            expected="a header: number of words and length of a vector",
            fix="pass the file's own format=...",
        )
    rows, dim = int(header[1]), int(header[2])
    with opened(path) as source:
        source.read(header.end(), "the header")
        # The least a row can be is an empty word, a space and its numbers.
        if rows * (4 * dim + 1) > source.bound - source.at or not 1 <= dim < MOST_DIM:
            raise VectorsFileError(
                path,
                "line 1",
                found=f"a header that promises {rows:,} rows of {dim}",
                expected=f"what {source.bound:,} bytes can hold",
                fix="the file is cut short, or in another format (then pass format=...)",
            )
        gathering = Gathering(path, dim, options, expected=rows)
        _read_rows(source, gathering, rows, dim, options)
    return Vectors(*gathering.result())


def _read_rows(source: Source, gathering: Gathering, rows: int, dim: int, options: Options) -> None:
    buffer = np.empty(max(_BLOCK, 4 * dim + _MOST_WORD), np.uint8)
    start, held = source.at, 0
    while gathering.seen < rows and not gathering.done:
        got = source.read_into(buffer.data[held:])
        size = held + got
        left = rows - gathering.seen
        if gathering.left is not None:
            left = min(left, gathering.left)
        places, numbers, consumed = _native.rows_of_binary(buffer, size, dim, left)
        if not consumed and (not got or size == len(buffer)):
            raise VectorsFileError(
                source.path,
                f"byte {start}",
                found=f"{gathering.seen:,} rows",
                expected=f"{rows:,}, as the header says",
                fix=f"the file is cut short: download it again, or pass limit={gathering.seen}",
            )
        words = []
        for begin, end, _ in places.tolist():
            try:
                words.append(options.decode(buffer.data[begin:end]))
            except UnicodeDecodeError as error:
                raise VectorsFileError(
                    source.path,
                    f"row {gathering.seen + len(words)}, byte {start + begin + error.start}",
                    found=f"byte 0x{error.object[error.start]:02x} in the word "
                    f"{bytes(error.object)[:40]!r}",
                    expected=f"UTF-8 ({error.reason}; word2vec cuts long words at any byte)",
                    fix="pass errors='ignore' or 'replace', as in bytes.decode, to read on",
                ) from error
        gathering.add(words, numbers[: len(words)])
        start += consumed
        held = size - consumed
        buffer[:held] = buffer[consumed:size].copy()


def write_binary(vectors: Vectors, path: str) -> None:
    """Writes word2vec's binary format; numbers become float32.

    Raises:
        ValueError: a word holds a space or starts with a line break.
    """
    for word in vectors.words:
        if " " in word or word.startswith("\n"):
            raise ValueError(
                f"word {word!r} holds a space, or a line break at its start, which word2vec's "
                "binary format cannot; save as .safetensors"
            )
    step = max(1, (1 << 18) // vectors.dim)
    with writing(path) as file:
        file.write(f"{len(vectors)} {vectors.dim}\n".encode())
        for start in range(0, len(vectors), step):
            rows = vectors.matrix[start : start + step].astype("<f4", copy=False)
            parts: list[bytes] = []
            for word, row in zip(vectors.words[start : start + step], rows, strict=True):
                parts += (encoded_word(word), b" ", row.tobytes(), b"\n")
            file.write(b"".join(parts))
