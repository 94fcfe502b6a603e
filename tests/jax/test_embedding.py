"""`rowwise.jax`: lookups and steps beside optax's dense training of the whole matrix."""

import copy
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rowwise
import rowwise.jax as rj

optax = pytest.importorskip("optax")

ROWS, DIM = 40, 4
START = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype("float32")
RNG = np.random.default_rng(1)
BATCHES = [  # with repeated ids, and rows that lag behind
    (jnp.asarray(RNG.integers(0, ROWS, 6), "int32"), jnp.asarray(RNG.normal(size=6), "float32"))
    for _ in range(10)
]
IDS, ANSWERS = BATCHES[0]
SCHEDULE = optax.cosine_decay_schedule(0.1, 8)
Error = jax.errors.JaxRuntimeError


class Run:
    """A model with a table, its optimizer, and a jitted step."""

    def __init__(self, wrap=lambda tx: tx, dense=None, rows=None, **options):
        self.embedding = rj.Embedding(table=rowwise.Table(ROWS, DIM, init=START), **options)
        self.params = {"rows": self.embedding.token(), "w": jnp.ones(DIM)}
        self.tx = wrap(rj.optimizer(dense or optax.sgd(0.1), rows or rj.sgd(0.1)))
        self.state = self.tx.init(self.params)
        self.jitted = jax.jit(self.step)

    def loss(self, params, ids, answers):
        vectors = self.embedding(params["rows"], ids) + self.embedding(params["rows"], ids[::-1])
        return jnp.mean((vectors @ params["w"] - answers) ** 2)

    def step(self, params, state, ids, answers):
        loss, grads = jax.value_and_grad(self.loss)(params, ids, answers)
        updates, state = self.tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def train(self, *batches):
        for ids, answers in batches:
            self.params, self.state, loss = self.jitted(self.params, self.state, ids, answers)
            jax.block_until_ready(loss)
        return self

    @property
    def array(self):
        return self.embedding.table.to_numpy()


def dense_loss(params, ids, answers):
    vectors = params["rows"][ids] + params["rows"][ids[::-1]]
    return jnp.mean((vectors @ params["w"] - answers) ** 2)


def dense_training(tx, batches):
    """Train the whole matrix by optax; return the parameters."""
    params = {"rows": jnp.asarray(START), "w": jnp.ones(DIM)}
    state = tx.init(params)

    @jax.jit
    def step(params, state, ids, answers):
        grads = jax.grad(dense_loss)(params, ids, answers)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for batch in batches:
        params, state = step(params, state, *batch)
    return params


def assert_same(run, params):
    np.testing.assert_allclose(run.array, params["rows"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(run.params["w"], params["w"], rtol=0, atol=1e-5)


# ---------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("name", "rate", "options"),
    [
        ("sgd", 0.1, {}),
        ("sgd", SCHEDULE, {"momentum": 0.9}),
        ("sgd", SCHEDULE, {"momentum": 0.9, "nesterov": True}),
        ("adam", SCHEDULE, {"b1": 0.8, "eps": 1e-3}),
        ("adamw", SCHEDULE, {"weight_decay": 0.2}),
        ("nadam", 0.1, {}),
        ("nadamw", SCHEDULE, {"weight_decay": 0.2}),
        ("adamax", 0.1, {"eps": 1e-3}),
        ("adamaxw", SCHEDULE, {"weight_decay": 0.2}),
        ("rmsprop", SCHEDULE, {"momentum": 0.9, "eps": 1e-3}),
        ("rmsprop", 0.01, {"centered": True, "eps": 1e-3}),
        ("rmsprop", SCHEDULE, {"eps_in_sqrt": False}),
        ("adagrad", 0.1, {}),
        ("adadelta", 10.0, {"rho": 0.8}),
        ("lion", SCHEDULE, {"weight_decay": 0.2}),
    ],
)
def test_rows_are_those_of_optax_training_the_whole_matrix(name, rate, options):
    dense = getattr(optax, name)(rate, **options)
    run = Run(dense=dense, rows=getattr(rj, name)(rate, **options)).train(*BATCHES)
    assert_same(run, dense_training(dense, BATCHES))


@pytest.mark.parametrize(
    ("dtype", "rounding"), [("bfloat16", "nearest"), ("float16", "stochastic")]
)
def test_a_table_of_16_bits_trains_to_the_bits_of_its_own_updates(dtype, rounding):
    rows = rj.adam(0.125)
    alone, table = (
        rowwise.Table(ROWS, DIM, rows.rule, init=START, seed=0, dtype=dtype, rounding=rounding)
        for _ in range(2)
    )
    run = Run(rows=rows)
    run.embedding = rj.Embedding(table=table)
    run.params["rows"] = run.embedding.token()
    run.loss = lambda params, ids, answers: run.embedding(params["rows"], ids).sum(-1) @ answers
    for ids, answers in BATCHES:
        run.train((ids, answers))
        alone.update(ids, np.repeat(np.asarray(answers)[:, None], DIM, 1))
    assert alone.dtype == dtype
    assert (run.array == alone.to_numpy()).all()
    assert (table.slot("exp_avg_sq") == alone.slot("exp_avg_sq")).all()
    vectors = run.embedding(run.params["rows"], IDS)
    assert vectors.dtype == jnp.float32
    assert (vectors == alone.lookup(IDS)).all()


def test_rules_and_optimizers_in_each_others_place_are_refused():
    with pytest.raises(TypeError, match=r"dense must be an optimizer such as optax\.adam"):
        rj.optimizer(rj.adam(0.05), rj.adam(0.05))
    with pytest.raises(TypeError, match="rows must be a rule such as"):
        rj.optimizer(optax.adam(0.05), optax.adam(0.05))


def test_the_names_have_the_defaults_of_optax():
    dense = optax.adamw(0.01)
    assert_same(
        Run(dense=dense, rows=rj.adamw(0.01)).train(*BATCHES), dense_training(dense, BATCHES)
    )


def test_clipping_counts_every_row_once():
    clipped = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))
    run = Run(
        lambda tx: optax.chain(rj.clip_by_global_norm(0.5), tx), optax.adam(0.1), rj.adam(0.1)
    )
    assert_same(run.train(*BATCHES), dense_training(clipped, BATCHES))


