"""Small tables and small batches: microseconds of each part of a step, one thread.

Times are of this thread's processor, the fastest tenth of the rounds, so that a busy machine
disturbs them little.

    python benchmarks/small.py                    # a table in Markdown
    PYTHONPATH=elsewhere/src python benchmarks/small.py    # the same of another version
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import rowwise
from rowwise.store import BagGradient, Bags
from rowwise.table import set_num_threads

DIM, BAGS, LENGTH = 64, 4096, 16
Work = Callable[[], object]


def microseconds(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """Return the microseconds that each work takes; all are run in turn, `rounds` times."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.thread_time_ns()
            work()
            times[name].append((time.thread_time_ns() - start) / 1000)
    return {name: sorted(all_of)[rounds // 10] for name, all_of in times.items()}


def small_table(rule: str) -> dict[str, float]:
    """Return a table of 10,000 rows: 4,096 bags of 16 ids, and 65,536 ids."""
    rng = np.random.default_rng(0)
    table = rowwise.Table(10_000, DIM, rule, seed=0)
    ids = rng.integers(0, table.rows, BAGS * LENGTH)
    bags, pooled = Bags(ids, np.arange(BAGS + 1) * LENGTH), np.empty((BAGS, DIM), np.float32)
    gradients = rng.standard_normal((ids.size, DIM), np.float32)
    plan = table.store.bag_gradient(bags, pooled).plan
    works: dict[str, Work] = {
        "lookup of bags": lambda: table.store.gather_bags(bags, pooled),
        "plan of bags": lambda: table.store.bag_gradient(bags, pooled),
        "step of bags": lambda: table.apply(BagGradient(plan, pooled)),
        "lookup": lambda: table.lookup(ids),
        "update": lambda: table.update(ids, gradients),
    }
    return microseconds(works, 50)


def small_batch(rule: str, n: int) -> dict[str, float]:
    """Return a table of 100,000 rows, and n ids at a time."""
    rng = np.random.default_rng(0)
    table = rowwise.Table(100_000, DIM, rule, seed=0)
    batches = [rng.integers(0, table.rows, n) for _ in range(1000)]
    gradients = rng.standard_normal((n, DIM), np.float32)
    for ids in batches[:300]:
        table.update(ids, gradients)
    following = iter(batches * 100)
    works: dict[str, Work] = {
        "lookup": lambda: table.lookup(next(following)),
        "update": lambda: table.update(next(following), gradients),
    }
    return microseconds(works, 2000)


def main() -> None:
    """Print one table."""
    set_num_threads(1)
    print("| table | what | SGD | Adagrad | Adam |\n|---|---|---:|---:|---:|")
    cases: list[tuple[str, Callable[[str], dict[str, float]]]] = [
        ("10,000 rows, 65,536 ids", small_table),
        *(
            (f"100,000 rows, {n} ids", lambda rule, n=n: small_batch(rule, n))  # type: ignore[misc]
            for n in (1, 16, 64, 256)
        ),
    ]
    for title, case in cases:
        found = [case(rule) for rule in ("sgd", "adagrad", "adam")]
        for name in found[0]:
            print(f"| {title} | {name} | {' | '.join(f'{of[name]:.1f}' for of in found)} |")


if __name__ == "__main__":
    main()
