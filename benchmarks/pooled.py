"""Bags of ids to one vector each: `rowwise.keras.EmbedReduce` beside what else there is.

The work: batches of 4,096 bags of uniform ids, vectors of 64, in one process on 2 threads. Forward:
the mean of each bag, beside `keras.layers.Embedding` with a mean over the axis and
`torch.nn.EmbeddingBag`. Forward and back: to the gradient of the table that each of them hands its
optimizer; EmbeddingBag with `sparse=True`. Peak memory is what a call held beyond its start. The
limit is what the same number of random rows takes to come from memory: a third of what
`build/tools/limit` takes for those of three arrays.

    python benchmarks/pooled.py [--rows 1000000] [--lengths 16 128]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch

import rowwise
import rowwise.keras

DIM, BAGS, THREADS, REPEATS = 64, 4096, 2, 15
LIMIT = Path(__file__).parent.parent / "build" / "tools" / "limit"
Call = Callable[[torch.Tensor], torch.Tensor]


def contenders(rows: int) -> dict[str, tuple[Call, Any]]:
    """Each one's call, and the parameter that its gradient goes to."""
    ours = rowwise.keras.EmbedReduce(rows, DIM)
    theirs = keras.layers.Embedding(rows, DIM)
    bag = torch.nn.EmbeddingBag(rows, DIM, mode="mean", sparse=True)
    for layer in (ours, theirs):
        layer.build()
    # An optimizer that goes by rows: the layer then gives a row-sparse gradient.
    optimizer = keras.optimizers.SGD()
    optimizer.build([ours.embeddings])
    ours.optimizer = optimizer  # kept alive as long as the layer
    return {
        "rowwise": (ours, ours.embeddings.value),
        "keras": (lambda ids: keras.ops.mean(theirs(ids), axis=-2), theirs.embeddings.value),
        "torch": (bag, bag.weight),
    }


def measure(
    work: Callable[[Call, Any, torch.Tensor], None],
    call: Call,
    parameter: Any,
    batches: list[torch.Tensor],
) -> tuple[float, float]:
    """Median seconds of a piece of work, and MiB at its peak beyond its start."""
    work(call, parameter, batches[0])
    parameter.grad = None
    reset_high_water()
    before = status("VmRSS")
    times = []
    for ids in batches:
        start = time.perf_counter()
        work(call, parameter, ids)
        times.append(time.perf_counter() - start)
    return statistics.median(times), (status("VmHWM") - before) / 1024


def reset_high_water() -> None:
    """Make Linux count the peak from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def status(field: str) -> int:
    """KiB of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def memory_limit(rows: int, ids: int) -> float | None:
    """Milliseconds for bare rows to come from memory, or None where the tool is not built."""
    if not LIMIT.exists():
        return None
    options = {"rows": rows, "ids": ids, "dim": DIM, "threads": THREADS, "repeats": 15, "steps": 3}
    command = [LIMIT, *(str(x) for name, value in options.items() for x in (f"--{name}", value))]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(re.findall(r"gather ([\d.]+)", output)[0]) / 3


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 128])
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    rowwise.set_num_threads(THREADS)

    def forward(call: Call, parameter: Any, ids: torch.Tensor) -> None:
        with torch.no_grad():
            call(ids)

    def forward_and_back(call: Call, parameter: Any, ids: torch.Tensor) -> None:
        parameter.grad = None
        call(ids).sum().backward()

    print(f"keras {keras.__version__}, torch {torch.__version__}, rowwise {rowwise.__version__}")
    print(f"{arguments.rows:,} rows, D={DIM}, {BAGS} bags, {THREADS} threads; median of {REPEATS}")
    print()
    print(
        "| length | work | rowwise | limit | keras | ratio | torch | ratio | "
        "peak MiB: rowwise | keras | torch |"
    )
    print("|---:|:---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    rng = np.random.default_rng(0)
    for length in arguments.lengths:
        limit = memory_limit(arguments.rows, BAGS * length)
        shown = "-" if limit is None else f"{limit:.1f} ms"
        for name, work in {"forward": forward, "forward and back": forward_and_back}.items():
            found = {}
            for who, (call, parameter) in contenders(arguments.rows).items():
                batches = [
                    torch.from_numpy(rng.integers(0, arguments.rows, (BAGS, length)))
                    for _ in range(REPEATS if who == "rowwise" or name == "forward" else 5)
                ]
                found[who] = measure(work, call, parameter, batches)
            ours, theirs, bag = (found[who][0] * 1e3 for who in ("rowwise", "keras", "torch"))
            print(
                f"| {length} | {name} | {ours:.1f} ms | {shown if name == 'forward' else '-'} | "
                f"{theirs:.1f} ms | {theirs / ours:.1f}x | "
                f"{bag:.1f} ms | {bag / ours:.1f}x | "
                + " | ".join(f"{found[who][1]:.0f}" for who in found)
                + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