def test_several_batches_make_one_step_of_their_mean():
    several = optax.MultiSteps(optax.adam(0.1), 3)
    run = Run(lambda tx: rj.multi_steps(tx, 3), optax.adam(0.1), rj.adam(0.1)).train(*BATCHES)
    assert_same(run, dense_training(several, BATCHES))
    assert run.embedding.table.steps == 3


def test_steps_within_a_scan():
    run, adam = Run(dense=optax.adam(0.1), rows=rj.adam(0.1)), optax.adam(0.1)

    @jax.jit
    def train(params, state, batches):
        def body(carry, batch):
            params, state, loss = run.step(*carry, *batch)
            return (params, state), loss

        return jax.lax.scan(body, (params, state), batches)

    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *BATCHES)
    (run.params, run.state), _ = train(run.params, run.state, stacked)
    assert_same(run, dense_training(adam, BATCHES))


def test_bags_with_learned_weights_have_the_gradients_of_a_gather():
    run = Run()
    ids, weights = jnp.array([[1, 2, 3], [1, 1, 0]]), jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]])

    def ours(params, weights):
        return jnp.sum(run.embedding.pool(params["rows"], ids, weights) ** 2)

    def gathered(rows, weights):
        sums = (rows[ids] * weights[..., None]).sum(1)
        return jnp.sum((sums / weights.sum(1, keepdims=True)) ** 2)

    of_token, of_weights = jax.jit(jax.grad(ours, (0, 1)))(run.params, weights)
    of_rows, expected = jax.grad(gathered, (0, 1))(jnp.asarray(START), weights)
    np.testing.assert_allclose(of_weights, expected, rtol=1e-5)
    run.tx.update(of_token, run.state, run.params)
    np.testing.assert_allclose(run.array, START - 0.1 * of_rows, atol=1e-6)
    with pytest.raises(TypeError, match="combiner= takes a name"):
        run.embedding.pool(run.embedding.token(), ids, "sum")
    mean = run.embedding.pool(run.embedding.token(), ids)
    np.testing.assert_allclose(mean, run.embedding.table.pool(ids), rtol=1e-6)


def test_gradients_of_each_example_may_be_averaged():
    run, batch = Run(), jnp.arange(12).reshape(4, 3)

    def loss(params, ids):
        return jnp.sum(jnp.sin(run.embedding(params["rows"], ids))) + params["w"].sum()

    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(run.params, batch)
    run.tx.update(jax.tree.map(lambda g: g.mean(0), each), run.state, run.params)
    expected = START.copy()
    expected[:12] -= 0.1 * np.cos(START[:12]) / 4
    np.testing.assert_allclose(run.array, expected, atol=1e-6)


