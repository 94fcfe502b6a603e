"""Arrays in one file, written piece by piece, each with a checksum: a safetensors file.

Any reader of safetensors opens it. It is not written by the safetensors library, because that wants
a second copy of everything in memory, and checks nothing. See docs/file-format.md.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import DamagedFileError
from rowwise.files._atomic import open_for_writing, replacing

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # as bits: NumPy has no such numbers
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "BOOL": np.dtype("?"),
}
_PAGE = 4096  # where the arrays begin, so that they can be mapped
_MOST_AXES = 8
_LONGEST_HEADER = 100_000_000  # of any safetensors file
_AT_ONCE = 1 << 22  # bytes
NO_SUM = "0" * 8

A = TypeVar("A", bound="Shaped")


class FileMapping(mmap.mmap):
    """The bytes of a file, read where they lie.

    A process that reads bytes which are no longer in the file ends (SIGBUS): `check` first.
    """

    path: str

    @classmethod
    def under(cls, array: NDArray[Any]) -> FileMapping | None:
        """Return the mapping that an array lies in, or None."""
        base: Any = array
        while isinstance(base, np.ndarray | memoryview):
            base = base.base if isinstance(base, np.ndarray) else base.obj
        return base if isinstance(base, cls) else None

    def check(self) -> None:
        """Refuse a file that somebody made shorter since it was mapped.

        Raises:
            DamagedFileError: with both lengths.
        """
        size = self.size()
        if size < len(self):
            raise DamagedFileError(
                self.path,
                f"it had {len(self)} bytes when it was mapped and has {size} now; write to "
                "another name and rename, as save does, and those who read the old file keep it",
            )


@dataclass(frozen=True)
class Entry:
    """Where an array lies in the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    nbytes: int
    checksum: int


# ---------------------------------------------------------------------- writing


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], about: Mapping[str, str]
) -> None:
    """Write arrays, and strings about them; the file appears whole or not at all.

    Beyond the arrays it needs a few megabytes of memory. Those of the widest numbers come first.

    Raises:
        OSError: there is no room, or no permission; `path` is what it was.
    """
    with replacing(path) as temporary:
        write_into(temporary, arrays, about)


def write_into(path: str, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, str]) -> None:
    """Write arrays, and strings about them, into a file that is there; see `write`."""
    ordered = in_file_order(arrays)
    sums = dict.fromkeys(ordered, NO_SUM)
    header = make_header(ordered, about, sums)
    file = open_for_writing(path)
    try:
        write_all(file, header)
        for name, array in ordered.items():
            checksum = 0
            for piece in _pieces(array):
                write_all(file, piece)
                checksum = zlib.crc32(piece, checksum)
            sums[name] = f"{checksum:08x}"
        header = make_header(ordered, about, sums)
        os.lseek(file, 0, os.SEEK_SET)
        write_all(file, header)
    finally:
        os.close(file)


