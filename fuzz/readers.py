"""Feed damaged files to every reader: an error of the reader's own is right, all else is a find.

Needs atheris (https://github.com/google/atheris), which changes the bytes so as to reach new lines
of the Python code; the native code runs on what gets through to it.

    python fuzz/readers.py [--runs 1000000] [--seconds 0] [--memory 1000]
        [--folder FOLDER] [NAME ...]

Each reader named, or each there is, runs in a process of its own until the runs or the seconds are
up. Prints a line for each: inputs, inputs a second, the most memory. FOLDER/NAME holds inputs to
begin with and those that reached new lines, so that a later run goes on from there; it lies in
memory unless another is given. What crashed is written as FOLDER/NAME-*, and the status is
1; `python fuzz/readers.py --input FILE NAME` runs it again. Mend it and keep it as a test.

An input is a reader's file, or its files with a mark between them; a mark and a line's end also
stand for the length of a safetensors header. What begins with JSON is changed as JSON, most of the
time. Checksums count as right, so that what stands behind them is reached.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import gzip
import io
import json
import lzma
import random
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import atheris

with (
    contextlib.redirect_stderr(io.StringIO()),  # the name of each module
    atheris.instrument_imports(include=["rowwise"]),
):
    import rowwise
    import rowwise.cli._labelled
    import rowwise.cli._predict
    from rowwise.cli._read import UsageError
    from rowwise.dynamic import DynamicTable
    from rowwise.errors import DamagedFileError, VectorsFileError
    from rowwise.files import _container
    from rowwise.sharded import ShardedDynamicTable, ThreadExchange, _file
    from rowwise.sklearn import TextClassifier
    from rowwise.store import _table_file  # noqa: F401
    from rowwise.vectors import FORMATS, Subwords, Vectors, load

import numpy as np
from tables import mutated_json

MEMORY = Path("/dev/shm")  # a folder in memory: there a file is written in half the time
LENGTH = 1024  # of an input, or twice that of the longest to begin with
# The files of vectors in two, of which the first names the set.
_SETS = {
    "npy": ("v.npy", "v.words.txt"),
    "projector": ("vectors.tsv", "metadata.tsv"),
    "static": ("model.safetensors", "tokenizer.json"),
}
_MOST_ROWS = 10**6
_BETWEEN_FILES, _SAFETENSORS = b"\xff\n\xff", b"\xfeST"


@dataclass(frozen=True)
class Reader:
    """Say how a kind of file is read, and what its reader may raise.

    Attributes:
        files: names of the files of an input.
        ways: to read them, each with the first file's path; one by one.
        errors: what is right for a damaged file.
        seeds: whole files to begin with, as bytes.
    """

    files: tuple[str, ...]
    ways: tuple[Callable[[Path], object], ...]
    errors: tuple[type[Exception], ...]
    seeds: list[bytes]


def joined(contents: Iterable[bytes]) -> bytes:
    """Return the input of several files."""
    return _BETWEEN_FILES.join(map(unsealed, contents))


def split(content: bytes, count: int) -> list[bytes]:
    """Return the files of an input."""
    parts = content.split(_BETWEEN_FILES, count - 1)
    return [sealed(part) for part in (*parts, *[b""] * (count - len(parts)))]


def unsealed(content: bytes) -> bytes:
    """Return a safetensors file with a mark and a line's end in place of its header's length."""
    length = int.from_bytes(content[:8], "little")
    if content[8:9] != b"{" or 8 + length > len(content):
        return content
    return _SAFETENSORS + content[8 : 8 + length].rstrip() + b"\n" + content[8 + length :]


def sealed(content: bytes) -> bytes:
    """Undo `unsealed`, so that a header of whatever length is believed."""
    if not content.startswith(_SAFETENSORS):
        return content
    header, _, arrays = content.removeprefix(_SAFETENSORS).partition(b"\n")
    return len(header).to_bytes(8, "little") + header + arrays


def begins_with_json(data: bytes) -> bool:
    """Return whether the first file of an input does."""
    return data.removeprefix(_SAFETENSORS).startswith(b"{")


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """Return an input that differs in bytes, or in a place of the JSON that a file begins with."""
    rng = random.Random(seed)
    parts = data.split(_BETWEEN_FILES)
    at = rng.randrange(len(parts))
    mark = _SAFETENSORS if parts[at].startswith(_SAFETENSORS) else b""
    header, newline, rest = parts[at].removeprefix(mark).partition(b"\n")
    if header.startswith(b"{") and rng.random() < 0.7:
        with contextlib.suppress(ValueError, RecursionError):
            new = json.dumps(mutated_header(json.loads(header), rng)).encode()
            parts[at] = mark + new + newline + rest
            found = _BETWEEN_FILES.join(parts)
            if len(found) <= most:
                return found
    return bytes(atheris.Mutate(data, most))


def mutated_header(header: Any, rng: random.Random) -> Any:
    """Return JSON that is changed in one place, in one of the strings of it that are JSON too."""
    about = header.get("__metadata__")
    strings = about.items() if isinstance(about, dict) else ()
    inner = [key for key, value in strings if isinstance(value, str) and value[:1] == "{"]
    if not inner or rng.random() < 0.4:
        return mutated_json(header, rng)
    key = rng.choice(inner)
    new = json.dumps(mutated_json(json.loads(about[key]), rng))
    return header | {"__metadata__": about | {key: new}}


# ---------------------------------------------------------------------- the readers


def vectors_in(name: str, folder: Path) -> Reader:
    """Return the reader of a format of vectors."""
    grams = Subwords(np.ones((5, 3), np.float32), 3, 6)
    vectors = Vectors(["tea", "cup", "é"], np.arange(9.0).reshape(3, 3), subwords=grams)
    files = _SETS.get(name, ("input",))
    if name == "gensim":
        return Reader(files, _ways_to_load(name), (VectorsFileError,), [b"\x80\x04K\x01."])
    vectors.save(folder if name == "static" else folder / files[0], name)
    seed = joined((folder / file).read_bytes() for file in files)
    return Reader(files, _ways_to_load(name), (VectorsFileError,), [seed])


def _ways_to_load(name: str | None) -> tuple[Callable[[Path], object], ...]:
    """Return how vectors can be loaded: all of them, a part, and some words."""
    return (
        partial(load, format=name),
        partial(load, format=name, limit=2, errors="replace", finite=False, dtype="float16"),
        partial(load, format=name, words=["tea", "cup", ""]),
    )


def compressed(folder: Path) -> Reader:
    """Return the reader of vectors that finds out their format, and what they are packed in."""
    text = b"2 2\ntea 1 2\ncup 3 4\n"
    seeds = [text, gzip.compress(text), bz2.compress(text), lzma.compress(text)]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(folder / "zip", "w", method) as archive:
            archive.writestr("v.txt", text)
        seeds.append((folder / "zip").read_bytes())
    return Reader(("input.txt",), _ways_to_load(None), (VectorsFileError,), seeds)


def table(folder: Path) -> Reader:
    """Return the reader of tables."""
    seeds = []
    for rule in ("adam", "ftrl", None):
        made = rowwise.Table(3, 2, rule, init="zeros")
        made.vocabulary = rowwise.Vocabulary(["tea"], oov_token="?")
        if rule:
            made.update([1], np.ones((1, 2)))
        made.save(folder / "table")
        seeds.append(joined([(folder / "table").read_bytes()]))

    def used(path: Path, mmap: bool) -> None:
        found = rowwise.Table.load(path, mmap=mmap)
        if found.rows * found.dim < _MOST_ROWS:
            with np.errstate(all="ignore"):
                found.lookup(np.arange(found.rows))
                with contextlib.suppress(ValueError):  # no rule, or a rate that it cannot have
                    found.update([0], np.ones((1, found.dim)))
                found.materialize()

    ways = (partial(used, mmap=True), partial(used, mmap=False))
    return Reader(("input",), ways, (DamagedFileError,), seeds)


def dynamic_table(folder: Path) -> Reader:
    """Return the reader of dynamic tables."""
    seeds = []
    for kind, ids in (("integers", [5, 7, 9]), ("strings", ["tea", "cup", "é"])):
        made = DynamicTable(4, 2, "adam", ids=kind, seed=0)
        made.observe(ids)
        made.update(ids, np.ones((3, 2)))
        made.save(folder / "table")
        seeds.append(joined([(folder / "table").read_bytes()]))

    def used(path: Path) -> None:
        found = DynamicTable.load(path)
        if found.table.rows * found.table.dim < _MOST_ROWS:
            with np.errstate(all="ignore"):
                with contextlib.suppress(TypeError):  # ids of the other kind
                    found.lookup([5, 8])
                    found.observe([5, 8])
                with contextlib.suppress(TypeError):
                    found.lookup(["tea", "pot"])
                    found.observe(["tea", "pot"])

    return Reader(("input",), (used,), (DamagedFileError,), seeds)


def sharded_dynamic_table(folder: Path) -> Reader:
    """Return the reader of dynamic tables over ranks, on one rank."""
    [alone] = ThreadExchange.group(1)
    seeds = []
    for kind, ids in (("integers", [5, 7, 9]), ("strings", ["tea", "cup", "é"])):
        options = {"buckets": 2, "admit_after": 2, "ids": kind, "seed": 0, "exchange": alone}
        made = ShardedDynamicTable(4, 2, "adam", **options)
        made.observe([*ids, *ids[:2]])
        made.update(ids, np.ones((3, 2)))
        made.save(folder / "table")
        seeds.append(joined([(folder / "table").read_bytes()]))

    def used(path: Path) -> None:
        found = ShardedDynamicTable.load(path, exchange=alone)
        if found.table.rows * found.dim < _MOST_ROWS:
            with np.errstate(all="ignore"):
                for some in ([5, 8], ["tea", "pot"]):
                    with contextlib.suppress(TypeError):  # ids of the other kind
                        found.lookup(some)
                        found.observe(some)

    return Reader(("input",), (used,), (DamagedFileError,), seeds)


def vocabulary(folder: Path) -> Reader:
    """Return the reader of vocabularies."""
    words = rowwise.Vocabulary(["tea", "é"], mask_token="", oov_token="?", num_oov_indices=2)
    seed = json.dumps(json.loads(words.to_json())).encode()  # in one line
    return Reader(("input",), (rowwise.Vocabulary.load,), (ValueError,), [seed])


def _trained() -> TextClassifier:
    model = TextClassifier(dim=2, word_ngrams=1, char_ngrams=5, max_epochs=1)
    return model.fit(["tea cup", "pot tea", "a sock", "the sock"], ["x", "x", "y", "y"])


def _predict(path: Path) -> None:
    with np.errstate(all="ignore"):
        rowwise.cli._predict.label(path.parent, ["tea", "a sock é", ""], None)


def classifier(folder: Path) -> Reader:
    """Return the reader of text classifiers."""
    _trained().save(folder)
    files = ("classifier.safetensors", "head.safetensors", "table.safetensors")
    seed = joined((folder / file).read_bytes() for file in files)
    return Reader(files, (_predict,), (DamagedFileError, UsageError), [seed])


def quantized_classifier(folder: Path) -> Reader:
    """Return the reader of quantized text classifiers."""
    _trained().save_quantized(folder)
    seed = joined([(folder / "classifier.safetensors").read_bytes()])
    errors = (DamagedFileError, UsageError)
    return Reader(("classifier.safetensors",), (_predict,), errors, [seed])


def texts(folder: Path) -> Reader:
    """Return the reader of texts with labels: columns, lines of JSON and lines of fastText."""
    columns = rowwise.cli._labelled.Columns()
    seeds = [
        b'text,label\n"tea, cup",x\npot,y\n',
        b"text\tlabel\ntea cup\tx\npot\ty\n",
        b'{"text": "tea", "label": "x"}\n{"text": ["pot", "cup"], "label": null}\n',
        b"__label__x __label__y tea cup\n__label__y pot\n",
        "\ufefftext\tlabel\ntea\tx\n".encode("utf-16"),
        gzip.compress(b"text\tlabel\ntea cup\tx\n"),
    ]

    def read(path: Path, name: str) -> None:
        again = path.with_name(name)
        with contextlib.suppress(FileExistsError):
            again.symlink_to(path.name)
        rowwise.cli._labelled.read_labelled(again, columns)

    names = ("input.csv", "input.tsv", "input.jsonl", "input.txt", "input.tsv.gz")
    ways = tuple(partial(read, name=name) for name in names)
    return Reader(("input",), ways, (UsageError,), seeds)


READERS: dict[str, Callable[[Path], Reader]] = {
    **{name: partial(vectors_in, name) for name in sorted(FORMATS)},
    "compressed": compressed,
    "table": table,
    "dynamic-table": dynamic_table,
    "sharded-dynamic-table": sharded_dynamic_table,
    "vocabulary": vocabulary,
    "classifier": classifier,
    "quantized-classifier": quantized_classifier,
    "texts": texts,
}


def one_input(reader: Reader, folder: Path, data: bytes) -> None:
    """Write the files of an input and read them."""
    for name, part in zip(reader.files, split(data, len(reader.files)), strict=True):
        (folder / name).write_bytes(part)
    for way in reader.ways:
        try:
            way(folder / reader.files[0])
        except reader.errors:
            pass
        except MemoryError as error:
            if not str(error):  # one of Python's own, and not a refusal that says what to do
                raise


# ---------------------------------------------------------------------- running them


def trust_checksums() -> None:
    """Make every checksum 0, in the files to begin with and wherever one is looked at."""
    container: Any = _container
    for module in (container, _file):
        module.zlib = SimpleNamespace(crc32=lambda data, value=0: 0)
    container._PAGE = 8  # so that inputs are short


def fuzz(name: str, arguments: list[str], inputs: Path) -> None:
    """Run a reader in this process, with arguments of libFuzzer; it ends the process."""
    trust_checksums()
    warnings.simplefilter("ignore")  # of words that stand twice
    with tempfile.TemporaryDirectory(dir=inputs.parent) as temporary:
        reader = READERS[name](Path(temporary))
    longest = 2 * max(map(len, reader.seeds))
    inputs.mkdir(exist_ok=True)
    for number, seed in enumerate(reader.seeds):
        (inputs / f"seed-{number}").write_bytes(seed)
    folder = inputs.parent / f"{name}-files"
    folder.mkdir(exist_ok=True)
    atheris.Setup(
        [sys.argv[0], *arguments, f"-max_len={max(LENGTH, longest)}"],
        partial(one_input, reader, folder),
        **({"custom_mutator": mutated} if any(map(begins_with_json, reader.seeds)) else {}),
    )
    atheris.Fuzz()


def run(name: str, options: argparse.Namespace) -> bool:
    """Run a reader in another process and print what came of it; return whether it held."""
    inputs = options.folder / name
    arguments = [
        f"-runs={options.runs}",
        f"-max_total_time={options.seconds}",
        f"-rss_limit_mb={options.memory}",
        f"-artifact_prefix={inputs}-",
        "-print_final_stats=1",
        "-timeout=20",
    ]
    with open(f"{inputs}.log", "wb") as log:
        ended = subprocess.run(
            [sys.executable, __file__, "--libfuzzer", name, *arguments, str(inputs)],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    said = Path(f"{inputs}.log").read_text(errors="replace")
    counts = {
        key: int(found[1]) if (found := re.search(rf"stat::{key}:\s*(\d+)", said)) else 0
        for key in ("number_of_executed_units", "average_exec_per_sec", "peak_rss_mb")
    }
    print(
        f"{name:22}{counts['number_of_executed_units']:>12,} inputs"
        f"{counts['average_exec_per_sec']:>7,} a second{counts['peak_rss_mb']:>6} MB"
        + ("" if ended.returncode == 0 else f"   FOUND SOMETHING, see {inputs}.log"),
        flush=True,
    )
    return ended.returncode == 0


def main() -> int:
    """Run readers; return 1 if one does not hold."""
    if sys.argv[1:2] == ["--libfuzzer"]:
        fuzz(sys.argv[2], sys.argv[3:], Path(sys.argv[-1]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(READERS))
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=0, help="For each reader; 0: no limit.")
    parser.add_argument("--memory", type=int, default=1000, help="Limit, in MB.")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--input", type=Path, help="Run this one alone.")
    options = parser.parse_args()
    unknown = set(options.names) - set(READERS)
    if unknown:
        parser.error(f"there is no reader {', '.join(sorted(unknown))}")
    in_memory = str(MEMORY) if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=in_memory) as temporary:
        if options.input:
            trust_checksums()
            for name in options.names:
                reader = READERS[name](Path(temporary))
                one_input(reader, Path(temporary), options.input.read_bytes())
            return 0
    if options.folder is None:
        options.folder = Path(tempfile.mkdtemp(prefix="rowwise-fuzz-", dir=in_memory))
    options.folder.mkdir(parents=True, exist_ok=True)
    held = [run(name, options) for name in options.names or READERS]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
