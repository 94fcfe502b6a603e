"""Make steps and models, drop them, and see whether memory grows.

    python fuzz/leaks.py [--steps 20000] [--models 2000] [core] [torch] [keras]

Keras runs on the backend that KERAS_BACKEND names. Prints the resident memory after each quarter,
in MB, and what stayed for each step or model between the first and the last, in bytes.
"""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

import rowwise

Work = Callable[[], object]
IDS, ONES = np.arange(16), np.ones((16, 8), np.float32)


def core() -> tuple[Work, Work]:
    """Return a step of a table, and a table made, trained, read and dropped."""
    table = rowwise.Table(1000, 8, "adam", seed=0)

    def model() -> None:
        other = rowwise.Table(1000, 8, "adam", seed=0)
        other.update(IDS, ONES)
        other.lookup(IDS)

    return lambda: table.update(IDS, ONES), model


def torch() -> tuple[Work, Work]:
    """Return a step of a module, and a module made, trained and dropped."""
    import torch

    import rowwise.torch

    ids = torch.arange(16)

    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        embedding = rowwise.torch.Embedding(1000, 8)
        return embedding, rowwise.torch.optim.Adam(embedding.parameters())

    def step(embedding: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        embedding(ids).sum().backward()
        optimizer.step()

    kept = made()
    return lambda: step(*kept), lambda: step(*made())


def keras() -> tuple[Work, Work]:
    """Return a step of a model, and a model made, trained a step and dropped."""
    import keras

    import rowwise.keras

    targets = np.ones((16, 8))

    def made() -> keras.Model:
        model = keras.Sequential([keras.Input((), dtype="int32"), rowwise.keras.Embedding(1000, 8)])
        model.compile("adam", "mse")
        return model

    def model() -> None:
        made().train_on_batch(IDS, targets)
        keras.backend.clear_session()

    kept = made()
    return lambda: kept.train_on_batch(IDS, targets), model


def resident() -> int:
    """Return the bytes of memory that the process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(name: str, work: Work, times: int) -> None:
    """Print how memory grows over so many calls."""
    quarter = times // 4
    held = []
    for _ in range(4):
        for _ in range(quarter):
            work()
        held.append(resident())
    each = (held[-1] - held[0]) / (3 * quarter)
    marks = ", ".join(f"{size >> 20}" for size in held)
    print(f"{name:22} {4 * quarter:6,}: {marks} MB; {each:,.0f} bytes each", flush=True)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["core", "torch", "keras"])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--models", type=int, default=2_000)
    options = parser.parse_args()
    for what in options.what:
        step, model = {"core": core, "torch": torch, "keras": keras}[what]()
        name = f"{what} on {os.environ.get('KERAS_BACKEND')}" if what == "keras" else what
        for kind, work, times in (
            ("steps", step, options.steps),
            ("models", model, options.models),
        ):
            if times >= 4:
                measure(f"{name}, {kind}", work, times)


if __name__ == "__main__":
    main()
