"""Feed mutated tables and vocabularies to their readers, many a second, under a memory limit.

    python fuzz/tables.py [--inputs 10000] [--seed 0] [--memory 1000]

Where `readers.py` lets coverage lead it, this knows the format: it changes bytes, but also numbers,
names and contents, and then writes their checksums anew, so that what a header or an array says is
believed. Allowed are `DamagedFileError` of a table, `ValueError` of a vocabulary, and a
`MemoryError` with a message. What opens is used and saved. Prints the counts, the longest time and
the largest memory; ends with status 1 at anything else. A crash shows the number tried last.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rowwise
from rowwise.errors import DamagedFileError

RULES = ["sgd", "adam", "adamw", "nadam", "adagrad", "rmsprop", "adadelta", "ftrl", "lion", None]
NUMBERS: list[Any] = [
    *(-1, 0, 1, 2, 3, 7, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64),
    *(10**9, 10**30, 10**400, 0.0, -0.0, 0.5, 1e-45, 1e38, 1e308, -1e308),
    *(float("nan"), float("inf"), -float("inf"), 1e-300, 1 - 1e-9, 1.0),
]
OTHERS: list[Any] = [
    *(None, True, False, "", "x", "\udc80", "\0", "F32", "I64", "BOOL", "a" * 5000),
    *([], [[]], [1] * 9, [0, 0], {}, {"name": "adam"}, {"": 1}, "rowwise table 1"),
]
FLOATS = np.array([0, -0.0, 1, -1, 1e-45, 1e38, 3.4e38, np.nan, np.inf, -np.inf, 1e-20, 0.999])


def seeds(folder: Path) -> list[bytes]:
    """Return whole files of tables, of every kind of rule, with a vocabulary and without."""
    found = []
    for number, rule in enumerate(RULES):
        table = rowwise.Table(6, 3, rule, seed=0)
        if rule:
            for step in range(5):
                table.update([step, 1], np.full((2, 3), 0.1), 0.01)
        if number % 2:
            table.vocabulary = rowwise.Vocabulary(
                ["tea", "é"], mask_token="", oov_token="?", num_oov_indices=2
            )
        table.save(folder / "seed")
        found.append((folder / "seed").read_bytes())
    return found


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the arrays of a file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def joined(header: dict[str, Any], data: bytes) -> bytes:
    """Return a file whose every checksum is right, whatever else is wrong."""
    about = header.get("__metadata__")
    if isinstance(about, dict):
        for name, entry in header.items():
            if f"crc32 of {name}" in about:
                try:
                    begin, end = entry["data_offsets"]
                    piece = data[begin:end] if 0 <= begin <= end <= len(data) else b""
                except (TypeError, ValueError, KeyError, IndexError):
                    continue
                about[f"crc32 of {name}"] = f"{zlib.crc32(piece):08x}"
        about["crc32"] = "0" * 8
    text = json.dumps(header).encode()
    start = len(text).to_bytes(8, "little")
    right = f"{zlib.crc32(start + text):08x}".encode()
    return start + text.replace(b'"crc32": "00000000"', b'"crc32": "' + right + b'"') + data


def mutated_json(value: Any, rng: random.Random) -> Any:
    """Return JSON of which one place is changed, left out or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        chance = rng.random()
        if chance < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if chance < 0.2:
            return value | {rng.choice(["", "x", "name", key + "2"]): value[key]}
        return value | {key: mutated_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        chance = rng.random()
        if chance < 0.15:
            return value[:at] + value[at + 1 :]
        if chance < 0.3:
            return value[: at + 1] + value[at:]
        return [*value[:at], mutated_json(value[at], rng), *value[at + 1 :]]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice([-8, -4, -1, 1, 4, 8, value, 2**32])
    return rng.choice(NUMBERS if rng.random() < 0.6 else OTHERS)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return a file that is wrong in one way or a few."""
    kind = rng.randrange(7)
    if kind == 0:  # bytes
        changed = bytearray(content)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if kind == 1:  # length
        at = rng.randrange(len(content))
        return content[:at] + (content[at + rng.randint(1, 99) :] if rng.random() < 0.5 else b"")
    header, data = split(content)
    if kind == 2:  # places and dtypes of arrays
        for _ in range(rng.randint(1, 2)):
            header = mutated_json(header, rng)
    elif kind == 3:  # what stands about the table
        about = json.loads(header["__metadata__"]["table"])
        for _ in range(rng.randint(1, 2)):
            about = mutated_json(about, rng)
        header["__metadata__"]["table"] = json.dumps(about)
    elif kind == 4 and "vocabulary" in header:
        begin, end = header["vocabulary"]["data_offsets"]
        words = json.loads(data[begin:end].decode(errors="surrogatepass"))
        for _ in range(rng.randint(1, 2)):
            words = mutated_json(words, rng)
        new = json.dumps(words, ensure_ascii=rng.random() < 0.9).encode(errors="surrogatepass")
        data = data[:begin] + new  # the vocabulary is the last array
        header["vocabulary"] |= {"shape": [len(new)], "data_offsets": [begin, begin + len(new)]}
    else:  # contents of arrays
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            name = rng.choice([n for n in header if n != "__metadata__"])
            begin, end = header[name]["data_offsets"]
            width = {"F64": 8, "U8": 1}.get(header[name]["dtype"], 4)
            if end - begin >= width:
                at = begin + width * rng.randrange((end - begin) // width)
                number = float(rng.choice(FLOATS))
                changed[at : at + width] = rng.choice(
                    [
                        np.array(number, "<f8").tobytes()[:width]
                        if width != 4
                        else np.array(number, "<f4").tobytes(),
                        rng.randbytes(width),
                        b"\xff" * width,
                        rng.randrange(100).to_bytes(width, "little"),
                    ]
                )
        data = bytes(changed)
    return joined(header, data) if isinstance(header, dict) else json.dumps(header).encode() + data


def vocabularies() -> list[bytes]:
    """Return whole files of vocabularies, one with a tokenizer if `tokenizers` is there."""
    options = {"mask_token": "", "oov_token": "?", "num_oov_indices": 2}
    found = [rowwise.Vocabulary(["tea", "é", "\ud800"], **options)]
    with suppress(ImportError):
        from tokenizers import Tokenizer, models, pre_tokenizers

        tokenizer = Tokenizer(models.WordLevel({"tea": 0, "?": 1}, unk_token="?"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        found.append(rowwise.Vocabulary(["tea"], split=tokenizer, oov_token="?"))
    return [vocabulary.to_json() for vocabulary in found]


def mutated_words(content: bytes, rng: random.Random) -> bytes:
    """Return a vocabulary's file that is wrong in a byte or a few, or in a place of its JSON."""
    if rng.random() < 0.3:
        changed = bytearray(content[: rng.randint(1, 2 * len(content))])
        for _ in range(rng.randint(0, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    value = json.loads(content.decode(errors="surrogatepass"))
    for _ in range(rng.randint(1, 3)):
        value = mutated_json(value, rng)
    return json.dumps(value).encode()


def read_table(folder: Path, mmap: bool) -> str:
    """Open a table, do with it what one does, and say what came of it."""
    try:
        table = rowwise.Table.load(folder / "table", mmap=mmap)
    except DamagedFileError:
        return "DamagedFileError"
    except MemoryError as error:
        if not str(error):
            raise
        return "MemoryError"
    with np.errstate(all="ignore"):
        table.lookup(np.arange(table.rows))
        _ = table.update_counts, table.is_trained(), repr(table)
        if table.rule:
            table.update([0, table.rows - 1], np.ones((2, table.dim)), 0.01)
        table.materialize()
    try:
        table.grow(table.rows + 1)
        table.save(folder / "again")
    except ValueError as error:
        if not mmap or "the file that this table was mapped from is damaged" not in str(error):
            raise
        return "not saved again"
    rowwise.Table.load(folder / "again")
    return "used and saved again"


def read_vocabulary(folder: Path) -> str:
    """Open a vocabulary, look words up and save it."""
    try:
        words = rowwise.Vocabulary.load(folder / "words")
    except ValueError:
        return "ValueError"
    _ = words.decode(range(min(len(words), 9))), repr(words), hash(words)
    try:
        words.encode("tea é cup")
    except KeyError:  # no entry for unknown words
        pass
    except Exception as error:  # a tokenizer's own
        if type(error) is not Exception:
            raise
    return "used"


READERS: dict[str, Callable[[Path], str]] = {
    "table read": partial(read_table, mmap=False),
    "table mapped": partial(read_table, mmap=True),
    "vocabulary": read_vocabulary,
}


def main() -> int:
    """Try the inputs; return 1 at the first that is not refused as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="Number of the first input.")
    parser.add_argument("--memory", type=int, default=1000, help="Limit, in MB.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (options.memory << 20,) * 2)
    counts: Counter[str] = Counter()
    longest = (0.0, 0)
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tables, words = seeds(folder), vocabularies()
        for number in range(options.first, options.first + options.inputs):
            rng = random.Random(f"{options.seed} {number}")
            (folder / "table").write_bytes(mutated(rng.choice(tables), rng))
            (folder / "words").write_bytes(mutated_words(rng.choice(words), rng))
            print(f"input {number}", end="\r", file=sys.stderr, flush=True)
            for what, read in READERS.items():
                began = time.perf_counter()
                try:
                    counts[f"{what}: {read(folder)}"] += 1
                except Exception as error:
                    failed = 1
                    print(f"input {number}, {what}: {type(error).__name__}: {error}")
                longest = max(longest, (time.perf_counter() - began, number))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{options.inputs:,} tables and vocabularies: {dict(sorted(counts.items()))}")
    print(f"longest {longest[0]:.2f} s (input {longest[1]}), largest memory {largest} MB")
    return failed


if __name__ == "__main__":
    sys.exit(main())
