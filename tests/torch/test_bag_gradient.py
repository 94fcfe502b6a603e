"""A gradient that is left as one of bags until somebody asks: whoever asks gets the whole of it."""

import copy

import pytest
import torch

import rowwise.torch
from rowwise.store import HostStore

ROWS, DIM = 30, 4
OFFSETS = torch.tensor([0, 0, 3, 9])  # an empty bag first
BAGS = len(OFFSETS)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(ROWS, (12,), generator=generator)
    return ids, torch.randn(BAGS, DIM, generator=generator)


def pair(mode="mean"):
    """Our module with its optimizer, and PyTorch's with the same weights."""
    ours = rowwise.torch.EmbeddingBag(ROWS, DIM, mode=mode)
    theirs = torch.nn.EmbeddingBag(ROWS, DIM, mode=mode)
    theirs.load_state_dict(ours.state_dict())
    return (
        (ours, rowwise.torch.optim.Adam(ours.parameters(), lr=0.1)),
        (theirs, torch.optim.Adam(theirs.parameters(), lr=0.1)),
    )


def loss_of(module, seed=0):
    ids, target = batch(seed)
    return (module(ids, OFFSETS) * target).sum()


def dense(gradient):
    return gradient.to_dense() if gradient.is_sparse else gradient


def by_autograd_grad(module, optimizer):
    return torch.autograd.grad(loss_of(module), module.weight)[0]


def by_backward(module, optimizer):
    loss_of(module).backward()
    return module.weight.grad


def by_backward_into_it_alone(module, optimizer):
    loss_of(module).backward(inputs=[module.weight])
    return module.weight.grad


def twice(module, optimizer):
    loss_of(module).backward()
    loss_of(module, 1).backward()
    return module.weight.grad


def twice_in_one_graph(module, optimizer):
    (loss_of(module) + loss_of(module, 1)).backward()
    return module.weight.grad


def looked_at_in_between(module, optimizer):
    loss_of(module).backward()
    assert module.weight.grad is module.weight.grad
    loss_of(module, 1).backward()
    return module.weight.grad


def after_a_step(module, optimizer):
    loss_of(module).backward()
    optimizer.step()
    return module.weight.grad


def in_a_hook_after_accumulation(module, optimizer):
    seen = []
    handle = module.weight.register_post_accumulate_grad_hook(
        lambda weight: seen.append(dense(weight.grad).clone())
    )
    loss_of(module).backward()
    handle.remove()
    return seen[0]


def with_ids_overwritten(module, optimizer):
    ids, target = batch()
    (module(ids, OFFSETS) * target).sum().backward()
    ids.zero_()
    return module.weight.grad


def with_the_upstream_gradient_overwritten(module, optimizer):
    ids, target = batch()
    module(ids, OFFSETS).backward(target)
    target.zero_()
    return module.weight.grad


def after_the_optimizer_is_gone(module, optimizer):
    loss_of(module).backward()
    del optimizer
    return module.weight.grad


def after_zeros(module, optimizer):
    loss_of(module).backward()
    optimizer.zero_grad(set_to_none=False)
    return module.weight.grad


def clipped(module, optimizer):
    loss_of(module).backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
    return module.weight.grad


WAYS = [
    by_autograd_grad, by_backward, by_backward_into_it_alone, twice, twice_in_one_graph,
    looked_at_in_between, after_a_step, in_a_hook_after_accumulation, with_ids_overwritten,
    with_the_upstream_gradient_overwritten, after_the_optimizer_is_gone, after_zeros, clipped,
]  # fmt: skip


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_gradient_is_pytorchs(way, mode):
    ours, theirs = pair(mode)
    torch.testing.assert_close(dense(way(*ours)), way(*theirs))
    # and so is what a step makes of it
    for _, optimizer in (ours, theirs):
        optimizer.step()
    torch.testing.assert_close(ours[0].weight.detach(), theirs[0].weight.detach())


def test_a_step_takes_the_bags_as_they_are(monkeypatch):
    (module, optimizer), (other, plain) = pair()
    monkeypatch.setattr(HostStore, "coalesce", lambda *_: pytest.fail("summed by rows"))
    for seed in range(4):
        for layer, steps in ((module, optimizer), (other, plain)):
            steps.zero_grad()
            loss_of(layer, seed).backward()
            steps.step()
    torch.testing.assert_close(module.weight.detach(), other.weight.detach())


@pytest.mark.parametrize("forget", ["zero_grad", "None", "del"])
def test_a_gradient_forgotten_is_gone(forget):
    (module, optimizer), _ = pair()
    before = module.weight.detach().clone()
    loss_of(module).backward()
    if forget == "zero_grad":
        optimizer.zero_grad()
    elif forget == "None":
        module.weight.grad = None
    else:
        del module.weight.grad
    assert module.weight.grad is None
    optimizer.step()
    torch.testing.assert_close(module.weight.detach(), before)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_second_derivative_is_refused_as_before():
    (module, optimizer), _ = pair()
    loss_of(module).square().backward(create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dense(module.weight.grad).square().sum().backward()
    optimizer.zero_grad()


def test_a_copy_has_its_own():
    (module, optimizer), _ = pair()
    loss_of(module).backward()
    twin = copy.deepcopy(module)
    optimizer.zero_grad()
    assert module.weight.grad is None
    assert twin.weight.grad is None  # as a torch.nn.Parameter's copy has none
