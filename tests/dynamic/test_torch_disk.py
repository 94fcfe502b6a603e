"""`rowwise.torch.DynamicEmbedding` with its rows on a disk: the bits of the module in memory."""

import copy
import os
import signal

import numpy as np
import pytest
import torch

import rowwise.torch
from rowwise.dynamic import DynamicTable
from rowwise.store import DiskStore
from rowwise.store import _disk as disk_module
from rowwise.torch import optim

CAPACITY, DIM = 400, 4
SMALL = 16_000  # bytes: a fraction of the rows


def make(tmp_path=None, kind=optim.Adam, **options):
    """Return a module and its optimizer, on a disk where a folder is given."""
    place = {} if tmp_path is None else {"scratch": tmp_path, "memory": SMALL}
    embedding = rowwise.torch.DynamicEmbedding(
        CAPACITY, DIM, admit_after=2, evict_share=0.2, unknown_rows=3, seed=3, **place
    )
    optimizer = kind(embedding.parameters(), lr=0.05, **options)
    if tmp_path is not None:
        assert isinstance(embedding.dynamic.table.store, DiskStore)
        assert len(embedding.dynamic.table.store._row_of) < CAPACITY / 2
    return embedding, optimizer


def ids_of(step):
    rng = np.random.default_rng(step)
    recent = rng.integers(0, 60, 10) + 9 * step
    return torch.from_numpy(
        np.concatenate([np.repeat(recent, 2), rng.integers(0, 9 * step + 9, 5)])
    )


def train(embedding, optimizer, last, first=None):
    """Train up to step `last`; return what each step looked up, and what was evicted."""
    seen = []
    embedding.dynamic.on_evict = lambda ids, vectors: seen.append((ids.tolist(), vectors.tobytes()))
    for step in range(embedding.dynamic.steps if first is None else first, last):
        optimizer.zero_grad()
        vectors = embedding(ids_of(step))
        embedding.prefetch(ids_of(step + 1))
        seen.append(vectors.detach().numpy().tobytes())
        (vectors * torch.arange(DIM)).sin().sum().backward()
        optimizer.step()
    return seen


def contents(embedding):
    """Return the rows of the ids that there are, how often each was updated, and the index."""
    index, table = embedding.dynamic.index, embedding.dynamic.table
    rows = np.append(index.find(index.ids()), np.arange(CAPACITY, table.rows))
    arrays = [table.lookup(rows), *(table.slot(n)[rows] for n in table.slot_names)]
    arrays += [table.update_counts[rows], *index.state().values()]
    return [array.tobytes() for array in arrays], embedding.dynamic.steps


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (optim.Adam, {}),
        (optim.AdamW, {"weight_decay": 0.1}),
        (optim.SGD, {"momentum": 0.9}),
        (optim.RowwiseAdagrad, {}),
    ],
)
def test_training_gives_the_bits_of_memory(kind, options, tmp_path):
    modules = [make(None, kind, **options), make(tmp_path, kind, **options)]
    seen = [train(*module, 120) for module in modules]
    assert seen[0] == seen[1]
    assert modules[0][0].dynamic.evictions > 5
    assert contents(modules[0][0]) == contents(modules[1][0])


