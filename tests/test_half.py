"""Tables whose weights are stored in 16 bits.

Rounded to nearest, a weight is that of dense training which rounds after each of its steps. Two
such runs, in float64 and in float32, differ where a weight before it is rounded lies so near the
middle that an error of float32 decides; the criterion is how often.
"""

import copy
import pickle

import numpy as np
import pytest

import rowwise
from helpers.oracle import Dense
from helpers.rules import RULES, each, every_rule
from rowwise import _native

HALVES = ("bfloat16", "float16")
ROWS, DIM = 40, 20
both = pytest.mark.parametrize("dtype", HALVES)


def rounded(values, dtype):
    """The nearest numbers of dtype, ties to even, as float32; none is subnormal there."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)
    fraction, exponent = np.frexp(np.asarray(values, np.float32))
    return np.ldexp(np.rint(fraction * 256) / 256, exponent).astype(np.float32)


def batches(steps, seed=0):
    """Distinct ids by a Zipf law, gradients from 1e-6 to 10, and a factor on the learning rate."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        ids = np.unique(np.minimum(rng.zipf(1.3, size=3) - 1, ROWS - 1))
        sizes = 10.0 ** rng.uniform(-6, 1, size=(len(ids), 1))
        gradients = (rng.normal(size=(len(ids), DIM)) * sizes).astype(np.float32)
        yield ids, gradients, 1 + 0.5 * np.sin(step)


def start(dtype, seed=0):
    return rounded(np.random.default_rng(seed).normal(size=(ROWS, DIM)) * 0.05, dtype)


def train(table, steps, seed=0):
    for ids, gradients, factor in batches(steps, seed):
        table.update(ids, gradients, table.learning_rate * factor)
    return table


# ---------------------------------------------------------------------- numbers


def test_float16_is_numpys():
    stored = np.arange(2**16, dtype=np.uint16)
    wide = np.empty(stored.size, np.float32)
    _native.widen(stored, "float16", wide)
    np.testing.assert_array_equal(wide, stored.view(np.float16).astype(np.float32))
    finite = wide[np.isfinite(wide)]
    middles = (finite[1:] + finite[:-1]) / 2  # and what lies beside them
    values = np.concatenate([np.nextafter(middles, s) for s in np.float32([-np.inf, np.inf])])
    values = np.concatenate(
        [values, middles, np.float32([65519, 65520, 1e38, np.inf, np.nan, -0.0])]
    )
    narrow = np.empty(values.size, np.uint16)
    _native.narrow(values, "float16", narrow)
    with np.errstate(over="ignore"):
        wanted = values.astype(np.float16)
    np.testing.assert_array_equal(narrow.view(np.float16), wanted)
    np.testing.assert_array_equal(np.signbit(narrow.view(np.float16)), np.signbit(wanted))


def test_bfloat16_is_the_upper_half_of_a_float32_rounded_to_nearest():
    stored = np.arange(2**16, dtype=np.uint16)
    wide = np.empty(stored.size, np.float32)
    _native.widen(stored, "bfloat16", wide)
    np.testing.assert_array_equal(wide, (stored.astype(np.uint32) << 16).view(np.float32))
    rng = np.random.default_rng(0)
    values = rng.normal(size=10_000).astype(np.float32)
    values[::3] = rounded(values[::3], "bfloat16") * np.float32(1 + 2**-8)  # ties
    back = np.empty(values.size, np.float32)
    narrow = np.empty(values.size, np.uint16)
    _native.narrow(values, "bfloat16", narrow)
    _native.widen(narrow, "bfloat16", back)
    np.testing.assert_array_equal(back, rounded(values, "bfloat16"))
    for special in (np.inf, -np.inf, 0.0, -0.0, np.float32(3.4e38)):
        _native.narrow(np.float32([special]), "bfloat16", narrow[:1])
        _native.widen(narrow[:1], "bfloat16", back[:1])
        assert back[0] == (np.inf if special == np.float32(3.4e38) else special)
    _native.narrow(np.float32([np.nan, -np.nan]), "bfloat16", narrow[:2])
    _native.widen(narrow[:2], "bfloat16", back[:2])
    assert np.isnan(back[:2]).all()


# ---------------------------------------------------------------------- training, to nearest


def differing(rule, dtype, steps=150):
    """Return which shares of weights differ from dense training in float64 that rounds each step:
    of the table's, of dense training in float32, and of a float32 table's rounded at the end."""
    weights = start(dtype)
    truth, dense = Dense(weights, rule), Dense(weights, rule, np.float32)
    table = rowwise.Table(ROWS, DIM, rule, init=weights, dtype=dtype)
    wide = rowwise.Table(ROWS, DIM, rule, init=weights)
    differ, looks = np.zeros(3), 0
    for step, (ids, gradients, factor) in enumerate(batches(steps)):
        rate = rule.learning_rate * factor
        for run in (truth, dense):
            run.step(ids, gradients, rate)
            run.weights[:] = rounded(run.weights, dtype)
        table.update(ids, gradients, rate)
        wide.update(ids, gradients, rate)
        if step % 25 == 24:
            ends = (table.to_numpy(), dense.weights, rounded(wide.to_numpy(), dtype))
            differ += [np.mean(end != truth.weights) for end in ends]
            looks += 1
    return differ / looks


