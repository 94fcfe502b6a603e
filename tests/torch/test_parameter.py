"""Present values are what anyone sees of a table's memory through torch, taken however."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from beside_torch import ROWS, Model, batches, train
from torch import nn

import rowwise.torch
from rowwise.torch import Embedding

dense_from_now_on = pytest.mark.filterwarnings("ignore:.*trained densely")


def trained(steps=20, library=rowwise.torch, optimizers=rowwise.torch.optim):
    """A model whose rows lag, and its optimizer."""
    model = Model(library)
    optimizer = optimizers.Adam(model.parameters(), lr=0.05)
    train(model, optimizer, steps)
    return model, optimizer


@pytest.fixture(scope="module")
def expected():
    """The weight after 20 steps of PyTorch's own."""
    return trained(library=nn, optimizers=torch.optim)[0].embedding.weight.detach()


def close(tensor, expected):
    torch.testing.assert_close(torch.as_tensor(tensor), expected, rtol=0, atol=5e-6)


LASTING = {
    "detach": lambda weight: weight.detach(),
    "data": lambda weight: weight.data,
    "a view": lambda weight: weight[:],
    "parts": lambda weight: weight.detach().split(ROWS)[0],
    "a view of a view": lambda weight: weight.detach().view(-1).view(ROWS, -1),
    "a parameter of its own": lambda weight: nn.Parameter(weight),
    "NumPy": lambda weight: weight.detach().numpy(),
    "NumPy's view": lambda weight: np.asarray(weight.detach())[1:][:-1],
    "a state dict": lambda weight: {"weight": weight.detach()}["weight"],
}


@pytest.mark.filterwarnings("ignore:a NumPy array")
@pytest.mark.parametrize("kind", LASTING)
def test_what_was_taken_before_training_is_current_after_it(kind, expected):
    model = Model(rowwise.torch)
    taken = LASTING[kind](model.embedding.weight)
    train(model, rowwise.torch.optim.Adam(model.parameters(), lr=0.05), 20)
    if isinstance(taken, torch.Tensor):
        taken = taken.detach()
    close(taken, expected[1:-1] if kind == "NumPy's view" else expected)


def test_a_views_class_does_not_make_it_a_parameter():
    weight = Embedding(3, 2).weight
    assert isinstance(weight, nn.Parameter)
    assert not isinstance(weight.detach(), nn.Parameter)
    assert isinstance(nn.Parameter(weight.detach()), nn.Parameter)
    assert type(weight.clone()) is type(weight + 1) is torch.Tensor
    assert repr(weight).startswith("Parameter containing:\ntensor([[")
    assert repr(weight.detach()).startswith("tensor([[")


WRITES = {
    "data[...] =": lambda weight, values: weight.data.__setitem__(slice(None), values),
    "data =": lambda weight, values: setattr(weight, "data", values.clone()),
    "copy_": lambda weight, values: weight.detach().copy_(values),
    "NumPy": lambda weight, values: weight.detach().numpy().__setitem__(slice(None), values),
    "row by row": lambda weight, values: [
        weight.detach()[i].fill_(0).add_(row) for i, row in enumerate(values)
    ],
    "vector_to_parameters": lambda weight, values: nn.utils.vector_to_parameters(
        values.reshape(-1), [weight]
    ),
}


@pytest.mark.filterwarnings("ignore:a NumPy array")
@pytest.mark.parametrize("kind", WRITES)
def test_what_is_written_is_looked_up_and_trained_on(kind):
    weights = []
    for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (nn, torch.optim)):
        model, optimizer = trained(library=library, optimizers=optimizers)
        values = torch.linspace(-1, 1, ROWS * 5).view(ROWS, 5)
        WRITES[kind](model.embedding.weight, values)
        torch.testing.assert_close(model.embedding(torch.arange(ROWS)), values)
        train(model, optimizer, 20, seed=1)
        weights.append(model.embedding.weight.detach())
    close(*weights)


def test_copies_are_their_own(expected):
    model, _ = trained()
    embedding = model.embedding
    twin, state = copy.deepcopy(embedding), copy.deepcopy(model.state_dict())
    embedding.weight.data.zero_()
    for copied in (twin.weight.detach(), twin(torch.arange(ROWS)), state["embedding.weight"]):
        close(copied.detach(), expected)
    assert type(state["embedding.weight"]) is torch.Tensor


def test_pickles_of_module_and_parameter(expected):
    embedding = trained()[0].embedding
    for opened in (
        pickle.loads(pickle.dumps(embedding)).weight,
        _through_a_file(embedding, weights_only=False).weight,
        _through_a_file(embedding.weight, weights_only=True),
    ):
        close(opened.detach(), expected)
        assert isinstance(opened, nn.Parameter)
    close(_through_a_file(embedding.weight.detach()[3], weights_only=True), expected[3])


def test_a_pickled_pair_goes_on_by_rows():
    pair = trained()
    twin = pickle.loads(pickle.dumps(pair))
    for model, optimizer in (pair, twin):
        train(model, optimizer, 20, seed=1)
        assert model.embedding.weight.binding.owner is optimizer
    assert torch.equal(pair[0].embedding.weight, twin[0].embedding.weight)


