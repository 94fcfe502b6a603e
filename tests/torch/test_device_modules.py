"""Modules whose table lies on a device, beside the same ones on the CPU: bit for bit.

The device's kernels run on this processor, over tensors of the CPU; or on a GPU.
"""

import copy
import io
import types
import warnings

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import rowwise
import rowwise.torch
from helpers.device import DEVICE, ON_GPU, finished, host, waits
from rowwise.store import HostStore
from rowwise.torch import _module, optim
from rowwise.torch._device import DeviceStore, _kernels, _memory, _nvrtc, _self_check, why_unusable
from rowwise.torch._gradient import RowGradientTensor

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


FUSED = {
    "adam": lambda p: optim.AdamW(p, 0.1, fused=True),
    "sgd": lambda p: optim.SGD(p, 0.1, momentum=0.9, dampening=0.5, fused=True),
    "plain sgd": lambda p: optim.SGD(p, 0.1, weight_decay=0.1, fused=True),
}


@pytest.fixture(autouse=True)
def _without_a_gpu(monkeypatch):
    if not ON_GPU:
        monkeypatch.setenv("ROWWISE_KERNELS", "emulate")


def pair(kind=rowwise.torch.Embedding, **options):
    """Return the same module on the host and on the device."""
    values = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    cpu = kind(ROWS, DIM, _weight=values.clone(), table="host", **options)
    device = kind(ROWS, DIM, _weight=values.clone(), **options).to(DEVICE)
    assert isinstance(cpu.table.store, HostStore)
    assert isinstance(device.table.store, DeviceStore)
    return cpu, device


def move(module, to_device, monkeypatch):
    """Move a module to the device, as `.cuda()` does, or back; here both have the same memory."""
    if ON_GPU:
        return module.to(DEVICE if to_device else "cpu")
    monkeypatch.setenv("ROWWISE_KERNELS", "emulate" if to_device else "")
    return module._apply(lambda tensor: tensor.to("cpu", copy=not tensor.is_sparse))


def ids_of(step, shape=(40,)):
    return torch.randint(
        0, ROWS if step % 3 else 3, shape, generator=torch.Generator().manual_seed(step)
    )


def loss_of(vectors):
    weights = torch.linspace(-1, 1, vectors.numel()).reshape(vectors.shape).to(vectors.device)
    return (vectors * weights).sum() + vectors.square().sum()


def require_equal(ours, theirs):
    np.testing.assert_array_equal(host(ours).view(np.int32), host(theirs).view(np.int32))


def require_close(ours, theirs):
    """Require the same numbers to rounding: sums of a norm come in another order."""
    ours, theirs = (torch.from_numpy(host(tensor)) for tensor in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def require_same(cpu, device):
    require_equal(cpu.weight, device.weight)
    assert (cpu.table.update_counts == device.table.update_counts).all()
    for name in cpu.table.slot_names:
        require_equal(cpu.table.slot(name), device.table.slot(name))


def on(module, batch):
    """Return a batch where a module is."""
    place = module.weight.device
    return [part.to(place) if isinstance(part, torch.Tensor) else part for part in batch]


def step(modules, optimizers, *batch, between=lambda module: None, compare=require_equal):
    """Make one step of each with the same batch, and compare what they look up."""
    found = []
    for module, optimizer in zip(modules, optimizers, strict=True):
        optimizer.zero_grad()
        vectors = module(*on(module, batch))
        loss_of(vectors).backward()
        between(module)
        optimizer.step()
        found.append(vectors)
    compare(*found)


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
        require_equal(mine, optimizers[1].state[modules[1].weight][key])


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
    require_equal(*(module.eval()(*on(module, [torch.arange(ROWS)])) for module in modules))


def test_a_max_norm_is_the_cpu_s_to_rounding():
    modules = pair(max_norm=2.0)
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in modules]
    for number in range(6):
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(module(*on(module, [ids_of(number)]))).backward()
            optimizer.step()
    ours, theirs = (torch.from_numpy(host(module.weight)) for module in modules)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


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


def test_bags_whose_offsets_do_not_fit_train_the_rows_that_are_in_bags():
    values = torch.ones(6, 4)
    bags = rowwise.torch.EmbeddingBag(
        6, 4, _weight=values, mode="sum", include_last_offset=True, padding_idx=5, table="device"
    ).to(DEVICE)
    optimizer = optim.SGD(bags.parameters(), 1.0)
    ids = torch.tensor([0, 1, 2, 5, 4])
    for offsets, expected in (([0, 2], 2.0), ([3, 99], 1.0)):
        pooled = bags(*on(bags, [ids, torch.tensor(offsets)]))
        assert host(pooled).tolist() == [[expected] * 4]
        optimizer.zero_grad()
        pooled.sum().backward()
        optimizer.step()
    assert host(bags.weight)[:, 0].tolist() == [0, 0, 1, 1, 0, 1]


