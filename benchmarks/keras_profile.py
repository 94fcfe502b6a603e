"""What a Keras step with our layer is made of, by Python's own profiler.

The step of benchmarks/peers.py: a `train_on_batch` of Embedding, mean and Dense(1) with Adam, 4,096
sequences of 16 ids. Time is counted where it is spent: in rowwise's native code, in its Python, in
torch's operators, in Keras's Python, elsewhere. The profiler makes Python slower, not the rest.

    KERAS_BACKEND=torch python benchmarks/keras_profile.py [--rows 10000 4000000] [--steps 100]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time
from typing import Any

import contenders
import numpy as np
import torch

import rowwise

WARM_UP = 50


def kind_of(file: str, function: str) -> str:
    """Whose a function is, by its file, or if it is native by its name."""
    if function == "in_native_code":
        return "rowwise, native"
    if file == "~":
        return "torch" if "torch" in function else "elsewhere"
    for part in ("rowwise", "keras", "torch"):
        if f"/site-packages/{part}/" in file:
            return f"{part}, Python"
    return "elsewhere"


def tell_apart_native_code() -> None:
    """Gives every native method a Python function around it, which the profiler sees."""
    table = rowwise._native.Table

    def around(method: Any) -> Any:
        def in_native_code(*args: Any, **options: Any) -> Any:
            return method(*args, **options)

        return in_native_code

    for name, method in list(vars(table).items()):
        if not name.startswith("_") and callable(method):
            setattr(table, name, around(method))


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 4 * 10**6])
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    rowwise.set_num_threads(2)
    rng = np.random.default_rng(0)
    kinds = ["rowwise, native", "rowwise, Python", "torch", "torch, Python", "keras, Python"]
    print("| rows | ms a step | under the profiler | " + " | ".join([*kinds, "elsewhere"]) + " |")
    print("|---:|---:|---:|" + "---:|" * (len(kinds) + 1))
    for rows in arguments.rows:
        step = contenders.our_keras("Adam", rows)
        batches = [contenders.ids_of(rng, rows, False) for _ in range(arguments.steps)]
        times = []
        for ids in [*batches[:WARM_UP], *batches]:
            start = time.perf_counter()
            step(ids)
            times.append(time.perf_counter() - start)
        columns = [statistics.median(times[WARM_UP:]) * 1e3]
        tell_apart_native_code()
        profile = cProfile.Profile()
        profile.enable()
        for ids in batches:
            step(ids)
        profile.disable()
        spent = dict.fromkeys([*kinds, "elsewhere"], 0.0)
        for (file, _, function), (_, _, own, *_) in pstats.Stats(profile).stats.items():
            spent[kind_of(file, function)] += own * 1e3 / arguments.steps
        columns += [sum(spent.values()), *spent.values()]
        print(f"| {rows:,} | " + " | ".join(f"{c:.2f}" for c in columns) + " |", flush=True)


if __name__ == "__main__":
    main()