class Shaped(Protocol):
    """An array that a header describes: its type and shape."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def nbytes(self) -> int:
        """Its bytes."""


def in_file_order(arrays: Mapping[str, A]) -> dict[str, A]:
    """Return the arrays in the order in which they lie in a file."""
    return dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))


def make_header(
    arrays: Mapping[str, A], about: Mapping[str, str], sums: Mapping[str, str]
) -> bytes:
    """Return the header, of the same length whatever the checksums, with its own one in it.

    Args:
        arrays: `Shaped`, in file order.
        about: strings.
        sums: the checksum of each array, eight hexadecimal digits.
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    entries: dict[str, Any] = {}
    at = 0
    for name, array in arrays.items():
        entries[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes

    def text(own: str) -> bytes:
        checksums = {**{f"crc32 of {name}": of for name, of in sums.items()}, "crc32": own}
        whole = json.dumps({"__metadata__": {**about, **checksums}, **entries}, ensure_ascii=True)
        length = -(len(whole) + 8) % _PAGE + len(whole)
        return length.to_bytes(8, "little") + whole.ljust(length).encode()

    return text(f"{zlib.crc32(text(NO_SUM)):08x}")


def _pieces(array: NDArray[Any]) -> Iterable[memoryview]:
    if not array.flags.c_contiguous and len(array) > 1:  # copied a few rows at a time
        rows = max(1, _AT_ONCE // (array.nbytes // len(array) or 1))
        for start in range(0, len(array), rows):
            yield from _pieces(np.ascontiguousarray(array[start : start + rows]))
        return
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, len(flat), _AT_ONCE):
        yield memoryview(flat[start : start + _AT_ONCE])


def write_all(file: int, data: bytes | memoryview) -> None:
    """Write data at an open file's place."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


# ---------------------------------------------------------------------- reading


class Container:
    """A file that `write` wrote, opened: its header is read and checked, its arrays are not.

    Attributes:
        about: the strings given to `write`.
        entries: name -> `Entry`.
        checksum: of the header, which holds the checksums of the arrays; eight hexadecimal digits.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the header is not what was written, or the file's length does not fit it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {os.fspath(path)!r}")
        self.path = os.fspath(path)
        self._file = open(path, "rb")  # noqa: SIM115 - for the container's life
        self._mapping: FileMapping | None = None
        try:
            self.about, self.entries, self.checksum = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def damaged(self, what: str) -> DamagedFileError:
        """Return the error that says so of this file."""
        return DamagedFileError(self.path, what)

    def too_large(self) -> MemoryError:
        """Return the error to raise for one of Python's own, which says nothing."""
        return MemoryError(f"there is not enough memory to open {self.path!r}")

    def read(self, name: str, into: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read an array into memory of its own or the caller's.

        Raises:
            DamagedFileError: its checksum differs.
        """
        entry = self.entries[name]
        array = np.empty(entry.shape, entry.dtype) if into is None else into
        self._file.seek(entry.begin)
        checksum = 0
        for piece in _pieces(array):
            self._read_into(name, piece)
            checksum = zlib.crc32(piece, checksum)
        self.check(name, checksum)
        return array

    def verify(self, name: str) -> None:
        """Read an array through, and keep nothing of it.

        Raises:
            DamagedFileError: its checksum differs.
        """
        entry, checksum = self.entries[name], 0
        self._file.seek(entry.begin)
        for start in range(0, entry.nbytes, _AT_ONCE):
            checksum = zlib.crc32(self._file.read(min(_AT_ONCE, entry.nbytes - start)), checksum)
        self.check(name, checksum)

    def read_rows(self, name: str, start: int, into: NDArray[Any]) -> None:
        """Read rows of an array, from row `start`, into an array; the checksum is not looked at.

        Raises:
            DamagedFileError: the file ends before them.
        """
        self._file.seek(self.entries[name].begin + start * into[:1].nbytes)
        for piece in _pieces(into):
            self._read_into(name, piece)

    def check(self, name: str, checksum: int) -> None:
        """Refuse an array with another checksum than the one written.

        Raises:
            DamagedFileError: it differs.
        """
        written = self.entries[name].checksum
        if checksum != written:
            raise self.damaged(
                f"{name!r} has the checksum {checksum:08x}, and {written:08x} was written"
            )

    def _read_into(self, name: str, piece: memoryview) -> None:
        got = self._file.readinto(piece)  # type: ignore[attr-defined]
        if got != len(piece):
            raise self.damaged(f"{name!r} ends after {got} of {len(piece)} bytes")

    def map(self, name: str) -> NDArray[Any]:
        """Map an array: pages are read when they are touched, and not checked.

        Writing to it changes a copy of the page in memory, never the file. See `FileMapping`.
        """
        entry = self.entries[name]
        if self._mapping is None:
            self._mapping = FileMapping(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._mapping.path = self.path
        count = math.prod(entry.shape)
        return np.frombuffer(self._mapping, entry.dtype, count, entry.begin).reshape(entry.shape)

    def _read_header(self) -> tuple[dict[str, str], dict[str, Entry], str]:
        size = os.fstat(self._file.fileno()).st_size
        start = self._file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise self.damaged(f"it has {size} bytes, and says that its header has {length}")
        try:
            text = self._file.read(length)
            header = json.loads(text)
            about = header.pop("__metadata__")
            own = about.pop("crc32")
            unsummed = text.replace(f'"crc32": "{own}"'.encode(), f'"crc32": "{NO_SUM}"'.encode())
            if f"{zlib.crc32(start + unsummed):08x}" != own:
                raise ValueError("its header's checksum differs from what was written")
            entries = {
                name: _entry(entry, int(about.pop(f"crc32 of {name}"), 16), 8 + length)
                for name, entry in header.items()
            }
        except MemoryError as error:
            if error.args:
                raise
            raise self.too_large() from None
        except RecursionError:
            raise self.damaged("its header nests too deeply") from None
        except KeyError as error:
            raise self.damaged(f"its header has no {error}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise self.damaged(str(error)) from None
        end = max((e.begin + e.nbytes for e in entries.values()), default=8 + length)
        if end != size:
            raise self.damaged(f"it has {size} bytes and its arrays end at {end}")
        return about, entries, own


def _entry(entry: Any, checksum: int, base: int) -> Entry:
    dtype: np.dtype[Any] = _DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"][: _MOST_AXES + 1])
    begin, end = entry["data_offsets"]
    numbers = (*shape, begin, end)
    if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise ValueError(f"an array's place is given as {str(numbers)[:60]}")
    if len(shape) > _MOST_AXES:
        raise ValueError(f"an array has more than {_MOST_AXES} axes")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} has {end - begin} bytes")
    return Entry(dtype, shape, base + begin, end - begin, checksum)
