"""One safetensors file: `vectors` (V, D), `words` (bytes) and `word_ends` (V,); or a table's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rowwise.files._atomic import replacing
from rowwise.table import Table
from rowwise.vectors import blob
from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.options import Options
from rowwise.vectors.vectors import Vectors

_FORMAT = "rowwise vectors 1"
_READABLE = ("F16", "F32", "F64", "I8", "BF16")


def read_safetensors(path: str, options: Options) -> Vectors:
    """Reads what `write_safetensors` or `Table.save` wrote, or a model with its tokenizer.json.

    Raises:
        VectorsFileError: see `rowwise.vectors.load`.
    """
    with tensors_of(path) as file:
        names = set(file.keys())
        if {"vectors", "words", "word_ends"} <= names:
            words = blob.from_arrays(path, file.get_tensor("words"), file.get_tensor("word_ends"))
            rows = Rows(path, file, "vectors")
            return blob.chosen(path, words, rows, rows.shape, options)
        if (file.metadata() or {}).get("format", "").startswith("rowwise table"):
            return _of_table(path, options)
    if Path(path).with_name("tokenizer.json").is_file():
        from rowwise.vectors.static_folder import read_static

        return read_static(path, options)
    raise VectorsFileError(
        path,
        found=f"tensors {', '.join(sorted(names)[:8]) or 'none'}",
        expected="'vectors', 'words' and 'word_ends', or a tokenizer.json beside the file",
        fix="make a rowwise.vectors.Vectors(words, matrix) of the tensor and your words",
    )


def _of_table(path: str, options: Options) -> Vectors:
    """The present rows of a table's words; of several unknown entries the first."""
    table = Table.load(path, mmap=True)
    if table.vocabulary is None:
        raise VectorsFileError(
            path,
            found="a table without a vocabulary",
            fix="give it one before it is saved: table.vocabulary = rowwise.Vocabulary(...)",
        )
    words = list(dict.fromkeys(table.vocabulary.tokens))
    rows = table.lookup(table.vocabulary.lookup(words))
    return blob.chosen(path, words, rows, rows.shape, options)


def write_safetensors(vectors: Vectors, path: str) -> None:
    """Writes words and matrix; any word and any number comes back as it was."""
    from safetensors.numpy import save_file

    text, ends = blob.to_arrays(vectors.words)
    tensors = {
        "vectors": np.ascontiguousarray(vectors.matrix),
        "words": text,
        "word_ends": ends,
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": _FORMAT})


@contextmanager
def tensors_of(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Opens a safetensors file; what is wrong with it is a `VectorsFileError`.

    Raises:
        VectorsFileError: it is damaged, or an entry is missing.
        ModuleNotFoundError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{os.fspath(path)!r} needs safetensors; pip install 'rowwise[files]'"
        ) from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise VectorsFileError(
            path, found=f"no whole safetensors file ({error})", fix="download it again"
        ) from error


class Rows:
    """A tensor's rows, read from the file slice by slice."""

    def __init__(self, path: str | os.PathLike[str], file: Any, name: str) -> None:
        self._slice = file.get_slice(name)
        self.shape = tuple(self._slice.get_shape())
        self.dtype = self._slice.get_dtype()
        if self.dtype not in _READABLE:
            raise VectorsFileError(
                path,
                found=f"tensor {name!r} of {self.dtype}",
                expected=" or ".join(_READABLE),
                fix="save it as float32",
            )

    def __getitem__(self, part: slice) -> Any:
        return np.asarray(self._slice[part])
