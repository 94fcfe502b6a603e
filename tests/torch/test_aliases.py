"""Every way in which one tensor's memory is reached through another, PyTorch beside ours."""

import copy
import ctypes
import io

import numpy as np
import pytest
import torch
from beside_torch import DIM, ROWS, Model, train
from torch import nn

import rowwise.torch

VALUES = torch.linspace(-1, 1, ROWS * DIM).reshape(ROWS, DIM)


def step(model, optimizer, steps=3, seed=1):
    train(model, optimizer, steps, seed=seed)


# ---------------------------------------------------------------- the weight
# Each takes model and optimizer, and returns what is to be compared beside the weight.


def backup_and_restore(model, optimizer):
    weight = model.embedding.weight
    shadow = weight.data.clone() * 0.5
    step(model, optimizer)
    backup = weight.data
    weight.data = shadow
    seen = [model.embedding(torch.arange(ROWS)).detach().clone(), backup.clone()]
    weight.data = backup
    seen.append(weight.detach().clone())
    step(model, optimizer)
    return [*seen, shadow, backup]


def moving_average(model, optimizer):
    weight = model.embedding.weight
    shadow = {"weight": weight.data.clone()}
    seen = []
    for turn in range(4):
        step(model, optimizer, seed=turn)
        shadow["weight"] = (0.1 * weight.data + 0.9 * shadow["weight"]).clone()
        backup = {"weight": weight.data}
        weight.data = shadow["weight"]
        seen.append(model.embedding(torch.arange(ROWS)).detach().clone())
        weight.data = backup["weight"]
        backup = {}
    return seen


def data_that_is_trained_on(model, optimizer):
    values = VALUES.clone()
    model.embedding.weight.data = values
    step(model, optimizer)
    seen = values.clone()
    values.mul_(0.5)
    step(model, optimizer)
    return [seen, values]


def data_of_another_module(model, optimizer):
    linear = nn.Linear(DIM, ROWS)
    linear.weight.data = VALUES.clone()
    model.embedding.weight.data = linear.weight.data
    step(model, optimizer)
    with torch.no_grad():
        linear.weight.mul_(0.5)
    step(model, optimizer)
    return [linear.weight]


def data_given_to_another_module(model, optimizer):
    linear = nn.Linear(DIM, ROWS)
    linear.weight.data = model.embedding.weight.data
    step(model, optimizer)
    return [linear.weight, linear(torch.ones(DIM)) - linear.bias]


def data_of_another_table(model, optimizer):
    other = type(model.embedding)(ROWS, DIM)
    model.embedding.weight.data = other.weight.data
    others = type(optimizer)(other.parameters(), lr=0.1)
    for _ in range(3):
        step(model, optimizer)
        other.weight.grad = None
        other(torch.arange(4)).square().sum().backward()
        others.step()
    return [other.weight]


def data_not_contiguous(model, optimizer):
    values = VALUES.t().contiguous().t()
    model.embedding.weight.data = values
    step(model, optimizer)
    return [values]


def set_to_a_tensor(model, optimizer):
    values = VALUES.clone()
    with torch.no_grad():
        model.embedding.weight.set_(values)
    step(model, optimizer)
    return [values]


def set_to_a_storage(model, optimizer):
    values = VALUES.clone()
    with torch.no_grad():
        model.embedding.weight.set_(values.untyped_storage(), 0, (ROWS, DIM), (DIM, 1))
    step(model, optimizer)
    return [values]


def detached(model, optimizer):
    taken = model.embedding.weight.detach()
    step(model, optimizer)
    seen = taken.clone()
    taken.mul_(0.5)
    step(model, optimizer)
    return [seen, taken]


def views_written_and_read(model, optimizer):
    flat = model.embedding.weight.detach().view(-1)
    halves = model.embedding.weight.detach().chunk(2)
    transposed = model.embedding.weight.data.t()
    step(model, optimizer)
    halves[1].zero_()
    transposed[0].add_(1)
    step(model, optimizer)
    return [flat, *halves, transposed]


def swapped_tensors(model, optimizer):
    other = nn.Parameter(VALUES.clone())
    before = model.embedding.weight
    torch.utils.swap_tensors(model.embedding.weight, other)
    seen = model.embedding(torch.arange(ROWS)).detach().clone()
    assert model.embedding.weight is before
    step(model, optimizer)
    return [seen, other]


