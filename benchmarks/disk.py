"""A table larger than its memory, beside the disk's own limit and a table in memory.

    python benchmarks/disk.py --gib 4 [--memory 1GiB] [--folder .] [--dim 64] [--batch 65536]

A step is a lookup of the batch and an update with Adam. The limit of a step of uniform ids is that
of the disk: its distinct rows that are not in memory, divided by the random reads a second that the
disk gives to 64 or 128 requests at once, whichever is more, measured here on the same file.
"Prefetched": the next batch is asked for while a model computes, which takes twice the limit and is
not counted.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

import rowwise
from rowwise.store import _records

STEPS, SKIPPED, IN_MEMORY = 40, 10, 1_000_000


def zipf(rng: np.random.Generator, rows: int, batch: int) -> np.ndarray:
    """Return ids of which the i-th most frequent comes as i**-1.05, spread over the table."""
    ranks = (1 - rng.random(batch) * (1 - rows**-0.05)) ** (-1 / 0.05)
    return ranks.astype(np.int64) * 2_654_435_761 % rows


def seconds(
    table: rowwise.Table,
    batches: list[np.ndarray],
    before: Callable[[np.ndarray], object],
    model: float | None = None,
) -> float:
    """Return the mean time of a step; `before` is called with each batch, and not counted.

    With `model`, the step has a model that takes so many seconds, not counted, between lookup and
    update, and the next batch is prefetched meanwhile.
    """
    gradients = np.full((len(batches[0]), table.dim), 0.01, np.float32)
    times = []
    for ids, following in pairwise([*batches, batches[0]]):
        before(ids)
        begin = time.perf_counter()
        table.lookup(ids)
        if model is not None:
            table.prefetch(following)
            time.sleep(model)
        table.update(ids, gradients)
        times.append(time.perf_counter() - begin - (model or 0.0))
    return float(np.mean(times[SKIPPED:]))


def reads_per_second(store: Any, rows: np.ndarray, depth: int) -> float:
    """Return how many rows (n,) the disk gives a second to so many requests at once."""
    arrays = [np.empty((len(rows), *array.shape[1:]), array.dtype) for array in store._arrays]
    store._file.finish()
    usual, _records._DEPTH = _records._DEPTH, depth
    try:
        begin = time.perf_counter()
        store._file.read_into(rows, arrays)
        return len(rows) / (time.perf_counter() - begin)
    finally:
        _records._DEPTH = usual


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, required=True, help="Size of the table on the disk.")
    parser.add_argument("--memory", help="For rows in memory; a quarter of the table if not given.")
    parser.add_argument("--folder", default=".", help="Where the rows lie.")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=65_536)
    options = parser.parse_args()
    record = options.dim * 12 + 16
    rows = int(options.gib * 2**30) // record
    memory = options.memory or int(options.gib * 2**28)
    table = rowwise.Table(rows, options.dim, "adam", seed=0, scratch=options.folder, memory=memory)
    store, rng = table.store, np.random.default_rng(0)
    begin = time.perf_counter()
    table.materialize()  # every row is written
    print(f"{rows:,} rows of {options.dim}, Adam, {store.nbytes / 2**30:.1f} GiB with ", end="")
    print(f"{store.memory_bytes / 2**30:.2f} GiB of it in memory; written in ", end="")
    print(f"{time.perf_counter() - begin:.0f} s")

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of KiB
    print(f"the process has taken {peak:.2f} GiB of memory at most, past the system's cache")

    cold: list[int] = []

    def before(ids: np.ndarray) -> None:
        cold.append(int((store._frame_of[np.unique(ids)] < 0).sum()))

    sample = rng.choice(rows, min(rows // 4, 30_000), replace=False)
    rates = {depth: reads_per_second(store, sample, depth) for depth in (64, 128)}
    print("the disk gives ", end="")
    print(" and ".join(f"{rate:,.0f} to {depth}" for depth, rate in rates.items()), end="")
    print(" requests at once, random reads a second\n")
    reads = max(rates.values())

    small = rowwise.Table(min(rows, IN_MEMORY), options.dim, "adam", seed=0)
    print(
        f"{'a step of ' + format(options.batch, ',') + ' ids':32}{'ms':>8}{'cold rows':>12}", end=""
    )
    print(f"{'limit, ms':>12}{'x limit':>9}{'in memory, ms':>15}{'x':>7}")
    for name, draw in (
        ("uniform", lambda rows: rng.integers(0, rows, options.batch)),
        ("Zipf, exponent 1.05", lambda rows: zipf(rng, rows, options.batch)),
    ):
        inside = seconds(small, [draw(small.rows) for _ in range(STEPS)], lambda _: None)
        limit = 0.0
        for ahead in (False, True):
            cold.clear()
            batches = [draw(rows) for _ in range(STEPS)]
            taken = seconds(table, batches, before, 2 * limit if ahead else None)
            if not ahead:
                missing = float(np.mean(cold[SKIPPED:]))
                limit = missing / reads
            print(
                f"{name + (', prefetched' if ahead else ''):32}{1e3 * taken:>8.0f}{missing:>12,.0f}"
                f"{1e3 * limit:>12.0f}{taken / limit:>8.1f}x{1e3 * inside:>15.0f}"
                f"{taken / inside:>6.1f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
