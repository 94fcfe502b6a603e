"""A training step of PyTorch's EmbeddingBag: ours beside PyTorch's sparse and dense, and FBGEMM's.

The work: zero_grad, forward, backward and step of EmbeddingBag(mean) on batches of 4,096 bags of 16
uniform ids, vectors of 64, and a loss that is the mean over the bags; in one process on 2 threads,
one contender after the other. FBGEMM's table-batched embedding makes its step in backward; on CPUs
it has no Adam.

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
RATE = 0.01
WARM_UP, STEPS = 250, 30  # past the first steps, most rows touched before, as in training
DENSE_WARM_UP, DENSE_STEPS = 2, 7

# The vectors of bags (BAGS, LENGTH); and what to do before and after the backward pass.
Call = Callable[[torch.Tensor], torch.Tensor]
Contender = tuple[Call, Callable[[], None], Callable[[], None]]


def module(library: Any, optimizer: Any, rows: int, **options: Any) -> Contender:
    """EmbeddingBag of torch.nn or of ours with an optimizer."""
    layer = library.EmbeddingBag(rows, DIM, **options)
    steps = optimizer(layer.parameters(), lr=RATE)
    return layer, steps.zero_grad, steps.step


def fbgemm(optimizer: str, rows: int) -> Contender:
    """FBGEMM's embedding with its own optimizer."""
    import fbgemm_gpu  # noqa: F401  (registers the operators)
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        EmbeddingLocation,
        PoolingMode,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType[f"EXACT_{optimizer.upper()}"],
        learning_rate=RATE,
        pooling_mode=PoolingMode.MEAN,
    )
    torch.nn.init.normal_(table.split_embedding_weights()[0])
    offsets = torch.arange(BAGS + 1) * LENGTH
    return lambda ids: table(ids.view(-1), offsets), lambda: None, lambda: None


def contenders(optimizer: str, rows: int) -> dict[str, Callable[[], Contender]]:
    """By name; each is made when its turn comes."""
    ours = getattr(rowwise.torch.optim, optimizer)
    theirs = getattr(torch.optim, optimizer)
    sparse = torch.optim.SparseAdam if optimizer == "Adam" else theirs

    def dense(parameters: Any, lr: float) -> Any:
        return theirs(parameters, lr=lr, fused=True)

    found = {
        "rowwise": lambda: module(rowwise.torch, ours, rows),
        "torch, sparse": lambda: module(torch.nn, sparse, rows, sparse=True),
        "torch, dense": lambda: module(torch.nn, dense, rows),
    }
    if optimizer in ("SGD", "Adagrad"):
        found["FBGEMM"] = lambda: fbgemm(optimizer, rows)
    return found


def step_time(contender: Contender, rows: int, warm_up: int, steps: int) -> float:
    """Median seconds of a step."""
    call, before, after = contender
    target = torch.randn(BAGS, DIM)
    times = []
    for _ in range(warm_up + steps):
        ids = torch.randint(rows, (BAGS, LENGTH))
        start = time.perf_counter()
        before()
        (call(ids) * target).sum(dim=1).mean().backward()
        after()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm_up:])


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
    print("| optimizer | rows | rowwise | torch, sparse | torch, dense fused | FBGEMM |")
    print("|---|---:|---:|---:|---:|---:|")
    for optimizer in arguments.optimizers:
        for rows in arguments.rows:
            cells, ours = [], 0.0
            for name, make in contenders(optimizer, rows).items():
                torch.manual_seed(0)
                counts = (DENSE_WARM_UP, DENSE_STEPS) if "dense" in name else (WARM_UP, STEPS)
                seconds = step_time(make(), rows, *counts)
                gc.collect()
                ours = ours or seconds
                ratio = f" ({seconds / ours:.1f}x)" if cells else ""
                cells.append(f"{seconds * 1e3:.1f} ms{ratio}")
            cells += ["-"] * (4 - len(cells))
            print(f"| {optimizer} | {rows:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
