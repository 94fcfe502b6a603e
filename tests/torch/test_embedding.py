"""`rowwise.torch.Embedding` beside `torch.nn.Embedding`, corner by corner."""

import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import rowwise.torch
from rowwise.torch import Embedding

plain_optimizer = pytest.mark.filterwarnings("ignore:the gradient is dense")
both = pytest.mark.parametrize("module", [Embedding, nn.Embedding])


def make(module, *args, **options):
    torch.manual_seed(0)
    return module(*args, **options)


def test_keras_is_not_imported():
    code = "import sys, rowwise.torch; assert 'keras' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["Embedding", "EmbeddingBag"])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 3}, {"padding_idx": -2, "max_norm": 1.0}])
def test_the_same_seed_gives_the_same_module(name, options):
    ours = make(getattr(rowwise.torch, name), 40, 7, **options)
    theirs = make(getattr(nn, name), 40, 7, **options)
    assert torch.equal(ours.weight, theirs.weight)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == ["weight"]
    assert isinstance(ours, getattr(nn, name))
    for function in ("__init__", "forward", "from_pretrained"):
        mine = inspect.signature(getattr(type(ours), function))
        theirs_too = list(inspect.signature(getattr(getattr(nn, name), function)).parameters)
        assert list(mine.parameters)[: len(theirs_too)] == theirs_too
        for own in list(mine.parameters.values())[len(theirs_too) :]:
            assert own.kind is own.KEYWORD_ONLY


def test_state_dicts_go_both_ways():
    ours, theirs = Embedding(5, 2), nn.Embedding(5, 2)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours.weight, theirs.weight)
    ours, theirs = Embedding(5, 2), nn.Embedding(5, 2)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(torch.arange(5)), theirs.weight)


@both
def test_from_pretrained(module):
    rows = torch.randn(4, 3)
    embedding = module.from_pretrained(rows, padding_idx=1)
    assert type(embedding) is module
    assert torch.equal(embedding(torch.tensor([[3, 0]])), rows[torch.tensor([[3, 0]])])
    assert not embedding.weight.requires_grad
    assert embedding.padding_idx == 1
    assert module.from_pretrained(rows, freeze=False).weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 0, 3), (2, 3, 4)])
def test_ids_of_any_shape(dtype, shape):
    ids = torch.randint(0, 9, shape, dtype=dtype)
    ours, theirs = make(Embedding, 9, 3), make(nn.Embedding, 9, 3)
    assert torch.equal(ours(ids), theirs(ids))
    assert torch.equal(ours(ids.t() if ids.ndim == 2 else ids), theirs(ids))


@pytest.mark.parametrize(
    "ids",
    [
        torch.tensor([1.0]),
        torch.tensor([1], dtype=torch.int16),
        torch.tensor([True]),
        [1, 2],
        torch.tensor([[1, 9]]),
        torch.tensor([-1]),
    ],
    ids=str,
)
def test_errors_are_pytorchs(ids):
    errors = []
    for module in (Embedding, nn.Embedding):
        with pytest.raises((IndexError, RuntimeError, TypeError)) as caught:
            module(9, 3)(ids)
        errors.append(caught.type)
    assert errors[0] is errors[1]


def test_an_id_outside_is_named_and_nothing_changes():
    embedding = Embedding(5, 2, max_norm=0.1)
    before = embedding.weight.detach().clone()
    with pytest.raises(IndexError, match=r"id 7 at position \(1, 0\) .* 5 rows \(0\.\.4\)"):
        embedding(torch.tensor([[1, 2], [7, 3]]))
    assert torch.equal(embedding.weight, before)


@both
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"padding_idx": 5}, AssertionError),
        ({"padding_idx": -6}, AssertionError),
        ({"_weight": torch.ones(4, 2)}, AssertionError),
        ({"dtype": torch.int64}, RuntimeError),
    ],
)
def test_wrong_arguments(module, options, error):
    with pytest.raises(error):
        module(5, 2, **options)


@pytest.mark.parametrize("size", [(0, 3), (3, 0)])
def test_an_empty_weight_is_pytorchs(size):
    ids = torch.empty(0, dtype=torch.long)
    assert Embedding(*size)(ids).shape == nn.Embedding(*size)(ids).shape


GRADIENTS = [
    {},
    {"padding_idx": 2},
    {"scale_grad_by_freq": True},
    {"padding_idx": 2, "scale_grad_by_freq": True},
    {"sparse": True},
    {"sparse": True, "padding_idx": -8},
]


@plain_optimizer
@pytest.mark.parametrize("kept", [False, True], ids=["plain", "ours"])
@pytest.mark.parametrize("options", GRADIENTS, ids=str)
def test_gradients(options, kept):
    gradients = []
    for module in (Embedding, nn.Embedding):
        embedding = make(module, 10, 3, **options)
        if kept and module is Embedding:
            optimizer = rowwise.torch.optim.SGD(embedding.parameters())
        for _ in range(2):  # accumulated
            (embedding(torch.tensor([[2, 5, 2], [5, 5, 1]])) * torch.arange(3.0)).sum().backward()
        gradients.append(embedding.weight.grad)
    ours, theirs = gradients
    assert not kept or optimizer
    assert ours.is_sparse == (kept or theirs.is_sparse)
    torch.testing.assert_close(ours.to_dense(), theirs.to_dense())


@both
def test_sparse_gradients_scaled_by_frequency_are_refused(module):
    embedding = module(5, 2, sparse=True, scale_grad_by_freq=True)
    with pytest.raises(RuntimeError, match="not supported with sparse"):
        embedding(torch.tensor([1])).sum().backward()


