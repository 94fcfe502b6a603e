"""Read and write text with a word and its numbers a line, for the formats that are such text."""

from __future__ import annotations

from rowwise.errors import VectorsFileError
from rowwise.vectors._collector import Collector
from rowwise.vectors._options import Options
from rowwise.vectors._reader import opened
from rowwise.vectors._text_layout import check_promise, head_of, layout_of
from rowwise.vectors._text_rows import TextLines, text_blocks
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors._writer import writing


def read_text(path: str, options: Options, *, header: bool) -> WordMatrix:
    """Read a word and numbers a line, with or without a header line.

    A row is split at single spaces (byte 0x20) from the right, so that words may hold spaces.
    """
    layout = layout_of(path, head_of(path), header)
    with opened(path) as reader:
        check_promise(reader, layout)
        reader.read(min(layout.skip, reader.bound), "the header")
        collector = Collector(
            path,
            layout.dim,
            options,
            expected=layout.rows,
            holds_expected=reader.is_plain,
            fraction=reader.fraction,
        )
        lines = TextLines(reader, layout.dim, options, first_line=1 + header)
        for block in lines.blocks(collector):
            collector.add(block.words, block.rows, block.where, seen=block.seen)
        if layout.rows is not None and not collector.done and collector.seen != layout.rows:
            raise _broken_promise(path, layout.rows, collector.seen)
    return collector.result()


def write_text(vectors: WordMatrix, path: str, *, header: bool) -> None:
    """Write a word and numbers a line, with or without a header line."""
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