def test_checkpointed_donated_and_half_precision_models_train():
    run = Run(rows=rj.adam(0.1))

    def loss(params, ids, answers):
        vectors = run.embedding(params["rows"], ids).astype(jnp.bfloat16)
        out = vectors @ params["w"].astype(jnp.bfloat16)
        return jnp.mean((out.astype(jnp.float32) - answers) ** 2)

    run.loss = jax.checkpoint(loss)
    run.jitted = jax.jit(run.step, donate_argnums=(0, 1))
    first = run.loss(run.params, *BATCHES[0])
    run.train(*[BATCHES[0]] * 5)
    assert run.loss(run.params, *BATCHES[0]) < first
    assert run.embedding.table.steps == 5


def test_an_id_type_of_any_width_and_steps_of_a_rule_of_ours():
    run = Run(rows=rowwise.rules.SGD(0.5), frozen_row=3)
    grads = jax.grad(run.loss)(run.params, np.array([3, 5, 5], "uint8"), jnp.zeros(3))
    updates, _ = run.tx.update(grads, run.state, run.params)
    assert set(np.flatnonzero((run.array != START).any(1))) == {5}
    token = optax.apply_updates(run.params, updates)["rows"]
    np.testing.assert_array_equal(run.embedding(token, [[5]])[0, 0], run.array[5])


def test_a_program_steps_by_the_rule_and_rate_that_the_table_has_when_it_runs(tmp_path):
    table = rowwise.Table(3, 2, rowwise.rules.SGD(0.5), init="zeros")
    embedding = rj.Embedding(table=table)
    tx = rj.optimizer(optax.sgd(0.1))
    state = tx.init([embedding.token()])

    @jax.jit
    def step(token, state):
        loss = lambda params: embedding(params[0], jnp.array([1])).sum()  # noqa: E731
        updates, state = tx.update(jax.grad(loss)([token]), state, [token])
        return optax.apply_updates([token], updates)[0], state

    def moved(token):
        before = embedding.table.lookup([1])
        token, _ = step(token, state)
        return (before - embedding.table.lookup([1])).max(), token

    by, token = moved(embedding.token())
    assert by == 0.5
    table.learning_rate = 0.25
    by, token = moved(token)
    assert by == 0.25
    table.set_hyperparameters(rowwise.rules.SGD(0.001, weight_decay=0.5))
    moved(embedding.token())
    assert table.rule == rowwise.rules.SGD(0.001, weight_decay=0.5)
    np.testing.assert_allclose(table.lookup([1]), -0.75 * (1 - 0.25 * 0.5) - 0.25)
    table.rule = "adagrad"  # with other slots
    by, token = moved(embedding.token())
    np.testing.assert_allclose(by, 0.001 / np.sqrt(1.1), rtol=1e-3)
    embedding.table.save(tmp_path / "rows.safetensors")
    by, _ = moved(embedding.load(tmp_path / "rows.safetensors"))
    assert embedding.table.steps == 5


def test_a_gradient_waits_on_where_its_step_fails():
    embedding = rj.Embedding(3, 2, init="zeros")
    loss = lambda token: embedding(token, jnp.array([1])).sum()  # noqa: E731
    by_adam, by_sgd = (rj.optimizer(optax.sgd(0.1), rows) for rows in (rj.adam(0.1), rj.sgd(0.5)))
    old = by_adam.init(embedding.token())
    step = jax.jit(by_adam.update)
    step(jax.grad(loss)(embedding.token()), old, embedding.token())
    embedding.table.rule = rj.sgd(0.5).rule
    token, before = embedding.token(), embedding.table.lookup([1])
    gradient = jax.grad(loss)(token)
    with pytest.raises(Error, match="the rule has slots"):
        jax.block_until_ready(step(gradient, old, token))
    by_sgd.update(gradient, by_sgd.init(token), token)
    np.testing.assert_array_equal(embedding.table.lookup([1]), before - 0.5)
    assert embedding.table.steps == 2


def test_shapes_are_known_without_a_step():
    run = Run()
    loss = jax.eval_shape(run.jitted, run.params, run.state, IDS, ANSWERS)[2]
    assert loss.shape == ()
    assert run.embedding.table.steps == 0


# ---------------------------------------------------------------------- misuse is refused


