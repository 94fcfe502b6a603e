"""A folder that appears whole, beside the old one until then."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rowwise.cli._read import UsageError
from rowwise.files._atomic import flush


class NewFolder:
    """A folder to be written to, made at once, so that what forbids it is known at once.

    Args:
        out: where it is to stand.
        force: whether it may take the place of a folder that has files. Those of other names stay.

    Raises:
        UsageError: `out` is a file, cannot be written to, or has files and may not be replaced.
    """

    def __init__(self, out: Path, force: bool) -> None:
        self.out = out
        standing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
        if not standing.is_dir():
            raise UsageError(f"--out {str(out)!r}: {str(standing)!r} is a file; name a folder")
        if out.is_dir() and any(out.iterdir()) and not force:
            raise UsageError(f"--out {str(out)!r} is not empty; --force writes into it")
        try:
            out.absolute().parent.mkdir(parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
            os.chmod(self.path, 0o755)
            if out.is_dir() and not os.access(out, os.W_OK):
                raise PermissionError(f"{str(out)!r} cannot be written to")
        except OSError as error:
            self.remove()
            raise UsageError(f"--out {str(out)!r} cannot be made: {error}") from None

    def __enter__(self) -> NewFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder, if it has not taken its place."""
        path: Any = getattr(self, "path", None)
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)

    def place(self) -> None:
        """Flush the folder's files to the disk, and put it in its place."""
        for path in self.path.iterdir():
            flush(path)
        flush(self.path)
        old = None
        if self.out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{self.out.name}.old.", dir=self.path.parent))
            old.rmdir()  # Windows renames onto nothing that is there
            os.rename(self.out, old)
        try:
            os.rename(self.path, self.out)
        except OSError:
            if old is not None:
                os.rename(old, self.out)
            raise
        if old is not None:
            for path in old.iterdir():
                if not (self.out / path.name).exists() and path.name not in REPLACED:
                    shutil.move(path, self.out / path.name)
            shutil.rmtree(old)
        flush(self.out.absolute().parent)


# Files of a model; one that the new model does not have is of the old one.
REPLACED = {
    "table.safetensors", "head.safetensors", "classifier.safetensors", "classifier.json",
    "start.safetensors", "vocabulary.json", "words.csv", "model.keras",
}  # fmt: skip


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let an interrupt (Ctrl-C) wait until the block ends, and then do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
