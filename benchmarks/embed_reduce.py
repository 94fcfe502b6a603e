"""`EmbedReduce` beside `Embedding` and a mean, ours and Keras's, on one of Keras's backends.

Milliseconds of a `train_on_batch` with Adam: 4,096 sequences of uniform ids, vectors of 64, their
mean, `Dense(1)`, on 2 threads; steps of the three in turns, the median.

    KERAS_BACKEND=tensorflow python benchmarks/embed_reduce.py [--rows 1000000] [--lengths 16 128]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import keras
import numpy as np
from contenders import BAGS, DIM, RATE, set_threads

import rowwise.keras

WARM_UP, STEPS = 10, 25


def model_of(*layers: Any) -> Any:
    """Return a compiled model that ends in `Dense(1)`."""
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(RATE), "mse")
    return model


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 128])
    arguments = parser.parse_args()
    set_threads(keras.backend.backend())
    rows, mean = arguments.rows, keras.layers.GlobalAveragePooling1D
    models = [
        model_of(rowwise.keras.EmbedReduce(rows, DIM)),
        model_of(rowwise.keras.Embedding(rows, DIM), mean()),
        model_of(keras.layers.Embedding(rows, DIM), mean()),
    ]
    rng = np.random.default_rng(0)
    answers = rng.standard_normal((BAGS, 1), dtype=np.float32)
    print(f"{keras.backend.backend()}, {rows:,} rows")
    print()
    print("| length | EmbedReduce | Embedding, mean | Keras's Embedding, mean |")
    print("|---:|---:|---:|---:|")
    for length in arguments.lengths:
        times: list[list[float]] = [[] for _ in models]
        for _ in range(WARM_UP + STEPS):
            ids = rng.integers(0, rows, (BAGS, length))
            for model, own in zip(models, times, strict=True):
                start = time.perf_counter()
                model.train_on_batch(ids, answers)
                own.append(time.perf_counter() - start)
        first, *others = (statistics.median(own[WARM_UP:]) * 1e3 for own in times)
        beside = " | ".join(f"{other:.1f} ({other / first:.1f}x)" for other in others)
        print(f"| {length} | {first:.1f} | {beside} |", flush=True)


if __name__ == "__main__":
    main()
