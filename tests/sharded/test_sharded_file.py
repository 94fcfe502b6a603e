"""One file for any number of ranks, that appears whole or not at all."""

import os
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.ranks import outcomes, run_ranks, share, zipf_batches
from rowwise import Table, Vocabulary, rules
from rowwise.errors import DamagedFileError, ExchangeError, RankMismatchError
from rowwise.sharded import ShardedTable, _file
from rowwise.sharded._file import crc32_of_both

ROWS, DIM = 2000, 5
BATCHES = zipf_batches(ROWS, DIM, steps=8, size=120)
RULE = rules.AdamW(0.01, weight_decay=0.1)


def train(table, rank=0, ranks=1, batches=BATCHES):
    for ids, gradients, rate in batches:
        table.update(share(ids, rank, ranks), share(gradients, rank, ranks), rate)
    return table


def sharded(exchange):
    table = ShardedTable(ROWS, DIM, RULE, seed=3, exchange=exchange)
    table.vocabulary = Vocabulary(["tea", "cup"])
    return train(table, exchange.rank, exchange.ranks)


@pytest.fixture
def whole(tmp_path):
    """The file that one process writes, halfway through training."""
    table = Table(ROWS, DIM, RULE, seed=3)
    table.vocabulary = Vocabulary(["tea", "cup"])
    train(table).save(tmp_path / "whole")
    return tmp_path / "whole"


@given(first=st.binary(), second=st.binary())
def test_checksums_of_runs_make_the_checksum_of_the_whole(first, second):
    both = crc32_of_both(zlib.crc32(first), zlib.crc32(second), len(second))
    assert both == zlib.crc32(first + second)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("at_once", [1 << 22, 1000])
def test_the_file_is_the_one_of_one_process(whole, tmp_path, monkeypatch, ranks, at_once):
    monkeypatch.setattr(_file, "_AT_ONCE", at_once)  # in one piece, and in many
    run_ranks(ranks, lambda exchange: sharded(exchange).save(tmp_path / "sharded"))
    assert (tmp_path / "sharded").read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["sharded", "whole"]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_training_goes_on_to_the_same_bits_with_another_number_of_ranks(whole, tmp_path, ranks):
    def run(exchange):
        table = ShardedTable.load(whole, exchange=exchange)
        assert table.vocabulary == Vocabulary(["tea", "cup"])
        assert table.steps == len(BATCHES)
        train(table, exchange.rank, exchange.ranks).save(tmp_path / "on")

    run_ranks(ranks, run)
    train(Table.load(whole)).save(tmp_path / "one")
    assert (tmp_path / "on").read_bytes() == (tmp_path / "one").read_bytes()


def test_a_table_larger_than_memory_lies_in_a_scratch_folder(whole, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def run(exchange):
        return ShardedTable.load(whole, exchange=exchange, scratch=scratch).to_numpy()

    np.testing.assert_array_equal(run_ranks(2, run)[0], Table.load(whole).to_numpy())


@pytest.mark.parametrize("what", ["missing", "cut", "weights", "states"])
def test_a_damaged_file_is_an_error_on_every_rank(whole, what):
    data = bytearray(whole.read_bytes())
    if what == "missing":
        whole.unlink()
    elif what == "cut":
        whole.write_bytes(data[:-1])
    else:
        begin = {"weights": 10_000, "states": len(data) - 2000}[what]
        data[begin] ^= 1
        whole.write_bytes(data)
    _, errors = outcomes(3, lambda exchange: ShardedTable.load(whole, exchange=exchange))
    kind = FileNotFoundError if what == "missing" else DamagedFileError
    assert [type(error) for _, error in errors] == [kind] * 3
    assert all(str(whole) in str(error) for _, error in errors)


def test_ranks_that_see_different_files_are_refused(whole, tmp_path):
    other = train(Table(ROWS, DIM, RULE, seed=4))
    other.save(tmp_path / "other")
    paths = [whole, tmp_path / "other"]
    _, errors = outcomes(2, lambda e: ShardedTable.load(paths[e.rank], exchange=e))
    assert [type(error) for _, error in errors] == [RankMismatchError] * 2


@pytest.mark.parametrize("failing", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch, failing, rank):
    if failing == "replace" and rank:
        pytest.skip("rank 0 renames")
    target = tmp_path / "table"
    real, seen = getattr(os, failing), []

    def run(exchange):
        table = sharded(exchange)
        table.save(target)
        before = target.read_bytes()
        train(table, exchange.rank, 2)
        if exchange.rank == rank:
            seen.append(threading.get_ident())
        table.lookup([1])  # until both are here
        with pytest.raises(OSError, match="no room"):
            table.save(target)
        table.lookup([1])  # until rank 0 has removed what was written
        assert target.read_bytes() == before
        assert os.listdir(tmp_path) == ["table"]
        seen.clear()
        table.lookup([1])
        table.save(target)
        return table.steps

    def fail(*args, **options):
        if threading.get_ident() in seen:
            raise OSError("no room")
        return real(*args, **options)

    monkeypatch.setattr(os, failing, fail)
    assert run_ranks(2, run) == [16, 16]
    assert Table.load(target).steps == 16


@pytest.mark.parametrize("gone", [0, 1])
def test_a_rank_that_dies_while_saving_leaves_the_old_file(tmp_path, monkeypatch, gone):
    target, real = tmp_path / "table", os.write
    dying = []

    def run(exchange):
        table = sharded(exchange)
        table.save(target)
        if exchange.rank == gone:
            dying.append(threading.get_ident())
        table.lookup([1])
        table.save(target)

    def write(*args):
        if threading.get_ident() in dying:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(os, "write", write)
    _, errors = outcomes(2, run)
    assert {type(error) for _, error in errors} == {KeyboardInterrupt, ExchangeError}
    assert os.listdir(tmp_path) == ["table"]
    assert Table.load(target).steps == len(BATCHES)
