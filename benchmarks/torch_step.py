"""A training step of PyTorch's EmbeddingBag: ours beside PyTorch's dense and sparse ones.

The work: zero_grad, forward, backward and step of EmbeddingBag(mean) on batches of 4,096 bags of 16
uniform ids, vectors of 64, in one process on 2 threads, one contender after the other.

    python benchmarks/torch_step.py [--rows 100000 1000000 4000000] [--optimizers Adam SGD Adagrad]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import rowwise
import rowwise.torch

DIM, BAGS, LENGTH, THREADS = 64, 4096, 16, 2
Contender = tuple[Callable[[int], torch.nn.Module], Callable[[Any], Any]]


def contenders(optimizer: str) -> list[Contender]:
    """Ours, PyTorch's sparse and its dense: a module of so many rows, and its optimizer."""

    def bag(library: Any, **options: Any) -> Callable[[int], torch.nn.Module]:
        return lambda rows: library.EmbeddingBag(rows, DIM, **options)

    ours = getattr(rowwise.torch.optim, optimizer)
    theirs = getattr(torch.optim, optimizer)
    sparse = torch.optim.SparseAdam if optimizer == "Adam" else theirs
    return [
        (bag(rowwise.torch), lambda parameters: ours(parameters, lr=0.01)),
        (bag(torch.nn, sparse=True), lambda parameters: sparse(parameters, lr=0.01)),
        (bag(torch.nn), lambda parameters: theirs(parameters, lr=0.01, fused=True)),
    ]


def step_times(contender: Contender, rows: int, warm_up: int, steps: int) -> list[float]:
    """Seconds of each measured step. The warm-up touches many rows, as training would have."""
    torch.manual_seed(0)
    module = contender[0](rows)
    optimizer = contender[1](list(module.parameters()))
    target = torch.randn(BAGS, DIM)
    times = []
    for _ in range(warm_up + steps):
        ids = torch.randint(rows, (BAGS, LENGTH))
        start = time.perf_counter()
        optimizer.zero_grad()
        (module(ids) * target).mean().backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    del module, optimizer
    gc.collect()
    return times[warm_up:]


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6, 4 * 10**6])
    parser.add_argument("--optimizers", nargs="+", default=["Adam", "SGD", "Adagrad"])
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    rowwise.set_num_threads(THREADS)
    print(f"torch {torch.__version__}, rowwise {rowwise.__version__}")
    print(f"EmbeddingBag, D={DIM}, {BAGS} bags of {LENGTH} uniform ids, {THREADS} threads")
    print()
    print("| optimizer | rows | rowwise | torch, sparse (other numbers for Adam) | torch, dense |")
    print("|---|---:|---:|---:|---:|")
    for optimizer in arguments.optimizers:
        for rows in arguments.rows:
            ours, *others = (
                statistics.median(step_times(contender, rows, *((60, 30) if not i else (2, 7))))
                for i, contender in enumerate(contenders(optimizer))
            )
            cells = [f"{other * 1e3:.1f} ms ({other / ours:.1f}x)" for other in others]
            print(
                f"| {optimizer} | {rows:,} | {ours * 1e3:.1f} ms | {' | '.join(cells)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
