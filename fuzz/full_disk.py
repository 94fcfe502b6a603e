"""Save where there is less and less room, and look at what is left.

    python fuzz/full_disk.py [--steps 100] [--quota] [FOLDER]

The process may write files of a limited length only (RLIMIT_FSIZE), from none to the whole file in
so many steps. With a FOLDER on a small file system of its own, e.g. after

    mount -t tmpfs -o size=2M none FOLDER

its room is filled up to the same lengths too; or, with --quota, that of a btrfs subvolume is
limited, as after

    mount -o loop IMAGE MOUNT; btrfs quota enable MOUNT; btrfs subvolume create FOLDER

What is left must be what was saved before, whole, or
what was saved now if the save returned, and nothing else. Prints the counts; ends with status 1 at
the first that is wrong.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from kill import KINDS

Less = Callable[[Path, int], AbstractContextManager[None]]


@contextmanager
def limited_length(folder: Path, length: int) -> Iterator[None]:
    """Let no file grow beyond a length."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, unlimited[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


@contextmanager
def little_room(folder: Path, room: int) -> Iterator[None]:
    """Leave so many bytes of the folder's file system free."""
    ballast = folder / "ballast"
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(folder).free - room))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def small_quota(folder: Path, room: int) -> Iterator[None]:
    """Let the subvolume that the folder lies in grow by so many bytes, and what btrfs adds."""
    subvolume = folder.parent
    group = "0/" + btrfs("inspect-internal", "rootid", subvolume).strip()
    os.sync()
    shown = btrfs("qgroup", "show", "--raw", "-f", subvolume)
    used = next(int(line.split()[1]) for line in shown.splitlines() if line.startswith(group))
    btrfs("qgroup", "limit", str(used + 10 * room), group, subvolume.parent)
    try:
        yield
    finally:
        btrfs("qgroup", "limit", "none", group, subvolume.parent)


def btrfs(*arguments: str | Path) -> str:
    """Return what the program of this name prints."""
    return subprocess.run(["btrfs", *arguments], check=True, capture_output=True, text=True).stdout


def try_kind(kind: str, folder: Path, steps: int, less: Less) -> Counter[str]:
    """Return how often a save in a folder was refused, and how often not."""
    save, read = KINDS[kind]
    counts: Counter[str] = Counter()
    save(folder, 0)
    names = set(os.listdir(folder))
    needed = int(1.2 * sum((folder / name).stat().st_size for name in names))
    there = 0
    for step in range(steps):
        try:
            with less(folder, needed * step // steps):
                save(folder, step + 1)
        except OSError as error:
            counts[os.strerror(error.errno)] += 1
        else:
            counts["saved"] += 1
            there = step + 1
        if read(folder) != there:
            raise ValueError(f"at step {step}, {read(folder)} is there and not {there}")
        if set(os.listdir(folder)) != names:
            raise ValueError(f"at step {step} there are {os.listdir(folder)}")
    return counts


def main() -> int:
    """Try every kind of file with less and less room."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--quota", action="store_true")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as temporary:
        tries: list[tuple[str, Less, Path]] = []
        tries.append(("length of a file", limited_length, Path(temporary)))
        if options.folder:
            less = small_quota if options.quota else little_room
            tries.append((less.__name__.replace("_", " "), less, options.folder))
        for what, less, folder in tries:
            for kind in KINDS:
                own = folder / kind
                own.mkdir()
                try:
                    print(f"{what}, {kind}: {dict(try_kind(kind, own, options.steps, less))}")
                except ValueError as error:
                    print(f"{what}, {kind}: {error}")
                    return 1
                shutil.rmtree(own)
    return 0


if __name__ == "__main__":
    sys.exit(main())
