"""A gradient by rows answers as the dense one would."""

import copy

import pytest
import torch

import rowwise.torch

IDS = torch.tensor([3, 1, 3, 7])
SCALE = torch.tensor([[1.0], [-2.0], [0.5], [3.0]])


def gradients():
    """A parameter with a gradient by rows, and one with the same gradient, dense."""
    embedding = rowwise.torch.Embedding(9, 2)
    optimizer = rowwise.torch.optim.SGD(embedding.parameters())
    (embedding(IDS) * SCALE).sum().backward()
    dense = torch.nn.Parameter(torch.zeros(9, 2))
    dense.grad = embedding.weight.grad.to_dense()
    return embedding.weight, dense, optimizer


READS = {
    "norm": lambda g: g.norm(),
    "norm 1": lambda g: torch.norm(g, 1),
    "norm inf": lambda g: torch.linalg.vector_norm(g, float("inf")),
    "norm -inf": lambda g: torch.linalg.vector_norm(g, -float("inf")),
    "norm 0": lambda g: torch.linalg.vector_norm(g, 0),
    "norm of rows": lambda g: g.norm(dim=1),
    "norm of columns": lambda g: g.norm(dim=0),
    "largest": lambda g: g.abs().max(),
    "mean": lambda g: g.mean(),
    "a row": lambda g: g[3],
    "finite": lambda g: torch.isfinite(g).all(),
    "plus one": lambda g: g + 1,
    "twice": lambda g: 2 * g,
    "over infinity": lambda g: g / float("inf"),
    "over zero": lambda g: (g / 0).isnan(),
    "of itself": lambda g: g * g,
    "by columns": lambda g: g * torch.tensor([1.0, 2.0]),
    "clamp": lambda g: g.clamp(-0.5, 0.5),
    "clamp above zero": lambda g: g.clamp(min=0.5),
    "NumPy": lambda g: torch.from_numpy(g.numpy()),
    "copy": copy.deepcopy,
    "negative": lambda g: -g,
}


@pytest.mark.parametrize("name", READS)
def test_reading(name):
    ours, theirs, _ = gradients()
    mine, other = READS[name](ours.grad), READS[name](theirs.grad)
    mine = mine.to_dense() if mine.is_sparse else mine
    torch.testing.assert_close(mine, other, equal_nan=True)


@pytest.mark.parametrize("memory", [None, "1MiB"])
@pytest.mark.parametrize("foreach", [False, True])
def test_gradients_set_to_zero_stay_by_row(foreach, memory, tmp_path):
    on_disk = {} if memory is None else {"scratch": tmp_path, "memory": memory}
    embedding, theirs = rowwise.torch.Embedding(9, 2, **on_disk), torch.nn.Embedding(9, 2)
    with torch.no_grad():
        theirs.weight.copy_(embedding(torch.arange(9)))
    mine = rowwise.torch.optim.Adam(embedding.parameters(), foreach=foreach)
    other = torch.optim.Adam(theirs.parameters(), foreach=foreach)
    for module, optimizer in ((embedding, mine), (theirs, other)) * 3:
        (module(IDS) * SCALE).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        assert module.weight.grad.norm() == 0
    assert embedding.weight.grad.is_sparse
    torch.testing.assert_close(embedding(torch.arange(9)), theirs(torch.arange(9)))


WRITES = {
    "mul_": lambda p: p.grad.mul_(0.5),
    "*= tensor": lambda p: p.grad.__imul__(torch.tensor(0.5)),
    "/=": lambda p: p.grad.div_(4),
    "divide": lambda p: setattr(p, "grad", torch.divide(p.grad, torch.tensor(4.0))),
    "multiply_": lambda p: p.grad.multiply_(0.5),
    "* nan": lambda p: p.grad.mul_(float("nan")),
    "clamp_": lambda p: p.grad.clamp_(-0.5, 0.5),
    "clamp_ above zero": lambda p: p.grad.clamp_(min=0.5),
    "add_": lambda p: p.grad.add_(1),
    "clamp out=": lambda p: torch.clamp(p.grad, -0.5, 0.5, out=p.grad),
    "mul out=": lambda p: torch.mul(p.grad, 0.5, out=p.grad),
    "add_ to itself": lambda p: p.grad.add_(p.grad),
    "a row": lambda p: p.grad.__setitem__(5, 2.0),
    "zero_": lambda p: p.grad.zero_(),
    "neg_": lambda p: p.grad.neg_(),
    "nan_to_num_": lambda p: p.grad.nan_to_num_(),
    "=": lambda p: setattr(p, "grad", p.grad * 3),
    "= and add_": lambda p: [setattr(p, "grad", p.grad * 3), p.grad.add_(1)],
    "clip_grad_norm_": lambda p: torch.nn.utils.clip_grad_norm_([p], 0.7),
    "clip_grad_norm_ inf": lambda p: torch.nn.utils.clip_grad_norm_([p], 0.7, float("inf")),
    "clip_grad_norm_ foreach": lambda p: torch.nn.utils.clip_grad_norm_([p], 0.7, foreach=True),
    "clip_grad_value_": lambda p: torch.nn.utils.clip_grad_value_([p], 0.7),
    "clip_grad_value_ foreach": lambda p: torch.nn.utils.clip_grad_value_([p], 0.7, foreach=True),
}