def test_bags_that_wait_for_a_step_move_with_their_table(monkeypatch):
    modules = pair(rowwise.torch.EmbeddingBag)
    optimizers = [optim.SGD(module.parameters(), 0.1) for module in modules]
    step(modules, optimizers, ids_of(1, (8, 5)))
    for module, optimizer in zip(modules, optimizers, strict=True):
        optimizer.zero_grad()
        loss_of(module(*on(module, [ids_of(2, (8, 5))]))).backward()
    _, moving = modules
    move(moving, False, monkeypatch)
    assert isinstance(moving.table.store, HostStore)
    for optimizer in optimizers:
        optimizer.step()
    require_same(*modules)


def scaled_step(loss, module, optimizer, scaler):
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


def clipped_step(loss, module, optimizer, scaler):
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
    torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5, norm_type=torch.inf, foreach=False)
    optimizer.step()


def clamped_step(loss, module, optimizer, scaler):
    loss.backward()
    torch.nn.utils.clip_grad_value_(module.parameters(), 0.1)
    optimizer.step()


def scaled_and_clipped_step(loss, module, optimizer, scaler):
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
    scaler.step(optimizer)
    scaler.update()


def dense_step(loss, module, optimizer, scaler):
    (loss + module.weight[3:5].square().sum()).backward()
    optimizer.step()


def plain_step(loss, module, optimizer, scaler):
    loss.backward()
    optimizer.step()


STEPS = [
    plain_step, clipped_step, clamped_step, scaled_step, scaled_and_clipped_step, dense_step
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options", "make_step", "name"),
    [
        (
            rowwise.torch.Embedding,
            {"padding_idx": 2, "scale_grad_by_freq": True},
            plain_step,
            "sgd",
        ),
        (rowwise.torch.Embedding, {"max_norm": 1.0}, plain_step, "adam"),
        (rowwise.torch.EmbeddingBag, {"padding_idx": 2, "mode": "mean"}, plain_step, "adam"),
        (rowwise.torch.EmbeddingBag, {"padding_idx": 2, "mode": "max"}, plain_step, "adam"),
        *((rowwise.torch.Embedding, {}, make_step, "adam") for make_step in STEPS),
        *((rowwise.torch.EmbeddingBag, {"mode": "sum"}, make_step, "adam") for make_step in STEPS),
        (rowwise.torch.Embedding, {}, scaled_step, "sgd"),
        (rowwise.torch.Embedding, {}, scaled_step, "plain sgd"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_no_step_waits_for_the_device(kind, options, make_step, name):
    _, device = pair(kind, **options)
    optimizer = FUSED[name](device.parameters())
    scaler = torch.amp.GradScaler(torch.device(DEVICE).type, init_scale=8.0, growth_interval=2)
    for number in range(4):
        (ids,) = on(device, [ids_of(number, (8, 5))])
        optimizer.zero_grad()
        with waits() as found:
            make_step(device(ids).sum(), device, optimizer, scaler)
        assert number == 0 or not found  # the first makes the slots


def test_steps_in_inference_mode():
    modules = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1, fused=True) for module in modules]
    for number in range(3):
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(module(*on(module, [ids_of(number)]))).backward()
            with torch.inference_mode():
                torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
                optimizer.step()
    require_close(*(module.weight for module in modules))
    assert [int(o.state[m.weight]["step"]) for o, m in zip(optimizers, modules, strict=True)] == [
        3,
        3,
    ]


@pytest.mark.parametrize("name", ["adam", "sgd", "rowwise-adagrad"])
@pytest.mark.parametrize("padding_idx", [None, 3])
def test_dense_gradients_train_the_rows_that_are_not_zero(name, padding_idx):
    modules = pair(padding_idx=padding_idx)
    optimizers = [OPTIMIZERS[name](module.parameters()) for module in modules]

    def more(module):  # as of weights that an output layer shares
        (module.weight[3:5].square().sum() + module.weight[-1].sum()).backward()

    for number in range(5):
        step(modules, optimizers, ids_of(number), between=more)
    for module, optimizer in zip(modules, optimizers, strict=True):
        module.weight.grad = torch.zeros_like(module.weight)
        optimizer.step()
    step(modules, optimizers, ids_of(5))
    require_same(*modules)


def require_numbers(ours, theirs):
    """Require the same bits, but of NaNs."""
    np.testing.assert_array_equal(host(ours), host(theirs))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "factor", [lambda g: g.mul_(g.norm() * torch.nan), lambda g: g.div_(g.norm() * 0)]
)
def test_a_factor_that_makes_nan_of_zeros_does_so_in_every_row(name, factor):
    modules = pair(padding_idx=2)
    optimizers = [OPTIMIZERS[name](module.parameters()) for module in modules]
    for number in range(3):
        step(modules, optimizers, ids_of(number))

    def spoil(module):
        gradient = module.weight.grad
        factor(gradient)
        loss_of(module(*on(module, [torch.tensor([50, 51])]))).backward()
        assert gradient.is_sparse == (module is modules[1])  # which nobody has read

    step(modules, optimizers, ids_of(3), between=spoil)
    for module, optimizer in zip(modules, optimizers, strict=True):
        module.weight.grad = None
        loss_of(module(*on(module, [ids_of(4)]))).backward()
        optimizer.step()
    require_numbers(*(module.weight for module in modules))
    assert np.isnan(host(modules[1].weight)[ROWS - 1]).all()  # of no batch
    for slot in modules[0].table.slot_names:
        require_numbers(*(module.table.slot(slot) for module in modules))
    assert (modules[0].table.update_counts == modules[1].table.update_counts).all()


