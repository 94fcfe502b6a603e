"""Rows of the next batch that travel while a step is computed are exact."""

import numpy as np
import pytest

from helpers.ranks import run_ranks, share, zipf_batches
from helpers.rules import every_family
from rowwise import Table
from rowwise.sharded import ShardedTable

ROWS, DIM = 3000, 5
BATCHES = zipf_batches(ROWS, DIM, steps=10, size=160)


@every_family
def test_values_are_those_of_a_lookup_after_the_step(rule):
    whole = Table(ROWS, DIM, rule, seed=3)
    expected = []
    for ids, gradients, rate in BATCHES:
        expected.append(whole.lookup(ids))
        whole.update(ids, gradients, rate)

    def run(exchange):
        table = ShardedTable(ROWS, DIM, rule, seed=3, exchange=exchange)
        own = [[share(x, exchange.rank, 2) for x in batch[:2]] for batch in BATCHES]
        seen, early = [table.lookup(own[0][0])], 0
        for step, (ids, gradients) in enumerate(own):
            upcoming = own[min(step + 1, len(own) - 1)][0]
            with table.prefetch(upcoming, BATCHES[step][2]):
                if table.store._ahead is not None:
                    early += int((~table.store._ahead.late).sum())
                table.update(ids, gradients, BATCHES[step][2])
            if table.store._ahead is not None:
                assert table.store._ahead.valid
                assert table.store._ahead.version == table.store.version
            seen.append(table.lookup(upcoming))
        return seen, early, table.to_numpy()

    results = run_ranks(2, run)
    for step, values in enumerate(expected):
        both = np.concatenate([seen[step] for seen, _, _ in results])
        assert both.tobytes() == values.tobytes()
    assert results[0][2].tobytes() == whole.to_numpy().tobytes()
    assert (results[0][1] > 100) == rule.supports_lazy


@pytest.mark.parametrize("what", ["rate", "rows", "write", "ids", "no step", "two steps"])
def test_another_step_than_was_said_is_noticed(what):
    (ids, gradients, _), (upcoming, _, _) = BATCHES[:2]

    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", seed=3, exchange=exchange)
        whole = ShardedTable(ROWS, DIM, "adam", seed=3, exchange=exchange)
        table.lookup(ids)
        then = upcoming[::-1] if what == "ids" and exchange.rank == 1 else upcoming
        with table.prefetch(upcoming, 0.1):
            for one in (table, whole):
                if what == "no step":
                    continue
                batch = upcoming[: len(ids)] if what == "rows" else ids
                one.update(batch, gradients, 0.2 if what == "rate" else 0.1)
                if what == "two steps":
                    one.update(ids, gradients, 0.1)
                if what == "write":
                    one.store.write(np.zeros((1, DIM)), np.setdiff1d(upcoming, ids)[:1])
        return table.lookup(then).tobytes() == whole.lookup(then).tobytes()

    assert run_ranks(2, run) == [True, True]


def test_a_bad_id_is_an_error_on_every_rank():
    def run(exchange):
        table = ShardedTable(ROWS, DIM, "adam", exchange=exchange)
        bad = [ROWS if exchange.rank else 0]
        with pytest.raises(IndexError, match=f"rank 1: id {ROWS}"), table.prefetch(bad):
            raise AssertionError("not reached")

    run_ranks(2, run)