@every_rule
@both
def test_weights_are_those_of_dense_training_that_rounds_at_each_step(rule, dtype):
    ours, dense, _ = differing(rule, dtype)
    assert ours <= 1.5 * dense + 0.003


@both
def test_rounding_once_for_many_steps_would_be_noticed(dtype):
    *_, at_the_end = differing(RULES["adam"], dtype)
    assert at_the_end > 0.2


@each(("adam", "sgd-momentum-long-decay", "lion", "pytorch-adamax", "ftrl"))
@both
def test_the_numbers_are_the_same_however_they_are_read(rule, dtype):
    weights = start(dtype)
    table = train(rowwise.Table(ROWS, DIM, rule, init=weights, dtype=dtype), 60)
    values = table.to_numpy()
    np.testing.assert_array_equal(values, rounded(values, dtype))
    looked_at = rowwise.Table(ROWS, DIM, rule, init=weights, dtype=dtype)
    for ids, gradients, factor in batches(60):
        looked_at.update(ids, gradients, rule.learning_rate * factor)
        looked_at.lookup(np.arange(ROWS))
    np.testing.assert_array_equal(looked_at.to_numpy(), values)
    bags = np.arange(ROWS).reshape(4, -1)
    np.testing.assert_array_equal(
        table.pool(bags, combiner="max"), values[bags].max(axis=1), strict=True
    )
    np.testing.assert_allclose(
        table.pool(bags, combiner="sum"), values[bags].sum(axis=1), rtol=1e-5
    )
    table.materialize([1, 2])
    table.materialize()
    np.testing.assert_array_equal(table.to_numpy(), values)


@both
def test_a_row_that_no_step_can_change_is_not_gone_through(dtype):
    """65,000 missed steps are gone through in no more time than it takes to come to rest."""
    table = rowwise.Table(1, 1000, "adamw", init="uniform", seed=0, dtype=dtype)
    table.update([0], np.ones((1, 1000)))
    for _ in range(60_000):
        table.update([], np.zeros((0, 1000)))
    far = table.lookup([0])
    before = rowwise.Table(1, 1000, "adamw", init="uniform", seed=0, dtype=dtype)
    before.update([0], np.ones((1, 1000)))
    for _ in range(300):
        before.update([], np.zeros((0, 1000)))
    np.testing.assert_array_equal(before.lookup([0]), far)


# ---------------------------------------------------------------------- at random


def test_rounding_at_random_keeps_what_nearest_loses():
    """Steps of a hundredth of the last bit: none moves a weight to nearest, all do on average."""
    ids = np.arange(500)
    nearest, random = (
        rowwise.Table(500, 8, "sgd", init=np.ones((500, 8)), seed=1, dtype="bfloat16", rounding=how)
        for how in ("nearest", "stochastic")
    )
    for _ in range(64):
        for table in (nearest, random):
            table.update(ids, np.ones((500, 8)), learning_rate=2**-14)
    np.testing.assert_array_equal(nearest.to_numpy(), 1)
    values = random.to_numpy()
    np.testing.assert_array_equal(values, rounded(values, "bfloat16"))
    assert np.mean(values) == pytest.approx(1 - 64 * 2**-14, abs=3e-4)
    assert 0.002 < np.std(values) < 0.01


@each(("adam", "sgd-momentum-long-decay", "rowwise-adagrad"))
@both
def test_rounding_at_random_follows_the_float32_table(rule, dtype):
    """The mean over many draws is that of float32 arithmetic, missed steps included."""
    seeds, total = 200, 0.0
    weights = start(dtype)
    for seed in range(seeds):
        table = rowwise.Table(
            ROWS, DIM, rule, init=weights, dtype=dtype, rounding="stochastic", seed=seed
        )
        total = total + train(table, 12).to_numpy()
    exact = train(rowwise.Table(ROWS, DIM, rule, init=weights), 12).to_numpy()
    last = np.spacing(np.float32(np.abs(exact))) * (2**16 if dtype == "bfloat16" else 2**13)
    assert np.mean(np.abs(total / seeds - exact) / np.maximum(last, 1e-7)) < 0.1


@both
def test_what_is_drawn_depends_on_seed_row_step_and_column_alone(dtype, tmp_path):
    def table(seed=5):
        return rowwise.Table(
            ROWS, DIM, "adam", init=start(dtype), dtype=dtype, rounding="stochastic", seed=seed
        )

    whole = train(table(), 40)
    np.testing.assert_array_equal(whole.lookup([3, 7]), whole.lookup([7, 3])[::-1])
    np.testing.assert_array_equal(train(table(), 40).to_numpy(), whole.to_numpy())
    assert (train(table(6), 40).to_numpy() != whole.to_numpy()).any()
    half = table()
    for step, (ids, gradients, factor) in enumerate(batches(40)):
        if step == 20:
            half.save(tmp_path / "half.safetensors")
            half = rowwise.Table.load(tmp_path / "half.safetensors")
        half.update(ids, gradients, half.learning_rate * factor)
    np.testing.assert_array_equal(half.to_numpy(), whole.to_numpy())


