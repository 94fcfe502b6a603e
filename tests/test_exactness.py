"""Row-by-row training gives the numbers of dense training.

The criterion. Every scenario runs three times with the same steps: rowwise, `Dense` in float64 (the
truth) and `Dense` in float32 (what a dense float32 run gives). An element's error is its distance
from the truth in units of the last place (ulps) of the largest value that could have been rounded
on its way. Over a group of rows, the largest error of rowwise may be no larger than the largest
error of the dense float32 run, but for a slack: both are sums of random roundings, and two equally
good float32 runs differ by up to half, and where hardly anything has been rounded, by 3 ulps.

`test_the_criterion_rejects_...` proves that the criterion has teeth.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rowwise
from helpers.oracle import Dense, slots_of, summed_in_blocks
from helpers.rules import GROWING, RULES, each, every_family, every_rule

ULP = 2.0**-23  # of a float32 between 1 and 2
TINY = float(np.finfo(np.float32).tiny)  # below it a float32 has fewer digits
SLACK, FLOOR = 1.5, 3.0
RARELY = 6.0  # ulps of error after a few steps and thousands of skipped ones


class Judge:
    """The two dense runs of a scenario, and how much could have been rounded at each element."""

    def __init__(self, weights, rule):
        self.truth = Dense(weights, rule, np.float64)
        self.dense = Dense(weights, rule, np.float32)
        self.decay = {name: decay for name, (_, decay) in slots_of(rule).items()}
        self.scale = {name: np.abs(value) for name, value in contents(self.truth).items()}

    def step(self, ids, gradients, lr):
        self.truth.step(ids, gradients, lr)
        self.dense.step(ids, gradients, lr)
        weight_decay = abs(1 - lr * (self.truth.rule.weight_decay or 0.0))
        for name, value in contents(self.truth).items():
            scale = self.scale[name]
            scale *= self.decay.get(name, weight_decay)
            np.maximum(scale, np.abs(value), out=scale)

    def error(self, name, value, rows=slice(None)):
        """The largest error among these rows, in ulps."""
        truth, scale = contents(self.truth)[name][rows], self.scale[name][rows]
        return np.max(np.abs(value - truth) / (ULP * scale + TINY), initial=0.0)

    def complaints(self, values, rows=slice(None)):
        """Return where values, of these rows alone, are worse than those of the dense run."""
        found = []
        for name, value in values.items():
            ours = self.error(name, value, rows)
            dense = self.error(name, contents(self.dense)[name][rows], rows)
            if not ours <= SLACK * dense + FLOOR:  # a NaN is a complaint too
                found.append(f"{name}: {ours:.3g} ulps, dense float32 {dense:.3g} ulps")
        return found


def contents(run):
    """{name: (V, D)}: the weights and the slots of a dense run or of a table."""
    if isinstance(run, Dense):
        return {"weights": run.weights, **run.slots}
    return {"weights": run.to_numpy(), **{name: run.slot(name) for name in run.slot_names}}


def assert_as_good_as_dense(table, judge, groups=None):
    values = contents(table)
    for label, rows in (groups or {"all rows": slice(None)}).items():
        worse = judge.complaints({name: value[rows] for name, value in values.items()}, rows)
        assert not worse, f"step {judge.truth.steps}, {label}: {worse}"


# Scenarios


def start(rows, dim, seed=0):
    return np.random.default_rng(seed).uniform(-0.05, 0.05, (rows, dim)).astype(np.float32)


def draw_gradients(rng, row_size, ids, dim):
    """(len(ids), dim) float32 from 1e-9 to 1e2: even rows keep to their own size, odd ones jump."""
    jump = rng.uniform(-9, 2, len(ids))
    own = row_size[ids] + rng.uniform(-0.5, 0.5, len(ids))
    size = 10.0 ** np.clip(np.where(ids % 2, jump, own), -9, 2)
    return (rng.normal(size=(len(ids), dim)) * size[:, None]).astype(np.float32)


def rates_of(rule, noise):
    """A learning rate per step: warm-up, cosine, nothing for a while, a jump, noise."""
    t = np.arange(len(noise)) / len(noise)
    rates = rule.learning_rate * np.minimum(1, 20 * t + 0.01) * (0.55 + 0.45 * np.cos(np.pi * t))
    rates[(t > 0.3) & (t < 0.35)] = 0
    rates[(t > 0.5) & (t < 0.6)] *= 10
    return np.maximum(rates * noise, least_rate(rule)).tolist()


def least_rate(rule):
    """Ftrl divides by its rate; all others can do with none."""
    return rule.learning_rate / 100 if rule.name == "ftrl" else 0.0


RARE_GROUPS = {
    "rows touched once in a thousand steps": slice(20, 30),
    "rows touched twice ever": slice(30, 36),
    "rows never touched": slice(36, 40),
}
GROUPS = {
    "rows touched at every step": slice(0, 10),
    "rows touched every tenth step": slice(10, 20),
    **RARE_GROUPS,
}


@cache
def drawn(steps, dim, seed):
    """((ids, gradients) of each step, noise of its learning rate), over 40 rows in these groups.

    They are the same for every rule, and drawing them takes as long as training on them.
    """
    rng = np.random.default_rng(seed)
    row_size = rng.permutation(np.linspace(-9, 2, 40))
    twice = rng.integers(steps, size=(6, 2))
    noise = np.where(np.arange(steps) / steps > 0.8, rng.uniform(0, 2, steps), 1)
    batches = []
    for t in range(steps):
        touched = np.concatenate(
            [
                np.arange(10),
                10 + np.flatnonzero(rng.random(10) < 0.1),
                20 + np.flatnonzero(rng.random(10) < 0.001),
                30 + np.flatnonzero((twice == t).any(axis=1)),
            ]
        )
        ids = rng.permutation(np.concatenate([touched, rng.choice(touched, 3)]))
        batches.append((ids, draw_gradients(rng, row_size, ids, dim)))
    return batches, noise


def history(rule, steps=3000, dim=3, seed=0):
    """(ids, gradients, learning rate) of each step."""
    batches, noise = drawn(steps, dim, seed)
    for (ids, gradients), lr in zip(batches, rates_of(rule, noise), strict=True):
        yield ids, gradients, lr


# The promise


@every_rule
def test_rows_untouched_for_a_thousand_steps_equal_dense_training(rule):
    weights = start(40, 3)
    table, judge = rowwise.Table(40, 3, rule, init=weights), Judge(weights, rule)
    for ids, gradients, lr in history(rule):
        table.update(ids, gradients, lr)
        judge.step(ids, gradients, lr)
    assert_as_good_as_dense(table, judge, GROUPS)
    if rule in GROWING:
        return
    # Three thousand small roundings are not made at all: an error of a few ulps is left, where
    # dense float32 is off by up to hundreds.
    for label, rows in RARE_GROUPS.items():
        for name, value in contents(table).items():
            assert judge.error(name, value[rows], rows) <= RARELY, f"{label}: {name}"


@every_rule
def test_a_look_in_the_middle_sees_the_dense_value(rule):
    rng = np.random.default_rng(1)
    weights = start(40, 3)
    table, judge = rowwise.Table(40, 3, rule, init=weights), Judge(weights, rule)
    for ids, gradients, lr in history(rule, steps=400, seed=1):
        table.update(ids, gradients, lr)
        judge.step(ids, gradients, lr)
        if rng.random() < 0.2:
            seen = rng.integers(40, size=rng.integers(1, 20))
            assert not judge.complaints({"weights": table.lookup(seen)}, seen)
        if rng.random() < 0.02:
            assert_as_good_as_dense(table, judge, GROUPS)


@every_rule
def test_training_goes_on_as_well_after_syncs(rule):
    rng = np.random.default_rng(2)
    weights = start(40, 3)
    table, judge = rowwise.Table(40, 3, rule, init=weights), Judge(weights, rule)
    for ids, gradients, lr in history(rule, steps=1000, seed=2):
        table.update(ids, gradients, lr)
        judge.step(ids, gradients, lr)
        if rng.random() < 0.01:
            table.materialize()
    assert_as_good_as_dense(table, judge, GROUPS)


@every_rule
def test_sync_changes_no_value_beyond_rounding(rule):
    table = rowwise.Table(40, 3, rule, seed=0)
    for ids, gradients, lr in history(rule, steps=300, seed=3):
        table.update(ids, gradients, lr)
    before, counts = contents(table), (table.steps, table.update_counts, table.last_update)
    table.materialize()
    for name, value in contents(table).items():
        np.testing.assert_allclose(value, before[name], rtol=2 * ULP, atol=TINY)
    assert table.steps == counts[0]
    np.testing.assert_array_equal(table.update_counts, counts[1])
    np.testing.assert_array_equal(table.last_update, counts[2])


@each(["sgd-nesterov", "rmsprop-centered-momentum-decay", "adagrad", "adamw"])
@pytest.mark.parametrize("dim", [1, 3, 8, 15, 16, 17, 33, 257])
def test_rows_of_any_width(rule, dim):
    weights = start(40, dim)
    table, judge = rowwise.Table(40, dim, rule, init=weights), Judge(weights, rule)
    for ids, gradients, lr in history(rule, steps=40, dim=dim, seed=11):
        table.update(ids, gradients, lr)
        judge.step(ids, gradients, lr)
    assert_as_good_as_dense(table, judge)


# Any history at all

touches = st.tuples(
    st.just("touch"),
    st.lists(st.integers(0, 7), min_size=1, max_size=12),
    st.floats(-9, 2),
)
events = st.one_of(
    touches,
    touches,
    st.tuples(st.just("gap"), st.sampled_from([1, 2, 3, 10, 40, 150, 700]), st.booleans()),
    st.tuples(st.just("look"), st.lists(st.integers(0, 7), max_size=5)),
    st.tuples(st.just("look at all")),
    st.tuples(st.just("sync")),
)
rates = st.sampled_from(["constant", "random", "zero at times", "jumping", "falling"])


def rate(kind, base, t, rng):
    match kind:
        case "constant":
            return base
        case "random":
            return base * rng.uniform(0, 3)
        case "zero at times":
            return base * (t % 20 < 12)
        case "jumping":
            return base * (0.1, 1.0, 10.0)[t // 17 % 3]
        case "falling":
            return base * 0.99**t


@every_rule
@settings(max_examples=12)
@given(
    events=st.lists(events, min_size=2, max_size=14),
    rates=rates,
    dim=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_history_equals_dense_training(rule, events, rates, dim, seed):
    rng = np.random.default_rng(seed)
    weights = start(9, dim, seed)
    table, judge = rowwise.Table(9, dim, rule, init=weights), Judge(weights, rule)

    def step(ids, gradients):
        lr = max(rate(rates, rule.learning_rate, table.steps, rng), least_rate(rule))
        table.update(ids, gradients, lr)
        judge.step(ids, gradients, lr)

    for event in events:
        match event:
            case ("touch", ids, size):
                step(ids, rng.normal(size=(len(ids), dim)) * 10.0**size)
            case ("gap", length, busy):
                for _ in range(length):  # row 8 is touched in gaps alone
                    step([8] * busy, rng.normal(size=(int(busy), dim)))
            case ("look", ids):
                assert not judge.complaints({"weights": table.lookup(ids)}, ids)
            case ("look at all",):
                assert_as_good_as_dense(table, judge)
            case ("sync",):
                table.materialize()
    assert_as_good_as_dense(table, judge)


# The edges of time and of the learning rate


@every_family
def test_empty_batches_are_steps(rule):
    weights = start(3, 2)
    table, judge = rowwise.Table(3, 2, rule, init=weights), Judge(weights, rule)
    nothing = np.empty(0, np.int64), np.empty((0, 2), np.float32)
    for batch in [nothing, ([1], [[0.3, -2.0]]), nothing, nothing, ([1, 0], np.ones((2, 2)))]:
        table.update(*batch)
        judge.step(*batch, rule.learning_rate)
    assert table.steps == 5
    assert_as_good_as_dense(table, judge)


SHRINKING = [
    "sgd-decay",
    "sgd-momentum-long-decay",
    "sgd-nesterov-short-decay",
    "rmsprop-momentum-decay",
    "adagrad-epsilon-large-decay",
    "adam-decay",
    "adam-betas-short-decay",
    "adam-beta-2-shorter-than-beta-1-decay",
    "adamw-decay-strong",
]


@each(SHRINKING)
@pytest.mark.parametrize("factor", [0.0, -0.5, -1.0])
def test_a_step_whose_weight_decay_takes_everything_or_more(rule, factor):
    weights = start(6, 2)
    table, judge = rowwise.Table(6, 2, rule, init=weights), Judge(weights, rule)
    rng = np.random.default_rng(4)
    for t in range(60):
        ids = rng.choice(5, size=2) if t % 9 < 3 else []  # row 5 is never touched
        gradients = rng.normal(size=(len(ids), 2))
        lr = rule.learning_rate
        if t in (20, 37):
            lr = (1 - factor) / rule.weight_decay
        table.update(ids, gradients, lr)
        judge.step(ids, gradients, lr)
        if t in (20, 36, 37, 45):
            assert_as_good_as_dense(table, judge)
    assert_as_good_as_dense(table, judge)


@each(["sgd-momentum-long-decay", "adamw"])
def test_a_run_of_more_than_2_to_the_16_steps(rule):
    rng = np.random.default_rng(5)
    weights = start(4, 2)
    table, judge = rowwise.Table(4, 2, rule, init=weights), Judge(weights, rule)
    for t in range(1, 2**16 + 3000):
        touched = {0: t % 500 == 0, 1: t in (1, 2**16 - 1, 2**16 + 2000), 2: t in (2**15, 2**16)}
        ids = [row for row, due in touched.items() if due]
        gradients = rng.normal(size=(len(ids), 2))
        lr = rule.learning_rate * (1 + t % 3)
        table.update(ids, gradients, lr)
        judge.step(ids, gradients, lr)
        if t in (2**16 - 1, 2**16, 2**16 + 1):
            assert_as_good_as_dense(table, judge)
    groups = {f"row {row}": [row] for row in range(4)}
    assert_as_good_as_dense(table, judge, groups)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.95])
def test_centered_rmsprop_stays_finite_when_a_gradient_never_changes(rho):
    """The variance v - a^2 is then all rounding error, and no root of it may be taken below 0."""
    table = rowwise.Table(1, 64, rowwise.rules.RMSprop(rho=rho, centered=True), init="zeros")
    gradient = np.random.default_rng(10).uniform(1, 100, (1, 64))
    for _ in range(300):
        table.update([0], gradient)
    assert np.isfinite(table.to_numpy()).all()


# What holds bit for bit


@every_family
def test_lookup_never_changes_the_table(rule):
    looked_at, left_alone = (rowwise.Table(40, 3, rule, seed=0) for _ in range(2))
    rng = np.random.default_rng(6)
    for ids, gradients, lr in history(rule, steps=60, seed=6):
        looked_at.lookup(rng.integers(40, size=30))
        looked_at.to_numpy()
        for name in looked_at.slot_names:
            looked_at.slot(name)
        looked_at.update(ids, gradients, lr)
        left_alone.update(ids, gradients, lr)
    assert_same_bits(looked_at, left_alone)


@every_family
def test_a_lookup_sees_what_to_numpy_sees(rule):
    table = rowwise.Table(40, 3, rule, seed=0)
    for ids, gradients, lr in history(rule, steps=60, seed=7):
        table.update(ids, gradients, lr)
    np.testing.assert_array_equal(table.lookup(np.arange(40)), table.to_numpy())


@pytest.fixture
def threads():
    before = rowwise.get_num_threads()
    yield rowwise.set_num_threads
    rowwise.set_num_threads(before)


@cache
def large_batches():
    """(ids, gradients, ids to look up) of four steps, whose distinct ids several threads share."""
    rng = np.random.default_rng(8)
    batches = []
    for _ in range(4):
        ids = np.minimum(rng.zipf(1.3, 20_000) - 1, 29_999)
        ids[::2] = rng.integers(30_000, size=10_000)
        assert len(np.unique(ids)) > 16 * 512  # with less an OpenMP team is not asked for help
        gradients = rng.normal(size=(20_000, 8)).astype(np.float32)
        batches.append((ids, gradients, rng.integers(30_000, size=20_000)))
    return batches


@every_rule
def test_same_bits_for_any_number_of_threads(rule, threads):
    def train():
        table = rowwise.Table(30_000, 8, rule, seed=8)
        looks = []
        for ids, gradients, seen in large_batches():
            table.update(ids, gradients)
            looks.append(table.lookup(seen))
        return table, looks

    threads(1)
    alone, alone_looks = train()
    for n in (2, 5):
        threads(n)
        together, looks = train()
        assert_same_bits(together, alone)
        np.testing.assert_array_equal(looks, alone_looks)
        together.materialize()
    threads(1)
    alone.materialize()
    assert_same_bits(together, alone)


def test_many_can_look_at_once(threads):
    threads(2)
    rng = np.random.default_rng(12)
    table = rowwise.Table(30_000, 8, "adam", seed=12)
    for _ in range(3):
        table.update(rng.integers(30_000, size=5000), rng.normal(size=(5000, 8)))
    ids = rng.integers(30_000, size=20_000)
    expected = table.lookup(ids)
    with ThreadPoolExecutor(4) as pool:
        for seen in pool.map(table.lookup, [ids] * 40):
            np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_duplicates_are_summed_in_batch_order_64_at_a_time(n, threads):
    threads(n)
    rng = np.random.default_rng(9)
    ids = np.minimum(rng.zipf(1.2, 20_000) - 1, 999)
    gradients = (rng.normal(size=(20_000, 3)) * 10.0 ** rng.uniform(-4, 4, (20_000, 1))).astype("f")
    table = rowwise.Table(1000, 3, rowwise.rules.SGD(learning_rate=1.0), init="zeros")
    table.update(ids, gradients)

    total = np.zeros((1000, 3), np.float32)
    for row in np.unique(ids):
        total[row] = summed_in_blocks(gradients[ids == row])
    np.testing.assert_array_equal(table.to_numpy(), -total)


def assert_same_bits(one, other):
    assert one.steps == other.steps
    np.testing.assert_array_equal(one.update_counts, other.update_counts)
    np.testing.assert_array_equal(one.last_update, other.last_update)
    theirs = contents(other)
    for name, value in contents(one).items():
        np.testing.assert_array_equal(value.view(np.int32), theirs[name].view(np.int32))


# The criterion itself: a right way passes, and subtly wrong ways fail


class RoundedWhenTouched(Dense):
    """The model of a table: exact through a gap, rounded to float32 when a row is written."""

    def step(self, ids, gradients, lr):
        before = {name: value.copy() for name, value in contents(self).items()}
        super().step(ids, gradients, lr)
        touched = np.unique(np.asarray(ids, np.int64))
        idle = np.delete(np.arange(len(self.weights)), touched)
        self.age = getattr(self, "age", np.zeros((len(self.weights), 1))) + 1
        self.age[touched] = 0
        self.gap(idle, {name: value[idle] for name, value in before.items()}, lr)
        for value in contents(self).values():
            value[touched] = value[touched].astype(np.float32)

    def gap(self, idle, before, lr):
        """Make a step of rows that are not in it, in float64: the truth."""


class LazyOptimizer(RoundedWhenTouched):
    """Rows that are not in the batch stand still."""

    def gap(self, idle, before, lr):
        for name, value in contents(self).items():
            value[idle] = before[name]


class LazyWeights(RoundedWhenTouched):
    """The slots decay as they should, and the weights stand still."""

    def gap(self, idle, before, lr):
        self.weights[idle] = before["weights"]


class LazyDecay(RoundedWhenTouched):
    """Weight decay reaches only the rows in the batch."""

    def gap(self, idle, before, lr):
        self.weights[idle] += before["weights"] * lr * self.rule.weight_decay


class RateOfToday(RoundedWhenTouched):
    """A skipped step is done with the learning rate which the rule started from."""

    def gap(self, idle, before, lr):
        moved = self.weights[idle] - before["weights"]
        self.weights[idle] += moved * (self.rule.learning_rate / lr - 1 if lr else 0)


class EpsilonFactoredOut(RoundedWhenTouched):
    """Adam's denominator sqrt(v) + epsilon decays as a whole, and epsilon with it."""

    def gap(self, idle, before, lr):
        moved = self.weights[idle] - before["weights"]
        denominator = np.sqrt(self.slots["velocity"][idle])
        shrunk = self.rule.epsilon * self.rule.beta_2 ** (self.age[idle] / 2)
        right = (denominator + self.rule.epsilon) / (denominator + shrunk)
        self.weights[idle] += moved * (right - 1)