def _through_a_file(value, weights_only):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


# ---------------------------------------------------------------- leaving the table, coming back


@dense_from_now_on
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_another_dtype_leaves_the_table_and_float32_comes_back(dtype, expected):
    model, optimizer = trained()
    embedding, weight = model.embedding, model.embedding.weight
    with pytest.warns(UserWarning, match="trained densely"):
        model.to(dtype)
    assert embedding.weight is weight
    assert type(weight) is nn.Parameter
    assert embedding(torch.tensor([1])).dtype is dtype
    with pytest.raises(ValueError, match="not on a table"):
        embedding.table  # noqa: B018
    model.float()
    torch.testing.assert_close(weight.detach(), expected.to(dtype).float(), rtol=0, atol=1e-2)
    assert embedding.table.shape == (ROWS, 5)
    train(model, optimizer, 3)
    assert embedding.table.steps == 3


@dense_from_now_on
def test_shared_memory_is_shared(expected):
    model, optimizer = trained()
    model.share_memory()
    assert model.embedding.weight.is_shared()
    close(model.embedding(torch.arange(ROWS)).detach(), expected)
    train(model, optimizer, 3)
    assert not torch.equal(model.embedding.weight, expected)


def test_an_assigned_weight_is_on_a_table():
    for assign in (
        lambda embedding, values: setattr(embedding, "weight", nn.Parameter(values)),
        lambda embedding, values: setattr(embedding.weight, "data", values),
        lambda embedding, values: embedding.load_state_dict({"weight": values}, assign=True),
    ):
        embedding, values = Embedding(4, 3), torch.randn(4, 3)
        assign(embedding, values)
        assert embedding.table.shape == (4, 3)
        torch.testing.assert_close(embedding(torch.arange(4)), values)


def test_data_of_another_shape_is_a_new_table():
    embedding = Embedding(4, 3)
    optimizer = rowwise.torch.optim.SGD(embedding.parameters(), lr=1.0)
    embedding.weight.data = torch.zeros(9, 3)
    embedding(torch.tensor([8])).sum().backward()
    optimizer.step()
    assert embedding.weight.detach()[:, 0].tolist() == [0] * 8 + [-1]
    assert embedding.table.steps == 1


def test_meta_weights_come_to_a_table_when_they_come_to_life():
    embedding = Embedding(4, 3, device="meta").to_empty(device="cpu")
    embedding.reset_parameters()
    assert embedding.table.shape == (4, 3)


# ---------------------------------------------------------------- around torch


def test_functional_call_and_transforms(expected):
    ids = torch.arange(ROWS)
    found, truth = [], []
    for results, pair in (
        (found, trained()),
        (truth, trained(library=nn, optimizers=torch.optim)),
    ):
        embedding = pair[0].embedding

        def loss(parameters, ids, embedding=embedding):
            return torch.func.functional_call(embedding, parameters, (ids,)).square().sum()

        parameters = dict(embedding.named_parameters())
        results += [
            torch.func.grad(loss)(parameters, ids)["weight"],
            torch.func.functional_call(embedding, {"weight": torch.ones(9, 2)}, (ids[:3],)),
        ]
        train(*pair, 1)
        results.append(torch.func.functional_call(embedding, parameters, (ids,)).detach())
        train(*pair, 1)
        results += [
            torch.func.vmap(embedding)(ids).detach(),
            torch.func.jacrev(lambda s, embedding=embedding: embedding(ids) * s)(torch.tensor(2.0)),
        ]
    for mine, other in zip(found, truth, strict=True):
        close(mine.detach(), other.detach())


def test_a_tied_weight_trains_as_in_pytorch():
    weights = []
    for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (nn, torch.optim)):
        torch.manual_seed(0)
        embedding, output = library.Embedding(ROWS, 4), nn.Linear(4, ROWS, bias=False)
        output.weight = embedding.weight
        optimizer = optimizers.Adam(embedding.parameters(), lr=0.01)
        for ids, _ in batches(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(output(embedding(ids[:, 0])), ids[:, 1]).backward()
            optimizer.step()
        weights.append(embedding.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:a NumPy array.* a retained graph")
def test_a_weight_changed_by_a_step_cannot_be_gone_back_through():
    embedding, output = Embedding(5, 3), nn.Linear(3, 5)
    output.weight = embedding.weight
    optimizer = rowwise.torch.optim.SGD(embedding.parameters(), lr=0.1)
    loss = output(embedding(torch.tensor([1]))).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_class_of_a_weight_makes_parameters_as_pytorchs_does():
    weight = Embedding(9, 2).weight
    values = torch.ones(9, 2)
    for made in (type(weight)(values), type(weight)(values, requires_grad=False)):
        assert type(made) is nn.Parameter
        assert made.data_ptr() == values.data_ptr()
    assert not made.requires_grad
    module = Embedding(9, 2)
    module._parameters["weight"] = type(module.weight)(values)  # as accelerate's hooks do
    with pytest.warns(UserWarning, match="a hook put here"):
        torch.testing.assert_close(module(torch.tensor([3])), torch.ones(1, 2))
