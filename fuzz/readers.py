"""Feed damaged files to every reader: an error of the reader's own is right, all else is a find.

Needs atheris (https://github.com/google/atheris), which changes the bytes so as to reach new lines
of the Python code; the native code runs on what gets through to it.

    python fuzz/readers.py [-runs=1000000] [-max_total_time=60] [-rss_limit_mb=1000] [FOLDER]

An input is a byte that picks the reader, then the file; of vectors in two files, two bytes with
the length of the first, then both. FOLDER holds inputs to begin with and those that reach new
lines. What crashed is written as `crash-*`; mend it and keep it as a test, in tests/vectors or
tests/files.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["rowwise"]):
    import rowwise
    from rowwise.errors import DamagedFileError, VectorsFileError
    from rowwise.files import _container  # noqa: F401
    from rowwise.store import _table_file  # noqa: F401
    from rowwise.vectors import FORMATS, Subwords, Vectors, load

import contextlib

import numpy as np

warnings.simplefilter("ignore")  # of words that stand twice
FOLDER = Path(tempfile.mkdtemp(prefix="rowwise-fuzz-"))
# The files of vectors in two, of which the first names the set.
_SETS = {
    "npy": ("v.npy", "v.words.txt"),
    "projector": ("vectors.tsv", "metadata.tsv"),
    "static": ("model.safetensors", "tokenizer.json"),
}
_MOST_ROWS = 10**6


@dataclass(frozen=True)
class Reader:
    """Say how a kind of file is read, and what its reader may raise.

    Attributes:
        files: names of the files of an input.
        read: read the first of them.
        errors: what is right for a damaged file.
        seeds: whole files to begin with, as bytes.
    """

    files: tuple[str, ...]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]
    seeds: list[bytes]


def read_vectors(format: str | None) -> Callable[[Path], None]:
    """Return a reader of one format, None to find it out: all of it, a part, and some words."""

    def read(path: Path) -> None:
        load(path, format=format)
        load(path, format=format, limit=2, errors="replace", finite=False, dtype="float16")
        load(path, format=format, words=["tea", "cup", ""])

    return read


def read_table(path: Path) -> None:
    """Load a table both ways and, if it has a rule, make a step."""
    for mmap in (True, False):
        table = rowwise.Table.load(path, mmap=mmap)
        if table.rows * table.dim < _MOST_ROWS:
            with np.errstate(all="ignore"):
                table.lookup(np.arange(table.rows))
                if table.rule:
                    table.update([0], np.ones((1, table.dim)))
                table.materialize()


def readers() -> list[Reader]:
    """Return a reader of each format, of what is compressed, of tables and of vocabularies."""
    grams = Subwords(np.ones((5, 3), np.float32), 3, 6)
    vectors = Vectors(["tea", "cup", "é"], np.arange(9.0).reshape(3, 3), subwords=grams)
    folder = Path(tempfile.mkdtemp(dir=FOLDER))
    found = []
    for name in sorted(FORMATS):
        files = _SETS.get(name, ("input",))
        if name == "gensim":
            seeds = [b"\x80\x04K\x01."]
        else:
            target = folder / files[0]
            vectors.save(folder if name == "static" else target, name)
            contents = [(folder / file).read_bytes() for file in files]
            size = len(contents[0]).to_bytes(2, "little") if len(files) > 1 else b""
            seeds = [size + b"".join(contents)]
        found.append(Reader(files, read_vectors(name), (VectorsFileError,), seeds))
    text = b"2 2\ntea 1 2\ncup 3 4\n"
    packed = [text, gzip.compress(text), bz2.compress(text), lzma.compress(text)]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(folder / "zip", "w", method) as archive:
            archive.writestr("v.txt", text)
        packed.append((folder / "zip").read_bytes())
    found.append(Reader(("input.txt",), read_vectors(None), (VectorsFileError,), packed))

    table = rowwise.Table(3, 2, "adam", init="zeros")
    table.vocabulary = rowwise.Vocabulary(["tea"], oov_token="?")
    table.update([1], np.ones((1, 2)))
    table.save(folder / "table")
    table.vocabulary.save(folder / "words")
    tables, words = ([(folder / name).read_bytes()] for name in ("table", "words"))
    found.append(Reader(("input",), read_table, (DamagedFileError,), tables))
    found.append(Reader(("input",), rowwise.Vocabulary.load, (ValueError,), words))
    return found


READERS = readers()


def one_input(data: bytes) -> None:
    """Write the files of an input and read them."""
    if not data:
        return
    reader, content = READERS[data[0] % len(READERS)], data[1:]
    if len(reader.files) > 1:
        size = int.from_bytes(content[:2], "little")
        contents = [content[2 : 2 + size], content[2 + size :]]
    else:
        contents = [content]
    for name, part in zip(reader.files, contents, strict=True):
        (FOLDER / name).write_bytes(part)
    try:
        with contextlib.suppress(*reader.errors):
            reader.read(FOLDER / reader.files[0])
    except MemoryError as error:
        if not str(error):  # one of Python's own, and not a refusal that says what to do
            raise


def main() -> None:
    """Run until something is found, or the runs or the time are up."""
    arguments = sys.argv[1:]
    folders = [a for a in arguments if not a.startswith("-")]
    folder = Path(folders[0]) if folders else FOLDER / "inputs"
    os.makedirs(folder, exist_ok=True)
    for number, reader in enumerate(READERS):
        for i, seed in enumerate(reader.seeds):
            (folder / f"seed-{number}-{i}").write_bytes(bytes([number]) + seed)
    options = [a for a in arguments if a.startswith("-")]
    atheris.Setup([sys.argv[0], *options, str(folder)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