@pytest.mark.parametrize("name", WRITES)
def test_writing(name):
    ours, theirs, _ = gradients()
    results = [WRITES[name](p) for p in (ours, theirs)]
    torch.testing.assert_close(ours.grad.to_dense(), theirs.grad, equal_nan=True)
    if name.startswith("clip_grad_norm"):
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("ord", [1, 2, float("inf")])
def test_a_gradient_of_no_ids_is_clipped(ord):
    embedding = rowwise.torch.Embedding(9, 2)
    _ = rowwise.torch.optim.SGD(embedding.parameters())
    embedding(IDS[:0]).sum().backward()
    assert torch.nn.utils.clip_grad_norm_(embedding.parameters(), 1.0, ord) == 0
    assert embedding.weight.grad.is_sparse


def test_clipping_and_a_step_visit_no_other_rows(monkeypatch):
    weight, _, optimizer = gradients()
    monkeypatch.setattr(torch.Tensor, "to_dense", lambda *_: pytest.fail("all rows"))
    for foreach in (None, False, True):
        torch.nn.utils.clip_grad_norm_([weight], 0.7, foreach=foreach)
        torch.nn.utils.clip_grad_value_([weight], 0.1, foreach=foreach)
    weight.grad.data.mul_(0.5)
    weight.grad = torch.divide(weight.grad, 2.0)
    optimizer.step()
    assert weight.grad.is_sparse


def test_clipping_many_gradients_at_once_is_that_of_dense_ones():
    for value in (0.7, 0.0, float("nan")):
        found = []
        for parameter in gradients()[:2]:
            other = torch.nn.Parameter(torch.ones(3))
            other.grad = torch.tensor([1.0, -2.0, 3.0])
            both = [parameter, other]
            norm = torch.nn.utils.clip_grad_norm_(both, value, foreach=True)
            torch._foreach_mul_([p.grad for p in both], [0.5, 2.0])
            found.append([norm, *(p.grad.to_dense() for p in both)])
        torch.testing.assert_close(*found, equal_nan=True)


def test_a_scaler_skips_the_step_whose_sum_alone_overflows():
    found = []
    for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (torch.nn, torch.optim)):
        embedding = library.Embedding(9, 2, _weight=torch.ones(9, 2))
        optimizer = optimizers.SGD(embedding.parameters(), lr=1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        for ids in ([3, 3], [3, 4], [3, 3]):
            optimizer.zero_grad()
            scaler.scale(embedding(torch.tensor(ids)).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        found.append([embedding.weight.detach(), torch.tensor(scaler.get_scale())])
    torch.testing.assert_close(*found)
    assert found[0][1] < 2.0**127


def test_gradients_add_up_over_backward_passes():
    weight, dense, _ = gradients()
    embedding = rowwise.torch.Embedding(9, 2)
    embedding.weight = weight
    weight.grad.mul_(0.5)
    (embedding(IDS) * SCALE).sum().backward()
    torch.testing.assert_close(weight.grad.to_dense(), dense.grad * 1.5)
    weight.sum().backward()  # and dense ones
    torch.testing.assert_close(weight.grad, dense.grad * 1.5 + 1)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("ids", [[1], [1, 1], [1, 2]])
def test_an_expanded_gradient(ids, dim):
    found = []
    for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (torch.nn, torch.optim)):
        embedding = library.Embedding(5, dim, _weight=torch.ones(5, dim))
        optimizer = optimizers.SGD(embedding.parameters(), lr=1.0)
        embedding(torch.tensor(ids)).sum().backward()
        seen = embedding.weight.grad.to_dense().clone()
        norm = torch.nn.utils.clip_grad_norm_(embedding.parameters(), 0.5)
        optimizer.step()
        found.append((seen, norm, embedding.weight.grad.to_dense(), embedding.weight.detach()))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("shape", [(1, 3), (2, 2)])
def test_a_gradient_is_not_the_tensor_that_backward_was_given(shape):
    embedding = rowwise.torch.Embedding(5, 2)
    optimizer = rowwise.torch.optim.SGD(embedding.parameters(), lr=1.0)
    given = torch.ones(*shape, 2)
    embedding(torch.ones(shape, dtype=torch.int64)).backward(given)
    given.zero_()
    assert embedding.weight.grad[1].tolist() == [shape[0] * shape[1]] * 2
    embedding.weight.grad.mul_(2)
    optimizer.step()
    assert not given.any()
