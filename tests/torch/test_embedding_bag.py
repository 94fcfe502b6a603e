"""`rowwise.torch.EmbeddingBag` beside `torch.nn.EmbeddingBag`."""

import itertools

import pytest
import torch
from torch import nn

import rowwise.torch

left_to_pytorch = pytest.mark.filterwarnings("ignore:.*is left to PyTorch")
OPTIONS = [
    {"mode": mode, "padding_idx": padding, "max_norm": norm, "scale_grad_by_freq": frequency}
    for mode, padding, norm, frequency in itertools.product(
        ("sum", "mean", "max"), (None, 2), (None, 1.0), (False, True)
    )
    if not (mode == "max" and frequency)
]
IDS = [torch.randint(0, 12, (3, 4), generator=torch.Generator().manual_seed(i)) for i in range(8)]
OFFSETS = torch.tensor([0, 0, 3, 5, 5])  # empty, long, short, empty, the rest


def trained(library, optimizers, batch, **options):
    """Return the bags' values at each step, and the weight after them."""
    torch.manual_seed(0)
    bags = library.EmbeddingBag(12, 4, **options)
    optimizer = optimizers.Adam(bags.parameters(), lr=0.1)
    seen = []
    for ids in IDS:
        seen.append(bags(*batch(ids)))
        optimizer.zero_grad()
        seen[-1].square().mean().backward()
        optimizer.step()
    return [vectors.detach() for vectors in seen] + [bags.weight.detach()]


def compare(batch, **options):
    torch.testing.assert_close(
        trained(rowwise.torch, rowwise.torch.optim, batch, **options),
        trained(nn, torch.optim, batch, **options),
        rtol=1e-4,
        atol=1e-5,
    )


@left_to_pytorch
@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: "-".join(map(str, options.values()))
)
def test_bags_in_a_matrix(options):
    compare(lambda ids: (ids,), **options)


@left_to_pytorch
@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: "-".join(map(str, options.values()))
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_bags_by_offsets(options, dtype):
    compare(lambda ids: (ids.reshape(-1).to(dtype), OFFSETS.to(dtype)), **options)


@pytest.mark.parametrize("end", [12, 9], ids=["all", "not all"])
def test_the_last_offset_included(end):
    offsets = torch.cat([OFFSETS, torch.tensor([end])])
    compare(lambda ids: (ids.reshape(-1), offsets), include_last_offset=True)


@left_to_pytorch
@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("frequency", [False, True])
@pytest.mark.parametrize("two_axes", [False, True])
def test_weights_of_samples_and_their_gradient(padding_idx, frequency, two_axes):
    gradients = []

    def batch(ids):
        weights = torch.linspace(-1, 2, 12, requires_grad=True)
        gradients.append(weights)
        if two_axes:
            return ids, None, weights.view(3, 4)
        return ids.reshape(-1), OFFSETS, weights

    compare(batch, mode="sum", padding_idx=padding_idx, scale_grad_by_freq=frequency)
    ours, theirs = gradients[: len(IDS)], gradients[len(IDS) :]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_by_rows_under_our_optimizers():
    for mode in ("sum", "mean", "max"):
        bags = rowwise.torch.EmbeddingBag(12, 4, mode=mode)
        optimizer = rowwise.torch.optim.Adam(bags.parameters())
        bags(IDS[0]).sum().backward()
        optimizer.step()
        assert bags.weight.grad.is_sparse
        assert bags.table.steps == 1


FLAT = torch.arange(6)
WRONG = {
    "offsets beyond": ((FLAT, torch.tensor([0, 9])), {}),
    "offsets from 1": ((FLAT, torch.tensor([1, 2])), {}),
    "no offsets": ((FLAT,), {}),
    "offsets for a matrix": ((FLAT.view(2, 3), torch.tensor([0])), {}),
    "offsets of two axes": ((FLAT, torch.tensor([[0]])), {}),
    "floats for offsets": ((FLAT, torch.tensor([0.0])), {}),
    "floats for ids": ((FLAT.float(), torch.tensor([0])), {}),
    "three axes": ((FLAT.view(1, 2, 3),), {}),
    "an id outside": ((FLAT + 5, torch.tensor([0])), {}),
    "weights of another shape": ((FLAT, torch.tensor([0]), torch.ones(5)), {"mode": "sum"}),
    "weights of another dtype": (
        (FLAT, torch.tensor([0]), torch.ones(6).double()), {"mode": "sum"},
    ),
    "weights for a mean": ((FLAT, torch.tensor([0]), torch.ones(6)), {}),
    "max by frequency": ((FLAT.view(2, 3),), {"mode": "max", "scale_grad_by_freq": True}),
    "max, sparse": ((FLAT.view(2, 3),), {"mode": "max", "sparse": True}),
    "an unknown mode": ((FLAT.view(2, 3),), {"mode": "median"}),
    "no last offset": ((FLAT, FLAT[:0]), {"include_last_offset": True}),
}  # fmt: skip


@left_to_pytorch
@pytest.mark.parametrize("name", WRONG)
def test_errors_are_pytorchs(name):
    batch, options = WRONG[name]
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        nn.EmbeddingBag(10, 3, **options)(*batch)
    with pytest.raises(theirs.type):
        rowwise.torch.EmbeddingBag(10, 3, **options)(*batch)


def test_an_id_outside_is_named():
    with pytest.raises(IndexError, match="id 10 at position 5 is outside the table's 10 rows"):
        rowwise.torch.EmbeddingBag(10, 3)(FLAT + 5, torch.tensor([0]))


@pytest.mark.parametrize(
    "batch",
    [(FLAT[:0], torch.tensor([0])), (FLAT, FLAT[:0]), (torch.empty(0, 3, dtype=torch.long),)],
    ids=["no ids", "no bags", "no rows"],
)
def test_empty_batches(batch):
    ours = rowwise.torch.EmbeddingBag(10, 3)(*batch)
    assert torch.equal(ours, nn.EmbeddingBag(10, 3)(*batch))
