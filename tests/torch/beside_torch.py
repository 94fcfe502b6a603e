"""The same training three times: our modules and optimizers, PyTorch's, PyTorch's in float64."""

import numpy as np
import torch

import rowwise.torch

ROWS, DIM = 60, 5


def batches(steps, seed=0, rows=ROWS, shape=(4, 3)):
    """Ids of which few are frequent, many are rare and some never occur; and targets."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        ids = np.minimum(rng.pareto(0.6, shape).astype(int), rows - 5)
        yield torch.from_numpy(ids), torch.from_numpy(rng.standard_normal((shape[0], 1)))


class Model(torch.nn.Module):
    """Embedding -> mean -> linear, or the mean by EmbeddingBag, from a fixed start."""

    def __init__(self, kind, bag=False, **options):
        super().__init__()
        torch.manual_seed(0)
        modules = kind
        self.embedding = (modules.EmbeddingBag if bag else modules.Embedding)(ROWS, DIM, **options)
        self.bag = bag
        self.linear = torch.nn.Linear(DIM, 1)

    def forward(self, ids):
        vectors = self.embedding(ids)
        return self.linear(vectors if self.bag else vectors.mean(dim=1))


def train(model, optimizer, steps=60, each=lambda t: None, seed=4):
    """Takes the steps; calls each(t) after every one."""
    for t, (ids, targets) in enumerate(batches(steps, seed)):
        optimizer.zero_grad()
        prediction = model(ids)
        (prediction - targets.to(prediction.dtype)).square().mean().backward()
        optimizer.step()
        each(t)


def all_three(run, **options):
    """Return the models (ours, PyTorch's, the truth) after run(modules, optim, dtype)."""
    results = []
    for ours, dtype in ((True, torch.float32), (False, torch.float32), (False, torch.float64)):
        library = rowwise.torch if ours else torch.nn
        optimizers = rowwise.torch.optim if ours else torch.optim
        model = Model(library, **options).to(dtype)
        results.append(run(model, optimizers) or model)
    return results


def assert_as_exact(ours, theirs, truth):
    """Our weights are no further from the truth than PyTorch's own, but for luck."""
    for (name, mine), other, true in zip(
        ours.named_parameters(), theirs.parameters(), truth.parameters(), strict=True
    ):
        scale = true.detach().abs().max()
        error = float((mine.detach() - true.detach()).abs().max() / scale)
        limit = float((other.detach() - true.detach()).abs().max() / scale)
        assert error <= 5 * limit + 1e-6, f"{name}: {error:.2e}, PyTorch's {limit:.2e}"