def copied_out_of_and_into(model, optimizer):
    weight = model.embedding.weight
    step(model, optimizer)
    seen = torch.empty(ROWS, DIM).copy_(weight.detach())
    with torch.no_grad():
        weight.copy_(VALUES)
        weight[3:5].copy_(torch.ones(2, DIM))
    step(model, optimizer)
    return [seen]


def storage_copied(model, optimizer):
    storage = model.embedding.weight.untyped_storage()
    step(model, optimizer)
    storage.copy_(VALUES.untyped_storage())
    step(model, optimizer)
    return [torch.empty(0).set_(storage).clone()]


def typed_storage(model, optimizer):
    storage = model.embedding.weight.data.storage()
    step(model, optimizer)
    seen = torch.tensor(storage.tolist())
    storage[7] = 5.0
    step(model, optimizer)
    return [seen, torch.tensor(storage.tolist())]


def vector_to_parameters(model, optimizer):
    vector = nn.utils.parameters_to_vector(model.parameters()).detach() * 0.5
    nn.utils.vector_to_parameters(vector, model.parameters())
    step(model, optimizer)
    seen = vector.clone()
    vector.mul_(0.5)
    step(model, optimizer)
    return [seen, vector]


def foreach_copy(model, optimizer):
    weight = model.embedding.weight
    step(model, optimizer)
    saved = [torch.empty(ROWS, DIM)]
    torch._foreach_copy_(saved, [weight.detach()])
    torch._foreach_copy_([weight.detach()], [VALUES])
    torch._foreach_mul_([weight.data], 0.5)
    step(model, optimizer)
    return saved


def numpy_view(model, optimizer):
    array = model.embedding.weight.detach().numpy()
    rows = array[3:5]
    step(model, optimizer)
    seen = rows.copy()
    array[10] = 1
    step(model, optimizer)
    array *= 0.5
    step(model, optimizer)
    return [torch.from_numpy(seen), torch.from_numpy(array.copy())]


def numpy_asarray(model, optimizer):
    array = np.asarray(model.embedding.weight.data)
    step(model, optimizer)
    array[10] = 1
    step(model, optimizer)
    return [torch.from_numpy(array.copy())]


def tensor_of_numpy_view(model, optimizer):
    taken = torch.from_numpy(model.embedding.weight.detach().numpy())
    step(model, optimizer)
    taken.mul_(0.5)
    step(model, optimizer)
    return [taken]


def dlpack_torch(model, optimizer):
    taken = torch.from_dlpack(model.embedding.weight.detach())
    step(model, optimizer)
    taken.mul_(0.5)
    step(model, optimizer)
    return [taken]


def dlpack_numpy(model, optimizer):
    taken = np.from_dlpack(model.embedding.weight.detach())
    step(model, optimizer)
    return [torch.from_numpy(taken.copy())]


def dlpack_capsule(model, optimizer):
    taken = torch.utils.dlpack.from_dlpack(torch.to_dlpack(model.embedding.weight.detach()))
    seen = taken.clone()
    step(model, optimizer)
    taken.mul_(0.5)
    step(model, optimizer)
    return [seen, taken]


def address(model, optimizer):
    kept = (ctypes.c_float * (ROWS * DIM)).from_address(model.embedding.weight.data_ptr())
    seen = []
    for _ in range(2):
        step(model, optimizer)
        seen.append(torch.tensor(kept))
        for i in range(0, len(kept), 3):
            kept[i] *= 0.5
        step(model, optimizer)
    return seen


def address_of_a_state(model, optimizer):
    state = optimizer.state[model.embedding.weight]["exp_avg"]
    kept = (ctypes.c_float * (ROWS * DIM)).from_address(state.data.data_ptr())
    step(model, optimizer)
    seen = torch.tensor(kept)
    kept[:] = [0.0] * len(kept)
    step(model, optimizer)
    return [seen]


def as_tensor(model, optimizer):
    taken = torch.as_tensor(model.embedding.weight.detach())
    step(model, optimizer)
    return [taken]


