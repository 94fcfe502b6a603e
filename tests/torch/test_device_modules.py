"""Modules whose table lies on a device, beside the same ones on the CPU: bit for bit.

The device's kernels run on this processor, over tensors of the CPU.
"""

import copy
import io
import warnings

import numpy as np
import pytest
import torch

import rowwise
import rowwise.torch
from rowwise.store import HostStore
from rowwise.torch import optim
from rowwise.torch._device import DeviceStore

ROWS, DIM = 60, 8

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: optim.Adam(p, 0.1),
    "adamw": lambda p: optim.AdamW(p, 0.1, amsgrad=True),
    "nadam": lambda p: optim.NAdam(p, 0.1),
    "rmsprop": lambda p: optim.RMSprop(p, 0.1, momentum=0.5),
    "rowwise-adagrad": lambda p: optim.RowwiseAdagrad(p, 0.1),
    "adamax": lambda p: optim.Adamax(p, 0.1, maximize=True),
}


@pytest.fixture(autouse=True)
def _without_a_gpu(monkeypatch):
    monkeypatch.setenv("ROWWISE_KERNELS", "emulate")


def pair(kind=rowwise.torch.Embedding, **options):
    """Return the same module on the host and on the device."""
    values = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    host = kind(ROWS, DIM, _weight=values.clone(), **options)
    device = kind(ROWS, DIM, _weight=values.clone(), table="device", **options)
    assert isinstance(host.table.store, HostStore)
    assert isinstance(device.table.store, DeviceStore)
    return host, device


def ids_of(step, shape=(40,)):
    return torch.randint(
        0, ROWS if step % 3 else 3, shape, generator=torch.Generator().manual_seed(step)
    )


def loss_of(vectors):
    weights = torch.linspace(-1, 1, vectors.numel()).reshape(vectors.shape)
    return (vectors * weights).sum() + vectors.square().sum()


def require_same(host, device):
    assert torch.equal(
        host.weight.detach().view(torch.int32), device.weight.detach().view(torch.int32)
    )
    assert (host.table.update_counts == device.table.update_counts).all()
    for name in host.table.slot_names:
        assert (host.table.slot(name) == device.table.slot(name)).all()


def step(modules, optimizers, *batch, between=lambda module: None):
    """Make one step of each with the same batch, and compare what they look up."""
    found = []
    for module, optimizer in zip(modules, optimizers, strict=True):
        optimizer.zero_grad()
        vectors = module(*batch)
        loss_of(vectors).backward()
        between(module)
        optimizer.step()
        found.append(vectors.detach())
    assert torch.equal(found[0].view(torch.int32), found[1].view(torch.int32))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_to_the_cpu_s_bits(name):
    modules = pair()
    optimizers = [OPTIMIZERS[name](module.parameters()) for module in modules]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(12):
            step(modules, optimizers, ids_of(number, (10, 4)))
    require_same(*modules)
    for key, mine in optimizers[0].state[modules[0].weight].items():
        assert torch.equal(mine, optimizers[1].state[modules[1].weight][key]), key


@pytest.mark.parametrize(
    "options",
    [{"padding_idx": 2}, {"scale_grad_by_freq": True}, {"sparse": True}, {"untrained": "mean"}],
    ids=str,
)
def test_options_of_embedding(options):
    modules = pair(**options)
    optimizers = [optim.AdamW(module.parameters(), 0.1) for module in modules]
    for number in range(7):
        step(modules, optimizers, ids_of(number).int())
    require_same(*modules)
    looked_up = [module.eval()(torch.arange(ROWS)) for module in modules]
    assert torch.equal(*looked_up)


def test_a_max_norm_is_the_cpu_s_to_rounding():
    modules = pair(max_norm=2.0)
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in modules]
    for number in range(6):
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(module(ids_of(number))).backward()
            optimizer.step()
    host, device = (module.weight.detach() for module in modules)
    torch.testing.assert_close(host, device, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 5])
def test_bags_train_to_the_cpu_s_bits(mode, padding_idx):
    modules = pair(rowwise.torch.EmbeddingBag, mode=mode, padding_idx=padding_idx)
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in modules]
    offsets = torch.tensor([0, 3, 3, 17, 39])
    for number in range(6):
        step(modules, optimizers, ids_of(number), offsets)
        step(modules, optimizers, ids_of(number, (8, 5)))
    require_same(*modules)


def test_the_gradient_of_weights_in_bags():
    modules = pair(rowwise.torch.EmbeddingBag, mode="sum")
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in modules]
    for number in range(4):
        learned = torch.linspace(-1, 1, 40).reshape(8, 5).requires_grad_()
        gradients = []

        def keep(_, learned=learned, gradients=gradients):
            gradients.append(learned.grad)
            learned.grad = None

        step(modules, optimizers, ids_of(number, (8, 5)), None, learned, between=keep)
        assert torch.equal(*gradients)
    require_same(*modules)