@plain_optimizer
@pytest.mark.parametrize("kept", [False, True], ids=["plain", "ours"])
def test_gradients_can_be_differentiated_again(kept):
    found = []
    for module in (Embedding, nn.Embedding):
        embedding = make(module, 10, 3, padding_idx=1)
        optimizer = kept and module is Embedding
        optimizer = optimizer and rowwise.torch.optim.SGD(embedding.parameters())
        x = torch.arange(12.0).view(4, 3).requires_grad_()
        loss = (embedding(torch.tensor([1, 2, 2, 5])) * x).pow(3).sum()
        (gradient,) = torch.autograd.grad(loss, embedding.weight, create_graph=True)
        gradient.pow(2).sum().backward()
        found.append((x.grad, embedding.weight.grad.to_dense()))
    torch.testing.assert_close(*found)


def test_modes_without_gradient():
    embedding = Embedding(5, 2)
    ids = torch.tensor([1, 2])
    with torch.no_grad():
        assert not embedding(ids).requires_grad
    with torch.inference_mode():
        assert embedding(ids).is_inference()
    assert not embedding.requires_grad_(False)(ids).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert embedding(ids).dtype is torch.float32


def test_max_norm_while_rows_lag():
    weights = []
    for module, optimizers in ((Embedding, rowwise.torch.optim), (nn.Embedding, torch.optim)):
        embedding = make(module, 30, 4, max_norm=0.8, norm_type=1.5)
        optimizer = optimizers.Adam(embedding.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(1)
        for _ in range(40):
            ids = torch.randint(0, 30, (3,), generator=generator)
            optimizer.zero_grad()
            (embedding(ids) + 1).square().sum().backward()
            optimizer.step()
        weights.append(embedding.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-5)


def test_max_norm_visits_the_rows_of_the_batch(monkeypatch):
    embedding = make(Embedding, 30, 4, max_norm=0.8)
    optimizer = rowwise.torch.optim.Adam(embedding.parameters(), lr=0.1)
    monkeypatch.setattr(type(embedding.weight), "materialize", lambda _: pytest.fail("all rows"))
    for _ in range(3):
        embedding(torch.tensor([1, 2])).sum().backward()
        optimizer.step()


def test_another_dtype_is_pytorchs_with_a_warning():
    with pytest.warns(UserWarning, match=r"float64 on cpu: .* trained densely"):
        embedding = Embedding(5, 2, dtype=torch.float64)
    assert embedding(torch.tensor([1])).dtype is torch.float64


def test_compiled_and_traced(recwarn):
    embedding = Embedding(5, 2)
    ids = torch.tensor([1, 2])
    compiled = torch.compile(lambda ids: embedding(ids) * 2, backend="eager")
    assert torch.equal(compiled(ids), embedding(ids) * 2)
    exported = torch.export.export(embedding, (ids,))
    assert torch.equal(exported.module()(ids), embedding(ids))


@pytest.mark.filterwarnings("ignore:the weight is computed")
def test_parametrized_and_pruned():
    embedding = Embedding(5, 2)
    nn.utils.parametrizations.weight_norm(embedding)
    embedding(torch.tensor([1])).sum().backward()
    embedding = Embedding(5, 2)
    prune.l1_unstructured(embedding, "weight", 4)
    assert int((embedding(torch.arange(5)) == 0).sum()) == 4


@pytest.mark.parametrize("kept", [False, True], ids=["plain", "ours"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("convert", ["double", "half", "bfloat16"])
@pytest.mark.filterwarnings("ignore:the gradient is dense", "ignore:.*trained densely")
def test_a_gradient_is_converted_with_its_weight(convert, sparse, kept):
    found = []
    for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (nn, torch.optim)):
        embedding = make(library.Embedding, 5, 2, sparse=sparse)
        optimizer = (optimizers if kept else torch.optim).SGD(embedding.parameters(), lr=0.1)
        embedding(torch.tensor([1, 2, 1])).sum().backward()
        getattr(embedding, convert)()
        gradient = embedding.weight.grad
        assert gradient.is_sparse == sparse
        found.append((gradient.to_dense(), embedding.weight.detach()))
        optimizer.step()
    torch.testing.assert_close(*found)


@both
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_ids(module):
    nested = torch.nested.nested_tensor([torch.tensor([1, 2]), torch.tensor([3])])
    embedding = module(5, 2)
    vectors = embedding(nested).unbind()
    assert torch.equal(vectors[0], embedding.weight[1:3])
    assert torch.equal(vectors[1], embedding.weight[3:4])


@pytest.mark.parametrize("name", ["Embedding", "EmbeddingBag"])
def test_forward_reads_no_attribute_that_pytorchs_does_not(name):
    module = getattr(rowwise.torch, name)(5, 2)
    del module.__dict__["training"]
    assert module(torch.tensor([[1]])).shape[-1] == 2


def test_the_number_of_threads_is_the_one_that_torch_was_told():
    before, ours = torch.get_num_threads(), rowwise.get_num_threads()
    embedding, ids = Embedding(5, 2), torch.tensor([1])
    try:
        rowwise.set_num_threads(3)
        embedding(ids)
        assert rowwise.get_num_threads() == 3  # torch was told nothing
        torch.set_num_threads(before + 1)
        embedding(ids)
        assert rowwise.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
        embedding(ids)
        rowwise.set_num_threads(ours)