def optimizer_state(model, optimizer):
    step(model, optimizer)
    state = optimizer.state[model.embedding.weight]["exp_avg"]
    view, array = state.view(-1), state.numpy()
    step(model, optimizer)
    seen = [state.clone(), torch.from_numpy(array.copy())]
    array[:] = 0
    view[:5] = 1
    step(model, optimizer)
    return [*seen, state, view]


def state_dict_is_alive(model, optimizer):
    state = model.state_dict()
    step(model, optimizer)
    seen = state["embedding.weight"].clone()
    state["embedding.weight"].zero_()
    return [seen]


OF_THE_WEIGHT = [
    backup_and_restore, moving_average, data_that_is_trained_on, data_of_another_module,
    data_given_to_another_module, data_of_another_table, set_to_a_tensor, set_to_a_storage,
    detached, views_written_and_read, swapped_tensors, copied_out_of_and_into, storage_copied,
    typed_storage, vector_to_parameters, foreach_copy, numpy_view, numpy_asarray,
    tensor_of_numpy_view, dlpack_torch, dlpack_numpy, dlpack_capsule, address, address_of_a_state,
    as_tensor, optimizer_state,
    state_dict_is_alive, data_not_contiguous,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("way", OF_THE_WEIGHT, ids=lambda way: way.__name__)
def test_the_weight_shares_its_memory_as_in_pytorch(way):
    found = []
    for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (nn, torch.optim)):
        model = Model(library)
        optimizer = optimizers.Adam(model.parameters(), lr=0.05)
        step(model, optimizer, 10)
        found.append([*way(model, optimizer), model.embedding.weight])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine.detach(), other.detach(), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- the gradient


def by_hand(gradient_of):
    def run(model, optimizer):
        for _ in range(3):
            model.embedding(torch.tensor([1, 2, 1])).sum().backward()
            with torch.no_grad():
                model.embedding.weight -= 0.1 * model.embedding.weight.grad
            gradient_of(model.embedding.weight).zero_()

    return run


def once(change):
    def run(model, optimizer):
        model.embedding(torch.tensor([[3, 1], [3, 7]])).square().sum().backward()
        seen = change(model.embedding.weight.grad)
        optimizer.step()
        return seen

    return run


def held_and_accumulated(model, optimizer):
    gradient = None
    for seed in range(3):
        model.embedding(torch.tensor([seed, 2])).sum().backward()
        if gradient is None:
            gradient = model.embedding.weight.grad
            gradient.view(-1)[0] = 5
    optimizer.step()
    return gradient


def taken_from_one_to_another(model, optimizer):
    twin = nn.Parameter(torch.zeros(ROWS, DIM))
    model.embedding(torch.tensor([3, 2])).sum().backward()
    twin.grad = model.embedding.weight.grad.clone()
    model.embedding.weight.grad = None
    twin.grad.view(-1)[:9] = 1
    model.embedding.weight.grad = twin.grad
    optimizer.step()
    return twin.grad