@pytest.mark.parametrize("kind", [rowwise.torch.Embedding, rowwise.torch.EmbeddingBag])
def test_clipping_accumulation_and_scaling_of_gradients(kind):
    modules = pair(kind)
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in modules]

    def more(module):
        loss_of(module(ids_of(9, (8, 5)))).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)

    for number in range(4):
        step(modules, optimizers, ids_of(number, (8, 5)), between=more)
    for module in modules:
        torch.testing.assert_close(module.weight.grad.to_dense().norm(), torch.tensor(0.5))
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0) for _ in modules]
    for module, optimizer, scaler in zip(modules, optimizers, scalers, strict=True):
        optimizer.zero_grad()
        scaler.scale(loss_of(module(ids_of(3, (8, 5))))).backward()
        scaler.step(optimizer)
        scaler.update()
    host, device = (module.weight.detach() for module in modules)
    torch.testing.assert_close(host, device, rtol=1e-6, atol=1e-6)  # norms sum in other orders


def test_files_copies_and_growth_go_on_to_the_same_bits(tmp_path):
    modules = pair()
    optimizers = [optim.AdamW(module.parameters(), 0.1) for module in modules]
    for number in range(4):
        step(modules, optimizers, ids_of(number))
    for module in modules:
        module.grow(ROWS + 7, seed=3)
    for number in range(4, 7):
        step(modules, optimizers, ids_of(number) + 6)
    host, device = modules
    device.table.save(tmp_path / "table.safetensors")
    loaded = rowwise.Table.load(tmp_path / "table.safetensors")
    assert (loaded.to_numpy() == host.table.to_numpy()).all()
    assert (loaded.slot("exp_avg") == host.table.slot("exp_avg")).all()
    file = io.BytesIO()
    torch.save([device.state_dict(), optimizers[1].state_dict()], file)  # all rows up to date
    host.table.materialize()
    file.seek(0)
    weights, state = torch.load(file)
    fresh = rowwise.torch.Embedding(ROWS + 7, DIM, table="device")
    again = optim.AdamW(fresh.parameters(), 0.1)
    fresh.load_state_dict(weights)
    again.load_state_dict(state)
    step((host, fresh), (optimizers[0], again), ids_of(8))
    assert torch.equal(host.weight.detach(), fresh.weight.detach())
    twin = copy.deepcopy(fresh)
    assert isinstance(twin.table.store, DeviceStore)
    assert torch.equal(twin.weight.detach(), fresh.weight.detach())


def test_a_table_moves_at_any_moment_of_a_training(monkeypatch):
    host, moving = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in (host, moving)]
    for number in range(12):
        step((host, moving), optimizers, ids_of(number))
        if number % 3 == 2:  # to the device's store, or back to the host's
            if number % 2:
                monkeypatch.setenv("ROWWISE_KERNELS", "emulate")
            else:
                monkeypatch.delenv("ROWWISE_KERNELS")
            moving.weight._move(moving.weight.detach().clone())
            kind = DeviceStore if number % 2 else HostStore
            assert isinstance(moving.table.store, kind)
            require_same(host, moving)
            assert torch.equal(
                optimizers[0].state[host.weight]["exp_avg"],
                optimizers[1].state[moving.weight]["exp_avg"],
            )


def test_a_bad_id_is_raised_by_the_next_call_and_training_goes_on():
    host, device = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in (host, device)]
    step((host, device), optimizers, ids_of(1))
    optimizers[1].zero_grad()
    loss_of(device(torch.tensor([1, ROWS]))).backward()
    with pytest.raises(IndexError, match=f"id {ROWS} at position 1 is outside"):
        optimizers[1].step()
    step((host, device), optimizers, ids_of(2))
    require_same(host, device)


def test_torch_s_own_functions_see_present_values():
    host, device = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in (host, device)]
    for number in range(3):
        step((host, device), optimizers, ids_of(number))
        assert torch.equal(host.weight.sum(), device.weight.sum())
        for module in (host, device):
            with torch.no_grad():
                module.weight[3] *= 0.5
    require_same(host, device)
    assert np.array_equal(device.table.lookup([3]), host.table.lookup([3]))
    copied = device.weight.detach().numpy().copy()
    assert np.array_equal(copied, host.weight.detach().numpy())


def test_an_array_over_its_memory_sees_every_step_with_a_warning():
    host, device = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in (host, device)]
    step((host, device), optimizers, ids_of(1))
    assert not device.weight.memory.is_exposed
    array = device.weight.detach().numpy()
    assert device.weight.memory.is_exposed
    with pytest.warns(UserWarning, match="shares the memory"):
        step((host, device), optimizers, ids_of(2))
    assert np.array_equal(array, host.weight.detach().numpy())
    del array
    assert not device.weight.memory.is_exposed


def test_another_optimizer_trains_it_densely_with_a_warning():
    host, device = pair()
    optimizers = [torch.optim.Adam(module.parameters(), 0.1) for module in (host, device)]
    for number in range(3):
        for module, optimizer in zip((host, device), optimizers, strict=True):
            optimizer.zero_grad()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loss_of(module(ids_of(number))).backward()
            optimizer.step()
    assert torch.equal(host.weight.detach(), device.weight.detach())


def test_where_a_table_may_lie_is_checked():
    with pytest.raises(ValueError, match="table='gpu' is not"):
        rowwise.torch.Embedding(4, 4, table="gpu")
