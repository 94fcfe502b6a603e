"""A step of a sharded table beside its parts, and beside data-parallel dense training.

The work: two processes, a core each, Adam, vectors of 64, 65,536 ids a process and step. A step is
forward, backward and `optimizer.step` of `rowwise.torch.ShardedEmbedding`. Its parts, measured in
the same processes: lookup and update of as many rows of a table of its share's size, and
the time that gloo takes for the bytes that the step sends to the other process. The peer is
`torch.nn.Embedding` under `DistributedDataParallel` with `torch.optim.Adam`.

    python benchmarks/sharded.py [--rows 4000000] [--dense-rows 1000000] [--ids zipf]
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import rowwise.torch
from rowwise.sharded import Layout
from rowwise.store import HostStore, RowGradient

DIM, BATCH, RANKS = 64, 65_536, 2


def measure(
    works: dict[str, Callable[[int], None]], steps: int, warm_up: int = 3
) -> dict[str, np.ndarray]:
    """Median wall and processor time in ms of each of some works, both processes starting it
    together; in turns, so that what else the machine does bears on all of them."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for step in range(warm_up + steps):
        for name, work in works.items():
            dist.barrier()
            start = time.perf_counter(), time.process_time()
            work(step)
            took = time.perf_counter() - start[0], time.process_time() - start[1]
            times[name].append(took)
    return {name: 1000 * np.median(took[warm_up:], axis=0) for name, took in times.items()}


def batches(kind: str, rows: int, rank: int, count: int) -> list[np.ndarray]:
    """Ids (BATCH,) of some steps: uniform, or the k-th as often as 1 / k."""
    rng = np.random.default_rng(rank)
    if kind == "uniform":
        return [rng.integers(0, rows, BATCH) for _ in range(count)]
    return [(rows ** rng.random(BATCH)).astype(np.int64) - 1 for _ in range(count)]


def launch() -> NoReturn:
    """Run this program as both processes, and exit with them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"WORLD_SIZE": str(RANKS), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, *sys.argv], env={**common, "RANK": str(rank)})
        for rank in range(RANKS)
    ]
    sys.exit(max(process.wait() for process in processes))


def start() -> int:
    """Join the other process; return this one's rank."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return rank


def train(module: torch.nn.Module, optimizer: Any, ids: list[np.ndarray]) -> Callable[[int], None]:
    """Return a training step by its number."""
    gradient, batches = torch.randn(BATCH, DIM), [torch.from_numpy(batch) for batch in ids]

    def step(number: int) -> None:
        optimizer.zero_grad()
        module(batches[number % len(batches)]).backward(gradient)
        optimizer.step()

    return step


