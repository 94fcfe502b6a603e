"""Read a file's content in order, be it plain, compressed or in a zip archive."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from rowwise.errors import VectorsFileError
from rowwise.vectors._compression import COMPRESSIONS, DAMAGED, content_bound

# What zipfile raises about a damaged archive: places beyond its end, names that are none,
# passwords, methods that it does not know.
_DAMAGED_ARCHIVE = (
    *DAMAGED,
    zipfile.BadZipFile,
    struct.error,
    OSError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,  # NotImplementedError is one
    SystemError,
)
_BLOCK = 1 << 20
# Files that hold others, or that nothing here unpacks: where their mark stands, and the mark.
_TAR_AT, _TAR = 257, (b"ustar\0", b"ustar ")
_PACKED_OTHERWISE = {
    b"\x28\xb5\x2f\xfd": ("zstandard", "zstd -d"),
    b"7z\xbc\xaf\x27\x1c": ("7z", "7z x"),
    b"Rar!\x1a\x07": ("rar", "unrar x"),
}


class Reader:
    """Read bytes in order.

    Attributes:
        path: for messages.
        bound: bytes of content that are read at most.
        at: bytes of content that were read.
        is_plain: whether the content is not compressed, so that `bound` is its length.
    """

    def __init__(
        self, path: str, stream: IO[bytes], raw: IO[bytes], bound: int, *, is_plain: bool
    ) -> None:
        self.path, self.bound, self.is_plain = path, bound, is_plain
        self._stream, self._raw = stream, raw
        self._size = os.fstat(raw.fileno()).st_size
        self.at = 0

    def read_into(self, view: memoryview) -> int:
        """Fill the view's beginning; return how many bytes, 0 at the end.

        Raises:
            VectorsFileError: the compression is damaged, or gives more than `bound` bytes.
        """
        try:
            got = int(self._stream.readinto(view))  # type: ignore[attr-defined]
        except (*DAMAGED, zipfile.BadZipFile, NotImplementedError, struct.error) as error:
            raise self._damaged(error) from error
        except OSError as error:
            if self.is_plain or error.errno is not None:
                raise
            raise self._damaged(error) from error
        except MemoryError as error:
            raise MemoryError(
                f"{self.path}: its compression needs more memory than there is; unpack it yourself"
            ) from error
        self.at += got
        if self.at > self.bound:
            raise VectorsFileError(
                self.path,
                found=f"more than {self.bound:,} bytes of content in {self._size:,} bytes",
                fix="a file that swells so is hardly one of vectors; unpack it yourself if it is",
            )
        return got

    def read(self, size: int, what: str) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            VectorsFileError: there are fewer. No memory is asked for if there cannot be so many.
        """
        return self.read_array(size, what).tobytes()

    def read_array(self, size: int, what: str) -> NDArray[np.uint8]:
        """Return exactly `size` bytes as an array; see `read`."""
        start = self.at
        self.check_holds(size, what)
        data = np.empty(size, np.uint8)
        filled = 0
        while filled < size and (got := self.read_into(data.data[filled:])):
            filled += got
        if filled < size:
            raise self._cut_short(what, start, size, filled)
        return data

    def check_holds(self, size: int, what: str) -> None:
        """Refuse `size` bytes more where the file cannot have so many."""
        if not 0 <= size <= self.bound - self.at:
            raise self._cut_short(what, self.at, size, max(0, self.bound - self.at))

    def fraction(self) -> float:
        """Return the part of the file that was read."""
        return self._raw.tell() / self._size if self._size else 1.0

    def _cut_short(self, what: str, at: int, size: int, found: int) -> VectorsFileError:
        return VectorsFileError(
            self.path,
            f"byte {at}",
            found=f"{found:,} bytes for {what}",
            expected=f"{size:,}",
            fix="the file is cut short, or in another format (then pass format=...)",
        )

    def _damaged(self, error: Exception) -> VectorsFileError:
        return VectorsFileError(
            self.path,
            f"after byte {self.at} of its content",
            found=f"broken compression ({error})",
            fix="the file is cut short or damaged: download it again",
        )