def test_a_spoiled_gradient_is_so_to_whoever_reads_it():
    modules = pair()
    optimizers = [optim.SGD(module.parameters(), 0.1) for module in modules]
    for module, optimizer in zip(modules, optimizers, strict=True):
        optimizer.zero_grad()
        loss_of(module(*on(module, [torch.tensor([1, 2, 1])]))).backward()
        module.weight.grad.mul_(module.weight.grad.norm() * torch.inf)
    assert modules[1].weight.grad.is_sparse
    read = [
        lambda g: g.clone(),
        lambda g: g.to_dense(),
        lambda g: g.norm(),
        lambda g: torch.clamp(g, -1, 1),
        lambda g: g + 1,
    ]
    for function in read:
        require_numbers(*(function(module.weight.grad) for module in modules))


class Late:
    """A GPU that has not come so far: the host does not hear of skipped steps until it waits."""

    def __init__(self, store):
        self.told, self.held = store._alarm[1:], store._alarm[1:].clone()
        self.wait, store._raise_trouble = store._raise_trouble, self.wait_and_come
        store._wait_for_an_open_step = store.synchronize

    def wait_and_come(self, stream):
        self.come()
        self.wait(stream)

    def come(self):
        self.told.copy_(torch.maximum(self.told, self.held))

    def hold(self):
        self.held = torch.maximum(self.told, self.held)
        self.told.zero_()


def scaled_pair(name, modules):
    """Return a fused optimizer and a scaler for each module."""
    optimizers = [FUSED[name](module.parameters()) for module in modules]
    scalers = [
        torch.amp.GradScaler(m.weight.device.type, init_scale=8.0, growth_interval=3)
        for m in modules
    ]
    return optimizers, scalers


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("every", [1, 3, 30])
def test_steps_that_a_scaler_skips_never_were(name, every):
    """The host learns of them late: after so many steps, or because it has to."""
    modules = pair()
    optimizers, scalers = scaled_pair(name, modules)
    late = None if ON_GPU else Late(modules[1].table.store)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in optimizers]
    for number in range(40):
        found = []
        for module, optimizer, scaler in zip(modules, optimizers, scalers, strict=True):
            optimizer.zero_grad()
            vectors = module(*on(module, [ids_of(number)]))
            found.append(vectors)
            loss = loss_of(vectors) * (torch.inf if number in (0, 4, 9, 10, 11, 30) else 1.0)
            scaled_step(loss, module, optimizer, scaler)
        require_equal(*found)
        for schedule in schedules:
            schedule.step()
        if late is not None and number > 2:
            late.come() if number % every == 0 else late.hold()
        if number == 20:
            require_same(*modules)
            for module in modules:
                module.grow(ROWS + 1, seed=1)
            late = None if ON_GPU else Late(modules[1].table.store)
    require_same(*modules)
    assert modules[0].table.steps == modules[1].table.steps == 34
    for key, mine in optimizers[0].state[modules[0].weight].items():
        require_equal(mine, optimizers[1].state[modules[1].weight][key])


@pytest.mark.skipif(ON_GPU, reason="the alarm comes when it comes")
def test_a_bad_id_among_skipped_steps_takes_back_those_that_were_made():
    modules = pair()
    device = modules[1]
    optimizers, scalers = scaled_pair("adam", modules)
    late = Late(device.table.store)

    def train(number, ids, which):
        for i in which:
            optimizers[i].zero_grad()
            loss = loss_of(modules[i](ids)) * (torch.inf if number in (2, 5) else 1.0)
            device.table.store._alarm[0] = 0  # as on a GPU that has not come so far
            scaled_step(loss, modules[i], optimizers[i], scalers[i])
        device.table.store._alarm[0] = 0
        late.hold()

    for number in range(4):
        train(number, ids_of(number), (0, 1))
    scale = scalers[1].state_dict()
    train(4, torch.tensor([1, -1]), (1,))
    for number in (5, 6):
        train(number, ids_of(number), (1,))
    with pytest.raises(IndexError, match="id -1 at position 1 is outside"):
        device.table.store.synchronize()
    scalers[1].load_state_dict(scale)
    assert optimizers[1].state[device.weight]["step"] == 3
    for number in (7, 8):
        train(number, ids_of(number), (0, 1))
    require_same(*modules)