@pytest.mark.parametrize(
    "before",
    [
        optax.clip(1.0),
        optax.clip(2.0**50),
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.01),
        optax.add_noise(0.1, 0.5, jax.random.key(0)),
        optax.normalize_by_update_norm(),
        optax.scale(-0.1),
        optax.adaptive_grad_clip(0.1),
        optax.scale_by_sign(),
    ],
    ids=lambda tx: tx.update.__qualname__.split(".")[0],
)
def test_what_is_not_linear_may_not_touch_a_gradient(before):
    run = Run(lambda tx: optax.chain(before, tx))
    with pytest.raises(Error, match=r"rowwise\.jax\.clip_by_global_norm"):
        run.train(BATCHES[0])
    np.testing.assert_array_equal(run.array, START)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.MultiSteps(tx, 2),  # makes steps that it drops
        lambda tx: optax.chain(tx, optax.scale(0.99)),  # scales what is no difference of vectors
        lambda tx: optax.adam(0.1),  # another optimizer for the token
    ],
)
def test_a_token_that_no_step_has_given_is_refused(wrap):
    with pytest.raises(Error, match=r"embedding.token\(\) gives the token"):
        Run(wrap).train(*BATCHES[:2])


def test_clipping_each_example_is_refused():
    run = Run()
    each = jax.vmap(jax.grad(run.loss), (None, 0, 0))(run.params, IDS[None], ANSWERS[None])
    clipped = jax.tree.map(lambda g: (g / optax.tree.norm(each)).mean(0), each)
    with pytest.raises(Error, match="not by a factor"):
        run.tx.update(clipped, run.state, run.params)


def test_factors_and_skipped_batches_are_none_of_that():
    halved = Run(lambda tx: optax.chain(optax.scale(0.5), tx)).train(BATCHES[0])
    assert_same(halved, dense_training(optax.chain(optax.scale(0.5), optax.sgd(0.1)), BATCHES[:1]))
    finite = Run(lambda tx: optax.apply_if_finite(tx, 5)).train((IDS, ANSWERS * jnp.nan))
    np.testing.assert_array_equal(finite.array, START)
    assert finite.train(BATCHES[0]).embedding.table.steps == 1


def test_gradients_that_nobody_applies_make_room_for_others():
    run = Run(pending=4)
    grads = [jax.grad(run.loss)(run.params, *batch) for batch in BATCHES[:5]]
    assert run.embedding.program.waiting == 4
    for old in grads[0], grads[2]:
        with pytest.raises(Error, match=r"pending="):
            run.tx.update(old, run.state, run.params)
    updates, _ = run.tx.update(grads[-1], run.state, run.params)
    assert run.embedding.program.waiting == 0
    run.params = optax.apply_updates(run.params, updates)
    with pytest.raises(Error, match="before the table's last step"):
        run.tx.update(grads[-2], run.state, run.params)


def test_a_token_is_one_float32_vector_of_its_embedding():
    run, other = Run(), Run()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), run.params)
    with pytest.raises(TypeError, match="a token must stay float32"):
        run.loss(half, IDS, ANSWERS)
    with pytest.raises(TypeError, match="the token of this embedding is needed"):
        run.embedding(other.params["rows"], IDS)
    with pytest.raises(ValueError, match="cannot be stacked"):
        run.embedding(jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), run.params["rows"]), IDS)
    with pytest.raises(ValueError, match="have no token"):
        rj.optimizer(optax.sgd(0.1), rj.sgd(0.1)).init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="twice"):
        run.tx.init([run.params, run.params])
    with pytest.raises(ValueError, match="needs params"):
        run.tx.update(run.params, run.state)
    with pytest.raises(ValueError, match="another embedding's"):
        rj.Embedding(table=run.embedding.table)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.hessian(run.loss)(run.params, IDS, ANSWERS)
    with pytest.raises((ValueError, NotImplementedError), match=r"custom call|host_callbacks"):
        jax.export.export(jax.jit(run.loss))(run.params, IDS, ANSWERS)


# ---------------------------------------------------------------------- errors


def test_a_bad_id_ends_the_program_and_nothing_has_changed():
    run = Run(dense=optax.adam(0.1), rows=rj.adam(0.1)).train(BATCHES[0])
    before, bad = run.array, IDS.at[2].set(99)
    message = r"id 99 at position 2 is outside the table's 40 rows \(0..39\); make the table larger"
    with pytest.raises(Error, match=message):
        run.train((bad, ANSWERS))
    np.testing.assert_array_equal(run.array, before)
    assert run.embedding.program.waiting == 0
    run.train(*BATCHES[1:])
    assert_same(run, dense_training(optax.adam(0.1), BATCHES))


