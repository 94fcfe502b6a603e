"""A two-tower recommender on several processes, with the numbers of one.

The towers' dense layers are trained by DistributedDataParallel, the user and item vectors lie on
tables spread over the processes. Start it on one process or on two:

    python examples/sharded_recommender.py
    torchrun --standalone --nproc-per-node 2 examples/sharded_recommender.py

Both print the same losses, and the same digest of both tables, to the last bit: a batch is made of
two parts, and where there is one process, it computes them one after the other.

Every few steps a checkpoint is written. Kill a process, start again with another number of
processes, and training goes on from the last one to the same bits:

    torchrun --standalone --nproc-per-node 2 examples/sharded_recommender.py --kill-at 25
    python examples/sharded_recommender.py
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import shutil
import signal
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import rowwise.torch

DIM, PART, TASTES = 16, 256, 8


class TwoTowers(nn.Module):
    """How well each user of a batch fits each item of it."""

    def __init__(self, users: nn.Module, items: nn.Module) -> None:
        super().__init__()
        self.users, self.items = users, items
        self.user_tower = nn.Sequential(nn.Linear(DIM, 32), nn.ReLU(), nn.Linear(32, DIM))
        self.item_tower = nn.Sequential(nn.Linear(DIM, 32), nn.ReLU(), nn.Linear(32, DIM))

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Logits (batch, batch) of users (batch,) and items (batch,)."""
        return self.user_tower(self.users(users)) @ self.item_tower(self.items(items)).T


def clicks(users: int, items: int, step: int, part: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Users (PART,) and the items (PART,) that they clicked, of one part of a batch."""
    random = torch.Generator().manual_seed(1000 * step + part)
    # Log-uniform: the k-th as often as 1 / k.
    spread = torch.rand(2, PART, generator=random, dtype=torch.float64)
    user = (users ** spread[0]).long() - 1
    item = ((items // TASTES) ** spread[1]).long() - 1
    return user, item * TASTES + user % TASTES


def start_processes() -> None:
    """Join the processes that torchrun started; without it there is this one alone."""
    patience = datetime.timedelta(seconds=30)
    if "RANK" in os.environ:
        dist.init_process_group("gloo", timeout=patience)
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.set_num_threads(1)


def newest(folder: Path) -> Path | None:
    """Return the last checkpoint that was written whole."""
    return max(folder.glob("step-*"), default=None)


def save(folder: Path, step: int, model: TwoTowers, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint: all processes the tables, the first one the dense part."""
    being_written = folder / "being-written"
    if dist.get_rank() == 0:
        shutil.rmtree(being_written, ignore_errors=True)
        being_written.mkdir(parents=True)
    dist.barrier()
    model.users.table.save(being_written / "users.safetensors")
    model.items.table.save(being_written / "items.safetensors")
    if dist.get_rank() == 0:
        towers = model.user_tower.state_dict(), model.item_tower.state_dict()
        torch.save((towers, optimizer.state_dict()), being_written / "dense.pt")
        being_written.rename(folder / f"step-{step:06d}")
    dist.barrier()


def build(args: argparse.Namespace) -> tuple[TwoTowers, torch.optim.Optimizer, int]:
    """Return model, optimizer and the steps made so far: new, or of the last checkpoint."""
    torch.manual_seed(0)
    checkpoint = newest(args.folder)
    if checkpoint is None:
        users = rowwise.torch.ShardedEmbedding(args.users, DIM)
        items = rowwise.torch.ShardedEmbedding(args.items, DIM)
    else:
        users = rowwise.torch.ShardedEmbedding.load(checkpoint / "users.safetensors")
        items = rowwise.torch.ShardedEmbedding.load(checkpoint / "items.safetensors")
    model = TwoTowers(users, items)
    optimizer = rowwise.torch.optim.AdamW(model.parameters(), lr=0.01)
    if checkpoint is None:
        return model, optimizer, 0
    (user_tower, item_tower), state = torch.load(checkpoint / "dense.pt")
    model.user_tower.load_state_dict(user_tower)
    model.item_tower.load_state_dict(item_tower)
    optimizer.load_state_dict(state)
    return model, optimizer, int(checkpoint.name.removeprefix("step-"))


def train(args: argparse.Namespace) -> str:
    """Train from the last checkpoint to the end; return a digest of both tables."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model, optimizer, begin = build(args)
    rowwise.torch.exclude_sharded(model)
    parallel = DistributedDataParallel(model)
    parts = max(2, ranks)
    own = range(rank, parts, ranks)  # with one process, both parts of each batch
    for step in range(begin + 1, args.steps + 1):
        if step == args.kill_at and rank == ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.zero_grad()
        losses = torch.zeros(parts, dtype=torch.float64)
        for part in own:
            logits = parallel(*clicks(args.users, args.items, step, part))
            loss = nn.functional.cross_entropy(logits, torch.arange(PART))
            (loss / len(own)).backward()
            losses[part] = loss.item()
        rowwise.torch.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        dist.all_reduce(losses)
        if rank == 0:
            print(f"step {step}: loss {losses.mean().item():.9f}", flush=True)
        if step % args.every == 0:
            save(args.folder, step, model, optimizer)
    digest = hashlib.sha256()
    for table in (model.users.table, model.items.table):
        digest.update(table.to_numpy().tobytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Train, and print the losses and the digest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=50_000, help="rows of the user table")
    parser.add_argument("--items", type=int, default=8_000, help="rows of the item table")
    parser.add_argument("--steps", type=int, default=40, help="training steps in all")
    parser.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    parser.add_argument("--kill-at", type=int, help="step at which the last process is killed")
    parser.add_argument("--folder", type=Path, default=Path("checkpoints"), help="of checkpoints")
    args = parser.parse_args()
    start_processes()
    digest = train(args)
    if dist.get_rank() == 0:
        print(f"both tables: {digest}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