@pytest.mark.parametrize("untrained", ["zeros", "mean"])
def test_untrained_rows_are_filled_without_waiting(untrained):
    _, device = modules = pair(untrained=untrained)
    for module in modules:
        module.table.store.load_counts(np.array(3), *np.zeros((2, ROWS), np.int64))
        module.table.mark_trained([1, 2, 40])
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in modules]
    step(modules, optimizers, torch.tensor([7, 2]))
    require_equal(*(module.eval()(*on(module, [ids_of(1)])) for module in modules))
    (ids,) = on(device, [ids_of(2)])
    with waits() as found:
        device(ids)
    assert not found


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_the_gradient_of_weights_in_bags(padding_idx):
    modules = pair(rowwise.torch.EmbeddingBag, mode="sum", padding_idx=padding_idx)
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in modules]
    for number in range(4):
        learned = torch.linspace(-1, 1, 40).reshape(8, 5).requires_grad_()
        gradients = []

        def keep(_, learned=learned, gradients=gradients):
            gradients.append(learned.grad)
            learned.grad = None

        step(modules, optimizers, ids_of(number, (8, 5)), None, learned, between=keep)
        require_equal(*gradients)
    require_same(*modules)


@pytest.mark.parametrize("kind", [rowwise.torch.Embedding, rowwise.torch.EmbeddingBag])
def test_clipping_accumulation_and_scaling_of_gradients(kind):
    modules = pair(kind)
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in modules]

    def more(module):
        loss_of(module(*on(module, [ids_of(9, (8, 5))]))).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)

    def more_and_half(module):
        more(module)
        loss_of(module(*on(module, [torch.tensor([[4, 4, 1, 4, 4]])]))).backward()
        module.weight.grad.mul_(0.5)

    for number in range(4):
        between = more_and_half if number == 2 else more
        step(modules, optimizers, ids_of(number, (8, 5)), between=between, compare=require_close)
    for module in modules:
        assert module.weight.grad.to_dense().norm().item() == pytest.approx(0.5)
    scalers = [torch.amp.GradScaler(m.weight.device.type, init_scale=8.0) for m in modules]
    for module, optimizer, scaler in zip(modules, optimizers, scalers, strict=True):
        optimizer.zero_grad()
        scaler.scale(loss_of(module(*on(module, [ids_of(3, (8, 5))])))).backward()
        scaler.step(optimizer)
        scaler.update()
    require_close(*(module.weight for module in modules))


def test_files_copies_and_growth_go_on_to_the_same_bits(tmp_path):
    modules = pair()
    optimizers = [optim.AdamW(module.parameters(), 0.1) for module in modules]
    for number in range(4):
        step(modules, optimizers, ids_of(number))
    for module in modules:
        module.grow(ROWS + 7, seed=3)
    for number in range(4, 7):
        step(modules, optimizers, ids_of(number) + 6)
    cpu, device = modules
    device.table.save(tmp_path / "table.safetensors")
    loaded = rowwise.Table.load(tmp_path / "table.safetensors")
    assert (loaded.to_numpy() == cpu.table.to_numpy()).all()
    assert (loaded.slot("exp_avg") == cpu.table.slot("exp_avg")).all()
    file = io.BytesIO()
    torch.save([device.state_dict(), optimizers[1].state_dict()], file)  # all rows up to date
    cpu.table.materialize()
    file.seek(0)
    weights, state = torch.load(file)
    fresh = rowwise.torch.Embedding(ROWS + 7, DIM, table="device", device=DEVICE)
    again = optim.AdamW(fresh.parameters(), 0.1)
    fresh.load_state_dict(weights)
    again.load_state_dict(state)
    step((cpu, fresh), (optimizers[0], again), ids_of(8))
    require_equal(cpu.weight, fresh.weight)
    twin = copy.deepcopy(fresh)
    assert isinstance(twin.table.store, DeviceStore)
    require_equal(twin.weight, fresh.weight)


def test_a_table_moves_at_any_moment_of_a_training(monkeypatch):
    cpu, moving = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in (cpu, moving)]
    for number in range(12):
        step((cpu, moving), optimizers, ids_of(number))
        if number % 3 == 2:  # to the device's store, or back to the host's
            move(moving, number % 2, monkeypatch)
            kind = DeviceStore if number % 2 else HostStore
            assert isinstance(moving.table.store, kind)
            moving.table.store.synchronize()  # wherever it is
            require_same(cpu, moving)
            require_equal(
                optimizers[0].state[cpu.weight]["exp_avg"],
                optimizers[1].state[moving.weight]["exp_avg"],
            )


def test_a_gradient_moves_by_row_with_its_table(monkeypatch):
    cpu, moving = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in (cpu, moving)]
    for number, to_device in enumerate([False, True, False]):
        for module in (cpu, moving):
            loss_of(module(*on(module, [ids_of(number)]))).backward()
        gradient = moving.weight.grad
        move(moving, to_device, monkeypatch)
        assert moving.weight.grad is gradient
        assert type(gradient) is RowGradientTensor
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    require_same(cpu, moving)


