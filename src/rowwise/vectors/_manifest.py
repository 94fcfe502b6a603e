"""Tell whether the files of a set were written together.

Vectors in several files (numbers here, words there) cannot be replaced in one rename, and other
programs' formats have no room for a mark of the set. So a manifest stands beside them: JSON with
the length and CRC-32 of each file. Sets without one, as other programs write them, are not checked.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rowwise.errors import VectorsFileError

_FORMAT = "rowwise vectors manifest 1"
_MOST_BYTES = 1 << 16
_BLOCK = 1 << 22


def manifest_of(path: Path) -> Path:
    """Return the name of the manifest of the set that the file `path` names."""
    return path.with_name(f"{path.name}.manifest.json")


def write_manifest(path: str, files: Mapping[str, str]) -> None:
    """Write the manifest of files: name -> where it lies now. They are flushed to the disk."""
    sums = {}
    for name, place in files.items():
        with open(place, "rb") as file:
            os.fsync(file.fileno())
        sums[name] = _summary(Path(place))
    text = json.dumps({"format": _FORMAT, "files": sums}, indent=1, ensure_ascii=True)
    Path(path).write_text(text + "\n", encoding="ascii")


@contextmanager
def whole_set(path: Path) -> Iterator[None]:
    """Check the set that the file `path` names, and that it stays what it is in the meantime.

    Raises:
        VectorsFileError: a file is missing or is not what its manifest says; the set was saved
            anew while it was read; the manifest is damaged.
    """
    manifest = manifest_of(path)
    before = _content_of(manifest)
    if before is not None:
        for name, expected in _parse(manifest, before).items():
            _check(path.with_name(name), expected, manifest)
    yield
    if _content_of(manifest) != before:
        raise VectorsFileError(
            path, found="files that were saved anew while they were read", fix="load them again"
        )


def _content_of(manifest: Path) -> bytes | None:
    if not manifest.is_file():
        return None
    with manifest.open("rb") as file:
        return file.read(_MOST_BYTES)


def _parse(manifest: Path, content: bytes) -> dict[str, Any]:
    try:
        about = json.loads(content)
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']!r}, not {_FORMAT!r}")
        files = dict(about["files"])
        for name in files:
            if name in (".", "..") or Path(name).name != name:
                raise ValueError(f"{name!r} is not the name of a file beside it")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VectorsFileError(
            manifest,
            found=f"a damaged manifest ({type(error).__name__}: {error})",
            fix="save the vectors again; without the manifest they load unchecked",
        ) from error
    return files


def _check(file: Path, expected: Any, manifest: Path) -> None:
    found = _summary(file) if file.is_file() else None
    if found != expected:
        raise VectorsFileError(
            file,
            found="no such file" if found is None else "another file than was saved",
            expected=f"what {manifest.name} says: the numbers and words of one save",
            fix="a save was interrupted, or one of the files was replaced: save the vectors again, "
            f"or delete {manifest.name} if you know that the files belong together",
        )


def _summary(path: Path) -> dict[str, Any]:
    size, checksum = 0, 0
    buffer = memoryview(bytearray(_BLOCK))
    with path.open("rb") as file:
        while got := file.readinto(buffer):  # type: ignore[attr-defined]
            checksum = zlib.crc32(buffer[:got], checksum)
            size += got
    return {"bytes": size, "crc32": f"{checksum:08x}"}
