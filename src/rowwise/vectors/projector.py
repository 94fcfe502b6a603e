"""TensorBoard's projector: vectors.tsv without words, and metadata.tsv with them."""

from __future__ import annotations

import re
from pathlib import Path

from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.gather import Gathering
from rowwise.vectors.layout import head_of
from rowwise.vectors.options import Options
from rowwise.vectors.sink import writing
from rowwise.vectors.source import opened
from rowwise.vectors.text import TextLines, encoded_word, text_blocks
from rowwise.vectors.vectors import Vectors

_COLUMNS = ("word", "words", "token", "label", "name")


def read_projector(path: str, options: Options) -> Vectors:
    """Reads vectors.tsv (or the folder it is in) with the metadata beside it.

    Metadata of one column has a word a line; of several, the first line names them.

    Raises:
        VectorsFileError: see `rowwise.vectors.load`.
    """
    numbers, metadata = _files(path)
    words = _words(str(metadata), options)
    dim = head_of(str(numbers)).split(b"\n")[0].rstrip(b"\r\t").count(b"\t") + 1
    with opened(numbers) as source:
        if len(words) * (2 * dim) - 1 > source.bound:
            raise _uneven(str(numbers), len(words), str(metadata), f"{source.bound} bytes")
        gathering = Gathering(str(numbers), dim, options, expected=len(words))
        lines = TextLines(source, dim, options, first_line=1, separator="\t", has_word=False)
        for block in lines.blocks(gathering):
            start = gathering.seen
            stop = start + block.seen
            if stop > len(words):
                raise _uneven(str(numbers), len(words), str(metadata), "more rows")
            gathering.add(words[start:stop], block.rows, block.where)
        if not gathering.done and gathering.seen != len(words):
            raise _uneven(str(numbers), len(words), str(metadata), f"{gathering.seen} rows")
    return Vectors(*gathering.result())


def write_projector(vectors: Vectors, path: str) -> None:
    """Writes both files, into the folder `path` or, for a path that ends in .tsv, beside it.

    Raises:
        ValueError: a word holds a tab or a line break.
    """
    for word in vectors.words:
        if re.search(r"[\t\n]|\r$", word):
            raise ValueError(
                f"word {word!r} holds a tab or a line break, which metadata.tsv cannot; "
                "save as .safetensors"
            )
    target = Path(path)
    if ".tsv" not in target.suffixes:
        target.mkdir(parents=True, exist_ok=True)
        target = target / "vectors.tsv"
    with writing(_metadata_of(target)) as file:
        file.write(b"".join(encoded_word(word) + b"\n" for word in vectors.words))
    with writing(target) as file:
        for text in text_blocks(vectors, "\t", has_word=False):
            file.write(text)


def _metadata_of(path: Path) -> Path:
    """vectors.tsv -> metadata.tsv, x-vectors.tsv -> x-metadata.tsv, x.tsv -> x-metadata.tsv."""
    stem, dot, ending = path.name.partition(".tsv")
    if stem.endswith("vectors"):
        return path.with_name(stem.removesuffix("vectors") + "metadata" + dot + ending)
    return path.with_name(f"{stem}-metadata{dot}{ending}")


def _files(path: str) -> tuple[Path, Path]:
    given = Path(path)
    if given.is_dir():
        given = next((p for p in (given / "vectors.tsv", given / "vectors.tsv.gz") if p.exists()),
                     given / "vectors.tsv")  # fmt: skip
    if _metadata_of(given).name == given.name or given.name.startswith("metadata"):
        raise VectorsFileError(path, found="the words", fix="name vectors.tsv, which is beside it")
    candidates = [_metadata_of(given), given.with_name("metadata.tsv")]
    metadata = next((p for p in candidates if p.exists()), None)
    if metadata is None:
        raise VectorsFileError(
            path,
            found="no words",
            expected=f"{candidates[0].name} beside it",
            fix="put it there, with a word a line in the order of the rows",
        )
    return given, metadata


def _words(path: str, options: Options) -> list[str]:
    with opened(path) as source:
        content = bytearray()
        buffer = bytearray(1 << 20)
        while got := source.read_into(memoryview(buffer)):
            content += memoryview(buffer)[:got]
    lines = bytes(content).split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    column, first = 0, 0
    if lines and b"\t" in lines[0]:
        names = [name.strip().lower().decode(errors="replace") for name in lines[0].split(b"\t")]
        column, first = next((i for i, name in enumerate(names) if name in _COLUMNS), 0), 1
    words = []
    for number, line in enumerate(lines[first:], first + 1):
        fields = line.removesuffix(b"\r").split(b"\t")
        if len(fields) <= column:
            raise VectorsFileError(
                path, f"line {number}", found=f"{len(fields)} columns", expected=f"{column + 1}"
            )
        try:
            words.append(options.decode(fields[column]))
        except UnicodeDecodeError as error:
            raise VectorsFileError(
                path,
                f"line {number}, byte {error.start + 1}",
                found=f"byte 0x{error.object[error.start]:02x}",
                expected=f"UTF-8 ({error.reason})",
                fix="pass errors='replace' or 'ignore', as in bytes.decode, to read on",
            ) from error
    return words


def _uneven(path: str, words: int, metadata: str, found: str) -> VectorsFileError:
    return VectorsFileError(
        path,
        found=found,
        expected=f"{words:,} rows, one for each word of {metadata}",
        fix="metadata of one column has no line of names; the rows have no header",
    )