@pytest.fixture
def failing(monkeypatch):
    """Give the device kernels that look up one last bit too much; return the checks made."""
    checks = []

    def gather(store, ids, out):
        DeviceStore.gather(store, ids, out)
        out[...] = np.nextafter(out, np.float32(9)) if isinstance(out, np.ndarray) else out

    def check(rule, *where):
        checks.append(rule.family)
        return self_check(rule, *where)

    self_check = _self_check.self_check
    wrong = type("Wrong", (DeviceStore,), {"gather": gather})
    monkeypatch.setattr(_self_check, "DeviceStore", wrong)
    monkeypatch.setattr(_self_check, "self_check", check)
    monkeypatch.setattr(_self_check, "_found", {})
    return checks


@pytest.mark.parametrize("kind", [rowwise.torch.Embedding, rowwise.torch.EmbeddingBag])
def test_a_device_that_fails_the_check_trains_densely_with_one_warning(kind, failing, monkeypatch):
    values = torch.randn(ROWS, DIM)
    monkeypatch.setenv("ROWWISE_KERNELS", "")
    ours, theirs = kind(ROWS, DIM, _weight=values.clone()), kind.__mro__[2](ROWS, DIM)
    theirs.weight.data = values.clone()
    optimizers = optim.Adam(ours.parameters(), 0.1), torch.optim.Adam(theirs.parameters(), 0.1)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for number in range(6):
            if number == 2:
                move(ours, True, monkeypatch)
            for module, optimizer in zip((ours, theirs), optimizers, strict=True):
                optimizer.zero_grad()
                loss_of(module(*on(module, [ids_of(number, (8, 5))]))).backward()
                optimizer.step()
        assert type(ours.weight) is torch.nn.Parameter
        kind(ROWS, DIM, device=DEVICE)
    place = torch.device(DEVICE)
    said = f"{place} failed rowwise's check (weights under adam have other bits"
    at_the_move, of_the_new_one = (str(warning.message) for warning in warned)
    assert at_the_move.startswith(said)
    assert "under sgd" in of_the_new_one
    assert failing == ["adam", "sgd"]  # each once
    torch.testing.assert_close(host(ours.weight), host(theirs.weight), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(_self_check, "_found", {})
    move(ours, False, monkeypatch)
    assert isinstance(ours.table.store, HostStore)


@pytest.mark.usefixtures("failing")
def test_a_module_from_a_file_is_trained_densely_where_the_check_fails(monkeypatch):
    monkeypatch.setenv("ROWWISE_KERNELS", "")
    module, file = rowwise.torch.Embedding(ROWS, DIM), io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    monkeypatch.setenv("ROWWISE_KERNELS", "emulate")
    with pytest.warns(UserWarning, match="failed rowwise's check .* trained densely"):
        loaded = torch.load(file, map_location=DEVICE, weights_only=False)
    assert type(loaded.weight) is torch.nn.Parameter
    require_equal(loaded.weight, module.weight)


@pytest.mark.usefixtures("failing")
def test_a_table_that_must_go_to_the_device_stays_where_it_is_if_that_fails(monkeypatch):
    monkeypatch.setenv("ROWWISE_KERNELS", "")
    module = rowwise.torch.Embedding(ROWS, DIM, table="device")
    before = module.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"failed rowwise's check .*; nothing has changed"):
        move(module, True, monkeypatch)
    assert isinstance(module.table.store, HostStore)
    require_equal(module.weight, before)


@pytest.mark.parametrize("place", [None, "device"])
def test_a_rule_whose_kernels_fail_is_stepped_by_torch(place, monkeypatch):
    device = rowwise.torch.Embedding(ROWS, DIM, table=place).to(DEVICE)
    where = device.weight.device
    monkeypatch.setitem(_self_check._found, (where, "adam"), "they fail")
    if place == "device":
        with pytest.raises(RuntimeError, match="they fail; nothing has changed"):
            optim.Adam(device.parameters())
        return
    optimizer = optim.Adam(device.parameters(), 0.1)
    torch_s = torch.nn.Embedding(ROWS, DIM, _weight=device.weight.detach().clone())
    of_torch = torch.optim.Adam(torch_s.parameters(), 0.1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for number in range(3):
            for module, making in ((device, optimizer), (torch_s, of_torch)):
                making.zero_grad()
                loss_of(module(*on(module, [ids_of(number)]))).backward()
                making.step()
    (warning,) = said
    assert str(warning.message).startswith(f"they fail; every step visits all {ROWS} rows")
    torch.testing.assert_close(host(device.weight), host(torch_s.weight))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("CUDA's cuLaunchKernel failed: too much"), "cuLaunchKernel failed"),
        (ValueError("too many numbers for one launch"), "too many numbers"),
        (torch.OutOfMemoryError("no room"), None),
    ],
)
def test_a_check_that_cannot_run_is_the_reason_but_for_want_of_memory(error, reason, monkeypatch):
    def engine_of(device):
        raise error

    monkeypatch.setattr(_self_check, "engine_of", engine_of)
    monkeypatch.setattr(_self_check, "_found", {})
    if reason is None:  # another moment there may be
        with pytest.raises(torch.OutOfMemoryError):
            why_unusable(torch.device(DEVICE))
        assert not _self_check._found
    else:
        assert reason in why_unusable(torch.device(DEVICE))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is :DeprecationWarning")
