"""Weights that are computed from others: parametrized, normed, pruned."""

import pytest
import torch
from beside_torch import Model, train
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import rowwise.torch


class Doubled(nn.Module):
    """A parametrization that counts how often it is computed."""

    computed = 0

    def forward(self, weight):
        type(self).computed += 1
        return 2 * weight

    def right_inverse(self, weight):
        return weight / 2


class Bounded(nn.Module):
    """A parametrization without an inverse."""

    def forward(self, weight):
        return weight.tanh()


def removed(embedding, leave):
    parametrize.register_parametrization(embedding, "weight", Doubled())
    parametrize.remove_parametrizations(embedding, "weight", leave_parametrized=leave)


def cached(embedding):
    parametrize.register_parametrization(embedding, "weight", Doubled())


WAYS = {
    "orthogonal": lambda e: parametrizations.orthogonal(e),
    "orthogonal, cayley": lambda e: parametrizations.orthogonal(
        e, orthogonal_map="cayley", use_trivialization=False
    ),
    "spectral_norm": lambda e: parametrizations.spectral_norm(e),
    "weight_norm": lambda e: parametrizations.weight_norm(e),
    "one of its own": cached,
    "without an inverse": lambda e: parametrize.register_parametrization(e, "weight", Bounded()),
    "two": lambda e: [
        parametrize.register_parametrization(e, "weight", kind()) for kind in (Doubled, Bounded)
    ],
    "removed, as parametrized": lambda e: removed(e, True),
    "removed, as it was": lambda e: removed(e, False),
    "orthogonal removed": lambda e: parametrize.remove_parametrizations(
        parametrizations.orthogonal(e), "weight"
    ),
    "old weight_norm": lambda e: nn.utils.weight_norm(e),
    "old weight_norm removed": lambda e: nn.utils.remove_weight_norm(nn.utils.weight_norm(e)),
    "old spectral_norm": lambda e: nn.utils.spectral_norm(e),
    "old spectral_norm removed": lambda e: nn.utils.remove_spectral_norm(nn.utils.spectral_norm(e)),
    "pruned by size": lambda e: prune.l1_unstructured(e, "weight", 0.3),
    "pruned by row": lambda e: prune.ln_structured(e, "weight", 0.3, n=2, dim=0),
    "pruned at random": lambda e: prune.random_unstructured(e, "weight", 0.3),
    "pruned for good": lambda e: prune.remove(prune.l1_unstructured(e, "weight", 0.3), "weight"),
    "pruned globally": lambda e: prune.global_unstructured(
        [(e, "weight")], pruning_method=prune.L1Unstructured, amount=0.3
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.filterwarnings("ignore:.*spectral_norm.* is deprecated")
@pytest.mark.filterwarnings("ignore:the weight is computed")
@pytest.mark.parametrize("when", ["before", "in the middle of"])
@pytest.mark.parametrize("name", ["Adam", "SGD"])
@pytest.mark.parametrize("bag", [False, True], ids=["Embedding", "EmbeddingBag"])
@pytest.mark.parametrize("way", WAYS)
def test_a_weight_that_is_computed_trains_as_in_pytorch(way, bag, name, when):
    found = []
    for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (nn, torch.optim)):
        model = Model(library, bag=bag)
        options = {"lr": 0.01} if name == "Adam" else {"lr": 0.01, "momentum": 0.9}
        if when == "in the middle of":
            train(model, getattr(optimizers, name)(model.parameters(), **options), 10)
        torch.manual_seed(1)
        WAYS[way](model.embedding)
        optimizer = getattr(optimizers, name)(model.parameters(), **options)
        train(model, optimizer, 10, seed=2)
        with torch.no_grad():
            found.append({**model.state_dict(), "": model.embedding(torch.arange(60)[:, None])})
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bag", [False, True], ids=["Embedding", "EmbeddingBag"])
def test_a_parametrization_is_computed_once_in_a_forward_pass(bag):
    embedding = Model(rowwise.torch, bag=bag).embedding
    cached(embedding)
    Doubled.computed = 0
    with pytest.warns(UserWarning, match="the weight is computed from other .* all 60 rows"):
        embedding(torch.tensor([[1, 2]]))
    assert Doubled.computed == 1
    embedding(torch.tensor([[1, 2]]))  # in which a second warning would be an error
