"""Weights of 16 bits beside float32: a lookup and an update of 65,536 uniform ids, in turns.

Times are of this thread's processor, so that a busy machine disturbs them little.

    OMP_NUM_THREADS=1 python benchmarks/half.py [--rows 100000 1000000] [--rule adam] [--steps 80]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import rowwise

DIM, IDS = 64, 65_536
TABLES = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "bfloat16, stochastic": {"dtype": "bfloat16", "rounding": "stochastic"},
}


def main() -> None:
    """Print a line of a table for each number of rows and each dtype."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rule", default="adam")
    parser.add_argument("--steps", type=int, default=80)
    args = parser.parse_args()
    print("| rows | weights | MiB | lookup, ms | update, ms |\n|---:|---|---:|---:|---:|")
    for rows in args.rows:
        tables = {
            name: rowwise.Table(rows, DIM, args.rule, seed=0, **options)
            for name, options in TABLES.items()
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in tables}
        rng = np.random.default_rng(0)
        for _ in range(args.steps):
            ids = rng.integers(0, rows, IDS)
            gradients = (rng.normal(size=(IDS, DIM)) * 1e-3).astype(np.float32)
            for name, table in tables.items():
                begin = time.thread_time()
                table.lookup(ids)
                middle = time.thread_time()
                table.update(ids, gradients)
                times[name].append((middle - begin, time.thread_time() - middle))
        for name, table in tables.items():
            # By then rows have missed as many steps as they will.
            late = times[name][args.steps // 2 :]
            lookup, update = (statistics.median(part) * 1e3 for part in zip(*late, strict=True))
            mib = table.nbytes / 2**20
            print(f"| {rows:,} | {name} | {mib:.0f} | {lookup:.1f} | {update:.1f} |", flush=True)


if __name__ == "__main__":
    main()