def test_no_table_steps_where_another_has_a_bad_id():
    first, second = rj.Embedding(ROWS, DIM, seed=1), rj.Embedding(ROWS, DIM, seed=2)
    params = [first.token(), second.token()]
    tx = rj.optimizer(optax.sgd(0.1), rj.sgd(0.1))
    state = tx.init(params)

    @jax.jit
    def step(params, state, ids):
        def loss(tokens):  # no lookup waits for another
            return sum(
                own(token, row).sum()
                for own, token, row in zip((first, second), tokens, ids, strict=True)
            )

        return tx.update(jax.grad(loss)(params), state, params)

    with pytest.raises(Error, match="id -1 at position 0"):
        jax.block_until_ready(step(params, state, jnp.array([[1], [-1]])))
    assert first.table.steps == second.table.steps == 0


def test_outside_programs_bad_ids_are_the_usual_errors():
    run = Run()
    with pytest.raises(IndexError, match=r"id 40 at position \(0, 1\) is outside"):
        jax.grad(run.loss)(run.params, np.array([[1, 40]]), 0.0)
    with pytest.raises(TypeError, match="not strings"):
        run.embedding(run.params["rows"], ["a"])
    with pytest.raises(TypeError, match="ids must be integers"):
        jax.jit(run.embedding.__call__)(run.params["rows"], jnp.ones(2))


# ---------------------------------------------------------------------- files and copies


def test_training_goes_on_from_a_file_and_tokens_of_before_are_errors(tmp_path):
    run = Run(dense=optax.adam(0.1), rows=rj.adam(0.1)).train(*BATCHES[:4])
    run.embedding.table.save(tmp_path / "rows.safetensors")
    kept = dict(run.params), run.state
    run.train(*BATCHES[4:6])
    gone = run.params["rows"]
    run.params, run.state = kept
    run.params["rows"] = run.embedding.load(tmp_path / "rows.safetensors")
    for old in gone, kept[0]["rows"]:
        if old is not run.params["rows"]:
            with pytest.raises(Error, match="a table has one state, the present one"):
                run.embedding(old, IDS)
    run.train(*BATCHES[4:])
    assert_same(run, dense_training(optax.adam(0.1), BATCHES))

    again = Run.__new__(Run)  # as another process would
    again.embedding = rj.Embedding(table=rowwise.Table.load(tmp_path / "rows.safetensors"))
    again.tx = rj.optimizer(optax.adam(0.1), rj.adam(0.05))
    state = again.tx.init({"rows": again.embedding.token(), "w": run.params["w"]})
    assert state.counts == (4,)
    with pytest.raises(ValueError, match="whose slots are of no use"):
        rj.optimizer(optax.adam(0.1), rj.adagrad(0.1)).init([again.embedding.token()])


def test_a_file_without_the_frozen_row_is_refused(tmp_path):
    rowwise.Table(5, 2).save(tmp_path / "rows.safetensors")
    embedding = rj.Embedding(9, 2, frozen_row=7)
    with pytest.raises(ValueError, match=r"has 5 rows \(0..4\), and frozen_row=7 is none of them"):
        embedding.load(tmp_path / "rows.safetensors")
    assert embedding.shape == (9, 2)


def test_a_copy_has_rows_of_its_own():
    run = Run().train(BATCHES[0])
    for copied in copy.deepcopy(run.params), pickle.loads(pickle.dumps(run.params)):
        own = copied["rows"].embedding
        np.testing.assert_array_equal(
            own(copied["rows"], IDS), run.embedding(run.params["rows"], IDS)
        )
        own.table.update([0], np.ones((1, DIM)), 0.1)
        run.embedding(run.params["rows"], IDS)


def test_python_calls_the_table_where_there_are_no_handlers(monkeypatch):
    monkeypatch.setattr("rowwise.jax._host_callback.has_handlers", lambda: False)
    run = Run(rows=rj.adam(0.1)).train(*BATCHES[:3])
    with pytest.raises(Error, match="id 99 at position 2 is outside"):
        run.train((IDS.at[2].set(99), ANSWERS))
    native = run.array
    monkeypatch.undo()
    np.testing.assert_array_equal(Run(rows=rj.adam(0.1)).train(*BATCHES[:3]).array, native)


def test_importing_it_brings_in_no_other_framework():
    code = (
        "import sys, rowwise.jax;"
        "print(sorted({'keras', 'torch', 'optax', 'flax', 'equinox'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "[]\n"