def bytes_needed(layout: Layout, ids: np.ndarray, everyone: list[np.ndarray], rank: int) -> int:
    """Ids, vectors and gradients that have to leave a process, of one step."""
    mine = layout.positions(ids) // layout.block != rank
    asked = layout.positions(np.unique(ids)) // layout.block != rank
    others = [np.unique(other) for i, other in enumerate(everyone) if i != rank]
    served = sum((layout.positions(other) // layout.block == rank).sum() for other in others)
    return int(8 * asked.sum() + 4 * DIM * served + (8 + 4 * DIM) * mine.sum())


def sharded(rank: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return times in ms of a step and of its parts, and the bytes that left this process."""
    module = rowwise.torch.ShardedEmbedding(args.rows, DIM)
    optimizer = rowwise.torch.optim.Adam(module.parameters(), lr=0.01)
    store = module.table.store
    everyone = [batches(args.ids, args.rows, other, 8) for other in range(RANKS)]
    step = train(module, optimizer, everyone[rank])
    step(0)
    before = store.exchange.bytes_sent
    step(1)
    sent = torch.tensor([store.exchange.bytes_sent - before])
    needed = bytes_needed(store.layout, everyone[rank][1], [of[1] for of in everyone], rank)
    result = {"sent": sent.item() / 1e6, "needed": needed / 1e6}

    # What of the batch the parts need: the rows that this process holds, of both batches.
    first, end = store.layout.span(rank)
    held = []
    for number in range(8):
        rows = [store.layout.positions(of[number]) for of in everyone]
        held.append(np.concatenate([of[(first <= of) & (of < end)] - first for of in rows]))
    rule = module.table.rule
    local = HostStore(*store.local.shape, rule)  # a table of its own, stepped in turn
    out = np.empty((2 * BATCH, DIM), np.float32)
    values = np.random.default_rng(0).standard_normal((2 * BATCH, DIM)).astype(np.float32)

    def lookup(number: int) -> None:
        rows = held[number % 8]
        local.gather(rows, out[: len(rows)])

    def update(number: int) -> None:
        rows = held[number % 8]
        params = rule.step_params(0.01, local.steps + 1)
        local.apply(RowGradient(rows, values[: len(rows)]), params)

    dist.all_reduce(sent, dist.ReduceOp.MAX)
    there, back = (torch.zeros(sent.item(), dtype=torch.uint8) for _ in range(2))
    split = [0 if other == rank else sent.item() for other in range(RANKS)]

    def gloo(_: int) -> None:
        dist.all_to_all_single(back, there, split, split)

    works = {"step": step, "lookup": lookup, "update": update, "gloo": gloo}
    return result | measure(works, args.steps)


def beside_dense(rank: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return times in ms of a step of ours, and of data-parallel training of a dense embedding."""
    ids = batches(args.ids, args.dense_rows, rank, 4)
    module = rowwise.torch.ShardedEmbedding(args.dense_rows, DIM)
    step = train(module, rowwise.torch.optim.Adam(module.parameters()), ids)
    result = measure({"ours": step}, args.steps)
    dense = DistributedDataParallel(torch.nn.Embedding(args.dense_rows, DIM))
    step = train(dense, torch.optim.Adam(dense.parameters()), ids)
    return result | measure({"dense": step}, max(2, args.steps // 5), warm_up=1)


def one_process(args: argparse.Namespace) -> None:
    """Measure, as one of the processes; the first prints the table."""
    rank = start()
    of = sharded(rank, args) | beside_dense(rank, args)
    if rank == 0:
        parts = of["lookup"] + of["update"] + of["gloo"]
        print(f"{RANKS} processes, a core each; {args.rows:,} rows x {DIM}, Adam, {args.ids} ids")
        print(f"{'ms':32}{'wall':>10}{'processor':>12}")
        for name, took in (
            ("local lookup", of["lookup"]),
            ("local update", of["update"]),
            ("gloo, these bytes alone", of["gloo"]),
            ("all three", parts),
            ("a step", of["step"]),
        ):
            print(f"{name:32}{took[0]:10.1f}{took[1]:12.1f}")
        ratio = of["step"] / parts
        print(f"{'a step / all three':32}{ratio[0]:10.2f}{ratio[1]:12.2f}")
        print(f"sent by a process: {of['sent']:.1f} MB, {of['sent'] / of['needed']:.2f} of its")
        print(f"ids + vectors + gradients, {of['needed']:.1f} MB")
        print(f"{args.dense_rows:,} rows")
        for name, took in (("a step", of["ours"]), ("DDP of a dense one", of["dense"])):
            print(f"{name:32}{took[0]:10.1f}{took[1]:12.1f}")
        ratio = of["dense"] / of["ours"]
        print(f"{'DDP / ours':32}{ratio[0]:10.1f}{ratio[1]:12.1f}")
    dist.destroy_process_group()


def main() -> None:
    """Start the processes, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=4_000_000, help="rows of the sharded table")
    parser.add_argument("--dense-rows", type=int, default=1_000_000, help="rows beside DDP")
    parser.add_argument("--ids", choices=("zipf", "uniform"), default="zipf", help="of a batch")
    parser.add_argument("--steps", type=int, default=15, help="steps measured")
    args = parser.parse_args()
    if "RANK" in os.environ:
        one_process(args)
        return
    launch()


if __name__ == "__main__":
    main()
