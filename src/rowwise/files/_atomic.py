"""Files that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Without it Windows writes two bytes for every line break, in any file.
_BINARY = getattr(os, "O_BINARY", 0)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a temporary name beside `path`; what was written to it then replaces `path`.

    The data is on the disk before the name changes, and the change of name before this returns.
    On any error the temporary file goes and `path` stays as it was. A file that is replaced keeps
    its permissions; a new one gets those that the process gives its files. A link stays, and the
    file that it names is replaced. What a killed process left behind goes with the next save.

    Raises:
        OSError: `path` is a folder, a device or a pipe; there is no room, or no permission.
    """
    target = Path(os.path.realpath(path))
    mode = _mode(target)
    _remove_abandoned(target)
    temporary = target.parent / f"{_prefix(target)}{secrets.token_hex(8)}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    if fcntl is None:  # Windows renames no file that is open
        os.close(handle)
    try:
        if fcntl is not None:
            _lock(handle)
        yield os.fspath(temporary)
        flush(temporary)
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
        flush(target.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        if fcntl is not None:
            os.close(handle)


@contextmanager
def replacing_together(paths: Sequence[str | os.PathLike[str]]) -> Iterator[list[str]]:
    """Give a temporary name beside each of some paths, which are then replaced, the last one first.

    All are on the disk before the first is. A process that is killed between the first and the
    last leaves a mixture, which a reader must be able to tell. See `replacing`.
    """
    with ExitStack() as stack:
        temporaries = [stack.enter_context(replacing(path)) for path in paths]
        yield temporaries
        for temporary in temporaries:
            flush(temporary)


def open_for_writing(path: str | os.PathLike[str]) -> int:
    """Open a file that is there; `os.write` then writes bytes as they are, on every system."""
    return os.open(path, os.O_WRONLY | _BINARY)


def flush(path: str | os.PathLike[str]) -> None:
    """Return once a file is on the disk, or a folder's names, where the system can flush them."""
    if os.path.isdir(path):
        with suppress(OSError):
            _flush(path, os.O_RDONLY)
    else:
        _flush(path, os.O_RDWR)  # Windows flushes only what is open for writing


def _flush(path: str | os.PathLike[str], flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prefix(target: Path) -> str:
    return f".{target.name[:200]}.saving-"


def _remove_abandoned(target: Path) -> None:
    """Remove what saves of `target` left whose process was killed: nobody holds their lock."""
    if fcntl is None:
        return
    for path in target.parent.glob(glob.escape(_prefix(target)) + "?" * 16):
        with suppress(OSError):
            handle = os.open(path, os.O_WRONLY)
            try:
                _lock(handle)
                os.unlink(path)
            finally:
                os.close(handle)


def _lock(handle: int) -> None:
    """Lock a file for as long as it is open, or raise OSError."""
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _mode(target: Path) -> int | None:
    """Return the permissions of a file that is there, and refuse what is no file."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise OSError(f"{os.fspath(target)!r} is {kind}, not a file that can be replaced")
    return stat.S_IMODE(mode)
