"""A table over ranks has the bits of one process, and every error on every rank."""

import copy
import re
import time

import numpy as np
import pytest

from helpers.ranks import outcomes, run_ranks, share, zipf_batches
from helpers.rules import every_family
from rowwise import Table, rules
from rowwise.errors import ExchangeError, RankMismatchError, UntrainedError
from rowwise.sharded import ShardedTable
from rowwise.sharded._norm import root
from rowwise.store import Bags, RowGradient

ROWS, DIM = 3000, 6
BATCHES = zipf_batches(ROWS, DIM, steps=12, size=192)
ADAMW = rules.AdamW(0.01, weight_decay=0.1)


def train(table, rank=0, ranks=1, part=share):
    """Train on this rank's part of each batch, and return what was looked up before each step."""
    seen = []
    for ids, gradients, rate in BATCHES:
        seen.append(table.lookup(part(ids, rank, ranks)))
        table.update(part(ids, rank, ranks), part(gradients, rank, ranks), rate)
    return seen


def contents(table):
    """All that a table holds, of all ranks."""
    slots = [table.slot(name) for name in table.slot_names]
    return [table.to_numpy(), *slots, table.update_counts, table.last_update]


def assert_same_bits(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.tobytes() == other.tobytes()


@every_family
def test_two_ranks_have_the_bits_of_one_process(rule):
    whole = Table(ROWS, DIM, rule, seed=3)
    seen = train(whole)

    def run(exchange):
        table = ShardedTable(ROWS, DIM, rule, seed=3, exchange=exchange)
        return train(table, exchange.rank, exchange.ranks), contents(table)

    results = run_ranks(2, run)
    each = [result[0] for result in results]
    assert_same_bits(seen, [np.concatenate(parts) for parts in zip(*each, strict=True)])
    assert_same_bits(results[0][1], contents(whole))


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_any_number_of_ranks_has_the_bits_of_one_process(ranks):
    whole = Table(ROWS, DIM, ADAMW, seed=3)
    train(whole)

    def run(exchange):
        table = ShardedTable(ROWS, DIM, ADAMW, seed=3, exchange=exchange)
        train(table, exchange.rank, ranks)
        return contents(table)

    assert_same_bits(run_ranks(ranks, run)[-1], contents(whole))


def test_sums_by_parts_have_the_same_bits_for_every_number_of_ranks_and_send_less():
    def run(exchange, sums, parts=12):
        options = {"seed": 3, "exchange": exchange, "sums": sums, "parts": parts}
        table = ShardedTable(ROWS, DIM, ADAMW, **options)
        train(table, exchange.rank, exchange.ranks)
        sent = exchange.bytes_sent
        return contents(table), sent

    by_parts = [run_ranks(ranks, lambda e: run(e, "parts"))[0][0] for ranks in (1, 2, 3, 4)]
    for other in by_parts[1:]:
        assert_same_bits(other, by_parts[0])
    one_process, sent = run_ranks(2, lambda e: run(e, "batch"))[0]
    np.testing.assert_allclose(one_process[0], by_parts[0][0], rtol=1e-3, atol=1e-5)
    assert run_ranks(2, lambda e: run(e, "parts", 2))[0][1] < 0.9 * sent


def test_a_rank_may_have_an_empty_batch():
    whole = Table(ROWS, DIM, "adam", seed=3)
    train(whole)

    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", seed=3, exchange=exchange)
        train(table, exchange.rank, 2, part=lambda array, rank, _: array if rank else array[:0])
        return contents(table)

    assert_same_bits(run_ranks(2, run)[0], contents(whole))


def test_a_rank_without_a_pass_leaves_the_sums_by_parts_as_an_empty_batch_does():
    def run(exchange, nothing):
        options = {"exchange": exchange, "sums": "parts", "parts": 4}
        table = ShardedTable(ROWS, DIM, ADAMW, seed=3, **options)
        for ids, gradients, rate in BATCHES:
            table.apply(nothing if exchange.rank else [RowGradient(ids, gradients)], rate)
        return contents(table)

    empty = RowGradient(np.empty(0, np.int64), np.empty((0, DIM), np.float32))
    with_one, without = (run_ranks(2, lambda e, n=n: run(e, n))[0] for n in ([empty], []))
    assert_same_bits(without, with_one)


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn", "max"])
def test_bags_have_the_bits_of_one_process(combiner):
    whole = Table(ROWS, DIM, "adam", seed=3)
    train(whole)
    ids = BATCHES[0][0].reshape(24, 8)

    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", seed=3, exchange=exchange)
        train(table, exchange.rank, exchange.ranks)
        return table.pool(share(ids, exchange.rank, exchange.ranks), combiner=combiner)

    pooled = np.concatenate(run_ranks(3, run))
    assert pooled.tobytes() == whole.pool(ids, combiner=combiner).tobytes()


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_bags_have_the_bits_of_one_process(weighted):
    rng = np.random.default_rng(5)
    lengths = np.tile([0, 5, 1, 10], 12)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = BATCHES[0][0][: offsets[-1]]
    weights = rng.random(len(ids)).astype(np.float32) if weighted else None
    values = rng.standard_normal((len(lengths), DIM)).astype(np.float32)

    def step(table, rank, ranks):
        bags = share(np.arange(len(lengths)), rank, ranks)
        first, end = offsets[bags[0]], offsets[bags[-1] + 1]
        own = Bags(
            ids[first:end],
            offsets[bags[0] : bags[-1] + 2] - first,
            None if weights is None else weights[first:end],
        )
        for _ in range(3):
            table.apply(table.store.bag_gradient(own, values[bags]), 0.1)

    whole = Table(ROWS, DIM, "adam", seed=3)
    step(whole, 0, 1)

    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", seed=3, exchange=exchange)
        step(table, exchange.rank, exchange.ranks)
        return contents(table)

    assert_same_bits(run_ranks(3, run)[0], contents(whole))


def test_a_frozen_row_stays():
    ids, gradients, rate = BATCHES[0]
    frozen = int(ids[0])

    def run(exchange):
        table = ShardedTable(ROWS, DIM, ADAMW, seed=3, exchange=exchange)
        before = table.lookup([frozen])
        own = RowGradient(*(share(x, exchange.rank, exchange.ranks) for x in (ids, gradients)))
        for _ in range(3):
            table.apply(own, rate, frozen_row=frozen)
        return before, table.lookup([frozen])

    whole = Table(ROWS, DIM, ADAMW, seed=3)
    before = whole.lookup([frozen])
    for result in run_ranks(3, run):
        assert_same_bits(result, (before, before))


def test_the_norm_of_a_gradient_is_one_number_for_every_number_of_ranks():
    ids, gradients, _ = BATCHES[0]

    def run(exchange):
        table = ShardedTable(ROWS, DIM, "sgd", exchange=exchange)
        own = RowGradient(*(share(x, exchange.rank, exchange.ranks) for x in (ids, gradients)))
        return root(table.store.squares(table.store.exchange_gradient([own])))

    summed = np.zeros((ROWS, DIM))
    np.add.at(summed, ids, gradients)
    [norm] = run_ranks(1, run)
    assert norm == pytest.approx(np.linalg.norm(summed), rel=1e-6)
    assert {*run_ranks(2, run), *run_ranks(3, run), *run_ranks(4, run)} == {norm}


def test_a_gradient_that_was_exchanged_can_be_scaled_before_the_step():
    ids, gradients, rate = BATCHES[0]

    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", seed=3, exchange=exchange)
        own = RowGradient(*(share(x, exchange.rank, exchange.ranks) for x in (ids, gradients)))
        sent = table.store.exchange_gradient([own])
        table.apply(sent.with_values(sent.values * np.float32(0.3)), rate)
        return contents(table)

    whole = Table(ROWS, DIM, "adam", seed=3)
    whole.update(ids, gradients * np.float32(0.3), rate)
    assert_same_bits(run_ranks(3, run)[0], contents(whole))


def test_passes_are_summed_one_after_the_other_over_all_ranks():
    (ids, gradients, rate), (more_ids, more, _) = BATCHES[:2]

    def run(exchange):
        def own(*arrays):
            return RowGradient(*(share(x, exchange.rank, exchange.ranks) for x in arrays))

        table = ShardedTable(ROWS, DIM, "adam", seed=3, exchange=exchange)
        table.apply([own(ids, gradients), own(more_ids, more)], rate)
        return contents(table)

    whole = Table(ROWS, DIM, "adam", seed=3)
    whole.update(np.concatenate([ids, more_ids]), np.concatenate([gradients, more]), rate)
    assert_same_bits(run_ranks(3, run)[0], contents(whole))


def test_untrained_rows_are_filled_as_in_one_process():
    whole = Table(ROWS, DIM, "adam", seed=3)
    train(whole)
    some = np.array([0, 1, *whole.untrained()[:4]])

    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", seed=3, exchange=exchange)
        train(table, exchange.rank, exchange.ranks)
        ids = some[exchange.rank :: exchange.ranks]
        with pytest.raises(UntrainedError, match=r"^rank 0: row \d+, asked for at position"):
            table.lookup(ids, untrained="error")
        return [table.lookup(ids, untrained=how) for how in ("zeros", "mean")]

    for rank, (zeros, mean) in enumerate(run_ranks(2, run)):
        assert_same_bits(
            [zeros, mean], [whole.lookup(some[rank::2], untrained=how) for how in ("zeros", "mean")]
        )


# ---------------------------------------------------------------------- errors


def errors_of(ranks, function):
    """The errors of all ranks, as (type, text), of function(table, rank); nothing has changed."""

    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", seed=3, exchange=exchange)
        before = contents(table)
        with pytest.raises((ValueError, IndexError, TypeError, RuntimeError)) as caught:
            function(table, exchange.rank)
        assert_same_bits(before, contents(table))
        return type(caught.value), str(caught.value)

    return set(run_ranks(ranks, run))


def ones(n=2, dim=DIM):
    return np.ones((n, dim), np.float32)


REFUSED = {
    "id": (
        lambda table, bad: table.lookup([0, ROWS] if bad else [1]),
        (IndexError, f"rank 1: id {ROWS} at position 1 is outside"),
    ),
    "type of ids": (
        lambda table, bad: table.lookup("a" if bad else [1]),
        (TypeError, "rank 1: ids must be integers"),
    ),
    "id of a gradient": (
        lambda table, bad: table.update([0, -1] if bad else [0, 1], ones()),
        (IndexError, "rank 1: id -1 at position 1"),
    ),
    "shape": (
        lambda table, bad: table.update([0, 1], ones(3 if bad else 2)),
        (ValueError, "rank 1: gradients have shape"),
    ),
    "nan": (
        lambda table, bad: table.update([0, 1], ones() * (np.nan if bad else 1)),
        (ValueError, "rank 1: gradient nan"),
    ),
    "rate": (
        lambda table, bad: table.update([0, 1], ones(), -1 if bad else 1),
        (ValueError, "rank 1: learning_rate=-1.0"),
    ),
    "combiner": (
        lambda table, bad: table.pool([[0]], combiner="median" if bad else "sum"),
        (ValueError, "rank 1: combiner='median'"),
    ),
    "another rate": (
        lambda table, bad: table.update([0, 1], ones(), 0.1 + bad),
        (RankMismatchError, "rank 0 has the learning rate 0.1 and rank 1 has the learning rate 1"),
    ),
    "another iteration": (
        lambda table, bad: table.update([0, 1], ones(), iteration=3 + bad),
        (RankMismatchError, "rank 0 has the iteration 3 and rank 1 has the iteration 4"),
    ),
    "another call": (
        lambda table, bad: table.lookup([1]) if bad else table.update([0, 1], ones()),
        (RankMismatchError, "rank 0 calls update and rank 1 calls lookup"),
    ),
    "another number of passes": (
        lambda table, bad: table.apply([RowGradient(np.array([1]), ones(1))] * (1 + bad)),
        (RankMismatchError, r"other numbers of backward passes since the last step: \[1, 2\]"),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_one_rank_refuses_every_rank_refuses(what):
    call, (kind, text) = REFUSED[what]
    [(raised, said)] = errors_of(2, lambda table, rank: call(table, rank == 1))
    assert raised is kind
    assert re.search(text, said), said


def test_a_rank_that_is_a_step_behind_is_found():
    def run(exchange):
        table = ShardedTable(ROWS, DIM, "sgd", exchange=exchange)
        if exchange.rank == 1:
            table.store.local.steps = 4
        table.lookup([1])

    _, errors = outcomes(2, run)
    assert [type(error) for _, error in errors] == [RankMismatchError] * 2
    assert "rank 0 is at step 0 and rank 1 is at step 4" in str(errors[0][1])


def test_another_rule_on_one_rank_is_found():
    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", exchange=exchange)
        if exchange.rank == 1:
            table.rule = "sgd"
        table.update([1], ones(1))

    _, errors = outcomes(2, run)
    assert [type(error) for _, error in errors] == [RankMismatchError] * 2
    assert "rank 0 steps by Adam(" in str(errors[0][1])
    assert "rank 1 steps by SGD(" in str(errors[1][1])


def test_tables_called_in_another_order_are_found():
    def run(exchange):
        tables = [ShardedTable(ROWS, DIM, exchange=exchange) for _ in range(2)]
        for table in tables if exchange.rank == 0 else reversed(tables):
            table.lookup([1])

    _, errors = outcomes(2, run)
    assert [type(error) for _, error in errors] == [RankMismatchError] * 2
    assert "rank 0 calls table 0 of the group and rank 1 calls table 1" in str(errors[0][1])


READS = {
    "to_numpy": lambda table: table.to_numpy(),
    "update_counts": lambda table: table.update_counts,
    "last_update": lambda table: table.last_update,
    "slot": lambda table: table.slot("momentum"),
    "form 1": lambda table: table.slot("velocity"),
}


@pytest.mark.parametrize("other", [name for name in READS if name != "slot"])
def test_ranks_that_read_different_things_are_found(other):
    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", exchange=exchange)
        READS["slot" if exchange.rank == 0 else other](table)

    _, errors = outcomes(2, run)
    assert [type(error) for _, error in errors] == [RankMismatchError] * 2
    assert re.search(rf"rank 1 .*{other};", str(errors[0][1]))


@pytest.mark.parametrize(
    ("name", "values"),
    [("rows", (300, 301)), ("dim", (4, 5)), ("rule", ("sgd", "adam")), ("seed", (1, 2))],
)
def test_other_arguments_are_found(name, values):
    def run(exchange):
        options = {"rows": 300, "dim": 4, name: values[exchange.rank]}
        ShardedTable(exchange=exchange, **options)

    _, errors = outcomes(2, run)
    assert [type(error) for _, error in errors] == [RankMismatchError] * 2
    assert f"table 0 has {name}=" in str(errors[0][1])


def test_fewer_rows_than_ranks_are_refused():
    _, errors = outcomes(3, lambda exchange: ShardedTable(2, 4, exchange=exchange))
    assert [str(error) for _, error in errors] == [
        "rank 0: rows=2 over 3 ranks leaves rank 2 without a row; use at most 2 ranks, or rows of 9"
    ] * 3


def test_a_rank_that_is_gone_is_an_error_on_the_others_at_once():
    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", exchange=exchange)
        if exchange.rank == 1:
            raise KeyboardInterrupt
        try:
            table.update([1], ones(1))
        finally:
            with pytest.raises(ExchangeError, match="rank 1 is gone"):
                table.lookup([1])

    start = time.monotonic()
    _, errors = outcomes(3, run)
    assert time.monotonic() - start < 5
    lost = [str(error) for _, error in errors if isinstance(error, ExchangeError)]
    assert len(lost) == 2
    assert "lost another rank during step 1 of table 0: rank 1 is gone" in lost[0]
    assert "start again from the last checkpoint" in lost[0]


def test_a_rank_that_never_calls_is_an_error_within_the_timeout():
    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", exchange=exchange)
        if exchange.rank == 0:
            table.update([1], ones(1))

    _, errors = outcomes(2, run, timeout=0.2)
    assert [(rank, type(error)) for rank, error in errors] == [(0, ExchangeError)]
    assert "rank 1 sent nothing for 0.2 s" in str(errors[0][1])


def test_what_would_move_rows_between_ranks_is_refused():
    def run(exchange):
        table = ShardedTable(ROWS, DIM, exchange=exchange)
        with pytest.raises(NotImplementedError, match=r"rowwise.Table.load\(path\).remap"):
            table.grow(ROWS + 1)
        with pytest.raises(TypeError, match="save it to a file"):
            copy.deepcopy(table)

    run_ranks(2, run)
