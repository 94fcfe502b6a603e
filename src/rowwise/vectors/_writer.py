"""Write files that appear whole or not at all, compressed if their names say so."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rowwise.files._atomic import replacing, replacing_together
from rowwise.vectors._compression import COMPRESSIONS, split_suffix
from rowwise.vectors._manifest import manifest_of, write_manifest


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Give a file to write to; `path` appears whole or not at all.

    A name that ends in .gz, .bz2, .xz or .zip has its content compressed; the same content gives
    the same bytes.
    """
    target = Path(path)
    refuse_folder(target)
    with replacing(target) as temporary, compressing(temporary, target) as file:
        yield file


@contextmanager
def writing_together(targets: Sequence[Path]) -> Iterator[list[str]]:
    """Give a temporary name for each file of a set, the first of which names the set.

    All of them are on the disk before the first takes its place. The manifest takes its own
    before any: from then until the last file has followed, the set on the disk differs from what
    the manifest says, so that `whole_set` refuses a set of which only a part was replaced.
    """
    for target in targets:
        refuse_folder(target)
    with replacing_together([*targets, manifest_of(targets[0])]) as (*temporaries, manifest):
        yield temporaries
        names = [target.name for target in targets]
        write_manifest(manifest, dict(zip(names, temporaries, strict=True)))


@contextmanager
def compressing(path: str | os.PathLike[str], target: Path) -> Iterator[IO[bytes]]:
    """Open the file `path` for writing, its content compressed as `target`'s name says."""
    packed = split_suffix(target.name)[1]
    with open(path, "wb") as raw:
        if packed == ".zip":
            about = zipfile.ZipInfo(target.stem, (1980, 1, 1, 0, 0, 0))
            about.compress_type = zipfile.ZIP_DEFLATED
            about.external_attr = 0o644 << 16
            with (
                zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive,
                archive.open(about, "w", force_zip64=True) as stream,
            ):
                yield stream
            return
        for compression in COMPRESSIONS:
            if compression.suffix == packed:
                with compression.open(raw, "wb", target.stem) as stream:
                    yield stream
                return
        yield raw


def refuse_folder(target: Path) -> None:
    """Refuse a folder as the file to write, before anything is written."""
    if target.is_dir():
        raise IsADirectoryError(f"{os.fspath(target)!r} is a folder; name a file in it")