def verdict(kind, rule):
    """The groups in which this way of training is worse than a dense float32 run."""
    weights = start(40, 3)
    run, judge = kind(weights, rule), Judge(weights, rule)
    for ids, gradients, lr in history(rule):
        run.step(ids, gradients, lr)
        judge.step(ids, gradients, lr)
    values = contents(run)
    return {
        label
        for label, rows in GROUPS.items()
        if judge.complaints({name: value[rows] for name, value in values.items()}, rows)
    }


@each(["sgd-momentum-long-decay", "rmsprop-centered-momentum-decay", "adagrad", "adam", "adamw"])
def test_the_criterion_accepts_exact_gaps(rule):
    assert verdict(RoundedWhenTouched, rule) == set()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (LazyOptimizer, "sgd-momentum"),
        (LazyOptimizer, "sgd-decay"),
        (LazyOptimizer, "rmsprop"),
        (LazyOptimizer, "adam"),
        (LazyWeights, "sgd-nesterov"),
        (LazyWeights, "rmsprop-momentum"),
        (LazyWeights, "adam"),
        (LazyDecay, "sgd-decay"),
        (LazyDecay, "adagrad-epsilon-large-decay"),
        (LazyDecay, "adamw"),
        (RateOfToday, "sgd-momentum"),
        (RateOfToday, "adam"),
        (EpsilonFactoredOut, "adam"),
        (EpsilonFactoredOut, "adam-epsilon-large"),
    ],
)
def test_the_criterion_rejects_a_wrong_gap(kind, name):
    rejected = verdict(kind, RULES[name])
    assert "rows touched once in a thousand steps" in rejected
    assert "rows touched twice ever" in rejected
    assert "rows touched at every step" not in rejected
