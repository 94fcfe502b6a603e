"""Who takes part in `peers.py`: embedding layers with an optimizer, each one training step by step.

The step of a pooling layer: the mean of 4,096 bags of 16 ids, vectors of 64, a loss, its gradient
and the optimizer's step. A Keras model's is one `train_on_batch` of Embedding -> mean -> Dense(1).
The table's own is a lookup of 65,536 ids and an update.

Run as a program it serves `peers.py`: a command in JSON on each line of its input, an answer in
JSON on each line of its output. One such process serves one Keras backend.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rowwise

DIM, BAGS, LENGTH, THREADS, RATE = 64, 4096, 16, 2, 0.01
Step = Callable[[np.ndarray], None]  # one training step with ids (BAGS, LENGTH)


def table(optimizer: str, rows: int) -> Step:
    """`rowwise.Table`: lookup and update."""
    own = rowwise.Table(rows, DIM, getattr(rowwise.rules, optimizer)(RATE), init="normal", seed=0)
    gradients = np.random.default_rng(0).standard_normal((BAGS * LENGTH, DIM), np.float32)

    def step(ids: np.ndarray) -> None:
        own.lookup(ids)
        own.update(ids.reshape(-1), gradients)

    return step


def torch_bag(library: Any, optimizer: Any, rows: int, **options: Any) -> Step:
    """EmbeddingBag of torch.nn or of ours with an optimizer."""
    import torch

    torch.manual_seed(0)
    layer = library.EmbeddingBag(rows, DIM, **options)
    steps = optimizer(layer.parameters(), lr=RATE)
    target = torch.randn(BAGS, DIM)

    def step(ids: np.ndarray) -> None:
        steps.zero_grad()
        (layer(torch.from_numpy(ids)) * target).sum(dim=1).mean().backward()
        steps.step()

    return step


def our_torch(optimizer: str, rows: int) -> Step:
    """`rowwise.torch.EmbeddingBag`."""
    import rowwise.torch

    return torch_bag(rowwise.torch, getattr(rowwise.torch.optim, optimizer), rows)


def torch_dense(optimizer: str, rows: int) -> Step:
    """`torch.nn.EmbeddingBag` with the fused optimizer, where there is one."""
    import torch

    kind = getattr(torch.optim, optimizer)
    fused = {} if optimizer == "RMSprop" else {"fused": True}
    return torch_bag(torch.nn, lambda p, lr: kind(p, lr=lr, **fused), rows)


def torch_sparse(optimizer: str, rows: int) -> Step:
    """`torch.nn.EmbeddingBag(sparse=True)`; for Adam with SparseAdam, which trains otherwise."""
    import torch

    kind = torch.optim.SparseAdam if optimizer == "Adam" else getattr(torch.optim, optimizer)
    return torch_bag(torch.nn, kind, rows, sparse=True)


def fbgemm(optimizer: str, rows: int) -> Step:
    """FBGEMM's table-batched embedding, which makes its step in backward; no Adam on CPUs."""
    import fbgemm_gpu  # noqa: F401  (registers the operators)
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        EmbeddingLocation,
        PoolingMode,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    layer = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType[f"EXACT_{optimizer.upper()}"],
        learning_rate=RATE,
        pooling_mode=PoolingMode.MEAN,
    )
    torch.nn.init.normal_(layer.split_embedding_weights()[0])
    offsets = torch.arange(BAGS + 1) * LENGTH
    target = torch.randn(BAGS, DIM)

    def step(ids: np.ndarray) -> None:
        vectors = layer(torch.from_numpy(ids).view(-1), offsets)
        (vectors * target).sum(dim=1).mean().backward()

    return step


def fbgemm_rowwise(optimizer: str, rows: int) -> Step:
    """FBGEMM's row-wise Adagrad: one accumulator for a row, other numbers than Adagrad's."""
    return fbgemm("ROWWISE_ADAGRAD", rows)


def keras_model(layer: Any, optimizer: str, rows: int) -> Step:
    """Return a compiled model over an embedding layer."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [layer(rows, DIM), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    )
    model.compile(getattr(keras.optimizers, optimizer)(RATE), "mse")
    target = np.random.default_rng(0).standard_normal((BAGS, 1), dtype=np.float32)

    def step(ids: np.ndarray) -> None:
        model.train_on_batch(ids, target)

    return step


def our_keras(optimizer: str, rows: int) -> Step:
    """`rowwise.keras.Embedding` on this process's backend."""
    import rowwise.keras

    return keras_model(rowwise.keras.Embedding, optimizer, rows)


def keras_layer(optimizer: str, rows: int) -> Step:
    """`keras.layers.Embedding` on this process's backend."""
    import keras

    return keras_model(keras.layers.Embedding, optimizer, rows)


MAKERS = {
    maker.__name__: maker
    for maker in (
        *(table, our_torch, our_keras),
        *(torch_sparse, torch_dense, fbgemm, fbgemm_rowwise, keras_layer),
    )
}


def ids_of(rng: np.random.Generator, rows: int, zipf: bool) -> np.ndarray:
    """Return a batch of ids: uniform, or the k-th most frequent as often as 1 / k, scattered."""
    if not zipf:
        return rng.integers(0, rows, (BAGS, LENGTH))
    ranks = (rows ** rng.random((BAGS, LENGTH))).astype(np.int64)
    return ranks * 2654435761 % rows


class Server:
    """Keeps contenders by name, and lets them step."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.held: dict[str, int] = {}
        self.rng = np.random.default_rng(0)

    def make(self, name: str, optimizer: str, rows: int) -> None:
        """Make a contender; its memory is counted from here."""
        gc.collect()
        self.held[name] = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now
        self.steps[name] = MAKERS[name](optimizer, rows)

    def drop(self, name: str) -> None:
        """Frees a contender."""
        del self.steps[name]
        gc.collect()

    def run(self, name: str, rows: int, zipf: bool, count: int) -> list[float]:
        """Seconds of each of `count` steps."""
        step, times = self.steps[name], []
        for _ in range(count):
            ids = ids_of(self.rng, rows, zipf)
            start = time.perf_counter()
            step(ids)
            times.append(time.perf_counter() - start)
        return times

    def peak(self, name: str) -> int:
        """Bytes held at most since the contender was made, beyond those from before."""
        return memory("VmHWM") - self.held[name]


def memory(what: str) -> int:
    """Bytes of this process, as Linux counts them."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(what)) * 1024


def set_threads(backend: str) -> None:
    """Lets us and a Keras backend work on THREADS threads; JAX takes all there are."""
    rowwise.set_num_threads(THREADS)
    if backend == "torch":
        import torch

        torch.set_num_threads(THREADS)
    elif backend == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(THREADS)


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    set_threads(os.environ["KERAS_BACKEND"])
    server = Server()
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(json.dumps(getattr(server, command)(*arguments)), file=answers)


if __name__ == "__main__":
    main()
