"""Kill processes that save again and again, at moments nobody chose, and look at what is left.

    python fuzz/kill.py [--kills 1000] [--seed 0] [table] [vocabulary] [vectors] [classifier]

A child saves contents 1, 2, 3, ... over each other in one folder until SIGKILL, which comes up to
30 ms after its first save. What then lies there must be one of them, whole, and not older than the
last one whose save had returned; a set of vector files, or a classifier's folder, may also be
refused, as its files cannot be replaced in one rename. What killed saves left must be gone once
another save has ended. Prints the counts; ends with status 1 at the first that is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

import rowwise
from rowwise.errors import DamagedFileError, VectorsFileError
from rowwise.sklearn import TextClassifier
from rowwise.vectors import Vectors, load

ROWS, DIM = 4_000, 8
Save = Callable[[Path, int], None]
Read = Callable[[Path], int]  # the number that was saved; ValueError: not one of them whole


def save_table(folder: Path, number: int) -> None:
    """Save a table whose weights all are the number."""
    table = rowwise.Table(ROWS, DIM, "adam", init="zeros")
    table.store.write(np.full((ROWS, DIM), number))
    table.save(folder / "t.safetensors")


def read_table(folder: Path) -> int:
    """Return the number that every weight of the table is."""
    return same(rowwise.Table.load(folder / "t.safetensors").to_numpy().ravel())


def save_vocabulary(folder: Path, number: int) -> None:
    """Save a vocabulary whose words all hold the number."""
    rowwise.Vocabulary([f"{word} {number}" for word in range(ROWS)]).save(folder / "words.json")


def read_vocabulary(folder: Path) -> int:
    """Return the number that every word holds."""
    words = rowwise.Vocabulary.load(folder / "words.json").words
    if len(words) != ROWS:
        raise ValueError(f"{len(words)} words")
    return same(np.array([int(word.split()[1]) for word in words]))


def save_vectors(folder: Path, number: int) -> None:
    """Save vectors as numbers and words in two files."""
    words = [f"{word}_{number}" for word in range(ROWS)]
    Vectors(words, np.full((ROWS, DIM), number, np.float32)).save(folder / "v.npy")


class RefusedError(Exception):
    """Several files, of which some are of one save and some of another."""


def read_vectors(folder: Path) -> int:
    """Return the number that every vector and every word holds."""
    try:
        vectors = load(folder / "v.npy")
    except VectorsFileError as error:
        raise RefusedError from error
    return same(np.append(vectors.matrix.ravel(), [int(w.split("_")[1]) for w in vectors.words]))


@cache
def classifier() -> TextClassifier:
    """Return a classifier to be changed and saved."""
    return TextClassifier(dim=2, max_epochs=1).fit(["tea cup", "sock"] * 4, ["x", "y"] * 4)


def save_classifier(folder: Path, number: int) -> None:
    """Save a classifier whose weights all are the number, and whose labels hold it."""
    model = classifier()
    for table in (model.table_, model._model.head):
        table.store.write(np.full(table.shape, number, np.float32))
    model.classes_ = np.array([number, number])
    model.save(folder)


def read_classifier(folder: Path) -> int:
    """Return the number that every weight and label is."""
    try:
        model = TextClassifier.load(folder)
    except DamagedFileError as error:
        if "saved" not in str(error):
            raise
        raise RefusedError from error
    parts = (model.table_.to_numpy(), model._model.head.to_numpy(), model.classes_)
    return same(np.concatenate([part.ravel() for part in parts]))


def same(numbers: np.ndarray) -> int:
    """Return the number that all of them are."""
    if not (numbers == numbers[0]).all():
        raise ValueError(f"{len(np.unique(numbers))} contents are mixed")
    return int(numbers[0])


KINDS: dict[str, tuple[Save, Read]] = {
    "table": (save_table, read_table),
    "vocabulary": (save_vocabulary, read_vocabulary),
    "vectors": (save_vectors, read_vectors),
    "classifier": (save_classifier, read_classifier),
}


def killed_while_saving(save: Save, folder: Path, first: int, delay: float) -> int:
    """Return the last number whose save had returned in a child when it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for number in range(first, first + 1_000_000):
                save(folder, number)
                os.write(writing, number.to_bytes(8, "little"))
        finally:
            os._exit(1)
    os.close(writing)
    told = os.read(reading, 8)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while piece := os.read(reading, 1 << 16):
        told += piece
    os.close(reading)
    if not told:
        raise RuntimeError("the child ended before it had saved")
    return int.from_bytes(told[-8:], "little")


def try_kind(kind: str, kills: int, seed: int) -> Counter[str]:
    """Return how often what was found after a kill."""
    save, read = KINDS[kind]
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        last = 0
        for _ in range(kills):
            last = killed_while_saving(save, folder, last + 1, rng.uniform(0, 0.03))
            counts["saves"] += 1
            counts["left behind"] += any(name.startswith(".") for name in os.listdir(folder))
            try:
                found = read(folder)
            except RefusedError:
                counts["refused"] += 1
                continue
            if found not in (last, last + 1):
                raise ValueError(f"after the save of {last} had returned, {found} is there")
            counts["the one under way" if found > last else "the last one saved"] += 1
            last = found
        save(folder, last + 1)
        if read(folder) != last + 1 or any(name.startswith(".") for name in os.listdir(folder)):
            raise ValueError(f"after a save in peace there are {os.listdir(folder)}")
    counts["kills"] = counts.pop("saves")
    return counts


def main() -> int:
    """Kill as often as asked, for each kind of file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for kind in options.kinds or KINDS:
        try:
            print(f"{kind}: {dict(try_kind(kind, options.kills, options.seed))}", flush=True)
        except ValueError as error:
            print(f"{kind}: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
