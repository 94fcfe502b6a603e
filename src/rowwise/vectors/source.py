"""A file as a stream of bytes, whether plain, gzip or in a zip archive."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from rowwise.vectors.errors import VectorsFileError

# What compressed bytes can become at most: a match of 258 bytes takes two bits.
MOST_PER_BYTE = 1032

# What is raised by a compressed stream that is damaged...
BROKEN = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    NotImplementedError,
)
# ...and by zipfile about an archive that is: places beyond its end, names that are none, passwords.
BROKEN_ARCHIVE = (*BROKEN, OSError, ValueError, LookupError, OverflowError, RuntimeError)


class Source:
    """Bytes to be read in order.

    Attributes:
        path: for messages.
        bound: bytes that there are at most, known before any is read.
    """

    def __init__(self, path: str, stream: IO[bytes], raw: IO[bytes], bound: int, size: int) -> None:
        self.path, self.bound = path, bound
        self._stream, self._raw, self._size = stream, raw, size
        self.at = 0

    def read_into(self, view: memoryview) -> int:
        """Fills the view's beginning; returns how many bytes, 0 at the end."""
        try:
            got = self._stream.readinto(view)  # type: ignore[attr-defined]
        except BROKEN as error:
            raise VectorsFileError(
                self.path,
                f"after byte {self.at} of its content",
                found=f"broken compression ({error})",
                fix="the file is cut short or damaged: download it again",
            ) from error
        self.at += got
        return int(got)

    def read(self, size: int, what: str) -> bytearray:
        """Exactly `size` bytes.

        Raises:
            VectorsFileError: there are fewer; nothing was allocated if there cannot be so many.
        """
        start = self.at
        self.check_holds(size, what)
        data = bytearray(size)
        view, filled = memoryview(data), 0
        while filled < size and (got := self.read_into(view[filled:])):
            filled += got
        if filled < size:
            raise self.cut_short(what, start, size, filled)
        return data

    def check_holds(self, size: int, what: str) -> None:
        """Refuses `size` bytes more where the file cannot have so many."""
        if not 0 <= size <= self.bound - self.at:
            raise self.cut_short(what, self.at, size, max(0, self.bound - self.at))

    def cut_short(self, what: str, at: int, size: int, found: int) -> VectorsFileError:
        """The error that says so."""
        return VectorsFileError(
            self.path,
            f"byte {at}",
            found=f"{found:,} bytes for {what}",
            expected=f"{size:,}",
            fix="the file is cut short, or in another format (then pass format=...)",
        )

    def fraction(self) -> float:
        """Part of the file that was read."""
        return self._raw.tell() / self._size if self._size else 1.0


def split_member(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The file, and the member after it: "glove.zip/glove.50d.txt" is a member of glove.zip.

    Raises:
        FileNotFoundError: there is no such file.
    """
    whole = Path(path)
    if whole.exists():
        return whole, None
    for parent in whole.parents:
        if parent.is_file() and zipfile.is_zipfile(parent):
            return parent, whole.relative_to(parent).as_posix()
    raise FileNotFoundError(f"there is no file {os.fspath(path)!r}")


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Source]:
    """Opens a file for reading in order; by its content, not its name, if it is compressed.

    Raises:
        FileNotFoundError: there is no such file or member.
        VectorsFileError: an archive of several files without saying which, or a broken one.
    """
    file, member = split_member(path)
    with file.open("rb") as raw:
        magic = raw.read(4)
        raw.seek(0)
        size = os.fstat(raw.fileno()).st_size
        name = os.fspath(path)
        if magic[:2] == b"\x1f\x8b":
            with gzip.open(raw) as stream:
                yield Source(name, cast(IO[bytes], stream), raw, size * MOST_PER_BYTE, size)
        elif magic in (b"PK\x03\x04", b"PK\x05\x06"):
            with _member(name, raw, member) as (stream, bound):
                yield Source(name, stream, raw, bound, size)
        else:
            yield Source(name, raw, raw, size, size)


@contextmanager
def _member(name: str, raw: IO[bytes], member: str | None) -> Iterator[tuple[IO[bytes], int]]:
    try:
        archive = zipfile.ZipFile(raw)
    except BROKEN_ARCHIVE as error:
        raise VectorsFileError(
            name, found=f"a broken zip archive ({error})", fix="download it again"
        ) from error
    with archive:
        files = [info for info in archive.infolist() if info.filename[-1:] != "/"]
        chosen = [info for info in files if member is None or info.filename == member]
        if len(chosen) != 1:
            names = ", ".join(info.filename for info in files[:8]) or "none"
            raise VectorsFileError(
                name,
                found=f"an archive of {len(files)} files ({names})",
                expected="one file" if member is None else f"a member {member!r}",
                fix="name one as if the archive were a folder: "
                f"{name if member is None else name.removesuffix('/' + member)}/"
                f"{files[0].filename if files else 'vectors.txt'}",
            )
        info = chosen[0]
        try:
            stream = archive.open(info)
        except BROKEN_ARCHIVE as error:
            raise VectorsFileError(
                name, found=f"a member that cannot be read ({error})", fix="unpack it yourself"
            ) from error
        with stream:
            yield stream, min(info.file_size, info.compress_size * MOST_PER_BYTE)