@pytest.mark.parametrize(
    "within",
    [
        lambda function: torch.func.grad(lambda x: function(x).sum())(torch.ones(2)),
        lambda function: torch.jit.trace(function, torch.ones(2)),
        lambda function: make_fx(function)(torch.ones(2)),
    ],
    ids=["transform", "trace", "make_fx"],
)
def test_the_check_is_no_part_of_what_its_caller_does(within, monkeypatch):
    monkeypatch.setattr(_self_check, "_found", {})
    within(lambda x: x if why_unusable(torch.device(DEVICE)) is None else x * 2)
    assert list(_self_check._found.values()) == [None]


def test_a_device_without_room_leaves_the_table_where_it_is(monkeypatch):
    monkeypatch.setenv("ROWWISE_KERNELS", "")
    modules = [rowwise.torch.Embedding(ROWS, DIM, _weight=torch.ones(ROWS, DIM)) for _ in range(2)]
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in modules]
    step(modules, optimizers, ids_of(1))
    _, moving = modules

    def no_room(store, rule):
        raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setenv("ROWWISE_KERNELS", "emulate")
        assert why_unusable(torch.device(DEVICE), moving.table.rule) is None
        patched.setattr(DeviceStore, "_load_kernels", no_room)
        with pytest.raises(torch.OutOfMemoryError) as error:
            move(moving, True, patched)
    (note,) = error.value.__notes__
    assert f"{ROWS} rows of {DIM} with 2 slots take {ROWS * (12 * DIM + 16)} bytes" in note
    assert isinstance(moving.table.store, HostStore)
    step(modules, optimizers, ids_of(2))
    require_same(*modules)


def _without_nvrtc(monkeypatch):
    monkeypatch.setattr(_nvrtc, "_candidates", list)
    monkeypatch.setattr(_kernels, "nvrtc", _nvrtc.nvrtc.__wrapped__)


def _too_old(monkeypatch):
    compiler = types.SimpleNamespace(architectures=[75, 90], version=(13, 0))
    monkeypatch.setattr(_kernels, "nvrtc", lambda: compiler)


@pytest.mark.parametrize(
    ("what_is_wrong", "cause"),
    [
        (
            _without_nvrtc,
            "NVRTC, which compiles .* was not found; .* pip install nvidia-cuda-nvrtc",
        ),
        (_too_old, r"compute capability 3\.5 is older .* install an older nvidia-cuda-nvrtc"),
    ],
)
def test_the_warning_says_what_the_card_lacks_and_what_to_do(what_is_wrong, cause, monkeypatch):
    def load_kernels(store, rule):
        _kernels.cached_kernels((rule or rowwise.rules.SGD()).native(), (3, 5))

    what_is_wrong(monkeypatch)
    monkeypatch.setattr(DeviceStore, "_load_kernels", load_kernels)
    monkeypatch.setattr(_self_check, "_found", {})
    with pytest.warns(UserWarning, match=f"{cause}.*: this embedding is trained densely"):
        module = rowwise.torch.Embedding(ROWS, DIM, device=DEVICE)
    assert type(module.weight) is torch.nn.Parameter
    with pytest.raises(RuntimeError, match=f"{cause}.*; nothing has changed"):
        rowwise.torch.Embedding(ROWS, DIM, table="device", device=DEVICE)


def test_ids_elsewhere_than_the_embedding_are_refused():
    weight = types.SimpleNamespace(device=torch.device("cuda:0"))
    with pytest.raises(
        RuntimeError, match=r"is on cuda:0 and its ids on cpu; .* ids\.to\('cuda:0'\)"
    ):
        _module._on_one_device(weight, torch.tensor([1]))


def test_copies_of_data_parallel_are_never_of_rows_that_lag():
    _, device = modules = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in modules]
    for number in range(3):
        step(modules, optimizers, ids_of(number))
    with (
        pytest.warns(UserWarning, match="DataParallel trains copies"),
        pytest.raises(RuntimeError, match="call the model again"),
    ):
        device._replicate_for_data_parallel()
    require_equal(*(module.weight for module in modules))
    assert type(device._replicate_for_data_parallel()) is rowwise.torch.Embedding


def test_a_module_made_without_memory_gets_its_table_where_its_memory_is():
    module = rowwise.torch.Embedding(ROWS, DIM, device="meta").to_empty(device=DEVICE)
    assert isinstance(module.table.store, DeviceStore)


def test_a_bad_id_is_raised_by_the_next_call_and_training_goes_on():
    cpu, device = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in (cpu, device)]
    step((cpu, device), optimizers, ids_of(1))
    optimizers[1].zero_grad()
    loss_of(device(*on(device, [torch.tensor([1, ROWS])]))).backward()
    finished()
    with pytest.raises(IndexError, match=f"id {ROWS} at position 1 is outside"):
        optimizers[1].step()
    step((cpu, device), optimizers, ids_of(2))
    require_same(cpu, device)


