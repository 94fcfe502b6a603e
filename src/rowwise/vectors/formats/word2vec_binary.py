"""word2vec's binary format: a header line, then word, space and float32 numbers."""

from __future__ import annotations

import numpy as np

from rowwise import _native
from rowwise.errors import VectorsFileError
from rowwise.vectors._collector import BLOCK_ROWS, Collector
from rowwise.vectors._options import Options
from rowwise.vectors._packed_strings import encode_word
from rowwise.vectors._reader import Reader, opened
from rowwise.vectors._text_layout import MOST_DIM, head_of, header_of, numbers_at_end
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors._writer import writing
from rowwise.vectors.formats._format import Confidence, Format, Sample

_BLOCK = 1 << 22
_MOST_WORD = 1 << 20


def _sniff(sample: Sample) -> Confidence:
    first, line_break, rest = sample.head.partition(b"\n")
    if not line_break or not rest or header_of(first) is None:
        return Confidence.NO
    line, whole, _ = rest.partition(b"\n")
    # Text ends a row with a number; four bytes of a float32 are hardly ever one.
    binary = whole or b"\0" in rest or sample.suffix == ".bin"
    return Confidence.CERTAIN if binary and numbers_at_end(line) == 0 else Confidence.NO


def _read(path: str, options: Options) -> WordMatrix:
    """Read what word2vec writes with `-binary 1`, and gensim with `binary=True`."""
    head = head_of(path, 64)
    first, line_break, _ = head.partition(b"\n")
    header = header_of(first) if line_break else None
    if header is None:
        raise VectorsFileError(
            path,
            "line 1",
            found=repr(head[:40]),
            expected="a header: number of words and length of a vector",
            fix="pass the file's own format=...",
        )
    rows, dim = header
    with opened(path) as reader:
        reader.read(len(first) + 1, "the header")
        # The least a row can be is an empty word, a space and its numbers.
        room = max(rows, 1) * (4 * dim + 1)
        if not 1 <= dim < MOST_DIM or (rows and room > reader.bound - reader.at):
            raise VectorsFileError(
                path,
                "line 1",
                found=f"a header that promises {rows:,} rows of {dim}",
                expected=f"what {reader.bound:,} bytes can hold",
                fix="the file is cut short, or in another format (then pass format=...)",
            )
        collector = Collector(
            path, dim, options, expected=rows, holds_expected=reader.is_plain,
            fraction=reader.fraction,
        )  # fmt: skip
        if rows:
            _read_rows(reader, collector, rows, dim, options)
    return collector.result()


def _read_rows(reader: Reader, collector: Collector, rows: int, dim: int, options: Options) -> None:
    buffer = np.empty(max(_BLOCK, 4 * dim + _MOST_WORD), np.uint8)
    start, held = reader.at, 0
    while collector.seen < rows and not collector.done:
        got = reader.read_into(buffer.data[held:])
        size = held + got
        left = min(rows - collector.seen, BLOCK_ROWS)
        if collector.left is not None:
            left = min(left, collector.left)
        places, numbers, consumed = _native.rows_of_binary(buffer, size, dim, left)
        if not consumed and (not got or size == len(buffer)):
            raise VectorsFileError(
                reader.path,
                f"byte {start}",
                found=f"{collector.seen:,} rows",
                expected=f"{rows:,}, as the header says",
                fix=f"the file is cut short: download it again, or pass limit={collector.seen}",
            )
        words = []
        for begin, end, _ in places.tolist():
            try:
                words.append(options.decode(buffer.data[begin:end]))
            except UnicodeDecodeError as error:
                raise VectorsFileError(
                    reader.path,
                    f"row {collector.seen + len(words)}, byte {start + begin + error.start}",
                    found=f"byte 0x{error.object[error.start]:02x} in the word "
                    f"{bytes(error.object)[:40]!r}",
                    expected=f"UTF-8 ({error.reason}; word2vec cuts long words at any byte)",
                    fix="pass errors='ignore' or 'replace', as in bytes.decode, to read on",
                ) from error
        collector.add(words, numbers[: len(words)])
        start += consumed
        held = size - consumed
        buffer[:held] = buffer[consumed:size].copy()


def _write(vectors: WordMatrix, path: str) -> None:
    """Write the rows; numbers become float32."""
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
                parts += (encode_word(word), b" ", row.tobytes(), b"\n")
            file.write(b"".join(parts))


FORMAT = Format(
    name="word2vec-binary",
    about="header line, then float32",
    suffixes=(".bin",),
    sniff=_sniff,
    read=_read,
    write=_write,
    is_compressed=True,
)
