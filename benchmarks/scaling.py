"""What a step of a sharded table moves and takes on 8, 64 and 512 processes: counts and a model.

Bytes, and the load of each process, are counted: ids of all processes are drawn, and placed by the
table's own layout. Times are computed from pieces that are measured first, in two processes that
work at once, each the least of several runs:

    time = own work on a batch's ids                  sorting them, copies of vectors and gradients
         + lookup * rows asked of the busiest process
         + row * rows that it updates + sum * gradients that come to it
         + bytes that a process sends / bandwidth
         + exchanges * (call + message * (processes - 1))

Bandwidth, call and message are those of gloo within this machine. Nothing here measures another
network: `--bandwidth` and `--latency` are yours to give, and the last column takes them in place of
bandwidth and message. Nothing is taken to overlap.

Data-parallel training of the dense table would all-reduce a gradient of the whole table instead,
each process sending 2 (processes - 1) / processes of it, and step every row.

    python benchmarks/scaling.py [--rows 100000000] [--bandwidth 3.1e9] [--latency 2e-5]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
import torch.distributed as dist

from rowwise import rules
from rowwise.sharded import Layout
from rowwise.sharded._batch import Parcel, request, row_parcel, summed_parcel
from rowwise.store import HostStore, RowGradient
from sharded import BATCH, DIM, RANKS, launch, start

HERE = 2_000_000  # rows of a process, of which pieces are measured
EXCHANGES = 6  # agreement, rows, vectors; agreement, rows, gradients
AGREEMENTS, HEADER = 2, 88  # bytes
WIRE, IN_FLIGHT = 8_000_000, 64  # bytes to the other process; small messages to it at once


@dataclass(frozen=True)
class Pieces:
    """Seconds, measured; bandwidth in bytes a second.

    Attributes:
        own, own_parts: an id of a batch, with sums="batch" and "parts".
        lookup: a row looked up.
        row, sum: a row updated, and a gradient added to its sum.
        call, message: an exchange of a few bytes, and each further message in it.
        bandwidth: bytes that a process sends, while it receives as many.
    """

    own: float
    own_parts: float
    lookup: float
    row: float
    sum: float
    call: float
    message: float
    bandwidth: float


def least(work: Callable[[], object], runs: int) -> float:
    """Seconds of the quickest of some calls."""
    return min(seconds(work) for _ in range(1 + runs))


def seconds(work: Callable[[], object]) -> float:
    """Seconds of a call, which both processes start together."""
    dist.barrier()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measured(rank: int, runs: int) -> Pieces:
    """Measure the pieces, on this process while the other does the same."""
    rng = np.random.default_rng(rank)
    values = rng.standard_normal((BATCH, DIM)).astype(np.float32)
    ids, out = draw(RANKS * HERE, rng), np.empty((BATCH, DIM), np.float32)
    layout = Layout(RANKS * HERE, RANKS)
    found = values[: len(request(ids, layout).rows)].copy()

    def own(parcel: Callable[..., Parcel]) -> float:
        def work() -> None:
            wanted = request(ids, layout)
            np.take(found, wanted.inverse, axis=0, out=out)
            parcel(wanted, values)

        return least(work, runs) / BATCH

    # As they come: the distinct rows of senders, spread over the table; other ones at each step.
    batches = [np.unique(rng.integers(0, HERE, len(found))) for _ in range(8)]
    rule = rules.Adam(0.01)
    store, step = HostStore(HERE, DIM, rule), rule.step_params(0.01, 100)
    many = np.zeros(BATCH, np.int64)
    lookup, row, adding = [], [], []
    for number in range(8 + runs):
        rows = batches[number % 8]
        gradient = RowGradient(rows, values[: len(rows)])
        lookup.append(seconds(lambda: store.gather(rows, out[: len(rows)])) / len(rows))  # noqa: B023
        row.append(seconds(lambda: store.apply(gradient, step)) / len(rows))  # noqa: B023
        adding.append(seconds(lambda: store.apply(RowGradient(many, values), step)) / BATCH)

    small, wire = (torch.zeros(n, dtype=torch.uint8) for n in (RANKS * HEADER, WIRE))
    split = [0 if to == rank else WIRE for to in range(RANKS)]
    back, few = torch.zeros_like(wire), torch.zeros((2, IN_FLIGHT, HEADER), dtype=torch.uint8)

    def in_flight() -> None:
        pairs = zip(*few, strict=True)
        works = [w for s, r in pairs for w in (dist.isend(s, 1 - rank), dist.irecv(r, 1 - rank))]
        for work in works:
            work.wait()

    return Pieces(
        own=own(row_parcel),
        own_parts=own(partial(summed_parcel, parts=1)),
        lookup=min(lookup[8:]),
        row=min(row[8:]) - min(adding[8:]),
        sum=min(adding[8:]),
        call=least(lambda: dist.all_to_all_single(small, small.clone()), 5 * runs),
        message=least(in_flight, runs) / IN_FLIGHT,
        bandwidth=WIRE / least(lambda: dist.all_to_all_single(back, wire, split, split), runs),
    )


def draw(rows: int, rng: np.random.Generator) -> np.ndarray:
    """Ids (BATCH,), the k-th as often as 1 / k."""
    return (rows ** rng.random(BATCH)).astype(np.int64) - 1


def counted(rows: int, ranks: int) -> dict[str, float]:
    """Rows and gradients of a step: of the mean process, and of the busiest one."""
    layout, rng = Layout(rows, ranks), np.random.default_rng(ranks)
    batches = [draw(rows, rng) for _ in range(ranks)]
    unique = [np.unique(ids) for ids in batches]

    def by_rank(ids: np.ndarray) -> np.ndarray:
        return np.bincount(layout.positions(ids) // layout.block, minlength=ranks)

    asked, gradients = sum(map(by_rank, unique)), sum(map(by_rank, batches))
    blocks = np.bincount(np.minimum(batches[0] * ranks // rows, ranks - 1), minlength=ranks)
    return {
        "distinct": asked.mean(),
        "asked": asked.max(),
        "touched": by_rank(np.unique(np.concatenate(unique))).max(),
        "gradients": gradients.max(),
        "balance of rows": asked.max() / asked.mean(),
        "balance": gradients.max() / gradients.mean(),
        "of blocks": blocks.max() / blocks.mean(),
    }


def print_model(pieces: Pieces, args: argparse.Namespace) -> None:
    """Print the pieces, and the table."""
    print(f"measured, {HERE:,} rows x {DIM} a process, Adam:")
    for name, value in asdict(pieces).items():
        print(f"  {name:10} " + (f"{value:.3g} B/s" if name == "bandwidth" else f"{value:.3g} s"))
    print(f"{args.rows:,} rows x {DIM}, {BATCH:,} Zipf ids a process and step; times in ms")
    print(
        f"network: {args.bandwidth:.2g} B/s and {args.latency:.2g} s a message, given, not measured"
    )
    columns = "own | lookup | update | wire | messages | all | all, network | dense: MB"
    print(f"| processes | sums | MB sent | busiest / mean: lookups, gradients | {columns} |")
    print("|---|" + 11 * "---|")
    for ranks in (8, 64, 512):
        of = counted(args.rows, ranks)
        elsewhere = (ranks - 1) / ranks
        dense = 2 * elsewhere * 4 * DIM * args.rows
        for sums, own, sent_gradients, came, balance in (
            ("batch", pieces.own, BATCH, of["gradients"], of["balance"]),
            # A part a process.
            ("parts", pieces.own_parts, of["distinct"], of["asked"], of["balance of rows"]),
        ):
            vectors = 4 * of["distinct"] + 4 * DIM * of["asked"]
            gradients = (4 + 4 * DIM) * sent_gradients
            sent = elsewhere * (vectors + gradients) + AGREEMENTS * HEADER * (ranks - 1)
            own *= BATCH
            lookup = pieces.lookup * of["asked"]
            update = pieces.row * of["touched"] + pieces.sum * came
            others = ranks - 1
            here, there = (
                (sent / bandwidth, EXCHANGES * (pieces.call + message * others))
                for bandwidth, message in (
                    (pieces.bandwidth, pieces.message),
                    (args.bandwidth, args.latency),
                )
            )
            local = own + lookup + update
            times = (own, lookup, update, *here, local + sum(here), local + sum(there))
            in_ms = " | ".join(f"{1000 * seconds:.0f}" for seconds in times)
            print(
                f"| {ranks} | {sums} | {sent / 1e6:.1f} | {of['balance of rows']:.2f}, "
                f"{balance:.2f} | {in_ms} | {dense / 1e6:,.0f} |"
            )
        print(f"blocks of ids instead of buckets: {of['of blocks']:.1f} times the mean")


def main() -> None:
    """Start the two processes, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000_000, help="rows of the table")
    parser.add_argument(
        "--bandwidth", type=float, default=3.1e9, help="bytes a second a process, of a network"
    )
    parser.add_argument("--latency", type=float, default=20e-6, help="seconds a message, of it")
    parser.add_argument("--runs", type=int, default=30, help="runs of each piece")
    args = parser.parse_args()
    if "RANK" not in os.environ:
        launch()
    rank = start()
    pieces = measured(rank, args.runs)
    dist.destroy_process_group()
    if rank == 0:
        print_model(pieces, args)


if __name__ == "__main__":
    main()
