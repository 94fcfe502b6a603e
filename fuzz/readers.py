"""Feeds damaged files to every reader: an error of the reader's own is right, all else is a find.

Needs atheris (https://github.com/google/atheris), which changes the bytes so as to reach new lines
of the Python code; the native code runs on what gets through to it.

    python fuzz/readers.py [-max_total_time=60] [FOLDER OF INPUTS]

An input is a byte that picks the reader, then the file. What crashed is written as `crash-*`; mend
it and keep it as a test, in tests/vectors/test_traps.py or tests/files.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["rowwise"]):
    import rowwise
    import rowwise.vectors
    from rowwise.errors import DamagedFileError, VectorsFileError
    from rowwise.files import _container  # noqa: F401
    from rowwise.store import _table_file  # noqa: F401
    from rowwise.vectors import FORMATS, load

import contextlib

import numpy as np

warnings.simplefilter("ignore")  # of words that stand twice
FOLDER = Path(tempfile.mkdtemp(prefix="rowwise-fuzz-"))
# What a reader may raise.
RIGHT = (VectorsFileError, DamagedFileError, UnicodeDecodeError, MemoryError)


def read_vectors(name: str) -> Callable[[Path], None]:
    """Loads vectors of a format; one that is a folder finds only the damaged half of it."""

    def read(path: Path) -> None:
        load(path, format=name)
        load(path, format=name, limit=2, errors="replace", finite=False, dtype="float16")
        load(path, format=name, words=["tea", "cup", ""])

    return read


def read_table(path: Path) -> None:
    """Loads a table both ways and, if there is one, makes a step."""
    for mmap in (True, False):
        table = rowwise.Table.load(path, mmap=mmap)
        if table.rows * table.dim < 10**6:
            with np.errstate(all="ignore"):
                table.lookup(np.arange(table.rows))
                if table.rule:
                    table.update([0], np.ones((1, table.dim)))
                table.materialize()


def read_vocabulary(path: Path) -> None:
    """Loads a vocabulary; what is wrong with it is a ValueError."""
    with contextlib.suppress(ValueError):
        rowwise.Vocabulary.load(path)


# Formats of two files are given the first, whose damage is found first.
_VECTORS = ("word2vec", "glove", "word2vec-binary", "fasttext-bin", "safetensors", "npz", "npy")
READERS = [*(read_vectors(name) for name in _VECTORS), read_table, read_vocabulary]


def seeds(folder: Path) -> None:
    """Writes a whole file of each kind, as inputs to begin with."""
    vectors = rowwise.vectors.Vectors(["tea", "cup", "é"], np.arange(9.0).reshape(3, 3))
    table = rowwise.Table(3, 2, "adam", init="zeros")
    table.vocabulary = rowwise.Vocabulary(["tea"], oov_token="?")
    table.update([1], np.ones((1, 2)))
    for number, name in enumerate(_VECTORS):
        if name != "fasttext-bin":
            vectors.save(FOLDER / "seed", name)
            (folder / name).write_bytes(bytes([number]) + (FOLDER / "seed").read_bytes())
    table.save(FOLDER / "seed")
    (folder / "table").write_bytes(bytes([len(_VECTORS)]) + (FOLDER / "seed").read_bytes())
    table.vocabulary.save(FOLDER / "seed")
    (folder / "words").write_bytes(bytes([len(_VECTORS) + 1]) + (FOLDER / "seed").read_bytes())


def one_input(data: bytes) -> None:
    """Writes the file and reads it."""
    if not data:
        return
    path = FOLDER / "input"
    path.write_bytes(data[1:])
    with contextlib.suppress(RIGHT):
        READERS[data[0] % len(READERS)](path)


def main() -> None:
    """Runs until something is found, or the time is up."""
    arguments = sys.argv[1:]
    folders = [a for a in arguments if not a.startswith("-")]
    folder = Path(folders[0]) if folders else FOLDER / "inputs"
    os.makedirs(folder, exist_ok=True)
    seeds(folder)
    options = [a for a in arguments if a.startswith("-")]
    atheris.Setup([sys.argv[0], *options, str(folder)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    assert set(_VECTORS) <= set(FORMATS)
    main()
