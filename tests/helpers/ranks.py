"""Ranks of a sharded table as threads of one process."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from rowwise.sharded import ThreadExchange


def run_ranks(ranks: int, function: Callable[..., Any], timeout: float = 20.0) -> list[Any]:
    """Call function(exchange) on every rank, a thread each; return what they return.

    A rank that raises leaves the group. The error of the first one to raise is raised here.
    """
    results, errors = outcomes(ranks, function, timeout)
    if errors:
        raise errors[0][1]
    return results


def outcomes(
    ranks: int, function: Callable[..., Any], timeout: float = 20.0
) -> tuple[list[Any], list[tuple[int, BaseException]]]:
    """Return what function(exchange) returns on every rank, and (rank, error) where it raises."""
    group = ThreadExchange.group(ranks, timeout)
    results: list[Any] = [None] * ranks
    errors: list[tuple[int, BaseException]] = []

    def run(rank: int) -> None:
        try:
            results[rank] = function(group[rank])
        except BaseException as error:
            errors.append((rank, error))
            group[rank].leave()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, errors


def share(array: Any, rank: int, ranks: int) -> Any:
    """Return a rank's part of a batch; the parts of all ranks, in order, are the batch."""
    n = len(array)
    return array[n * rank // ranks : n * (rank + 1) // ranks]


def zipf_batches(rows: int, dim: int, steps: int, size: int, seed: int = 1) -> list[Any]:
    """Return batches (ids, gradients, learning rate), of ids with many duplicates."""
    rng = np.random.default_rng(seed)
    batches = []
    for step in range(steps):
        ids = np.minimum(rng.zipf(1.2, size), rows) - 1
        gradients = rng.standard_normal((size, dim)).astype(np.float32)
        batches.append((ids, gradients, 0.01 * (1 + step % 3)))
    return batches