def split_member(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Return the file, and the member after it: "glove.zip/glove.50d.txt" names one of glove.zip.

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
def opened(path: str | os.PathLike[str]) -> Iterator[Reader]:
    """Open a file for reading in order; whether it is compressed is seen from its content.

    Raises:
        FileNotFoundError: there is no such file or member.
        VectorsFileError: no file but a folder or a pipe; an archive of several files without
            saying which, a damaged one, or one of a kind that is not read.
    """
    file, member = split_member(path)
    name = os.fspath(path)
    if not file.is_file():
        raise VectorsFileError(
            name,
            found="a folder" if file.is_dir() else "a pipe or a device",
            expected="a file",
            fix="name the file in it" if file.is_dir() else "write its content to a file first",
        )
    with file.open("rb") as raw:
        magic = raw.read(8)
        raw.seek(0)
        size = os.fstat(raw.fileno()).st_size
        _refuse_others(name, magic)
        if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            with archive_of(name, raw) as archive:
                info = _chosen(name, archive, member)
                with member_of(name, archive, info, size) as reader:
                    yield reader
            return
        for compression in COMPRESSIONS:
            if magic.startswith(compression.magics):
                bound = content_bound(size, deflate=compression.suffix == ".gz")
                with compression.open(raw, "rb", "") as stream:
                    yield Reader(name, stream, raw, bound, is_plain=False)
                return
        yield Reader(name, raw, raw, size, is_plain=True)


def count_lines(path: str) -> int:
    """Return how many lines a file has; the last counts without a line break too."""
    count, ended = 0, True
    buffer = bytearray(_BLOCK)
    with opened(path) as reader:
        while got := reader.read_into(memoryview(buffer)):
            count += buffer.count(b"\n", 0, got)
            ended = buffer[got - 1] == 10
    return count + (not ended)


@contextmanager
def archive_of(name: str, raw: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive.

    Raises:
        VectorsFileError: it is damaged.
    """
    try:
        archive = zipfile.ZipFile(raw)
    except _DAMAGED_ARCHIVE as error:
        raise VectorsFileError(
            name, found=f"a broken zip archive ({error})", fix="download it again"
        ) from error
    with archive:
        yield archive


@contextmanager
def member_of(
    name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int
) -> Iterator[Reader]:
    """Open a file of an archive of `size` bytes; nothing is unpacked to the disk.

    Raises:
        VectorsFileError: it is damaged, encrypted, or named as if outside of the archive.
    """
    where = PurePosixPath(info.filename.replace("\\", "/"))
    if ".." in where.parts or where.is_absolute():
        raise VectorsFileError(
            name,
            found=f"an archive with a file {info.filename!r}",
            expected="names within the archive",
            fix="do not trust this archive; if you must, unpack it where it can do no harm",
        )
    try:
        stream = archive.open(info)
    except _DAMAGED_ARCHIVE as error:
        raise VectorsFileError(
            name, found=f"a member that cannot be read ({error})", fix="unpack it yourself"
        ) from error
    is_plain = info.compress_type == zipfile.ZIP_STORED
    packed = min(info.compress_size, size)
    deflate = info.compress_type == zipfile.ZIP_DEFLATED
    bound = min(info.file_size, packed if is_plain else content_bound(packed, deflate=deflate))
    with stream:
        assert archive.fp is not None
        yield Reader(name, stream, archive.fp, bound, is_plain=is_plain)


def members_of(path: Path) -> list[str]:
    """Return the names of the files in a zip archive; none of a file that is not one."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return []
    with path.open("rb") as raw, archive_of(os.fspath(path), raw) as archive:
        return [info.filename for info in archive.infolist() if info.filename[-1:] != "/"]


def refuse_tar(path: str, head: bytes) -> None:
    """Refuse a tar archive, which the first bytes of its content tell.

    Raises:
        VectorsFileError: it is one.
    """
    if head[_TAR_AT : _TAR_AT + 6] in _TAR:
        raise VectorsFileError(
            path,
            found="a tar archive",
            expected="a file of vectors",
            fix=f"unpack it, as tar -xf {Path(path).name!r} does, and name the file that was in it",
        )


def _refuse_others(path: str, magic: bytes) -> None:
    for mark, (kind, command) in _PACKED_OTHERWISE.items():
        if magic.startswith(mark):
            raise VectorsFileError(
                path,
                found=f"a file packed by {kind}",
                expected="a plain file, or one in gz, bz2, xz or zip",
                fix=f"unpack it, as {command} {Path(path).name!r} does",
            )


def _chosen(name: str, archive: zipfile.ZipFile, member: str | None) -> zipfile.ZipInfo:
    files = [info for info in archive.infolist() if info.filename[-1:] != "/"]
    chosen = [info for info in files if member is None or info.filename == member]
    if len(chosen) != 1:
        names = ", ".join(_shown(info.filename) for info in files[:8]) or "none"
        raise VectorsFileError(
            name,
            found=f"an archive of {len(files)} files ({names})",
            expected="one file" if member is None else f"a member {member!r}",
            fix="name one as if the archive were a folder: "
            f"{name if member is None else name.removesuffix('/' + member)}/"
            f"{_shown(files[0].filename) if files else 'vectors.txt'}",
        )
    return chosen[0]


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)
