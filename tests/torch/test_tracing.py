"""Programs that are traced, scripted, exported or compiled see the modules as PyTorch's."""

import pytest
import torch
from beside_torch import DIM, ROWS, Model, train
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import rowwise.torch
from rowwise.torch import Embedding, EmbeddingBag, optim

IDS = torch.tensor([[1, 2, 1], [7, 0, 2]])
OTHERS = torch.tensor([[5, 2, 9], [9, 9, 2]])
both = pytest.mark.parametrize("bag", [False, True], ids=["Embedding", "EmbeddingBag"])
compiled_by = pytest.mark.parametrize("backend", ["eager", "aot_eager"])


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()


def trained(bag=False, steps=5):
    """A model whose rows lag, and its optimizer."""
    model = Model(rowwise.torch, bag=bag)
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    train(model, optimizer, steps)
    return model, optimizer


TRACED = {
    "make_fx": lambda model, ids=IDS: make_fx(model)(ids),
    "make_fx, symbolic": lambda model: make_fx(
        model, tracing_mode="symbolic", _allow_non_fake_inputs=True
    )(IDS),
    "jit.trace": lambda model, ids=IDS: torch.jit.trace(model, (ids,), check_trace=False),
    "fx.symbolic_trace": torch.fx.symbolic_trace,
    "compile": lambda model: torch.compile(model, fullgraph=True, backend="aot_eager"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:a NumPy array")
@both
@pytest.mark.parametrize("way", TRACED)
def test_a_traced_model_reads_other_ids_and_follows_training(way, bag):
    model, optimizer = trained(bag)
    traced = TRACED[way](model.eval())
    for ids in (IDS, OTHERS):
        torch.testing.assert_close(traced(ids), model(ids))
    train(model, optimizer, 5, seed=1)
    torch.testing.assert_close(traced(OTHERS), model(OTHERS))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:a NumPy array")
@both
def test_a_trace_may_be_checked(bag):
    model, _ = trained(bag)
    assert torch.equal(torch.jit.trace(model.eval(), (IDS,))(OTHERS), model(OTHERS))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@both
@pytest.mark.parametrize("way", ["make_fx", "jit.trace"])
def test_a_model_traced_in_training_mode_is_trained_densely(way, bag):
    model, optimizer = trained(bag)
    twin, its_optimizer = trained(bag)
    with pytest.warns(UserWarning, match="a trace made in training mode .* trained densely"):
        traced = TRACED[way](model, torch.zeros((4, 3), dtype=torch.int64))
    train(traced, optimizer, 5, seed=1)
    train(twin, its_optimizer, 5, seed=1)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-5)


@both
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_model_has_pytorchs_operator_and_state(strict, bag):
    model, _ = trained(bag)
    exported = torch.export.export(model, (IDS,), strict=strict)
    torch.testing.assert_close(exported.module()(OTHERS), model(OTHERS))
    assert list(exported.state_dict) == list(model.state_dict())
    assert "aten.embedding" in str(exported.graph)


@both
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model_is_pytorchs_and_shares_the_weight(bag, tmp_path):
    model, _ = trained(bag)
    embedding = model.embedding
    before = embedding(IDS).detach()
    with pytest.warns(UserWarning, match=r"torch\.jit\.script .* trained densely"):
        scripted = torch.jit.script(nn.Sequential(embedding))
    torch.testing.assert_close(scripted(IDS).detach(), before)
    scripted.save(str(tmp_path / "model.pt"))
    torch.testing.assert_close(torch.jit.load(str(tmp_path / "model.pt"))(IDS).detach(), before)
    with torch.no_grad():
        embedding.weight.zero_()
    assert not scripted(IDS).any()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_untrained_rows_give_cannot_be_scripted():
    with pytest.raises(
        ValueError, match=r"untrained='zeros' cannot be scripted; use torch\.export"
    ):
        torch.jit.script(nn.Sequential(Embedding(5, 2, untrained="zeros")))


@both
@compiled_by
def test_a_compiled_training_step_is_sparse_and_has_the_numbers(backend, bag):
    models = []
    for compiled in (True, False):
        model = Model(rowwise.torch, bag=bag)
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        forward = torch.compile(model, fullgraph=True, backend=backend) if compiled else model
        for seed in range(5):
            train(forward, optimizer, 2, seed=seed)
            assert model.embedding.weight.grad.is_sparse
        assert model.embedding.table.steps == 10
        models.append(model.state_dict())
    torch.testing.assert_close(*models)


OPTIONS = {
    "padding_idx": {"padding_idx": 2},
    "max_norm": {"max_norm": 0.5},
    "scale_grad_by_freq": {"scale_grad_by_freq": True},
    "sparse": {"sparse": True},
    "untrained": {"untrained": "zeros"},
}


@pytest.mark.filterwarnings("ignore:scale_grad_by_freq is left")
@both
@pytest.mark.parametrize("options", OPTIONS)
def test_options_in_a_compiled_step(options, bag):
    found = []
    for compiled in (True, False):
        model = Model(rowwise.torch, bag=bag, **OPTIONS[options])
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        forward = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        train(forward, optimizer, 3)
        found.append((model.state_dict(), forward.eval()(OTHERS)))
    torch.testing.assert_close(*found)


def test_weights_of_samples_and_offsets_in_a_compiled_step():
    found = []
    for compiled in (True, False):
        torch.manual_seed(0)
        bags = EmbeddingBag(ROWS, DIM, mode="sum")
        optimizer = optim.SGD(bags.parameters(), lr=0.1)
        weights = torch.linspace(0, 1, 6).requires_grad_()
        forward = torch.compile(bags, fullgraph=True, backend="aot_eager") if compiled else bags
        out = forward(IDS.reshape(-1), torch.tensor([0, 2, 2]), weights)
        out.square().sum().backward()
        optimizer.step()
        found.append((out.detach(), weights.grad, bags.weight.detach()))
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:the gradient is dense")
def test_a_compiled_step_of_another_optimizer():
    models = []
    for compiled in (True, False):
        model = Model(rowwise.torch)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        train(
            torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model,
            optimizer,
            3,
        )
        models.append(model.state_dict())
    torch.testing.assert_close(*models)


READS = {
    "a tied layer": lambda model, ids: nn.functional.linear(model(ids), model.embedding.weight),
    "a transpose": lambda model, ids: model.embedding(ids) @ model.embedding.weight.T,
    "a list": lambda model, ids: torch.cat([model.embedding.weight, torch.ones(1, DIM)]),
    "a list of one function": lambda model, ids: torch._foreach_mul([model.embedding.weight], 2)[0],
}


@pytest.mark.filterwarnings("ignore:a NumPy array", "ignore:the gradient is dense")
@compiled_by
@pytest.mark.parametrize("read", READS)
def test_a_compiled_program_that_reads_the_weight_sees_it_up_to_date(backend, read):
    model, optimizer = trained()
    model.linear = nn.Linear(DIM, DIM)
    compiled = torch.compile(READS[read], backend=backend)
    for _ in range(3):
        torch.testing.assert_close(compiled(model, IDS), READS[read](model, IDS))
        optimizer.zero_grad()
        model.embedding(OTHERS).square().sum().backward()
        optimizer.step()


@pytest.mark.filterwarnings("ignore:a NumPy array", "ignore:the gradient is dense")
def test_tied_weights_train_in_a_compiled_model_as_in_pytorch():
    found = []
    for library, optimizers, compiled in ((nn, torch.optim, False), (rowwise.torch, optim, True)):
        torch.manual_seed(0)
        embedding = library.Embedding(ROWS, DIM)
        model = nn.Sequential(embedding, nn.Linear(DIM, DIM), nn.Linear(DIM, ROWS, bias=False))
        model[2].weight = embedding.weight
        optimizer = optimizers.Adam(model.parameters(), lr=0.05)
        forward = torch.compile(model, backend="aot_eager") if compiled else model
        for ids in (IDS, OTHERS, IDS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(forward(ids).flatten(0, 1), ids.flatten()).backward()
            optimizer.step()
        found.append(model.state_dict())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:the gradient is dense")
def test_a_compiled_step_of_pytorchs_optimizer():
    found = []
    for library in (nn, rowwise.torch):
        model = Model(library)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        step = torch.compile(lambda made=optimizer: made.step(), backend="aot_eager")
        for ids in (IDS, OTHERS, IDS):
            optimizer.zero_grad()
            model(ids).square().sum().backward()
            step()
        found.append(model.state_dict())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_a_gradient_of_something_else_leaves_the_weights_alone():
    model = Model(rowwise.torch)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(IDS).sum(), model.linear.weight)
    (same,) = torch.autograd.grad(model(IDS).sum(), model.linear.weight)
    torch.testing.assert_close(gradient, same)
    assert model.embedding.weight.grad is None


def test_a_bad_id_in_a_compiled_step_is_named():
    compiled = torch.compile(Embedding(5, 2), fullgraph=True, backend="aot_eager")
    with pytest.raises(IndexError, match="id 7 at position"):
        compiled(torch.tensor([[7, 1]]))


def test_shapes_may_change_under_compilation():
    embedding = Embedding(ROWS, DIM)
    compiled = torch.compile(embedding, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((3,), (2, 5), (4, 5), (2, 3, 4)):
        ids = torch.randint(ROWS, shape)
        torch.testing.assert_close(compiled(ids), embedding(ids))


@compiled_by
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of the loss, which torch itself reads
def test_a_step_that_is_compiled_whole_has_the_numbers(backend):
    found = []
    for library, optimizers in ((rowwise.torch, rowwise.torch.optim), (nn, torch.optim)):
        torch.manual_seed(0)
        model = nn.Sequential(library.Embedding(9, 2), nn.Linear(2, 2))
        optimizer = optimizers.Adam(model.parameters(), lr=0.1)

        def step(ids, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(ids).square().sum()
            loss.backward()
            optimizer.step()
            return loss

        step = torch.compile(step, backend=backend) if library is rowwise.torch else step
        losses = [step(torch.tensor([[1, 2, 3 + t]])).detach() for t in range(4)]
        found.append([torch.stack(losses), model[0].weight.detach()])
    torch.testing.assert_close(*found)