@pytest.mark.parametrize("kind", [rowwise.torch.Embedding, rowwise.torch.EmbeddingBag])
@pytest.mark.parametrize("mode", ["sum", "max"])
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.filterwarnings("ignore:the gradient is dense")
def test_a_bad_id_is_in_no_gradient(kind, mode, ours):
    _, device = pair(kind, **{} if kind is rowwise.torch.Embedding else {"mode": mode})
    before = device.weight.detach().clone()
    optimizer = (optim if ours else torch.optim).Adam(device.parameters(), 0.1)
    found = device(*on(device, [torch.tensor([[1, ROWS << 20], [-1 << 40, 2]])]))
    if not ON_GPU:
        device.table.store._alarm.zero_()  # as on a GPU that has not come so far
    found.sum().backward()
    assert device.weight.grad.to_dense().shape == (ROWS, DIM)

    def step_and_wait():
        optimizer.step()
        device.table.store.synchronize()

    with pytest.raises(IndexError, match=r"id \d+ at position"):
        step_and_wait()
    require_equal(device.weight, before)


@pytest.mark.skipif(ON_GPU, reason="the alarm comes when it comes")
@pytest.mark.parametrize("name", ["adam", "nadam", "sgd"])
def test_steps_after_a_bad_id_unnoticed_are_not_counted(name):
    cpu, device = pair()
    optimizers = [OPTIMIZERS[name](module.parameters()) for module in (cpu, device)]
    step((cpu, device), optimizers, ids_of(1))
    for ids in (torch.tensor([1, -1]), ids_of(2), ids_of(3)):
        optimizers[1].zero_grad()
        loss_of(device(ids)).backward()
        device.table.store._alarm.zero_()  # as on a GPU that has not come so far
        optimizers[1].step()
        device.table.store._alarm.zero_()
    with pytest.raises(IndexError, match="id -1 at position 1 is outside"):
        device.table.store.synchronize()
    for number in range(4, 7):
        step((cpu, device), optimizers, ids_of(number))
    require_same(cpu, device)


def lose_steps(module, optimizer, number):
    """Make steps after a bad id, all of which the error takes back."""
    for step_number in range(number):
        optimizer.zero_grad()
        loss_of(module(torch.tensor([1, -1]) if step_number == 0 else ids_of(2))).backward()
        module.table.store._alarm.zero_()  # as on a GPU that has not come so far
        optimizer.step()
        module.table.store._alarm.zero_()
    with pytest.raises(IndexError, match="id -1 at position 1 is outside"):
        module.table.store.synchronize()


@pytest.mark.skipif(ON_GPU, reason="the alarm comes when it comes")
@pytest.mark.parametrize("name", ["adam", "nadam"])
def test_a_state_and_a_table_that_grows_after_lost_steps_have_the_count_of_those_made(name):
    cpu, device = pair()
    optimizers = [OPTIMIZERS[name](module.parameters()) for module in (cpu, device)]
    step((cpu, device), optimizers, ids_of(1))
    lose_steps(device, optimizers[1], 3)
    cpu_state, state = (optimizer.state_dict()["state"][0] for optimizer in optimizers)
    for key in cpu_state:
        require_equal(cpu_state[key], state[key])
    for module in (cpu, device):
        module.grow(ROWS + 3, seed=3)
    for number in range(4, 7):
        step((cpu, device), optimizers, ids_of(number))
    require_same(cpu, device)


@pytest.mark.skipif(ON_GPU, reason="the alarm comes when it comes")
def test_lost_steps_are_not_taken_off_another_optimizer_s_count():
    modules = pair()
    _, device = modules
    optimizers = [optim.SGD(module.parameters(), 0.1) for module in modules]
    step(modules, optimizers, ids_of(1))
    lose_steps(device, optimizers[1], 3)
    adam = optim.Adam(device.parameters(), 0.1)
    for made in (1, 2):
        loss_of(device(ids_of(1))).backward()
        adam.step()
        assert adam.state[device.weight]["step"] == made


def test_torch_s_own_functions_see_present_values():
    cpu, device = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in (cpu, device)]
    for number in range(3):
        step((cpu, device), optimizers, ids_of(number))
        require_equal(cpu.weight * 2, device.weight * 2)
        for module in (cpu, device):
            with torch.no_grad():
                module.weight[3] *= 0.5
    require_same(cpu, device)
    assert np.array_equal(device.table.lookup([3]), cpu.table.lookup([3]))


@pytest.mark.skipif(ON_GPU, reason="NumPy has no arrays there")
def test_an_array_over_its_memory_sees_every_step_with_a_warning():
    cpu, device = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in (cpu, device)]
    step((cpu, device), optimizers, ids_of(1))
    assert not device.weight.memory.is_exposed
    array = device.weight.detach().numpy()
    assert device.weight.memory.is_exposed
    with pytest.warns(UserWarning, match="shares the memory"):
        step((cpu, device), optimizers, ids_of(2))
    assert np.array_equal(array, cpu.weight.detach().numpy())
    del array
    assert not device.weight.memory.is_exposed


