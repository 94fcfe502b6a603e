"""`rowwise.torch.ShardedDynamicEmbedding`, with ranks as threads: the bits of the table alone."""

import numpy as np
import pytest
import torch

import rowwise.torch
from helpers.ranks import outcomes, run_ranks, share
from rowwise.dynamic import DynamicTable
from rowwise.rules import pytorch
from rowwise.sharded import ShardedDynamicTable, ThreadExchange

CAPACITY, DIM, BUCKETS, SIZE = 64, 4, 8, 24
OPTIONS = {"admit_after": 2, "evict_share": 0.2, "unknown_rows": 2, "seed": 3, "buckets": BUCKETS}


def log(steps):
    rng = np.random.default_rng(0)
    for step in range(steps):
        ids = rng.zipf(1.3, SIZE).clip(max=100) * 10**12 + step // 5
        yield ids, rng.standard_normal((SIZE, DIM)).astype(np.float32)


def make(exchange, **options):
    embedding = rowwise.torch.ShardedDynamicEmbedding(
        CAPACITY, DIM, process_group=exchange, average=False, **{**OPTIONS, **options}
    )
    return embedding, rowwise.torch.optim.Adam(embedding.parameters(), lr=0.05)


def step(optimizer, vectors, weights):
    (vectors * torch.from_numpy(weights)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def train(embedding, optimizer, exchange, batches):
    read = []
    for ids, weights in batches:
        mine = share(ids, exchange.rank, exchange.ranks)
        vectors = embedding(torch.from_numpy(mine))
        read.append(vectors.detach().numpy().copy())
        step(optimizer, vectors, share(weights, exchange.rank, exchange.ranks))
    return read


def table_alone(exchange):
    """Return a table that begins as the module's."""
    return ShardedDynamicTable(
        CAPACITY, DIM, pytorch.Adam(), exchange=exchange, init="normal", init_scale=1.0, **OPTIONS
    )


def of_table(exchange):
    """Return what the table alone reads and comes to, on one rank."""
    table, read = table_alone(exchange), []
    for ids, gradients in log(60):
        rows = table.observe(ids)
        read.append(table.table.lookup(rows))
        table.table.update(rows, gradients, 0.05)
    return read, table.table.to_numpy(), table.ids()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_module_trains_to_the_bits_of_a_table(ranks):
    def run(exchange):
        embedding, optimizer = make(exchange)
        read = train(embedding, optimizer, exchange, log(60))
        return read, embedding.table.to_numpy(), embedding.dynamic.ids()

    [(expected, rows, ids)] = run_ranks(1, of_table)
    found = run_ranks(ranks, run)
    for number, vectors in enumerate(expected):
        assert np.concatenate([read[number] for read, *_ in found]).tobytes() == vectors.tobytes()
    for _, its_rows, its_ids in found:
        assert its_rows.tobytes() == rows.tobytes()
        assert its_ids.tolist() == ids.tolist()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_prefetched_batch_is_counted_once(ranks):
    def mine(exchange):
        return [[share(part, exchange.rank, ranks) for part in batch] for batch in log(40)]

    def prefetched(exchange):
        embedding, optimizer = make(exchange)
        batches, read = mine(exchange), []
        for number, (ids, weights) in enumerate(batches):
            vectors = embedding(torch.from_numpy(ids))
            read.append(vectors.detach().numpy().copy())
            with embedding.prefetch(torch.from_numpy(batches[(number + 1) % 40][0])):
                step(optimizer, vectors, weights)
            embedding.eval()(torch.from_numpy(ids))
            embedding.train()
        return np.concatenate(read).tobytes(), embedding.dynamic.ids_state()

    def observed_by_hand(exchange):
        dynamic, batches, read = table_alone(exchange), mine(exchange), []
        rows = dynamic.observe(batches[0][0])
        for number, (_, gradients) in enumerate(batches):
            read.append(dynamic.table.lookup(rows))
            following = dynamic.observe(batches[(number + 1) % 40][0])
            dynamic.table.update(rows, gradients, 0.05)
            rows = following
        return np.concatenate(read).tobytes(), dynamic.ids_state()

    assert run_ranks(ranks, prefetched) == run_ranks(ranks, observed_by_hand)


def test_evaluation_changes_nothing():
    def run(exchange):
        embedding, optimizer = make(exchange)
        train(embedding, optimizer, exchange, log(10))
        before = embedding.dynamic.ids().tolist(), embedding.table.to_numpy().tobytes()
        ids = torch.arange(-5, 50)
        embedding.eval()
        evaluated = embedding(ids)
        with torch.no_grad():
            assert torch.equal(embedding.train()(ids), evaluated)
        after = embedding.dynamic.ids().tolist(), embedding.table.to_numpy().tobytes()
        assert after == before
        assert embedding.has_row(ids).tolist() == embedding.dynamic.has_row(ids.numpy()).tolist()

    run_ranks(2, run)


def test_a_file_goes_on_with_another_number_of_ranks(tmp_path):
    def begin(exchange):
        embedding, optimizer = make(exchange)
        train(embedding, optimizer, exchange, list(log(60))[:30])
        embedding.dynamic.save(tmp_path / "half")
        train(embedding, optimizer, exchange, list(log(60))[30:])
        embedding.dynamic.save(tmp_path / "whole")

    def go_on(exchange):
        embedding = rowwise.torch.ShardedDynamicEmbedding.load(
            tmp_path / "half", exchange, average=False
        )
        optimizer = rowwise.torch.optim.Adam(embedding.parameters(), lr=0.05)
        train(embedding, optimizer, exchange, list(log(60))[30:])
        embedding.dynamic.save(tmp_path / "on")

    run_ranks(2, begin)
    run_ranks(3, go_on)
    assert (tmp_path / "on").read_bytes() == (tmp_path / "whole").read_bytes()


def test_strings_are_ids_too():
    def run(exchange):
        embedding, optimizer = make(exchange, ids="strings", admit_after=1)
        words = [["tea", "cup"], ["tea", "pot"]] if exchange.rank else np.array(["Über"])
        embedding(words).sum().backward()
        optimizer.step()
        return embedding.has_row(["tea", "Über", "jug"]).tolist()

    assert run_ranks(2, run) == [[True, True, False]] * 2


def test_what_cannot_be_is_refused():
    [alone] = ThreadExchange.group(1)
    embedding, optimizer = make(alone)
    with pytest.raises(NotImplementedError, match=r"dynamic\.lookup\(ids\)"):
        embedding.full_state_dict()
    with pytest.raises(NotImplementedError, match="begins without"):
        type(embedding).from_pretrained(torch.zeros(3, 4))
    late = embedding(torch.tensor([1, 1])).sum()
    train(embedding, optimizer, alone, log(3))
    with pytest.raises(RuntimeError, match="3 steps after its forward pass, and in_flight=2"):
        late.backward()
    _, errors = outcomes(2, lambda e: make(e, buckets=1))
    assert {str(error) for _, error in errors} == {
        "rank 0: buckets=1 are fewer than the 2 ranks, of which each has some"
    }


def test_ids_travel_as_bytes_beside_the_rows():
    def run(exchange):
        embedding, optimizer = make(exchange)
        train(embedding, optimizer, exchange, log(30))
        data = embedding.dynamic.ids_state()
        other, _ = make(exchange)
        other.dynamic.load_ids_state(data)
        assert other.dynamic.ids().tolist() == embedding.dynamic.ids().tolist()
        assert other.dynamic.steps == 30
        with pytest.raises(ValueError, match="ids are of unknown_rows=2, the table's of 3"):
            make(exchange, unknown_rows=3)[0].dynamic.load_ids_state(data)
        return data

    first, second = run_ranks(2, run)
    assert first == second
    assert len(first) < 100 * DynamicTable(CAPACITY, DIM).nbytes
