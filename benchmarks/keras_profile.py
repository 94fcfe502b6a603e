"""What a Keras step with our layer is made of: time by whose code it is, or Python calls.

The step of benchmarks/peers.py: a `train_on_batch` of Embedding, mean and Dense(1) with Adam, 4,096
sequences of 16 ids. By default time is counted where it is spent, by Python's own profiler: in
rowwise's native code, in its Python, in torch's operators, in Keras's Python, elsewhere. The
profiler makes Python slower, not the rest. With --calls, the calls of Python functions of rowwise
in one step are counted, and the files that they are in, callbacks of compiled programs included.

    KERAS_BACKEND=torch python benchmarks/keras_profile.py [--rows 10000 4000000] [--steps 100]
    KERAS_BACKEND=jax python benchmarks/keras_profile.py --calls
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import sys
import time
from collections import Counter
from typing import Any

import numpy as np

WARM_UP = 50


def kind_of(file: str, function: str) -> str:
    """Return whose a function is, by its file, or if it is native by its name."""
    if function == "in_native_code":
        return "rowwise, native"
    if file == "~":
        return "torch" if "torch" in function else "elsewhere"
    for part in ("rowwise", "keras", "torch"):
        if f"/site-packages/{part}/" in file or f"/src/{part}/" in file:
            return f"{part}, Python"
    return "elsewhere"


def tell_apart_native_code() -> None:
    """Give every native method a Python function around it, which the profiler sees."""
    import rowwise

    table = rowwise._native.Table

    def around(method: Any) -> Any:
        def in_native_code(*args: Any, **options: Any) -> Any:
            return method(*args, **options)

        return in_native_code

    for name, method in list(vars(table).items()):
        if not name.startswith("_") and callable(method):
            setattr(table, name, around(method))


class CallCounter:
    """Count calls of rowwise's Python functions, by file, in whatever thread they happen."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.running = False
        self._watch_callbacks()

    def _watch_callbacks(self) -> None:
        """Count in callbacks, too, which compiled programs call from threads of their own."""
        backend = os.environ.get("KERAS_BACKEND")
        if backend == "jax":
            from jax.experimental import buffer_callback as owner

            name = "buffer_callback"
        elif backend == "tensorflow":
            import tensorflow as owner

            name = "numpy_function"
        else:
            return
        original = getattr(owner, name)

        def watched(function: Any, *args: Any, **options: Any) -> Any:
            def counted(*arrays: Any) -> Any:
                before = sys.getprofile()
                sys.setprofile(self if self.running else None)
                try:
                    return function(*arrays)
                finally:
                    sys.setprofile(before)

            return original(counted, *args, **options)

        setattr(owner, name, watched)

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        """Be told of an event, as `sys.setprofile` asks for."""
        file = frame.f_code.co_filename
        if event == "call" and "/rowwise/" in file and "/benchmarks/" not in file:
            self.calls[file.split("/rowwise/")[-1], frame.f_code.co_qualname] += 1

    def count(self, do: Any) -> None:
        """Count the calls of `do()`."""
        self.calls.clear()
        self.running = True
        sys.setprofile(self)
        try:
            do()
        finally:
            sys.setprofile(None)
            self.running = False


def print_calls(verbose: bool) -> None:
    """Print the calls and files of one step, the same whenever it is counted."""
    counter = CallCounter()
    import contenders

    rng = np.random.default_rng(0)
    step = contenders.our_keras("Adam", 10**4)
    counts = []
    for _ in range(6):
        ids = contenders.ids_of(rng, 10**4, False)
        counter.count(lambda ids=ids: step(ids))
        counts.append((sum(counter.calls.values()), len({file for file, _ in counter.calls})))
    assert len(set(counts[3:])) == 1, counts
    calls, files = counts[-1]
    print("| backend | Python calls in rowwise a step | files |\n|---|---:|---:|")
    print(f"| {os.environ['KERAS_BACKEND']} | {calls} | {files} |")
    for (file, function), times in sorted(counter.calls.items()) if verbose else ():
        print(f"{times:5} {file}: {function}")


def print_times(all_rows: list[int], steps: int) -> None:
    """Print one table of where a step's time is spent."""
    import contenders
    import torch

    import rowwise

    torch.set_num_threads(2)
    rowwise.set_num_threads(2)
    rng = np.random.default_rng(0)
    kinds = ["rowwise, native", "rowwise, Python", "torch", "torch, Python", "keras, Python"]
    print("| rows | ms a step | under the profiler | " + " | ".join([*kinds, "elsewhere"]) + " |")
    print("|---:|---:|---:|" + "---:|" * (len(kinds) + 1))
    for rows in all_rows:
        step = contenders.our_keras("Adam", rows)
        batches = [contenders.ids_of(rng, rows, False) for _ in range(steps)]
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
            spent[kind_of(file, function)] += own * 1e3 / steps
        columns += [sum(spent.values()), *spent.values()]
        print(f"| {rows:,} | " + " | ".join(f"{c:.2f}" for c in columns) + " |", flush=True)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 4 * 10**6])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--calls", action="store_true", help="Count calls instead of time.")
    parser.add_argument("--verbose", action="store_true", help="List every function called.")
    arguments = parser.parse_args()
    if arguments.calls:
        print_calls(arguments.verbose)
    else:
        print_times(arguments.rows, arguments.steps)


if __name__ == "__main__":
    main()
