"""Step time against rows: `rowwise.keras.Embedding` beside `keras.layers.Embedding`.

The work: one `train_on_batch` of Embedding -> mean -> Dense(1) with Adam, a batch of 4,096
sequences of 16 uniform ids, vectors of 64. Both layers run in this process, on 2 threads, one
after the other; peak memory is measured in a process of its own for each.

    python benchmarks/keras_step.py [--rows 10000 100000 1000000 4000000]
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch

import rowwise
import rowwise.keras

DIM, BATCH, LENGTH, THREADS = 64, 4096, 16, 2
LAYERS = {"rowwise": rowwise.keras.Embedding, "keras": keras.layers.Embedding}
GIB = 2**30


def make_model(layer: str, rows: int) -> keras.Model:
    """A compiled model over a fresh table."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [LAYERS[layer](rows, DIM), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(), "mse")
    return model


def step_times(layer: str, rows: int, warm_up: int, steps: int) -> list[float]:
    """Seconds of each measured step. The warm-up touches most rows, as training would have."""
    model = make_model(layer, rows)
    rng = np.random.default_rng(0)
    target = rng.standard_normal((BATCH, 1), dtype=np.float32)
    times = []
    for _ in range(warm_up + steps):
        ids = rng.integers(0, rows, (BATCH, LENGTH))
        start = time.perf_counter()
        model.train_on_batch(ids, target)
        times.append(time.perf_counter() - start)
    del model
    gc.collect()
    return times[warm_up:]


def peak_memory(layer: str, rows: int) -> int:
    """Bytes at the peak of making a model and training it, beyond those of an empty process."""
    command = [sys.executable, __file__, "--peak", layer, "--rows", str(rows)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(layer: str, rows: int) -> None:
    """The child's side of `peak_memory`."""
    step_times(layer, 16, 0, 1)  # what frameworks take at first use
    before = high_water()
    step_times(layer, rows, 0, 100 if layer == "rowwise" else 2)
    print(high_water() - before)


def high_water() -> int:
    """Bytes this process has held at most, as Linux counts them."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 10**6, 4 * 10**6])
    parser.add_argument("--peak", choices=LAYERS, help=argparse.SUPPRESS)
    arguments: Any = parser.parse_args()
    torch.set_num_threads(THREADS)
    rowwise.set_num_threads(THREADS)
    if arguments.peak:
        print_peak(arguments.peak, arguments.rows[0])
        return

    print(f"keras {keras.__version__}, torch {torch.__version__}, rowwise {rowwise.__version__}")
    print(f"Adam, D={DIM}, batch {BATCH} x {LENGTH} uniform ids, {THREADS} threads; median step")
    print()
    print(
        "| rows | rowwise | keras.layers.Embedding | ratio | peak memory, rowwise | keras | "
        "table + slots |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for rows in arguments.rows:
        # Dense steps cost the same from the second on; ours differ until most rows were touched.
        ours = statistics.median(step_times("rowwise", rows, 150, 50))
        theirs = statistics.median(step_times("keras", rows, 2, 20 if rows <= 10**5 else 5))
        print(
            f"| {rows:,} | {ours * 1e3:.1f} ms | {theirs * 1e3:.1f} ms | {theirs / ours:.1f}x | "
            f"{peak_memory('rowwise', rows) / GIB:.2f} GiB | "
            f"{peak_memory('keras', rows) / GIB:.2f} GiB | {3 * rows * DIM * 4 / GIB:.2f} GiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
