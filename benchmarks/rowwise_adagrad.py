"""Row-wise Adagrad beside FBGEMM's: 4,096 bags of 16 ids, vectors of 64, step by step in turns.

Times are of this thread's processor, so that a busy machine disturbs them little. A step is the sum
of the bags and the update with a given gradient.

    build/peers/bin/python benchmarks/rowwise_adagrad.py [--rows 10000 1000000] [--steps 80]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import rowwise
from rowwise.store import Bags
from rowwise.table import set_num_threads

DIM, BAGS, LENGTH, RATE = 64, 4096, 16, 0.01
OFFSETS = np.arange(BAGS + 1) * LENGTH
Step = Callable[[np.ndarray, np.ndarray], object]  # with ids (BAGS * LENGTH,), gradients


def ours(rows: int) -> Step:
    """`rowwise.Table`."""
    table = rowwise.Table(rows, DIM, rowwise.rules.RowwiseAdagrad(RATE), init="normal", seed=0)
    pooled = np.empty((BAGS, DIM), np.float32)

    def step(ids: np.ndarray, gradients: np.ndarray) -> None:
        bags = Bags(ids, OFFSETS)
        table.store.gather_bags(bags, pooled)
        table.apply(table.store.bag_gradient(bags, gradients))

    return step


def fbgemm(rows: int) -> Step:
    """FBGEMM's table-batched embedding, which makes its step in backward."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parts that a CPU has not
        from fbgemm_gpu import split_embedding_configs as configs
        from fbgemm_gpu import split_table_batched_embeddings_ops_training as training

    torch.set_num_threads(1)
    layer: Any = training.SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, DIM, training.EmbeddingLocation.HOST, training.ComputeDevice.CPU)],
        optimizer=configs.EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=RATE,
        pooling_mode=training.PoolingMode.SUM,
    )
    torch.nn.init.normal_(layer.split_embedding_weights()[0])
    offsets = torch.from_numpy(OFFSETS)

    def step(ids: np.ndarray, gradients: np.ndarray) -> None:
        layer(torch.from_numpy(ids), offsets).backward(torch.from_numpy(gradients))

    return step


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=80)
    arguments = parser.parse_args()
    set_num_threads(1)
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((BAGS, DIM), np.float32)
    print("| rows | ours, ms | FBGEMM, ms | ratio |\n|---:|---:|---:|---:|")
    for rows in arguments.rows:
        steps = [ours(rows), fbgemm(rows)]
        times: list[list[float]] = [[], []]
        for _ in range(arguments.steps):
            for step, of_step in zip(steps, times, strict=True):
                ids = rng.integers(0, rows, BAGS * LENGTH)
                start = time.thread_time()
                step(ids, gradients)
                of_step.append((time.thread_time() - start) * 1e3)
        mine, theirs = (statistics.median(of_step[3:]) for of_step in times)
        print(f"| {rows:,} | {mine:.2f} | {theirs:.2f} | {theirs / mine:.2f}x |")


if __name__ == "__main__":
    main()