def test_another_optimizer_trains_it_densely_with_one_warning():
    cpu, device = pair()
    optimizers = [torch.optim.Adam(module.parameters(), 0.1) for module in (cpu, device)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for number in range(3):
            for module, optimizer in zip((cpu, device), optimizers, strict=True):
                optimizer.zero_grad()
                loss_of(module(*on(module, [ids_of(number)]))).backward()
                optimizer.step()
    assert ["the gradient is dense" in str(warning.message) for warning in said] == [True, True]
    require_equal(cpu.weight, device.weight)
    assert type(device.weight) is torch.nn.Parameter  # of which torch steps many at once there


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}], ids=str)
def test_torch_s_default_dtype_is_not_that_of_a_table(dtype, options, monkeypatch):
    modules = pair(**options)
    optimizers = [optim.NAdam(module.parameters(), 0.1) for module in modules]
    torch.set_default_dtype(dtype)
    try:
        monkeypatch.setattr(_self_check, "_found", {})
        assert why_unusable(modules[1].weight.device) is None
        found = [module(*on(module, [ids_of(1)])) for module in modules]
        for vectors, optimizer in zip(found, optimizers, strict=True):
            vectors.square().sum().backward()
            optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[1].dtype is torch.float32
    np.testing.assert_allclose(*(host(vectors) for vectors in found), rtol=1e-6)
    np.testing.assert_allclose(*(host(module.weight) for module in modules), rtol=1e-5, atol=1e-6)
    state = optimizers[1].state[modules[1].weight]  # 16 bits would count to 256
    assert all(state[name].itemsize >= 4 for name in ("step", "mu_product"))


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_of_another_optimizer_trains_it_densely():
    modules = pair()
    for module in modules:
        optimizer = torch.optim.Adam(module.parameters(), 0.1)
        step_of = torch.compile if module is modules[1] else lambda made, backend: made
        make_step = step_of(lambda made=optimizer: made.step(), backend="aot_eager")
        for number in range(2):
            optimizer.zero_grad()
            loss_of(module(*on(module, [ids_of(number)]))).backward()
            make_step()
    ours, theirs = (host(module.weight) for module in modules)  # compiled, Adam rounds otherwise
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(ON_GPU, reason="no graph is captured")
@pytest.mark.parametrize("kind", [rowwise.torch.Embedding, rowwise.torch.EmbeddingBag])
def test_a_cuda_graph_holds_embeddings_that_none_of_our_optimizers_steps(kind, monkeypatch):
    (_, plain), (_, stepped) = pair(kind), pair(kind)
    in_its_place = kind(ROWS, DIM, table="device", device=DEVICE)
    optimizer = optim.Adam(stepped.parameters(), 0.1)
    ids = ids_of(1, (8, 5))
    expected = plain(ids).detach()
    stepped(ids).sum().backward()
    optimizer.step()
    monkeypatch.setattr(_memory, "is_captured", lambda device: True)
    with pytest.warns(UserWarning, match="a CUDA graph is being captured: .* trained densely"):
        torch.testing.assert_close(plain(ids), expected)
    assert type(plain.weight) is torch.nn.Parameter
    for module in (stepped, in_its_place):
        with pytest.raises(RuntimeError, match="while a CUDA graph is captured"):
            module(ids)
    monkeypatch.setattr(_self_check, "_found", {})
    with pytest.raises(RuntimeError, match="while a CUDA graph is captured"):
        why_unusable(torch.device(DEVICE))
    assert not _self_check._found  # which is no fault of the card's


def test_where_a_table_may_lie_is_checked():
    with pytest.raises(ValueError, match="table='gpu' is not"):
        rowwise.torch.Embedding(4, 4, table="gpu")


def test_pretrained_vectors_lie_on_the_device_too(monkeypatch):
    vectors = torch.arange(12.0).reshape(4, 3)
    module = rowwise.torch.Embedding.from_pretrained(vectors, freeze=False)
    move(module, True, monkeypatch)
    optimizer = optim.SGD(module.parameters(), 0.5)
    module(*on(module, [torch.tensor([2])])).sum().backward()
    optimizer.step()
    assert isinstance(module.table.store, DeviceStore)
    assert module.table.lookup([1, 2]).tolist() == [[3, 4, 5], [5.5, 6.5, 7.5]]
    assert module.table.is_trained().all()


def test_compiled_and_under_autocast():
    modules = pair()
    optimizers = [optim.Adam(module.parameters(), 0.1) for module in modules]
    torch.compiler.reset()
    for number in range(3):
        for module, optimizer in zip(modules, optimizers, strict=True):
            compiled = torch.compile(module, backend="aot_eager")
            optimizer.zero_grad()
            with torch.autocast(module.weight.device.type, dtype=torch.bfloat16):
                vectors = compiled(*on(module, [ids_of(number)]))
            assert vectors.dtype is torch.float32
            loss_of(vectors).backward()
            optimizer.step()
    require_same(*modules)
