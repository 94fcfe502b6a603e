"""Vectors that were looked up may be changed in place, as PyTorch's may."""

import pytest
import torch
from beside_torch import DIM, ROWS
from torch import nn

import rowwise.torch

IDS = torch.tensor([[1, 2, 1], [7, 0, 2]])
POSITIONS = torch.linspace(-1, 1, 2 * 3 * DIM).reshape(2, 3, DIM)


CHANGES = {
    "*=": lambda vectors: vectors.__imul__(DIM**0.5),
    "add_": lambda vectors: vectors.add_(POSITIONS.reshape(-1)[: vectors.numel()].view_as(vectors)),
    "x[mask] = 0": lambda vectors: vectors.__setitem__(vectors > 0.5, 0),
    "x[0] *= 2": lambda vectors: vectors[0].mul_(2),
    "relu_": lambda vectors: vectors.relu_(),
    "dropout in place": lambda vectors: nn.functional.dropout(vectors, 0.5, inplace=True),
    "squeeze and add": lambda vectors: vectors.unsqueeze(0).add_(1).squeeze_(0),
}


@pytest.mark.parametrize("optimized", [False, True], ids=["no optimizer", "optimized"])
@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag", "EmbeddingBag max"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:the gradient is dense")
def test_a_change_in_place_gives_pytorchs_gradient(change, kind, optimized):
    found = []
    for library in (rowwise.torch, nn):
        torch.manual_seed(0)
        name, *mode = kind.split()
        module = getattr(library, name)(ROWS, DIM, **({"mode": mode[0]} if mode else {}))
        if optimized and library is rowwise.torch:
            optimizer = rowwise.torch.optim.SGD(module.parameters(), lr=0.1)
        vectors = module(IDS)
        torch.manual_seed(1)
        CHANGES[change](vectors)
        (vectors * vectors).sum().backward()
        gradient = module.weight.grad
        found.append((vectors.detach(), gradient.to_dense()))
    assert not optimized or optimizer
    torch.testing.assert_close(*found)