OF_THE_GRADIENT = {
    "grad.zero_()": by_hand(lambda p: p.grad),
    "grad.data.zero_()": by_hand(lambda p: p.grad.data),
    "grad.detach().zero_()": by_hand(lambda p: p.grad.detach()),
    "grad.detach_().zero_()": by_hand(lambda p: p.grad.detach_()),
    "grad.view(-1).zero_()": by_hand(lambda p: p.grad.view(-1)),
    "grad[:].zero_()": by_hand(lambda p: p.grad[:]),
    "data.clamp_": once(lambda g: g.data.clamp_(-0.1, 0.1)),
    "data.clamp_ above zero": once(lambda g: g.data.clamp_(0.1, 0.5)),
    "data.mul_": once(lambda g: g.data.mul_(0.5)),
    "data.add_": once(lambda g: g.data.add_(0.5)),
    "detach.add_": once(lambda g: g.detach().add_(0.5)),
    "clone.add_ is its own": once(lambda g: g.clone().add_(0.5)),
    "clone.mul_ is its own": once(lambda g: g.clone().mul_(0.5)),
    "clone[:10] = 0 is its own": once(lambda g: g.clone().__setitem__(slice(10), 0)),
    "deepcopy": once(lambda g: copy.deepcopy(g).mul_(2)),
    "flatten": once(lambda g: g.flatten()),
    "data.flatten": once(lambda g: g.data.flatten()),
    "flatten.mul_": once(lambda g: g.flatten().mul_(0.5)),
    "[:10] = 0": once(lambda g: g.__setitem__(slice(10), 0)),
    "[ids] = 0": once(lambda g: g.__setitem__(torch.tensor([1, 5]), 0)),
    "[mask] = 0": once(lambda g: g.__setitem__(torch.arange(ROWS) > 5, 0)),
    "[:4].zero_()": once(lambda g: g[:4].zero_()),
    "[3].zero_()": once(lambda g: g[3].zero_()),
    "split": once(lambda g: g.split(2)[1].fill_(1)),
    "unbind": once(lambda g: g.unbind()[3].fill_(1)),
    "T.mul_": once(lambda g: g.T.mul_(0.5)),
    "numpy()[:] = 0": once(lambda g: g.numpy().__setitem__(slice(None), 0)),
    "numpy": once(lambda g: torch.from_numpy(g.numpy())),
    "data.numpy": once(lambda g: torch.from_numpy(g.data.numpy())),
    "cpu.numpy": once(lambda g: torch.from_numpy(g.detach().cpu().numpy())),
    "np.asarray": once(lambda g: torch.from_numpy(np.asarray(g))),
    "dlpack": once(lambda g: torch.from_dlpack(g).mul_(2)),
    "storage": once(lambda g: g.untyped_storage().fill_(0)),
    "cat": once(lambda g: torch.cat([g.view(-1), g.view(-1)])),
    "reshape": once(lambda g: g.reshape(-1, 1).add_(1)),
    "unsqueeze": once(lambda g: g.unsqueeze(0).mul_(2)),
    "contiguous": once(lambda g: g.contiguous().add_(1)),
    "copy_": once(lambda g: g.copy_(VALUES)),
    "data =": once(lambda g: setattr(g, "data", VALUES.clone())),
    "foreach_mul_": once(lambda g: torch._foreach_mul_([g], 0.5)),
    "foreach_mul_ of data": once(lambda g: torch._foreach_mul_([g.data], 0.5)),
    "foreach_add_": once(lambda g: torch._foreach_add_([g], 0.5)),
    "foreach_norm": once(lambda g: torch._foreach_norm([g])[0]),
    "nan_to_num_": once(lambda g: torch.nan_to_num(g, out=g)),
    "masked_fill_": once(lambda g: g.masked_fill_(g.abs() < 0.5, 0)),
    "addcmul_": once(lambda g: g.addcmul_(VALUES, VALUES)),
    "sign_": once(lambda g: g.sign_()),
    "noise": once(lambda g: g.add_(VALUES * 0.1)),
    "norm": once(lambda g: g.data.norm(2)),
    "sum of squares": once(lambda g: (g.detach() ** 2).sum()),
    "item": once(lambda g: torch.tensor(g.abs().max().item())),
    "tolist": once(lambda g: torch.tensor(g.tolist())),
    "bool": once(lambda g: torch.tensor(bool((g == 0).all()))),
    "any": once(lambda g: torch.isnan(g).any()),
    "stack": once(lambda g: torch.stack([g, g])),
    "to": once(lambda g: g.to(torch.float64)),
    "double": once(lambda g: g.double().sum()),
    "mean by row": once(lambda g: g.mean(dim=1)),
    "dot": once(lambda g: torch.dot(g.view(-1), g.view(-1))),
    "matmul": once(lambda g: g @ g.t()),
    "lerp_": once(lambda g: g.lerp_(VALUES, 0.5)),
    "clip_grad_norm_ by hand": once(lambda g: g.detach().mul_(0.5 / g.norm().clamp(min=1e-6))),
    "functional.normalize": once(lambda g: nn.functional.normalize(g, dim=1)),
    "where": once(lambda g: torch.where(g > 0, g, torch.zeros_like(g))),
    "zeros_like": once(lambda g: torch.zeros_like(g).add_(1)),
    "new_zeros": once(lambda g: g.new_zeros(3)),
    "iteration": once(lambda g: torch.stack(list(g))),
    "quantile": once(lambda g: g.quantile(0.5)),
    "requires_grad_": once(lambda g: g.clone().requires_grad_().sum()),
    "held and accumulated": held_and_accumulated,
    "taken from one to another": taken_from_one_to_another,
}


