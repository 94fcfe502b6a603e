"""Training steps of one embedding on a GPU: ours beside PyTorch's and FBGEMM's.

The work of a step: 65,536 ids, uniform or by a Zipf law, their vectors, a loss's gradient, and the
optimizer's step. Ours has dense training's numbers; of the others only "dense" has. "bytes" is the
time that the bytes of our step (each distinct row read and written once with its slots, vectors
and gradients once) would take at the card's own copy bandwidth, measured first. Times are medians
over 20 steps, by the card's clock; memory is torch's peak. Of 0 rows there are as many as ours has
room for.

    python benchmarks/gpu.py [--rows 1000000 4000000 16000000 0] [--dims 64 128]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from collections.abc import Callable

import torch

import rowwise.torch

IDS, WARM_UP, STEPS = 65_536, 5, 20
BATCH_BYTES = 2**30  # left free for a batch
Step = Callable[[torch.Tensor], None]

OURS = {
    "Adam": rowwise.torch.optim.Adam,
    "SGD": rowwise.torch.optim.SGD,
    "RowwiseAdagrad": rowwise.torch.optim.RowwiseAdagrad,
}
SLOT_FLOATS = {"Adam": lambda dim: 2 * dim, "SGD": lambda dim: 0, "RowwiseAdagrad": lambda dim: 1}


def module_step(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """Return a step of a module from its ids: the loss's gradient is the vectors themselves."""

    def step(ids: torch.Tensor) -> None:
        optimizer.zero_grad()
        vectors = module(ids)
        vectors.backward(vectors.detach())
        optimizer.step()

    return step


def ours(name: str, rows: int, dim: int) -> Step:
    """Return our step, with the table on the GPU."""
    module = rowwise.torch.Embedding(rows, dim, device="cuda", table="device")
    return module_step(module, OURS[name](module.parameters(), lr=0.01))


def dense(name: str, rows: int, dim: int) -> Step:
    """Return PyTorch's dense step, fused where it can be."""
    module = torch.nn.Embedding(rows, dim, device="cuda")
    kind = {"Adam": torch.optim.Adam, "SGD": torch.optim.SGD}[name]
    return module_step(module, kind(module.parameters(), lr=0.01, fused=True))


def sparse(name: str, rows: int, dim: int) -> Step:
    """Return PyTorch's step with sparse gradients, which trains to other numbers."""
    module = torch.nn.Embedding(rows, dim, device="cuda", sparse=True)
    kind = {"Adam": torch.optim.SparseAdam, "SGD": torch.optim.SGD}[name]
    return module_step(module, kind(module.parameters(), lr=0.01))


def fbgemm(name: str, rows: int, dim: int) -> Step:
    """Return the step of FBGEMM's table-batched embedding, which trains to other numbers."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
        EmbeddingLocation,
        PoolingMode,
    )
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    kind = {
        "Adam": EmbOptimType.ADAM,
        "SGD": EmbOptimType.EXACT_SGD,
        "RowwiseAdagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    }[name]
    module = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dim, EmbeddingLocation.DEVICE, ComputeDevice.CUDA)],
        optimizer=kind,
        learning_rate=0.01,
        pooling_mode=PoolingMode.NONE,
    )
    offsets = torch.tensor([0, IDS], device="cuda")

    def step(ids: torch.Tensor) -> None:
        vectors = module(indices=ids, offsets=offsets)
        vectors.backward(vectors.detach())

    return step


CONTENDERS = {"rowwise": ours, "dense": dense, "sparse": sparse, "FBGEMM": fbgemm}


def ids_of(rows: int, zipf: bool, seed: int) -> torch.Tensor:
    """Return ids (IDS,) of a batch."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(IDS, generator=generator, dtype=torch.float64)
    if zipf:  # by the inverse of a law whose density falls as 1 / rank
        share = (rows + 1.0) ** share / (rows + 1.0)
    return (share * rows).long().clamp(0, rows - 1).cuda()


def most_rows(name: str, dim: int) -> int:
    """Return the rows that our table has room for: weights, slots and 16 bytes of state each."""
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return (free - BATCH_BYTES) // (4 * (dim + SLOT_FLOATS[name](dim)) + 16)


def bandwidth() -> float:
    """Return the bytes a second, read and written, of a copy on the card."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (1e-3 * timed(lambda _: target.copy_(source), [None] * 25))


def timed(step: Callable, batches: list) -> float:
    """Return the median milliseconds of a step, by the card's clock."""
    marks = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in batches
    ]
    for (start, end), batch in zip(marks, batches, strict=True):
        start.record()
        step(batch)
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in marks[WARM_UP:])


def measured(kind: str, name: str, rows: int, dim: int, batches: list) -> str:
    """Return "milliseconds (GB)" of a contender, or why there is none."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        milliseconds = timed(CONTENDERS[kind](name, rows, dim), batches)
    except KeyError:
        return "-"
    except ImportError:
        return "not installed"
    except torch.OutOfMemoryError:
        return "does not fit"
    return f"{milliseconds:.3f} ({torch.cuda.max_memory_allocated() / 1e9:.1f})"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 4 * 10**6, 16 * 10**6, 0])
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"no GPU: PyTorch {torch.__version__} sees none; nothing was measured")
    speed = bandwidth()
    print(f"{torch.cuda.get_device_name()}, copies at {speed / 1e12:.2f} TB/s, {IDS} ids a step")
    print("milliseconds a step (peak GB)\n")
    print("| optimizer | rows | dim | ids | bytes |", " | ".join(CONTENDERS), "|")
    print("|---|---:|---:|---|---:|" + "---:|" * len(CONTENDERS))
    for name in OURS:
        for dim in given.dims:
            for rows in (rows or most_rows(name, dim) for rows in given.rows):
                for zipf in (False, True):
                    batches = [ids_of(rows, zipf, seed) for seed in range(WARM_UP + STEPS)]
                    distinct = statistics.mean(len(ids.unique()) for ids in batches)
                    floats = 2 * (dim + SLOT_FLOATS[name](dim)) * distinct + dim * distinct
                    floats += 3 * dim * IDS + 8 * distinct  # vectors, gradients, row states
                    least = 1e3 * 4 * floats / speed
                    cells = [measured(kind, name, rows, dim, batches) for kind in CONTENDERS]
                    law = "Zipf" if zipf else "uniform"
                    head = f"| {name} | {rows:,} | {dim} | {law} | {least:.3f} |"
                    print(head, " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
