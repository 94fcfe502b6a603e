"""A table in the host's memory under a model elsewhere, beside the model on the CPU: bit for bit.

Without a GPU, copies stand for those to it: what is compared is which numbers travel, and when.
"""

import numpy as np
import pytest
import torch

import rowwise.torch
from helpers.device import DEVICE, ON_GPU
from rowwise.torch import _host_rows, optim
from rowwise.torch._weight import Weight

ROWS, DIM = 80, 6


class Elsewhere:
    """A GPU made of this processor's memory; notes the rows that go up."""

    def __init__(self):
        self.went_up = []

    def down(self, tensor):
        return tensor.detach().clone()

    def up(self, tensor):
        self.went_up.append(len(tensor) if tensor.is_floating_point() else 0)
        return tensor.clone()

    def send(self, tensor):
        return self.up(tensor), None

    def arrived(self, there, end):
        return there

    def empty(self, shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    if ON_GPU:
        return None
    copies = Elsewhere()
    monkeypatch.setattr(_host_rows, "copies_to", lambda device: copies)
    monkeypatch.setattr(_host_rows, "is_elsewhere", lambda tensor: True)
    return copies


def pair(kind=rowwise.torch.Embedding, **options):
    values = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    here = kind(ROWS, DIM, _weight=values.clone(), **options)
    across = kind(ROWS, DIM, _weight=values.clone(), table="host", **options).to(DEVICE)
    assert across.weight.device.type == "cpu"
    return here, across


def ids_of(number, count=30):
    return torch.randint(0, ROWS, (count,), generator=torch.Generator().manual_seed(number))


def batch_for(module, number):
    return ids_of(number).to(DEVICE if module.table_place else "cpu")


def train(modules, optimizers, number, next_ids=None):
    found = []
    for module, optimizer in zip(modules, optimizers, strict=True):
        optimizer.zero_grad()
        vectors = module(batch_for(module, number))
        if next_ids is not None and module.table_place:
            module.prefetch(next_ids)
        vectors.square().sum().backward()
        optimizer.step()
        found.append(vectors.detach().cpu())
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "SGD"])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 3}, {"scale_grad_by_freq": True}], ids=str)
def test_vectors_read_early_are_those_of_a_lookup_after_the_step(name, options, elsewhere):
    modules = pair(**options)
    optimizers = [getattr(optim, name)(module.parameters(), lr=0.1) for module in modules]
    for number in range(10):
        train(modules, optimizers, number, ids_of(number + 1))
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.1 / (number + 2)  # a schedule
    assert torch.equal(modules[0].weight, modules[1].weight)
    if elsewhere is not None:
        # Batches 2 to 10 went up early, the rows that the step before had touched once more.
        frozen = options.get("padding_idx", -1)
        pairs = [(ids_of(n - 1), ids_of(n)) for n in range(2, 10)]
        late = sum(int((np.isin(new, old) & (new != frozen).numpy()).sum()) for old, new in pairs)
        assert sum(elsewhere.went_up) == 11 * 30 + late


def test_what_was_read_early_is_left_when_something_else_happened(elsewhere):
    modules = pair()
    optimizers = [optim.Adam(module.parameters(), lr=0.1) for module in modules]
    train(modules, optimizers, 0)
    for number, meanwhile in enumerate(("another batch", "another rate", "a write", "no step"), 1):
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            vectors = module(batch_for(module, number))
            module.prefetch(ids_of(number + 1) + (meanwhile == "another batch") - 1)
            vectors.sum().backward()
            if meanwhile == "another rate":
                optimizer.param_groups[0]["lr"] = 0.3
            if meanwhile != "no step":
                optimizer.step()
            if meanwhile == "a write":
                with torch.no_grad():
                    module.weight.mul_(1.5)
        looked_up = [module(batch_for(module, number + 1) - 1 + 1).cpu() for module in modules]
        assert torch.equal(*looked_up), meanwhile


def test_what_was_read_early_outlasts_another_lookup_of_the_batch_before(elsewhere):
    _, across = pair()
    optimizer = optim.SGD(across.parameters(), lr=0.1)
    for number in range(2):  # the rule is the optimizer's after a step
        optimizer.zero_grad()
        vectors = across(batch_for(across, number))
        across.prefetch(ids_of(number + 1))
        across(batch_for(across, number))  # as a compiled graph does in `backward`
        vectors.sum().backward()
        optimizer.step()
    assert across._ahead is not None
    across(batch_for(across, 2))
    assert across._ahead is None
    if elsewhere is not None:
        late = int(np.isin(ids_of(2), ids_of(1)).sum())
        assert elsewhere.went_up[-1:] == [late]  # 0 before it: the places


class Model(rowwise.torch.Embedding):
    """An embedding with parameters of its own."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.scale = torch.nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(3))
        self.head = torch.nn.Linear(2, 2)


def test_what_a_subclass_adds_moves_while_its_table_stays():
    model = Model(ROWS, DIM, table="host")
    names = [name for name, _ in model.named_parameters()]
    model._apply(lambda tensor: tensor + 1)  # as `cuda` would move it
    assert [name for name, _ in model.named_parameters()] == names
    assert (model.scale == 2).all()
    assert (model.seen == 1).all()
    assert isinstance(model.weight, Weight)


@pytest.mark.skipif(ON_GPU, reason="the memory of the host")
def test_memory_shared_with_processes_is_trained_densely():
    module = rowwise.torch.Embedding(ROWS, DIM, table="host")
    with pytest.warns(UserWarning, match="shared memory"):
        module.share_memory()
    assert module.weight.is_shared()


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_a_table_on_the_host(mode):
    modules = pair(rowwise.torch.EmbeddingBag, mode=mode)
    optimizers = [optim.Adam(module.parameters(), lr=0.1) for module in modules]
    for number in range(4):
        found = []
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            ids = batch_for(module, number)
            vectors = module(ids, torch.tensor([0, 4, 4, 20], device=ids.device))
            vectors.square().sum().backward()
            optimizer.step()
            found.append(vectors.detach().cpu())
        assert torch.equal(*found)
    assert torch.equal(modules[0].weight, modules[1].weight)


def test_a_device_that_is_not_there_is_refused():
    for kind in (rowwise.torch.Embedding, rowwise.torch.EmbeddingBag):
        with pytest.raises((AssertionError, RuntimeError), match="CUDA"):
            kind(ROWS, DIM, table="host", device="cuda:99")


def test_a_bad_id_is_raised_at_once():
    _, across = pair()
    with pytest.raises(IndexError, match="id 80 at position 1"):
        across(torch.tensor([1, 80], device=DEVICE))
