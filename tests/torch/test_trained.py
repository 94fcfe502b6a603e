"""Which rows count as trained, and what modules say of themselves."""

import copy
import pickle

import numpy as np
import pytest
import torch

from rowwise.torch import Embedding, EmbeddingBag, optim
from rowwise.vectors import Vectors

ROWS, DIM = 6, 3
both = pytest.mark.parametrize("kind", [Embedding, EmbeddingBag])


def values():
    return torch.arange(ROWS * DIM, dtype=torch.float32).reshape(ROWS, DIM) + 1


GIVEN = {
    "_weight=": lambda kind: kind(ROWS, DIM, _weight=values(), untrained="zeros"),
    "from_pretrained": lambda kind: kind.from_pretrained(values(), untrained="zeros"),
    "from_pretrained, an array": lambda kind: kind.from_pretrained(
        values().numpy(), untrained="zeros"
    ),
    "from_pretrained, words": lambda kind: kind.from_pretrained(
        Vectors([str(i) for i in range(ROWS)], values().numpy()), untrained="zeros", verbose=False
    ),
    "load_state_dict": lambda kind: with_state(kind, assign=False),
    "load_state_dict, assigned": lambda kind: with_state(kind, assign=True),
    "a parameter": lambda kind: with_parameter(kind(ROWS, DIM, untrained="zeros")),
    "a copy": lambda kind: copy.deepcopy(kind.from_pretrained(values(), untrained="zeros")),
    "a pickle": lambda kind: pickle.loads(
        pickle.dumps(kind.from_pretrained(values(), untrained="zeros"))
    ),
}


def with_state(kind, assign):
    module = kind(ROWS, DIM, untrained="zeros")
    module.load_state_dict({"weight": values()}, assign=assign)
    return module


def with_parameter(module):
    module.weight = torch.nn.Parameter(values())
    return module


@both
@pytest.mark.parametrize("way", GIVEN)
def test_values_that_a_user_gave_count_as_trained(way, kind):
    module = GIVEN[way](kind).eval()
    assert module.table.is_trained().all()
    ids = torch.arange(ROWS)
    found = module(ids) if kind is Embedding else module(ids[:, None])
    torch.testing.assert_close(found.detach(), values())


@both
def test_random_rows_count_as_untrained_until_they_are_trained(kind):
    module = kind(ROWS, DIM, untrained="zeros")
    assert not module.table.is_trained().any()
    optimizer = optim.SGD(module.parameters(), lr=1.0)
    module(torch.tensor([[1, 2]])).sum().backward()
    optimizer.step()
    twin = pickle.loads(pickle.dumps(module))
    for each in (module, copy.deepcopy(module), twin):
        assert each.table.is_trained().tolist() == [False, True, True, False, False, False]


@both
def test_rows_that_left_the_table_and_came_back_are_not_taken_for_untrained(kind):
    module = kind.from_pretrained(values(), untrained="zeros").eval()
    with pytest.warns(UserWarning, match="trained densely"):
        module.double()
    module.float()
    found = module(torch.tensor([[5]]))
    torch.testing.assert_close(found.detach().reshape(-1), values()[5])


@both
def test_words_without_a_vector_are_untrained(kind, capsys):
    vectors = Vectors(["tea", "cup"], [[1.0, 2.0], [3.0, 4.0]])
    module = kind.from_pretrained(vectors, vocabulary=["cup", "pot"], init="zeros", freeze=False)
    assert capsys.readouterr().out == "1 of 2 words found (50.0%); missing: 'pot'\n"
    assert module.pretrained.found == 1
    assert module.table.is_trained().tolist() == [True, False]
    assert module.weight.requires_grad
    assert module.weight.detach().tolist() == [[3.0, 4.0], [0.0, 0.0]]


@both
def test_from_pretrained_takes_its_own_copy_and_the_modules_options(kind):
    rows = values()
    module = kind.from_pretrained(rows, padding_idx=-1, max_norm=9.0, untrained="mean")
    rows.zero_()
    assert module.weight[5].tolist() == values()[5].tolist()
    assert (module.padding_idx, module.max_norm, module.untrained) == (ROWS - 1, 9.0, "mean")
    assert not module.weight.requires_grad
    state = torch.get_rng_state()
    kind.from_pretrained(values())
    assert torch.equal(state, torch.get_rng_state())


@both
@pytest.mark.parametrize("rows", [torch.ones(3), np.ones((2, 2, 2))])
def test_from_pretrained_refuses_other_shapes(kind, rows):
    with pytest.raises(ValueError, match=r"shape .* \(rows, dim\)"):
        kind.from_pretrained(rows)


@both
def test_repr_shows_untrained(kind):
    assert "untrained='mean'" in repr(kind(ROWS, DIM, untrained="mean"))
    assert "untrained" not in repr(kind(ROWS, DIM))


@both
def test_the_mean_follows_rows_that_max_norm_shortens(kind):
    module = kind(4, DIM, max_norm=1.0, untrained="mean").eval()
    module.table.store.write(np.full((4, DIM), 3.0))
    module.table.mark_trained([1, 2])
    before = module(torch.tensor([[3]]))
    module(torch.tensor([[1, 2]]))
    mean = torch.from_numpy(module.table.to_numpy()[[1, 2]].mean(axis=0))
    torch.testing.assert_close(module(torch.tensor([[3]])).reshape(-1), mean)
    assert (before != mean).all()
