"""A module over a vocabulary that grows; rows never seen; vectors from elsewhere."""

import copy

import pytest
import torch

import rowwise
import rowwise.torch
from rowwise.errors import UntrainedError
from rowwise.torch import Embedding, EmbeddingBag, optim
from rowwise.vectors import Vectors

ROWS, DIM = 10, 3


def train(module, optimizer, steps, upto, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(upto, (4, 2), generator=generator)
        optimizer.zero_grad()
        (module(ids) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [Embedding, EmbeddingBag])
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "NAdam"])
def test_a_module_trains_on_after_its_vocabulary_has_grown(name, kind):
    grown = kind(6, DIM)
    always = kind(ROWS, DIM)
    torch.nn.init.zeros_(grown.weight), torch.nn.init.zeros_(always.weight)
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizers = [getattr(optim, name)(m.parameters(), lr=0.01, **options) for m in (grown, always)]
    weight = grown.weight
    for module, optimizer in zip((grown, always), optimizers, strict=True):
        train(module, optimizer, 10, 6)
    grown.grow(ROWS, init="zeros")
    for module, optimizer in zip((grown, always), optimizers, strict=True):
        train(module, optimizer, 10, ROWS, seed=1)
    assert grown.weight is weight
    assert grown.num_embeddings == ROWS
    torch.testing.assert_close(grown.weight.detach(), always.weight.detach())
    mine, theirs = (optimizer.state_dict()["state"] for optimizer in optimizers)
    for key, value in theirs[0].items():
        torch.testing.assert_close(mine[0][key], value)
    twin = copy.deepcopy(grown)
    assert twin.num_embeddings == ROWS


def test_rows_are_dropped_and_moved():
    module = Embedding(ROWS, DIM)
    before = module.weight.detach().clone()
    module.remap([4, -1, 2], seed=0)
    torch.testing.assert_close(module.weight.detach()[[0, 2]], before[[4, 2]])
    module.remap([0])
    assert module(torch.tensor([0])).shape == (1, DIM)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_what_untrained_rows_give_to_bags(mode):
    bags = EmbeddingBag(ROWS, DIM, mode=mode, padding_idx=1, untrained="zeros").eval()
    bags.table.mark_trained([0, 1, 2])
    with torch.no_grad():
        rows = bags.weight.clone()
    rows[3:] = 0
    other = torch.nn.EmbeddingBag.from_pretrained(rows, mode=mode, padding_idx=1)
    ids, offsets = torch.tensor([0, 8, 1, 9, 2, 2, 8]), torch.tensor([0, 3, 3, 4])
    torch.testing.assert_close(bags(ids, offsets), other(ids, offsets))
    bags.train()
    assert bags(ids, offsets)[2].abs().sum() > 0
    bags.eval().untrained = "error"
    with pytest.raises(UntrainedError, match="row 8"):
        bags(ids, offsets)


def test_what_untrained_rows_give_in_evaluation():
    module = Embedding(ROWS, DIM, untrained="mean")
    optimizer = optim.Adam(module.parameters(), lr=0.1)
    train(module, optimizer, 20, 6)
    ids = torch.tensor([0, 8])
    as_it_is = module(ids)
    module.eval()
    known = module.weight.detach()[module.table.update_counts > 0].mean(dim=0)
    torch.testing.assert_close(module(ids), torch.stack([as_it_is[0], known]))
    with torch.no_grad():  # written past the table: the mean follows
        module.weight.fill_(2.0)
    torch.testing.assert_close(module(ids), torch.full((2, DIM), 2.0))
    module.untrained = "error"
    with pytest.raises(UntrainedError, match="row 8"):
        module(ids)
    other = Embedding(ROWS, DIM, untrained="error")
    other.load_state_dict(module.state_dict())
    other.eval()(ids)  # what is in a file was trained by somebody
    with pytest.raises(ValueError, match="untrained='none'"):
        Embedding(3, 2, untrained="none")


def test_a_module_of_pretrained_vectors(capsys):
    vectors = Vectors(["tea", "cup"], [[1.0, 2.0], [3.0, 4.0]])
    vocabulary = rowwise.Vocabulary(["cup", "pot"], oov_token="[UNK]")
    module = Embedding.from_pretrained(vectors, vocabulary=vocabulary, freeze=False, init="zeros")
    assert capsys.readouterr().out == "1 of 2 words found (50.0%); missing: 'pot'\n"
    torch.testing.assert_close(
        module.weight.detach(), torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    )
    assert module.table.is_trained().tolist() == [False, True, False]
    assert module.weight.requires_grad
    plain = Embedding.from_pretrained(torch.eye(3), padding_idx=1)
    assert not plain.weight.requires_grad
    assert plain.table.is_trained().all()
    with pytest.raises(TypeError, match="Vectors"):
        Embedding.from_pretrained(torch.eye(3), vocabulary=["tea"])