@pytest.mark.parametrize("bag", [False, True], ids=["Embedding", "EmbeddingBag"])
@pytest.mark.parametrize("way", OF_THE_GRADIENT)
def test_the_gradient_is_an_ordinary_tensor(way, bag):
    found = []
    for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (nn, torch.optim)):
        model = Model(library, bag=bag)
        if bag:
            embedding = model.embedding
            embedding.forward = lambda ids, f=embedding.forward: f(
                ids if ids.dim() == 2 else ids[:, None]
            )
        optimizer = optimizers.SGD(model.embedding.parameters(), lr=0.1)
        seen = OF_THE_GRADIENT[way](model, optimizer)
        gradient = model.embedding.weight.grad
        found.append([seen, gradient, model.embedding.weight])
    for mine, other in zip(*found, strict=True):
        if isinstance(other, torch.Tensor):
            mine = mine.to_dense() if mine.is_sparse else mine
            torch.testing.assert_close(mine.detach(), other.detach(), rtol=1e-5, atol=1e-6)
        else:
            assert type(mine) is type(other)


def test_what_reaches_the_memory_unwatched_is_noticed_while_it_lives():
    model = Model(rowwise.torch)
    optimizer = rowwise.torch.optim.Adam(model.parameters())
    step(model, optimizer)
    weight = model.embedding.weight
    array = weight.detach().numpy()
    with pytest.warns(UserWarning, match="memory of this weight.* all 60 rows"):
        step(model, optimizer)
    del array
    linear = nn.Linear(DIM, ROWS)
    ways = {
        "NumPy": lambda: weight.detach().numpy(),
        "a part of NumPy": lambda: np.asarray(weight.data)[3:5],
        "a storage": lambda: weight.untyped_storage(),
        "a capsule": lambda: torch.to_dlpack(weight),
        "DLPack": lambda: torch.from_dlpack(weight.detach())[1:],
        "a module": lambda: setattr(linear.weight, "data", weight.data),
    }
    for way in ways.values():
        assert not weight.memory.is_exposed
        taken = way()
        assert weight.memory.is_exposed
        del taken
        linear.weight.data = VALUES
    views = [weight.detach(), weight.data[3], weight.view(-1).split(7), weight.t()]
    assert not weight.memory.is_exposed
    del views
    step(model, optimizer)
    assert not weight.memory.is_exposed
    slot = optimizer.state[weight]["exp_avg"]
    assert not slot.memory.is_exposed


def test_an_address_counts_as_kept_until_the_weight_has_other_memory():
    model = Model(rowwise.torch)
    optimizer = rowwise.torch.optim.Adam(model.parameters())
    weight = model.embedding.weight
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(model.state_dict(), io.BytesIO())
    step(model, optimizer)  # torch compares addresses only: no warning
    weight.data_ptr()
    with pytest.warns(UserWarning, match=r"data_ptr\(\).* all 60 rows"):
        step(model, optimizer)
    weight.data = weight.data.clone()
    assert not weight.memory.is_exposed
    model.load_state_dict(state)
    step(model, optimizer)
    assert not weight.memory.is_exposed


def test_what_was_assigned_to_data_is_watched_itself():
    model = Model(rowwise.torch)
    optimizer = rowwise.torch.optim.Adam(model.parameters(), lr=0.05)
    weight = model.embedding.weight
    values = VALUES.clone()
    weight.data = values
    part = values[3:5]
    step(model, optimizer)  # in which a warning of dense steps would be an error
    torch.testing.assert_close(values, weight.detach())
    torch.testing.assert_close(part, weight.detach()[3:5])
    del values, part
    backup = weight.data
    weight.data = VALUES * 2
    kept = backup.clone()
    step(model, optimizer)
    torch.testing.assert_close(backup, kept)
    weight.data = backup
    step(model, optimizer)
    torch.testing.assert_close(backup, weight.detach())
    torch.testing.assert_close(model.embedding(torch.arange(ROWS)), weight)
    assert not weight.memory.is_exposed
    del backup
    assert not weight.memory.is_exposed
