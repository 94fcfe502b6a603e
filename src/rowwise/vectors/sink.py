"""A file to be written in order, compressed if its name says so."""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from rowwise.files._atomic import replacing


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Gives a file to write to; `path` appears whole or not at all.

    Names that end in .gz or .zip are compressed; the same content gives the same bytes.
    """
    target = Path(path)
    ending = target.suffix.lower()
    with replacing(target) as temporary, open(temporary, "wb") as raw:
        if ending == ".gz":
            with gzip.GzipFile(target.stem, "wb", 6, raw, mtime=0) as stream:
                yield cast(IO[bytes], stream)
        elif ending == ".zip":
            about = zipfile.ZipInfo(target.stem, (1980, 1, 1, 0, 0, 0))
            about.compress_type = zipfile.ZIP_DEFLATED
            about.external_attr = 0o644 << 16
            with (
                zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive,
                archive.open(about, "w", force_zip64=True) as stream,
            ):
                yield stream
        else:
            yield raw