def test_a_file_and_a_state_that_names_it_go_on_to_the_same_bits(tmp_path):
    embedding, optimizer = make(tmp_path)
    train(embedding, optimizer, 60)
    with pytest.raises(RuntimeError, match=r"a DynamicEmbedding on a disk names .* module\.save"):
        embedding.state_dict()
    embedding.save(tmp_path / "table")
    torch.save([embedding.state_dict(), optimizer.state_dict()], tmp_path / "state")
    embedding(torch.tensor([-7]))  # counted, though no row has changed
    with pytest.raises(RuntimeError, match=r"module\.save"):
        embedding.state_dict()

    states = torch.load(tmp_path / "state", weights_only=True)
    again = make(tmp_path)
    train(*again, 5)  # of another life
    again[0].load_state_dict(states[0])
    again[1].load_state_dict(states[1])
    by_path = rowwise.torch.DynamicEmbedding.load(
        tmp_path / "table", scratch=tmp_path, memory=SMALL
    )
    modules = [make(), again, (by_path, optim.Adam(by_path.parameters(), lr=0.05))]
    train(*modules[0], 60)
    seen = [train(*module, 120) for module in modules]
    assert seen[0] == seen[1] == seen[2]
    expected = contents(modules[0][0])
    assert [contents(module[0]) for module in modules] == [expected] * 3

    by_path.save(tmp_path / "table")  # another one
    with pytest.raises(RuntimeError, match="was written anew since the state was taken"):
        again[0].load_state_dict(states[0])
    assert contents(again[0]) == expected
    with pytest.raises(RuntimeError, match=r"DynamicEmbedding\.load\(.*table"):
        make()[0].load_state_dict(by_path.state_dict())
    with pytest.raises(RuntimeError, match=r"in memory: call its save\(path\)"):
        again[0].load_state_dict(make()[0].state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        again[0].load_state_dict({})


def test_training_that_is_killed_resumes_to_the_same_bits(tmp_path):
    path = tmp_path / "table"
    child = os.fork()
    if child == 0:
        embedding, optimizer = make(tmp_path)
        for last in range(7, 50, 7):
            train(embedding, optimizer, last)
            embedding.save(path)
        train(embedding, optimizer, 52)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    embedding = rowwise.torch.DynamicEmbedding.load(path, scratch=tmp_path, memory=SMALL)
    assert embedding.dynamic.steps == 49
    train(embedding, optim.Adam(embedding.parameters(), lr=0.05), 100)
    never_killed = make()
    train(*never_killed, 100)
    assert contents(embedding) == contents(never_killed[0])


def test_a_disk_without_room_for_slots_changes_nothing(tmp_path, monkeypatch):
    embedding = rowwise.torch.DynamicEmbedding(
        CAPACITY, DIM, scratch=tmp_path, memory=SMALL, seed=0
    )
    before = contents(embedding)
    checked = disk_module.check_disk

    def full(folder, needed):
        checked(folder, needed if needed < CAPACITY * 40 else 2**60)

    with monkeypatch.context() as patch:
        patch.setattr(disk_module, "check_disk", full)
        with pytest.raises(OSError, match="do not fit"):
            optim.Adam(embedding.parameters())
        with pytest.raises(OSError, match="do not fit"):
            rowwise.torch.DynamicEmbedding(4 * CAPACITY, DIM, scratch=tmp_path, memory="1MiB")
    assert contents(embedding) == before


def test_a_batch_of_more_rows_than_memory_holds_takes_no_row_from_another_id(tmp_path):
    embedding, optimizer = make(tmp_path)
    train(embedding, optimizer, 60)
    before, few = contents(embedding), embedding.dynamic.table.store.rows_in_memory
    fresh = torch.arange(10**6, 10**6 + few + 1)
    with pytest.raises(MemoryError, match="distinct rows"):
        embedding(fresh.repeat(2))
    assert contents(embedding) == before
    embedding(fresh)  # once is not enough for a row of their own


def test_an_optimizer_made_before_training_writes_unknown_rows_alone(tmp_path):
    embedding, _ = make(tmp_path)
    assert embedding.dynamic.table.store._written().tolist() == [400, 401, 402]


def test_an_admission_reads_nothing_from_the_disk(tmp_path, monkeypatch):
    embedding, optimizer = make(tmp_path)
    train(embedding, optimizer, 60)
    dynamic = embedding.dynamic
    dynamic.table.store.materialize()
    reads = []
    monkeypatch.setattr(
        dynamic.table.store._file, "read", lambda offsets, frames: reads.append(offsets.size)
    )
    dynamic.on_evict = None
    new = np.arange(10**9, 10**9 + 30)
    dynamic.observe(np.repeat(new, 2))
    assert dynamic.has_row(new).all()
    assert not sum(reads)


def test_gradients_that_memory_does_not_hold_change_no_row(tmp_path):
    embedding, optimizer = make(tmp_path)
    ids = np.arange(300)
    embedding.dynamic.observe(np.repeat(ids, 2))
    before = embedding.dynamic.lookup(ids).tobytes()
    for part in torch.from_numpy(ids).split(100):
        embedding(part).sum().backward()
    with pytest.raises(MemoryError, match="300 distinct rows does not fit"):
        optimizer.step()
    assert embedding.dynamic.lookup(ids).tobytes() == before
    assert embedding.dynamic.steps == 0


def test_what_a_disk_cannot_give_is_refused(tmp_path):
    embedding, _ = make(tmp_path)
    with pytest.raises(TypeError, match="save it to a file, and load that with scratch="):
        copy.deepcopy(embedding)
    with pytest.raises(RuntimeError, match="the weight of a DynamicEmbedding on a disk does not"):
        embedding.weight + 1
    with pytest.raises(RuntimeError, match=r"does not support torch\.export"):
        torch.export.export(embedding.eval(), (torch.tensor([1]),))
    with pytest.raises(ValueError, match="a DynamicEmbedding on a disk is stepped by a rule alone"):
        optim.Adam(embedding.parameters(), weight_decay=0.1)
    with pytest.raises(ValueError, match="scratch= needs memory="):
        rowwise.torch.DynamicEmbedding(CAPACITY, DIM, scratch=tmp_path)
    assert isinstance(embedding.dynamic, DynamicTable)
