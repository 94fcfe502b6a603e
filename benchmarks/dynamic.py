"""What any id costs: a dynamic table beside a plain one of the same rows.

    python benchmarks/dynamic.py [--rows 4000000] [--dim 64] [--batch 65536] [--sharded]
    python benchmarks/dynamic.py --traffic

The plain table is given row numbers; the dynamic one 64-bit hashes, or strings, of the same rows,
all of them known. Then ids that nobody saw before: how many are admitted a second, each at the
cost of another's row. Sharded tables are measured on one rank: its own work, without a wire.
`--traffic` counts what each of two ranks sends for a batch of known ids, and measures no time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import rowwise
from rowwise.dynamic import DynamicTable
from rowwise.sharded import ShardedDynamicTable, ShardedTable, ThreadExchange

_WARM, _REPEATS = 3, 15


def milliseconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the median time of a call."""
    times = []
    for repeat in range(_WARM + _REPEATS):
        begin = clock()
        work()
        if repeat >= _WARM:
            times.append(clock() - begin)
    return 1e3 * float(np.median(times))


def filled(rows: int, dim: int, keys: np.ndarray, kind: str) -> DynamicTable:
    """Return a dynamic table in which each of the keys has a row."""
    table = DynamicTable(rows, dim, "adam", ids=kind, in_flight=1)
    for start in range(0, rows, 1 << 18):
        table.observe(keys[start : start + (1 << 18)])
    assert len(table) == rows
    return table


def works_of(table: Any, gradients: np.ndarray) -> dict[str, Callable[[Any], object]]:
    """Return what is measured of both kinds of table."""
    return {"lookup": table.lookup, "update": lambda ids: table.update(ids, gradients)}


def print_traffic(rows: int, dim: int, batch: int) -> None:
    """Print the megabytes that each of two ranks sends; the k-th of rows ids as often as 1 / k."""

    def sent(exchange: ThreadExchange) -> dict[str, float]:
        rng = np.random.default_rng(exchange.rank)
        table = ShardedDynamicTable(4 * batch, dim, "adam", exchange=exchange, in_flight=1)
        drawn = (rows ** rng.random(batch)).astype(np.int64)
        ids = drawn * np.int64(0x1E3779B97F4A7C15)
        gradients = rng.standard_normal((batch, dim)).astype(np.float32)
        known = table.observe(ids)
        works: dict[str, Callable[[], object]] = {
            "observe": lambda: table.observe(ids),
            "lookup": lambda: table.table.lookup(known),
            "update": lambda: table.table.update(known, gradients),
            "find": lambda: table.find(ids),
        }
        counts = {}
        for name, work in works.items():
            before = exchange.bytes_sent
            work()
            counts[name] = (exchange.bytes_sent - before) / 1e6
        return counts

    with ThreadPoolExecutor(2) as pool:
        for rank, counts in enumerate(pool.map(sent, ThreadExchange.group(2))):
            print(f"rank {rank} sends MB:", *(f"{name} {mb:.2f}" for name, mb in counts.items()))


def main() -> None:
    """Measure, and print one line a piece of work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=65_536)
    parser.add_argument("--strings", action="store_true", help="Measure strings, too.")
    parser.add_argument("--sharded", action="store_true", help="Measure one rank of many, too.")
    parser.add_argument(
        "--processor", action="store_true", help="Measure processor time: others work here, too."
    )
    parser.add_argument("--traffic", action="store_true", help="Count bytes of two ranks alone.")
    options = parser.parse_args()
    clock = time.process_time if options.processor else time.perf_counter
    rows, dim, batch = options.rows, options.dim, options.batch
    if options.traffic:
        print_traffic(rows, dim, batch)
        return
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, rows, batch) for _ in range(_WARM + _REPEATS)]
    gradients = rng.standard_normal((batch, dim)).astype(np.float32)
    results: dict[str, dict[str, float]] = {}

    def measure(name: str, batches: list[Any], works: dict[str, Callable[[Any], object]]) -> None:
        results[name] = {}
        for what, work in works.items():
            turns = iter(batches)
            results[name][what] = milliseconds(
                lambda turns=turns, work=work: work(next(turns)), clock
            )

    plain = rowwise.Table(rows, dim, "adam")
    measure("Table", batches, works_of(plain, gradients))
    del plain
    for kind in ("integers", "strings") if options.strings else ("integers",):
        keys = np.arange(rows) * np.int64(0x1E3779B97F4A7C15)  # distinct: modulo 2**64
        if kind == "strings":
            keys = np.array([f"item {key:x}" for key in keys.tolist()], object)
        table = filled(rows, dim, keys, kind)
        works = {**works_of(table, gradients), "observe": table.observe}
        measure(f"DynamicTable, {kind}", [keys[ids] for ids in batches], works)
        new = iter(range(2**62, 2**63, batch))
        begin, steps = time.perf_counter(), 40
        for _ in range(steps):
            start = next(new)
            ids = range(start, start + batch)
            table.observe(np.array(ids) if kind == "integers" else [str(i) for i in ids])
            table.table.update([], np.empty((0, dim)))
        admitted = steps * batch / (time.perf_counter() - begin)
        print(
            f"{kind}: {admitted:,.0f} admissions a second, each evicting; the index takes "
            f"{table.index.nbytes / rows:.0f} bytes a row"
        )
        del table, works
    if options.sharded:
        [alone] = ThreadExchange.group(1)
        measure(
            "ShardedTable",
            batches,
            works_of(ShardedTable(rows, dim, "adam", exchange=alone), gradients),
        )
        sharded = ShardedDynamicTable(rows, dim, "adam", exchange=alone, in_flight=1)
        works = {"observe": sharded.observe, "find": sharded.find}
        keys = np.arange(rows) * np.int64(0x1E3779B97F4A7C15)
        for start in range(0, rows, 1 << 18):
            sharded.observe(keys[start : start + (1 << 18)])
        measure("ShardedDynamicTable", [keys[ids] for ids in batches], works)
    print(f"\n{rows:,} rows of {dim}, Adam, {batch:,} uniform ids; ms, and times the plain table's")
    base = results["Table"]
    for name, times in results.items():
        shown = (
            f"{what} {ms:6.2f}" + (f" ({ms / base[what]:.2f}x)" if what in base else "")
            for what, ms in times.items()
        )
        print(f"{name:24}", "   ".join(shown))


if __name__ == "__main__":
    main()
