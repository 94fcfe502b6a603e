"""What a step of a sharded table moves and takes on 8, 64 and 512 processes: counts and a model.

Bytes, and the load of each process, are counted: ids are drawn, and placed by the table's own
layout. Times are computed from four measured numbers (`benchmarks/sharded.py` prints the first
three; give your own):

    time = lookup * rows asked of the busiest process + update * gradients that come to it
         + bytes that it sends / bandwidth + latency * messages that it sends

Data-parallel training of the dense table would all-reduce a gradient of the whole table instead,
each process sending 2 (ranks - 1) / ranks of it, and step every row.

    python benchmarks/scaling.py [--rows 100000000] [--bandwidth 3e9] [--latency 2e-5]
"""

from __future__ import annotations

import argparse

import numpy as np

from rowwise.sharded import Layout

DIM, BATCH, SENDERS = 64, 65_536, 64
EXCHANGES = 6  # agreement, rows, vectors; agreement, rows, gradients
AGREEMENTS, HEADER = 2, 88  # bytes


def draw(rows: int, rng: np.random.Generator) -> np.ndarray:
    """Ids (BATCH,), the k-th as often as 1 / k."""
    return (rows ** rng.random(BATCH)).astype(np.int64) - 1


def counted(rows: int, ranks: int) -> dict[str, float]:
    """Rows and gradients of a step, of the busiest process and of the mean; some of the senders
    are drawn, and stand for all."""
    layout, rng = Layout(rows, ranks), np.random.default_rng(ranks)
    asked, gradients, distinct = np.zeros(ranks), np.zeros(ranks), 0
    senders = min(ranks, SENDERS)
    for _ in range(senders):
        ids = draw(rows, rng)
        unique = np.unique(ids)
        distinct += len(unique) / senders
        asked += np.bincount(layout.positions(unique) // layout.block, minlength=ranks)
        gradients += np.bincount(layout.positions(ids) // layout.block, minlength=ranks)
    scale = ranks / senders
    blocks = np.bincount(np.minimum(ids * ranks // rows, ranks - 1), minlength=ranks)
    return {
        "distinct": distinct,
        "asked": asked.max() * scale,
        "gradients": gradients.max() * scale,
        "balance of rows": asked.max() / asked.mean(),
        "balance": gradients.max() / gradients.mean(),
        "of blocks": blocks.max() / blocks.mean(),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000_000, help="rows of the table")
    parser.add_argument("--lookup", type=float, default=100e-9, help="seconds a row looked up")
    parser.add_argument("--update", type=float, default=100e-9, help="seconds a gradient")
    parser.add_argument("--bandwidth", type=float, default=1e9, help="bytes a second a process")
    parser.add_argument("--latency", type=float, default=20e-6, help="seconds a message")
    args = parser.parse_args()
    print(f"{args.rows:,} rows x {DIM}, {BATCH:,} Zipf ids a process and step, Adam")
    print("| processes | sums | MB sent | busiest / mean: lookups, gradients | ms | dense: MB |")
    print("|---|---|---|---|---|---|")
    for ranks in (8, 64, 512):
        of = counted(args.rows, ranks)
        elsewhere = (ranks - 1) / ranks
        dense = 2 * elsewhere * 4 * DIM * args.rows
        for sums, sent_gradients, came, balance in (
            ("batch", BATCH, of["gradients"], of["balance"]),
            ("parts", of["distinct"], of["asked"], of["balance of rows"]),  # a part a process
        ):
            vectors = 4 * of["distinct"] + 4 * DIM * of["asked"]
            gradients = (4 + 4 * DIM) * sent_gradients
            sent = elsewhere * (vectors + gradients) + AGREEMENTS * HEADER * (ranks - 1)
            seconds = (
                args.lookup * of["asked"]
                + args.update * came
                + sent / args.bandwidth
                + args.latency * EXCHANGES * (ranks - 1)
            )
            print(
                f"| {ranks} | {sums} | {sent / 1e6:.1f} | {of['balance of rows']:.2f}, "
                f"{balance:.2f} | {1000 * seconds:.0f} | {dense / 1e6:,.0f} |"
            )
        print(f"blocks of ids instead of buckets: {of['of blocks']:.1f} times the mean")


if __name__ == "__main__":
    main()
