"""Modules whose rows lie on a disk: the bits of the modules in memory, and never a dense weight."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

import rowwise.torch
from rowwise.store import DiskStore
from rowwise.torch import optim

ROWS, DIM = 400, 5
SMALL = 14_000  # bytes: a few dozen rows
START = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))


def on_disk(tmp_path, kind=rowwise.torch.Embedding, **options):
    options = {"_weight": START.clone(), "memory": SMALL, **options}
    module = kind(ROWS, DIM, scratch=tmp_path, **options)
    assert isinstance(module.table.store, DiskStore)
    assert len(module.table.store._row_of) < ROWS / 2
    return module


def pair(tmp_path, kind=rowwise.torch.Embedding, **options):
    """Return a module in memory, and the same on a disk."""
    return kind(ROWS, DIM, _weight=START.clone(), **options), on_disk(tmp_path, kind, **options)


def batches(steps=40):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, ROWS, (4, 5), generator=generator) for _ in range(steps)]


def train(module, optimizer, clip=None, steps=40):
    losses = []
    for ids, following in zip(batches(steps), batches(steps + 1)[1:], strict=True):
        optimizer.zero_grad()
        vectors = module(ids)
        module.prefetch(following)
        loss = (vectors * torch.arange(DIM)).sin().sum()
        loss.backward()
        if clip is not None:
            clip(module.parameters())
        optimizer.step()
        losses.append(loss.item())
    return losses


def bits(module):
    table = module.table
    slots = [table.slot(name) for name in table.slot_names]
    return [a.tobytes() for a in (table.to_numpy(), *slots, table.update_counts)], table.steps


OPTIMIZERS = {
    "SGD": {"momentum": 0.9},
    "Adam": {},
    "AdamW": {"weight_decay": 0.1},
    "RMSprop": {},
    "Adagrad": {"lr_decay": 0.1},
    "RowwiseAdagrad": {},
    "Adadelta": {},
    "Adamax": {},
    "NAdam": {},
}


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS.items(), ids=OPTIMIZERS)
def test_every_optimizer_gives_the_bits_of_memory(name, options, tmp_path):
    results = []
    for module in pair(tmp_path):
        optimizer = getattr(optim, name)(module.parameters(), lr=0.01, **options)
        results.append((train(module, optimizer), bits(module)))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "options",
    [{"padding_idx": 3}, {"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"untrained": "zeros"}],
    ids=lambda options: next(iter(options)),
)
def test_every_option_gives_the_bits_of_memory(options, tmp_path):
    results = []
    for module in pair(tmp_path, **options):
        losses = train(module, optim.Adam(module.parameters()))
        looked_up = module.eval()(torch.arange(ROWS)).detach().numpy().tobytes()
        results.append((losses, looked_up, bits(module)))
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", [rowwise.torch.Embedding, rowwise.torch.EmbeddingBag])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_give_the_bits_of_memory(dtype, kind, tmp_path):
    results, half = [], {"_weight": START.to(dtype), "rounding": "nearest"}
    for module in (kind(ROWS, DIM, **half), on_disk(tmp_path, kind, memory=12_000, **half)):
        optimizer = optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.1)
        results.append((train(module, optimizer), bits(module)))
        assert module(torch.tensor([[3]])).dtype == module.weight.dtype == dtype
        assert module.weight.requires_grad
    assert results[0] == results[1]
    model = torch.nn.Sequential(module, torch.nn.Linear(DIM, 1)).to("cpu")
    with pytest.raises(RuntimeError, match=r"cannot become torch\.float32 .* its rows are"):
        model.float()
    module.save(tmp_path / "table")
    again = kind.load(tmp_path / "table", scratch=tmp_path, memory=SMALL)
    assert again.weight.dtype is dtype
    train(again, optim.AdamW(again.parameters(), lr=0.01, weight_decay=0.1))
    again.load_state_dict(module.state_dict())
    assert bits(again) == bits(module)
    with pytest.raises(RuntimeError, match="has rows of shape"):
        on_disk(tmp_path, kind).load_state_dict(module.state_dict())


def test_weights_of_16_bits_that_a_disk_does_not_hold_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match=r"of torch\.bfloat16 needs rounding="):
        on_disk(tmp_path, _weight=None, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="rounded to nearest, not at random"):
        on_disk(tmp_path, _weight=None, dtype=torch.bfloat16, rounding="stochastic")


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_give_the_bits_of_memory(mode, tmp_path):
    results = []
    for module in pair(tmp_path, rowwise.torch.EmbeddingBag, mode=mode, padding_idx=2):
        losses = train(module, optim.AdamW(module.parameters()))
        results.append((losses, bits(module)))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "clip",
    [
        lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, 0.1),
        lambda parameters: torch.nn.utils.clip_grad_value_(parameters, 0.1),
        lambda parameters: rowwise.torch.clip_grad_norm_(parameters, 0.1),
    ],
    ids=["norm", "value", "exact norm"],
)
@pytest.mark.parametrize("kind", [rowwise.torch.Embedding, rowwise.torch.EmbeddingBag])
def test_clipping_gives_the_bits_of_memory(kind, clip, tmp_path):
    results = []
    for module in pair(tmp_path, kind):
        optimizer = optim.Adam(module.parameters())
        results.append((train(module, optimizer, clip), bits(module)))
    assert results[0] == results[1]


def test_several_backward_passes_and_a_scaler_give_the_bits_of_memory(tmp_path):
    results = []
    for module in pair(tmp_path):
        optimizer = optim.Adam(module.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for ids in batches(10):
            optimizer.zero_grad()
            for part in ids:
                scaler.scale(module(part).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(bits(module))
    assert results[0] == results[1]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("foreach", [None, True])
def test_a_scaler_skips_the_step_of_a_norm_that_is_not_finite(foreach, loss, tmp_path):
    results = []
    for module in pair(tmp_path):
        optimizer = optim.Adam(module.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for factor in (1.0, loss, 1.0):
            optimizer.zero_grad()
            scaler.scale(module(torch.tensor([3, 7])).square().sum() * factor).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(module.parameters(), 0.1, foreach=foreach)
            scaler.step(optimizer)
            scaler.update()
        results.append((bits(module), scaler.get_scale()))
    assert results[0] == results[1]


def test_a_step_that_would_make_every_row_nan_is_refused(tmp_path):
    module = on_disk(tmp_path)
    optimizer = optim.Adam(module.parameters())
    before = bits(module)
    for spread in (lambda p: p.grad.mul_(math.nan), lambda p: setattr(p, "grad", p.grad / 0)):
        module(torch.tensor([3, 7])).sum().backward()
        spread(module.weight)
        with pytest.raises(RuntimeError, match="a step would make every row NaN"):
            optimizer.step()
        optimizer.zero_grad()
    assert bits(module) == before
    module(torch.tensor([3, 7])).sum().backward()
    optimizer.step()
    assert module.table.steps == 1


def test_a_compiled_model_gives_the_bits_of_memory(tmp_path):
    results = []
    for module in pair(tmp_path):
        model = torch.compile(module, backend="aot_eager")
        optimizer = optim.Adam(module.parameters())
        for ids in batches(10):
            optimizer.zero_grad()
            model(ids).square().sum().backward()
            optimizer.step()
        results.append(bits(module))
    assert results[0] == results[1]
    assert results[0][1] == 10


def test_a_state_dict_names_the_file_of_the_rows(tmp_path):
    module = on_disk(tmp_path)
    optimizer = optim.Adam(module.parameters())
    train(module, optimizer, steps=10)
    with pytest.raises(RuntimeError, match=r"call module.save\(path\) first"):
        module.state_dict()
    module.save(tmp_path / "table")
    torch.save([module.state_dict(), optimizer.state_dict()], tmp_path / "state")
    train(module, optimizer)
    for load_first in (True, False):
        again = on_disk(tmp_path, _weight=None)
        states = torch.load(tmp_path / "state", weights_only=True)
        if load_first:
            again.load_state_dict(states[0])
        fresh = optim.Adam(again.parameters())
        if not load_first:
            again.load_state_dict(states[0])
        fresh.load_state_dict(states[1])
        train(again, fresh)
        assert bits(again) == bits(module)
    by_path = rowwise.torch.Embedding.load(tmp_path / "table", scratch=tmp_path, memory=SMALL)
    train(by_path, optim.Adam(by_path.parameters()))
    assert bits(by_path) == bits(module)
    by_path.save(tmp_path / "table")  # another one
    with pytest.raises(RuntimeError, match="was written anew since the state was taken"):
        again.load_state_dict(states[0])
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict({})


def test_a_state_on_a_disk_names_load_to_a_module_in_memory(tmp_path):
    module = on_disk(tmp_path)
    module.save(tmp_path / "table")
    with pytest.raises(RuntimeError, match=r"of an embedding on a disk: Embedding\.load\(") as told:
        rowwise.torch.Embedding(ROWS, DIM).load_state_dict(module.state_dict())
    assert str(tmp_path / "table") in str(told.value)
    assert "Missing key" not in str(told.value)


def test_the_state_of_a_module_in_memory_is_taken(tmp_path):
    module = on_disk(tmp_path, _weight=None)
    module.load_state_dict(torch.nn.Embedding(ROWS, DIM, _weight=START.clone()).state_dict())
    assert (module.table.to_numpy() == START.numpy()).all()
    with pytest.raises(RuntimeError, match="weight has shape"):
        module.load_state_dict({"weight": START[:3]})


def test_rows_start_normal_by_torchs_seed(tmp_path):
    values = []
    for _ in range(2):
        torch.manual_seed(0)
        module = on_disk(tmp_path, _weight=None, padding_idx=7)
        values.append(module(torch.arange(ROWS)).detach())
    assert (values[0] == values[1]).all()
    assert not values[0][7].any()
    assert 0.9 < values[0].std() < 1.1
    assert not module.table.is_trained().any()
    module.grow(ROWS + 100)
    assert 0.9 < module(torch.arange(ROWS, ROWS + 100)).std() < 1.1
    assert module.weight.shape == (ROWS + 100, DIM)


NEEDS_ALL = {
    "data": lambda module: module.weight.data,
    "numpy": lambda module: module.weight.detach().numpy(),
    "index": lambda module: module.weight[3],
    "arithmetic": lambda module: module.weight + 1,
    "write": lambda module: torch.nn.init.zeros_(module.weight),
    "copy": copy.deepcopy,
    "pickle": lambda module: pickle.dumps(module),
    "trace": lambda module: torch.jit.trace(module, torch.tensor([1])),
    "script": torch.jit.script,
    "functional": lambda module: (
        torch.func.functional_call(module, {"weight": module.weight}, torch.tensor([1])).sum()
        + module.weight.sum()
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
@pytest.mark.parametrize("use", NEEDS_ALL.values(), ids=NEEDS_ALL)
def test_what_needs_all_rows_is_an_error_that_says_what_to_do(use, tmp_path):
    module = on_disk(tmp_path)
    message = r"^the weight of an embedding on a disk does not support .*: memory may not hold all"
    with pytest.raises(RuntimeError, match=message):
        use(module)


def test_prefetch_takes_what_the_module_takes(tmp_path):
    module = on_disk(tmp_path)
    for ids in ([1, 2], np.array([1, 2])):
        with pytest.raises(TypeError, match="ids must be a tensor"):
            module.prefetch(ids)


def test_a_gradient_stays_by_row(tmp_path):
    module = on_disk(tmp_path)
    optim.Adam(module.parameters())
    module(torch.tensor([3, 7, 3])).sum().backward()
    gradient = module.weight.grad
    assert gradient.coalesce().indices().tolist() == [[3, 7]]
    assert (gradient * 2).clone().coalesce().values().tolist() == [[4.0] * DIM, [2.0] * DIM]
    assert "sparse" in repr(gradient)
    for use in (
        lambda g: g.to_dense(),
        lambda g: (g * 2).to_dense(),
        lambda g: g.sum(),
        lambda g: g[3],
    ):
        with pytest.raises(RuntimeError, match="stays by row"):
            use(gradient)


def test_an_optimizer_without_a_rule_is_refused(tmp_path):
    module = on_disk(tmp_path)
    with pytest.raises(ValueError, match="an embedding on a disk is stepped by a rule alone"):
        optim.Adam(module.parameters(), weight_decay=0.1)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"with an optimizer of\s+rowwise.torch.optim"):
        optimizer.step()


def test_a_module_moves_without_its_rows(tmp_path):
    model = torch.nn.Sequential(on_disk(tmp_path), torch.nn.Linear(DIM, 1))
    model.to("cpu").float()
    with pytest.raises(RuntimeError, match=r"an embedding on a disk cannot become torch\.float64"):
        model.double()
    assert isinstance(model[0].table.store, DiskStore)


def test_memory_and_scratch_come_together(tmp_path):
    with pytest.raises(ValueError, match="needs memory="):
        rowwise.torch.Embedding(ROWS, DIM, scratch=tmp_path)
    with pytest.raises(ValueError, match="give scratch="):
        rowwise.torch.Embedding(ROWS, DIM, memory="1GiB")


@pytest.mark.parametrize(
    ("kind", "ids", "rate", "error", "message"),
    [
        (rowwise.torch.Embedding, range(ROWS), 0.01, MemoryError, "400 distinct rows does not fit"),
        (rowwise.torch.Embedding, [[3]], 1e6, ValueError, r"learning_rate \* weight_decay"),
        (rowwise.torch.EmbeddingBag, [[3]], 1e6, ValueError, r"learning_rate \* weight_decay"),
    ],
    ids=["room", "decay", "decay of bags"],
)
def test_a_step_that_is_refused_changes_no_parameter(kind, ids, rate, error, message, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(DIM, 1), on_disk(tmp_path, kind))
    optimizer = optim.AdamW(model.parameters(), lr=rate)
    before = model[0].weight.tolist(), bits(model[1])
    model[0](model[1](torch.tensor(ids))).square().sum().backward()
    with pytest.raises(error, match=message):
        optimizer.step()
    assert (model[0].weight.tolist(), bits(model[1])) == before
    assert not optimizer.state


def test_a_dense_model_learns_beside_it(tmp_path):
    results = []
    for module in pair(tmp_path):
        torch.manual_seed(0)
        model = torch.nn.Sequential(module, torch.nn.Linear(DIM, 1))
        optimizer = optim.AdamW(model.parameters())
        for ids in batches(20):
            optimizer.zero_grad()
            model(ids).square().sum().backward()
            optimizer.step()
        results.append((bits(module), model[1].weight.tolist()))
        np.testing.assert_array_equal(model[1].weight.shape, (1, DIM))
    assert results[0] == results[1]
