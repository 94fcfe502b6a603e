"""`rowwise.torch.DynamicEmbedding`: the dynamic table as a module, with its numbers."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import rowwise.torch
from rowwise.dynamic import DynamicTable
from rowwise.rules import pytorch

CAPACITY, DIM = 16, 4
OPTIONS = {"admit_after": 2, "evict_share": 0.2, "unknown_rows": 2, "seed": 3}


def batches(steps, seed=0):
    rng = np.random.default_rng(seed)
    for step in range(steps):
        ids = rng.zipf(1.3, 10).clip(max=100) + step // 5
        yield ids, rng.standard_normal((10, DIM)).astype(np.float32)


def make(kind=rowwise.torch.optim.Adam, **options):
    embedding = rowwise.torch.DynamicEmbedding(CAPACITY, DIM, **OPTIONS)
    return embedding, kind(embedding.parameters(), **{"lr": 0.05, **options})


def train(embedding, optimizer, first, last):
    """Train steps first..last; return what each looked up."""
    read = []
    for step, (ids, weights) in enumerate(batches(last)):
        if step < first:
            continue
        optimizer.zero_grad()
        vectors = embedding(torch.from_numpy(ids))
        read.append(vectors.detach().numpy().tobytes())
        (vectors * torch.from_numpy(weights)).sum().backward()
        optimizer.step()
    return read


@pytest.mark.parametrize(
    ("kind", "rule", "options"),
    [
        (rowwise.torch.optim.Adam, pytorch.Adam(), {}),
        (rowwise.torch.optim.AdamW, pytorch.AdamW(weight_decay=0.1), {"weight_decay": 0.1}),
        (rowwise.torch.optim.SGD, pytorch.SGD(momentum=0.9), {"momentum": 0.9}),
        (rowwise.torch.optim.Adagrad, pytorch.Adagrad(), {}),
    ],
)
def test_a_module_trains_to_the_bits_of_a_table(kind, rule, options):
    embedding, optimizer = make(kind, **options)
    table = DynamicTable(CAPACITY, DIM, rule, init="normal", init_scale=1.0, **OPTIONS)
    for slot in rule.slot_names:  # an optimizer's tensors lie over them
        table.table.store.begin_external_write(slot)
    expected = []
    for ids, gradients in batches(150):
        table.observe(ids)
        expected.append(table.lookup(ids).tobytes())
        table.update(ids, gradients, 0.05)
    assert train(embedding, optimizer, 0, 150) == expected
    assert embedding.dynamic.index.ids().tolist() == table.index.ids().tolist()
    assert embedding.dynamic.evictions == table.evictions > 30


def test_evaluation_changes_nothing():
    embedding, optimizer = make()
    train(embedding, optimizer, 0, 20)
    before = pickle.dumps(embedding.dynamic.index.state())
    ids = torch.arange(-5, 50)
    embedding.eval()
    evaluated = embedding(ids)
    embedding.train()
    with torch.no_grad():
        unseen = embedding(ids)
    assert torch.equal(evaluated, unseen)
    embedding.weight.requires_grad_(False)
    assert torch.equal(embedding(ids), evaluated)
    assert pickle.dumps(embedding.dynamic.index.state()) == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trace_is_refused():
    embedding, _ = make()
    for trace in (torch.jit.trace, torch.export.export):
        with pytest.raises(NotImplementedError, match=r"module\.dynamic\.lookup"):
            trace(embedding.eval(), (torch.tensor([1, 2]),))


def test_training_needs_an_optimizer_that_steps_sparsely():
    ids = torch.tensor([1, 2])
    embedding = rowwise.torch.DynamicEmbedding(CAPACITY, DIM)
    with pytest.raises(RuntimeError, match=r"rowwise\.torch\.optim\.Adam"):
        embedding(ids)
    other = torch.optim.Adam(embedding.parameters())
    with pytest.raises(RuntimeError, match=r"rowwise\.torch\.optim\.Adam"):
        embedding(ids)
    del other
    coupled = rowwise.torch.optim.Adam(embedding.parameters(), weight_decay=0.1)
    with pytest.raises(RuntimeError, match=r"rowwise\.torch\.optim\.Adam"):
        embedding(ids)
    assert len(embedding.dynamic) == 0
    assert coupled.param_groups


@pytest.mark.parametrize("options", [{}, {"kind": rowwise.torch.optim.SGD, "momentum": 0.9}])
def test_a_state_dict_goes_on_to_the_same_bits(options):
    embedding, optimizer = make(**options)
    train(embedding, optimizer, 0, 60)
    file = io.BytesIO()
    torch.save([embedding.state_dict(), optimizer.state_dict()], file)
    expected = train(embedding, optimizer, 60, 120)

    file.seek(0)
    states = torch.load(file, weights_only=True)
    again, optimizer = make(**{**options, "lr": 0.9})
    train(again, optimizer, 0, 5)  # of another life
    again.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    assert train(again, optimizer, 60, 120) == expected
    assert torch.equal(again.weight, embedding.weight)
    assert again.dynamic.index.ids().tolist() == embedding.dynamic.index.ids().tolist()


def test_a_state_dict_of_another_capacity_is_refused():
    embedding, _ = make()
    other = rowwise.torch.DynamicEmbedding(CAPACITY + 7, DIM)
    with pytest.raises(ValueError, match="ids for 18 rows do not fit a table of 24"):
        other.load_state_dict(embedding.state_dict())


def test_assigned_state_is_copied_to_the_table():
    embedding, optimizer = make()
    train(embedding, optimizer, 0, 20)
    other = rowwise.torch.DynamicEmbedding(CAPACITY, DIM, **OPTIONS)
    other.load_state_dict(embedding.state_dict(), assign=True)
    ids = torch.arange(30)
    embedding.eval()
    other.eval()
    assert torch.equal(other(ids), embedding(ids))
    assert other.weight.table is other.dynamic.table


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_has_a_table_of_its_own(again):
    embedding, optimizer = make()
    train(embedding, optimizer, 0, 20)
    copied = again(torch.nn.Sequential(embedding))[0]
    ids = torch.arange(30)
    before = copied.eval()(ids)
    assert torch.equal(before, embedding.eval()(ids))
    assert copied.weight.table is copied.dynamic.table
    embedding.train()
    train(embedding, optimizer, 20, 40)
    assert torch.equal(copied(ids), before)
    copied.train()
    train(copied, rowwise.torch.optim.Adam(copied.parameters()), 40, 60)
    assert not torch.equal(copied.eval()(ids), before)


def test_a_module_and_its_optimizer_are_copied_together():
    embedding, optimizer = make()
    copied, its_optimizer = copy.deepcopy((embedding, optimizer))
    train(copied, its_optimizer, 0, 5)
    assert len(copied.dynamic) > 0
    assert len(embedding.dynamic) == 0


def test_a_gradient_that_comes_too_late_is_refused():
    embedding, optimizer = make()
    late = embedding(torch.tensor([1, 1])).sum()
    train(embedding, optimizer, 0, 1)
    pipelined = embedding(torch.tensor([1, 1])).sum()
    train(embedding, optimizer, 1, 2)
    pipelined.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="3 steps after its forward pass, and in_flight=2"):
        late.backward()


def test_gradients_add_up_over_batches_of_one_step():
    embedding, optimizer = make(rowwise.torch.optim.SGD, lr=1.0)
    ids = torch.tensor([[1, 2], [1, 2]])
    embedding(ids)
    before = embedding.eval()(ids[0]).clone()
    embedding.train()
    for _ in range(3):
        embedding(ids).sum().backward()
    optimizer.step()
    torch.testing.assert_close(embedding.eval()(ids[0]), before - 6)


def test_strings_are_ids_too():
    embedding = rowwise.torch.DynamicEmbedding(CAPACITY, DIM, ids="strings")
    optimizer = rowwise.torch.optim.Adam(embedding.parameters())
    assert embedding([["tea", "cup"], ["tea", "pot"]]).shape == (2, 2, DIM)
    embedding(np.array(["tea", "jug"])).sum().backward()
    optimizer.step()
    assert embedding.has_row(["jug", "tea", "mug"]).tolist() == [True, True, False]
    with pytest.raises(TypeError, match="ids are strings here"):
        embedding(torch.tensor([1]))


def test_rows_stay_in_host_memory_as_float32():
    model, _ = make()
    weight = model.weight
    assert model.to(torch.float64).half().weight is weight
    assert weight.dtype is torch.float32
    with pytest.raises(RuntimeError, match="this process's own memory"):
        model.share_memory()


def test_unsigned_ids_are_the_signed_ones_of_the_same_bits():
    embedding, optimizer = make()
    embedding(torch.tensor([2**64 - 1, 2**64 - 1], dtype=torch.uint64)).sum().backward()
    optimizer.step()
    assert embedding.has_row(torch.tensor([-1])).item()


def test_the_seed_of_torch_decides_where_none_is_given():
    def vectors():
        torch.manual_seed(0)
        return rowwise.torch.DynamicEmbedding(3, DIM).weight.detach().clone()

    assert torch.equal(vectors(), vectors())
    assert vectors()[3:].std() > 0.3
