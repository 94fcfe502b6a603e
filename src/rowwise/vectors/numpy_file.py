"""NumPy's files: .npy with a file of words beside it, .npz with both inside."""

from __future__ import annotations

import math
import tokenize
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rowwise.files._atomic import replacing
from rowwise.vectors import blob
from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.options import Options
from rowwise.vectors.source import BROKEN_ARCHIVE, MOST_PER_BYTE
from rowwise.vectors.text import encoded_word
from rowwise.vectors.vectors import Vectors

# What NumPy raises about a damaged header: it reads it as a Python expression.
_NO_ARRAY = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
)
_MOST_PADDING = 1 << 26


def read_npy(path: str, options: Options) -> Vectors:
    """Reads x.npy with x.words.txt, x.txt or words.txt beside it: a word a line, UTF-8.

    Raises:
        VectorsFileError: see `rowwise.vectors.load`.
    """
    given = Path(path)
    names = [_words_of(given), given.with_suffix(".txt"), given.with_name("words.txt")]
    beside = next((name for name in names if name.is_file()), None)
    if beside is None:
        raise VectorsFileError(
            path,
            found="no words",
            expected=f"{names[0].name} beside it",
            fix="put it there, with a word a line in the order of the rows",
        )
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except _NO_ARRAY as error:
        raise _no_array(path, error) from error
    lines = beside.read_bytes().split(b"\n")
    if not lines[-1]:
        lines.pop()
    words = []
    for number, line in enumerate(lines, 1):
        try:
            words.append(options.decode(line.removesuffix(b"\r")))
        except UnicodeDecodeError as error:
            raise VectorsFileError(
                beside, f"line {number}, byte {error.start + 1}", found=str(error),
                fix="pass errors='replace' or 'ignore', as in bytes.decode, to read on",
            ) from error  # fmt: skip
    _check_numeric(path, matrix.dtype)
    return blob.chosen(path, words, matrix, matrix.shape, options)


def write_npy(vectors: Vectors, path: str) -> None:
    """Writes x.npy, and the words to x.words.txt.

    Raises:
        ValueError: a word holds a line break, or ends with a carriage return.
    """
    for word in vectors.words:
        if "\n" in word or word.endswith("\r"):
            raise ValueError(f"word {word!r} holds a line break; save as .npz or .safetensors")
    with replacing(_words_of(Path(path))) as temporary:
        Path(temporary).write_bytes(b"".join(encoded_word(w) + b"\n" for w in vectors.words))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array(file, vectors.matrix, allow_pickle=False)


def read_npz(path: str, options: Options) -> Vectors:
    """Reads an archive with an array of words and a matrix with a row for each.

    Raises:
        VectorsFileError: see `rowwise.vectors.load`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _from_archive(path, archive, options)
    except VectorsFileError:
        raise
    except BROKEN_ARCHIVE as error:
        raise _no_array(path, error) from error


def write_npz(vectors: Vectors, path: str) -> None:
    """Writes arrays `vectors` (V, D) and `words` (V,), strings that np.load gives back.

    Where NumPy's strings of one width would lose something or waste much, `words` are bytes (n,)
    and `word_ends` (V,) says where each ends.
    """
    words: dict[str, NDArray[Any]] = {"words": np.empty(0, "U1")}
    widest = max(map(len, vectors.words), default=0)
    if widest * 4 * len(vectors) > _MOST_PADDING + vectors.matrix.nbytes or any(
        word.endswith("\0") for word in vectors.words
    ):
        words["words"], words["word_ends"] = blob.to_arrays(vectors.words)
    elif vectors.words:
        words["words"] = np.array(vectors.words)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, vectors=vectors.matrix, **words)  # type: ignore[arg-type]


def _from_archive(path: str, archive: zipfile.ZipFile, options: Options) -> Vectors:
    shapes = {}
    for info in archive.infolist():
        if info.filename.endswith(".npy"):
            with _array(path, archive, info) as array:
                shapes[info.filename] = (array.shape, array.dtype)
    tables = [n for n, (shape, dtype) in shapes.items() if len(shape) == 2 and dtype.kind in "fi"]
    texts = [n for n, (shape, dtype) in shapes.items() if len(shape) == 1 and dtype.kind in "US"]
    table = "vectors.npy" if "vectors.npy" in tables else tables[0] if len(tables) == 1 else None
    if "word_ends.npy" in shapes and "words.npy" in shapes:
        words = blob.from_arrays(
            path, _read(path, archive, "words.npy"), _read(path, archive, "word_ends.npy")
        )
    elif "words.npy" in texts or len(texts) == 1:
        raw = _read(path, archive, "words.npy" if "words.npy" in texts else texts[0]).tolist()
        words = [options.decode(word) if isinstance(word, bytes) else word for word in raw]
    else:
        table = None
    if table is None:
        found = ", ".join(f"{n[:-4]} {d} {s}" for n, (s, d) in list(shapes.items())[:8])
        raise VectorsFileError(
            path,
            found=f"arrays {found or 'none'}",
            expected="'words', strings (V,), and 'vectors', numbers (V, D)",
            fix="np.savez(path, words=np.array(words), vectors=matrix) makes such a file",
        )
    with _array(path, archive, archive.getinfo(table)) as array:
        return blob.chosen(path, words, array, array.shape, options)


def _read(path: str, archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with _array(path, archive, archive.getinfo(name)) as array:
        return array[:]


@dataclass(frozen=True)
class _Array:
    """An array in an archive; its rows are to be read in order."""

    path: str
    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, part: slice) -> NDArray[Any]:
        rows = len(range(*part.indices(self.shape[0])))
        shape = (rows, *self.shape[1:])
        size = math.prod(shape) * self.dtype.itemsize
        data = self.stream.read(size)
        if len(data) < size:
            raise _no_array(self.path, EOFError(f"{len(data)} bytes of {size}"))
        return np.frombuffer(data, self.dtype).reshape(shape)


@contextmanager
def _array(path: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[_Array]:
    """An array, checked against its size before any memory is asked for."""
    with archive.open(info) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, by_columns, dtype = read_header(stream)
        except (*_NO_ARRAY, KeyError) as error:
            raise _no_array(path, error) from error
        if dtype.hasobject:
            raise VectorsFileError(
                path,
                found=f"{info.filename} of Python objects, which are a pickle",
                expected="strings or numbers",
                fix="np.array(words) of strings is no pickle, np.array(words, dtype=object) is",
            )
        needed = math.prod(shape) * dtype.itemsize
        held = min(info.file_size, info.compress_size * MOST_PER_BYTE)
        if min(shape, default=0) < 0 or needed > held:
            raise VectorsFileError(
                path,
                found=f"{info.filename} with {held:,} bytes",
                expected=f"{needed:,} for {dtype} of shape {shape}",
                fix="the file is cut short or damaged: download it again",
            )
        if by_columns and len(shape) > 1:
            raise VectorsFileError(
                path,
                found=f"{info.filename} in the order of columns",
                expected="rows one after the other",
                fix="save np.ascontiguousarray(matrix)",
            )
        yield _Array(path, stream, shape, dtype)


def _words_of(path: Path) -> Path:
    return path.with_suffix(".words.txt")


def _check_numeric(path: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "fiu":
        raise VectorsFileError(path, found=f"an array of {dtype}", expected="numbers")


def _no_array(path: str, error: Exception) -> VectorsFileError:
    return VectorsFileError(
        path,
        found=f"no whole array ({type(error).__name__}: {error})",
        fix="the file is cut short or damaged: download it again",
    )
