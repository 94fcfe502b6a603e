"""Modules whose weights have 16 bits and lie on a table, by `rounding=`."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from beside_torch import DIM, ROWS, Model, batches, train

import rowwise.torch
from rowwise.rules import pytorch
from rowwise.torch import Embedding, EmbeddingBag

both = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def model_of(dtype, bag=False, rounding="nearest", **options):
    return Model(rowwise.torch, bag, rounding=rounding, **options).to(dtype)


def float32_numbers(model):
    return model.embedding.weight.detach().float().numpy()


@both
@pytest.mark.parametrize("bag", [False, True])
def test_training_steps_a_table_of_that_dtype(dtype, bag):
    model = model_of(dtype, bag)
    weight = model.embedding.weight
    optimizer = rowwise.torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-4)
    before = float32_numbers(model).copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, steps=20)
    assert weight.dtype is model.embedding(next(batches(1))[0]).dtype is dtype
    assert optimizer.state[weight]["exp_avg"].dtype is torch.float32
    np.testing.assert_array_equal(float32_numbers(model), model.embedding.table.to_numpy())
    never = model.embedding.table.update_counts == 0
    assert 0 < never.sum() < ROWS
    np.testing.assert_array_equal((float32_numbers(model) == before).all(axis=1), never)


@both
def test_a_step_with_given_gradients_is_the_tables(dtype):
    embedding = Embedding(ROWS, DIM, dtype=dtype, rounding="nearest")
    table = rowwise.Table(
        ROWS,
        DIM,
        pytorch.AdamW(0.01, weight_decay=0.1),
        init=embedding.weight.detach().float().numpy(),
        dtype=embedding.table.dtype,
    )
    optimizer = rowwise.torch.optim.AdamW(embedding.parameters(), lr=0.01, weight_decay=0.1)
    for ids, _ in batches(30):
        gradient = torch.randn(*ids.shape, DIM).to(dtype)
        embedding(ids).backward(gradient)
        optimizer.step()
        optimizer.zero_grad()
        table.update(ids.numpy(), gradient.float().numpy())
    np.testing.assert_array_equal(embedding.table.to_numpy(), table.to_numpy())


def test_without_rounding_it_is_pytorchs_own_with_a_warning():
    with pytest.warns(UserWarning, match='or with rounding="nearest" bfloat16 or float16'):
        embedding = Embedding(5, 2, dtype=torch.bfloat16)
    assert type(embedding.weight) is torch.nn.Parameter
    with pytest.raises(ValueError, match='or with rounding="nearest" bfloat16 or float16'):
        _ = embedding.table
    with pytest.warns(UserWarning, match='or with rounding="nearest" bfloat16 or float16'):
        Embedding(5, 2).bfloat16()
    with pytest.raises(ValueError, match="rounding='up' is not 'nearest', 'stochastic' or None"):
        Embedding(5, 2, rounding="up")


@pytest.mark.parametrize("kind", [Embedding, EmbeddingBag])
def test_a_dtype_without_use_for_rounding_is_refused(kind):
    with pytest.raises(ValueError, match=r"is for weights of 16 bits, not torch\.float64"):
        kind(5, 2, dtype=torch.float64, rounding="nearest")
    with pytest.raises(TypeError, match=r"dtype='bfloat16' is not a torch\.dtype, such as"):
        kind(5, 2, dtype="bfloat16", rounding="nearest")
    assert rowwise.Table(5, 2, dtype=torch.bfloat16).dtype == "bfloat16"


@both
def test_conversions_keep_the_table_the_optimizer_and_its_slots(dtype):
    embedding = Embedding(ROWS, DIM, rounding="nearest")
    optimizer = rowwise.torch.optim.Adam(embedding.parameters(), lr=0.01)

    def train_it():
        for ids, _ in batches(5):
            embedding(ids).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_it()
        slots = optimizer.state[embedding.weight]["exp_avg"].clone()
        embedding.to(dtype)
        assert embedding.table.dtype == str(dtype).removeprefix("torch.")
        np.testing.assert_array_equal(optimizer.state[embedding.weight]["exp_avg"], slots)
        train_it()
        assert embedding.weight.dtype is dtype
        embedding.float()
        train_it()
    assert embedding.table.dtype == "float32"


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@both
def test_copies_and_states_go_on_to_the_same_bits(dtype, rounding):
    model = model_of(dtype, rounding=rounding)
    optimizer = rowwise.torch.optim.Adam(model.parameters(), lr=0.01)
    train(model, optimizer, steps=10)
    saved = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], saved)
    twin = copy.deepcopy(model)
    again = rowwise.torch.optim.Adam(twin.parameters(), lr=0.01)
    saved.seek(0)
    weights, state = torch.load(saved)
    twin.load_state_dict(weights)
    again.load_state_dict(state)
    assert again.state[twin.embedding.weight]["exp_avg"].dtype is torch.float32
    for one, steps_of in ((model, optimizer), (twin, again)):
        train(one, steps_of, steps=10, seed=7)
    np.testing.assert_array_equal(float32_numbers(model), float32_numbers(twin))
    fresh = Model(rowwise.torch, rounding=rounding)
    torch.manual_seed(1)  # another one than the saved model's, as after a restart
    fresh.to(dtype)
    saved.seek(0)
    weights, state = torch.load(saved)
    fresh.load_state_dict(weights)
    once_more = rowwise.torch.optim.Adam(fresh.parameters(), lr=0.01)
    once_more.load_state_dict(state)
    train(fresh, once_more, steps=10, seed=7)
    np.testing.assert_array_equal(float32_numbers(model), float32_numbers(fresh))
    saved = io.BytesIO()
    torch.save(model, saved)
    train(model, optimizer, steps=1, seed=8)
    saved.seek(0)
    whole = torch.load(saved, weights_only=False)
    once_more = rowwise.torch.optim.Adam(whole.parameters(), lr=0.01)
    once_more.load_state_dict(copy.deepcopy(again.state_dict()))
    train(whole, once_more, steps=1, seed=8)
    np.testing.assert_array_equal(float32_numbers(model), float32_numbers(whole))
    has_extra_state = "embedding._extra_state" in weights
    assert has_extra_state == (rounding == "stochastic")
    model_of(dtype).load_state_dict(weights)  # which has no use for it


def test_what_has_no_lazy_update_is_pytorchs_step():
    model = model_of(torch.bfloat16)
    optimizer = rowwise.torch.optim.Adam(model.parameters(), lr=0.01)
    train(model, optimizer, steps=3)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.warns(UserWarning, match="gives every row a gradient"):
        train(model, optimizer, steps=3)
    assert torch.isfinite(model.embedding.weight).all()
    theirs = torch.optim.SGD(model.parameters(), lr=0.01)
    before = float32_numbers(model).copy()
    train(model, theirs, steps=2)
    assert (float32_numbers(model) != before).any()


@both
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_are_those_of_pytorch(dtype, mode):
    bag = EmbeddingBag(ROWS, DIM, mode=mode, dtype=dtype, rounding="nearest")
    theirs = torch.nn.EmbeddingBag(ROWS, DIM, mode=mode, dtype=dtype)
    theirs.weight.data.copy_(bag.weight.detach())
    ids = next(batches(1))[0]
    tolerance = 2.0**-7 if dtype is torch.bfloat16 else 2.0**-10
    torch.testing.assert_close(bag(ids), theirs(ids), rtol=tolerance, atol=tolerance)
    _ = rowwise.torch.optim.SGD(bag.parameters())
    if mode == "sum":
        given = [torch.rand(ids.shape).to(dtype).requires_grad_() for _ in range(2)]
        given[1].data.copy_(given[0])
        for module, weights in zip((bag, theirs), given, strict=True):
            module(ids, per_sample_weights=weights).sum().backward()
        torch.testing.assert_close(given[0].grad, given[1].grad, rtol=4 * tolerance, atol=0.05)


def test_a_compiled_model_gives_vectors_of_that_dtype():
    embedding = Embedding(ROWS, DIM, dtype=torch.bfloat16, rounding="nearest")
    optimizer = rowwise.torch.optim.SGD(embedding.parameters())
    ids = next(batches(1))[0]
    compiled = torch.compile(lambda ids: embedding(ids) * 2, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), embedding(ids) * 2)
    compiled(ids).sum().backward()
    assert embedding.weight.grad.dtype is torch.bfloat16
    optimizer.step()
    assert embedding.table.update_counts.any()
