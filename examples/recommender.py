"""A recommender in plain PyTorch: user and item embeddings, logistic loss, Adam.

Run as it is, it trains the same program twice: with PyTorch's own layer and optimizer, and with
rowwise's, for which two import lines change:

    from torch.nn import Embedding       ->  from rowwise.torch import Embedding
    from torch.optim import Adam         ->  from rowwise.torch.optim import Adam

    python examples/recommender.py [--users 1000000] [--items 100000] [--steps 200]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import nn

import rowwise.torch

DIM, BATCH, TASTES = 32, 8192, 8


class Recommender(nn.Module):
    """The logit of a user liking an item: their vectors' product, and the item's popularity."""

    def __init__(self, users: int, items: int, embedding: Any) -> None:
        super().__init__()
        self.users = embedding(users, DIM)
        self.items = embedding(items, DIM)
        self.popularity = embedding(items, 1)
        for layer in (self.users, self.items, self.popularity):
            nn.init.normal_(layer.weight, std=0.1)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Logits (batch,) for users (batch,) and items (batch,)."""
        agreement = (self.users(users) * self.items(items)).sum(-1)
        return agreement + self.popularity(items).squeeze(-1)


class Clicks:
    """Who clicked what: users like items of their own taste, and a few are active, most are not."""

    def __init__(self, users: int, items: int, seed: int) -> None:
        self.extent = users, items
        self.random = torch.Generator().manual_seed(seed)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Users (BATCH,), items (BATCH,), and whether they clicked (BATCH,), 0.0 or 1.0."""
        # Log-uniform: the k-th of the users, or items, as often as 1 / k.
        users, items = (
            (count ** torch.rand(BATCH, generator=self.random, dtype=torch.float64)).long() - 1
            for count in self.extent
        )
        likes = torch.where(users % TASTES == items % TASTES, 0.9, 0.1)
        clicks = torch.rand(BATCH, generator=self.random) < likes
        return users, items, clicks.float()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, clicks: Clicks, steps: int) -> float:
    """Seconds of the median step."""
    times = []
    for _ in range(steps):
        users, items, clicked = clicks.batch()
        start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(users, items), clicked).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return sorted(times)[steps // 2]


@torch.no_grad()
def loss_on_new_clicks(model: nn.Module, clicks: Clicks) -> float:
    """Return the mean logistic loss over ten batches."""
    losses = []
    for _ in range(10):
        users, items, clicked = clicks.batch()
        loss = nn.functional.binary_cross_entropy_with_logits(model(users, items), clicked)
        losses.append(float(loss))
    return sum(losses) / len(losses)


def main() -> None:
    """Trains with both, and prints what each took and reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    seconds = {}
    for library, embedding, adam in (
        ("torch", nn.Embedding, torch.optim.Adam),
        ("rowwise", rowwise.torch.Embedding, rowwise.torch.optim.Adam),
    ):
        torch.manual_seed(0)
        model = Recommender(arguments.users, arguments.items, embedding)
        optimizer = adam(model.parameters(), lr=0.01)
        clicks = Clicks(arguments.users, arguments.items, seed=1)
        seconds[library] = train(model, optimizer, clicks, arguments.steps)
        loss = loss_on_new_clicks(model, Clicks(arguments.users, arguments.items, seed=2))
        print(f"{library:8} {seconds[library] * 1e3:7.1f} ms a step, loss on new clicks {loss:.5f}")
    print(f"ratio    {seconds['torch'] / seconds['rowwise']:7.1f}x")


if __name__ == "__main__":
    main()