# ---------------------------------------------------------------------- all around


@both
def test_every_copy_of_the_kernels_gives_the_same_bits(dtype):
    def run(rounding):
        table = rowwise.Table(3000, 33, "adam", seed=0, dtype=dtype, rounding=rounding)
        rng = np.random.default_rng(0)
        for _ in range(5):
            ids = rng.integers(0, 3000, 2000)
            table.update(ids, rng.normal(size=(2000, 33)))
        return table.to_numpy()

    for rounding in ("nearest", "stochastic"):
        wanted, found, kernels = run(rounding), [], _native.kernels()
        try:
            for name in ("portable", "avx2"):
                if _native.select_kernels(name):
                    found.append(run(rounding))
        finally:
            _native.select_kernels(kernels)
        for values in found:
            np.testing.assert_array_equal(values, wanted)


@both
def test_files_and_copies_go_on_to_the_same_bits(dtype, tmp_path):
    path = tmp_path / "half.safetensors"
    table = train(rowwise.Table(ROWS, DIM, "adam", init=start(dtype), dtype=dtype), 30)
    assert table.store.state().weights.nbytes == 2 * ROWS * DIM
    table.save(path)
    copies = [
        rowwise.Table.load(path),
        rowwise.Table.load(path, mmap=True),
        copy.deepcopy(table),
        pickle.loads(pickle.dumps(table)),
    ]
    wanted = train(table, 30, seed=1).to_numpy()
    for other in copies:
        assert other.dtype == dtype
        np.testing.assert_array_equal(train(other, 30, seed=1).to_numpy(), wanted)


@both
def test_a_file_holds_the_weights_in_16_bits_for_others_to_read(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    table = train(rowwise.Table(ROWS, DIM, "adam", init=start(dtype), dtype=dtype), 30)
    table.materialize()
    table.save(tmp_path / "half.safetensors")
    weights = safetensors.load_file(tmp_path / "half.safetensors")["weights"]
    assert weights.dtype is getattr(torch, dtype)
    np.testing.assert_array_equal(weights.float().numpy(), table.to_numpy())


@both
def test_rows_are_written_grown_renewed_and_frozen(dtype):
    table = train(rowwise.Table(ROWS, DIM, "adam", init=start(dtype), dtype=dtype), 30)
    values = table.to_numpy()
    table.store.write(np.full((1, DIM), 0.3), np.array([2]))
    np.testing.assert_array_equal(table.lookup([2]), rounded(np.full((1, DIM), 0.3), dtype))
    frozen = rowwise.store.RowGradient(np.array([2, 3]), np.ones((2, DIM), np.float32))
    table.apply(frozen, frozen_row=2)
    np.testing.assert_array_equal(table.lookup([2]), rounded(np.full((1, DIM), 0.3), dtype))
    assert (table.lookup([3]) != values[3]).any()
    kept = table.to_numpy()
    table.grow(ROWS + 3, seed=0)
    np.testing.assert_array_equal(table.to_numpy()[:ROWS], kept)
    same = rowwise.Table(ROWS + 3, DIM, seed=0).to_numpy()[ROWS:]
    np.testing.assert_array_equal(table.to_numpy()[ROWS:], rounded(same, dtype))
    table.store.renew(np.array([0]), np.full((1, DIM), 0.7, np.float32))
    np.testing.assert_array_equal(table.lookup([0]), rounded(np.full((1, DIM), 0.7), dtype))


def test_what_16_bits_do_not_serve_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dtype='int8' is not one of 'float32', 'bfloat16'"):
        rowwise.Table(5, 2, dtype="int8")
    with pytest.raises(ValueError, match="rounding='up' is not 'nearest' or 'stochastic'"):
        rowwise.Table(5, 2, dtype="float16", rounding="up")
    with pytest.raises(ValueError, match="is for weights of 16 bits"):
        rowwise.Table(5, 2, rounding="stochastic")
    at_random = {"dtype": "bfloat16", "rounding": "stochastic"}
    with pytest.raises(ValueError, match="rounded to nearest, not at random: make the table"):
        rowwise.Table(500, 2, scratch=tmp_path, memory="1MB", **at_random)
    rowwise.Table(500, 2, **at_random).save(tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="rounded to nearest, not at random: make the table"):
        rowwise.Table.load(tmp_path / "half.safetensors", scratch=tmp_path, memory="1MB")
    with pytest.raises(ValueError, match="rows of bfloat16 cannot be trained in place"):
        rowwise.Table(5, 2, dtype="bfloat16").store.train_in_place(lambda *_: None)
