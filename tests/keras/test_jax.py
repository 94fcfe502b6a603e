"""Keras's JAX trainer: functional steps, compiled, several at a time."""

import gc
import os
import signal
import time
import warnings
from contextlib import nullcontext

import keras
import numpy as np
import pytest
from side_by_side import (
    BACKEND,
    DIM,
    ROWS,
    apply,
    assert_equal,
    assert_sparse_steps,
    both,
    classifier,
    data,
    numpy_of,
    raised_in_a_program,
)

from rowwise.errors import UntrainedError
from rowwise.keras import BackupAndRestore, Embedding, EmbedReduce

if BACKEND != "jax":
    pytest.skip("is about what JAX alone has", allow_module_level=True)

import jax

from rowwise.jax import _host_callback as host_callback
from rowwise.jax import _push_rows as push_rows

IDS, ANSWERS = data()
needs_handlers = pytest.mark.skipif(
    not host_callback.has_handlers(), reason="the extension was built without XLA's header"
)


def fit(model, first=0, last=32, **options):
    """Batches first..last of eight sequences each."""
    part = slice(8 * first, 8 * last)
    model.fit(IDS[part], ANSWERS[part], batch_size=8, shuffle=False, verbose=0, **options)


def compiled_with(**options):
    def train(model):
        model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1), "mse", **options)
        fit(model, epochs=2)

    return train


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_execution": 3},
        {"jit_compile": True},
        {"jit_compile": False},
        {"run_eagerly": True},
        {"steps_per_execution": 3, "jit_compile": False},
    ],
    ids=str,
)
def test_steps_made_in_any_way_are_kerass(options):
    ours, theirs = both(compiled_with(**options))
    assert_sparse_steps(ours.layers[0])
    assert ours.layers[0].table.steps == 64
    assert_equal(ours, theirs, rtol=1e-4, atol=5e-6)


def test_evaluation_between_epochs_sees_the_rows_of_that_moment():
    histories = []

    def train(model):
        model.compile("adam", "mse")
        history = model.fit(
            IDS[:128],
            ANSWERS[:128],
            validation_data=(IDS[128:], ANSWERS[128:]),
            batch_size=8,
            epochs=4,
            shuffle=False,
            verbose=0,
        )
        histories.append(history.history)

    ours, theirs = both(train)
    assert_equal(ours, theirs, rtol=1e-4, atol=5e-6)
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-5)
    assert len(set(histories[0]["val_loss"])) == 4


@pytest.mark.parametrize("compiled", [False, True], ids=["step by step", "jitted"])
def test_a_loop_of_ones_own_over_values_and_gradients(compiled):
    """As in https://keras.io/guides/writing_a_custom_training_loop_in_jax/."""

    def train(model):
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)

        def loss_and_updates(trained, others, ids, answers):
            predicted, others = model.stateless_call(trained, others, ids, training=True)
            return keras.ops.mean((predicted - answers) ** 2), others

        def step(state, ids, answers):
            trained, others, slots = state
            take = jax.value_and_grad(loss_and_updates, has_aux=True)
            (loss, others), gradients = take(trained, others, ids, answers)
            trained, slots = optimizer.stateless_apply(slots, gradients, trained)
            return loss, (trained, others, slots)

        step = jax.jit(step) if compiled else step
        is_ours = isinstance(model.layers[0], Embedding)
        variables = (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
        )
        state = tuple([v.value for v in own] for own in variables)
        losses = []
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for start in range(0, 256, 8):
                loss, state = step(state, IDS[start : start + 8], ANSWERS[start : start + 8])
                losses.append(float(loss))
        told = [w for w in warned if "holds the whole table" in str(w.message)]
        assert len(told) == is_ours
        assert np.mean(losses[-8:]) < np.mean(losses[:8])
        for own, values in zip(variables, state, strict=True):
            for variable, value in zip(own, values, strict=True):
                variable.assign(value)

    assert_equal(*both(train))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("others", ["looked up too", "read alone"])
def test_a_model_that_reads_all_rows_is_trained_through_them(optimizer, others):
    """Weights tied between the way in and the way out."""

    def make(layer):
        class Tied(keras.Model):
            def __init__(self):
                super().__init__()
                self.embed, self.head = layer(ROWS, DIM), keras.layers.Dense(1)

            def call(self, ids):
                if others == "looked up too":
                    hidden = keras.ops.mean(self.embed(ids), axis=1)
                else:
                    self.embed(ids)
                    hidden = keras.ops.cast(ids, "float32")[:, :1] * keras.ops.ones((1, DIM)) / ROWS
                rows = keras.ops.convert_to_tensor(self.embed.embeddings)
                return self.head(keras.ops.matmul(hidden, keras.ops.transpose(rows)))

        keras.utils.set_random_seed(0)
        model = Tied()
        model(IDS[:1])
        return model

    def train(model):
        model.compile(optimizer, "mse")
        fit(model, epochs=2)

    ours, theirs = both(train, make)
    assert_equal(ours, theirs, rtol=1e-4, atol=5e-6)
    assert ours.embed.embeddings._callbacks == {} or not host_callback.has_handlers()


def contents(model):
    table = model.layers[0].table
    arrays = [numpy_of(v).copy() for v in (*model.weights, *model.optimizer.variables)]
    return [*arrays, table.update_counts, table.last_update, np.array(table.steps)]


@pytest.mark.parametrize(
    "options", [{}, {"steps_per_execution": 3}, {"run_eagerly": True}], ids=str
)
@pytest.mark.parametrize("optimizer", ["adam", "nadam"])
def test_a_bad_id_in_the_middle_of_fit_leaves_everything_as_after_the_step_before(
    options, optimizer
):
    """And the model trains on. Where several steps are one program, those before count too."""

    def start():
        keras.backend.clear_session(free_memory=False)
        model = classifier(Embedding)
        model.compile(optimizer, "mse", **options)
        fit(model, 0, 3)
        return model

    broken, whole = start(), start()
    fit(whole, 3, 9)
    bad = IDS.copy()
    bad[8 * 9 + 2, 4] = ROWS
    message = (
        rf"id {ROWS} at position \(2, 4\) is outside the table's {ROWS} rows \(0..{ROWS - 1}\)"
    )
    with pytest.raises(IndexError, match=message):
        broken.fit(bad[24:], ANSWERS[24:], batch_size=8, shuffle=False, verbose=0)
    for mine, other in zip(contents(broken), contents(whole), strict=True):
        np.testing.assert_array_equal(mine, other)
    for model in (broken, whole):
        fit(model, 9)
    for mine, other in zip(contents(broken), contents(whole), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("call", ["evaluate", "predict", "train_on_batch", "test_on_batch"])
def test_a_bad_id_is_raised_once_and_good_ones_go_on(call):
    model = classifier(Embedding)
    model.compile("adam", "mse")
    fit(model, 0, 3)
    before = contents(model)
    bad = IDS[:8].copy()
    bad[3, 1] = -1
    calls = {
        "evaluate": lambda: model.evaluate(bad, ANSWERS[:8], verbose=0),
        "predict": lambda: model.predict(bad, verbose=0),
        "train_on_batch": lambda: model.train_on_batch(bad, ANSWERS[:8]),
        "test_on_batch": lambda: model.test_on_batch(bad, ANSWERS[:8]),
    }
    for _ in range(2):
        with pytest.raises(IndexError, match=r"id -1 at position \(3, 1\) is outside"):
            calls[call]()
        for mine, was in zip(contents(model), before, strict=True):
            np.testing.assert_array_equal(mine, was)
        assert np.isfinite(model.predict(IDS[:8], verbose=0)).all()
    fit(model, 3, 6)
    assert model.layers[0].table.steps == 6


LARGE_ID_CALLS = {
    "layer": lambda model, ids: model.layers[0](ids),
    "model": lambda model, ids: model(ids),
    "predict": lambda model, ids: model.predict(ids, verbose=0),
    "evaluate": lambda model, ids: model.evaluate(ids, ANSWERS[:8], verbose=0),
    "fit": lambda model, ids: model.fit(ids, ANSWERS[:8], verbose=0),
    "train_on_batch": lambda model, ids: model.train_on_batch(ids, ANSWERS[:8]),
    "predict_on_batch": lambda model, ids: model.predict_on_batch(ids),
}


@pytest.mark.parametrize("call", LARGE_ID_CALLS)
def test_ids_of_more_than_32_bits_are_outside_what_jax_counts(call):
    model = classifier(Embedding)
    model.compile("adam", "mse")
    too_large = IDS[:8].astype("int64")
    too_large[1, 2] = 2**32 + 3  # 3, of the lower bits
    with pytest.raises(IndexError, match=rf"id {2**32 + 3} .*is outside"):
        LARGE_ID_CALLS[call](model, too_large)


def test_gradients_from_before_the_last_step_are_refused():
    """A state that was kept, with the token of a step that is over."""
    model = classifier(Embedding)
    model.compile("adam", "mse")
    fit(model, 0, 2)
    states = {f"{kind}_variables": True for kind in ("trainable", "non_trainable", "optimizer")}
    # Copies: `fit` uses up what it is given.
    trained, others, slots = jax.tree.map(jax.numpy.copy, model._get_jax_state(**states))

    def loss(trained):
        predicted, _ = model.stateless_call(trained, others, IDS[:8], training=True)
        return keras.ops.mean((predicted - ANSWERS[:8]) ** 2)

    gradients = jax.grad(loss)(trained)
    fit(model, 2, 3)
    before = numpy_of(model.layers[0].embeddings).copy()
    jax.block_until_ready(model.optimizer.stateless_apply(slots, gradients, trained))
    with pytest.raises(RuntimeError, match="state given is that of version"):
        model.train_on_batch(IDS[:8], ANSWERS[:8])
    np.testing.assert_array_equal(numpy_of(model.layers[0].embeddings), before)
    fresh, _, slots = model._get_jax_state(**states)
    after, _ = model.optimizer.stateless_apply(slots, gradients, fresh)
    jax.block_until_ready(after)
    with pytest.raises(RuntimeError, match="computed before the table's last step"):
        model.train_on_batch(IDS[:8], ANSWERS[:8])
    np.testing.assert_array_equal(numpy_of(model.layers[0].embeddings), before)
    fit(model, 3, 4)
    assert model.layers[0].table.steps == 4


def test_steps_of_a_loop_go_on_where_fit_left_off():
    def train(model):
        model.compile("adam", "mse")
        for turn in range(4):
            fit(model, 4 * turn, 4 * turn + 2)
            part = slice(8 * (4 * turn + 2), 8 * (4 * turn + 4))

            def loss(values, model=model, part=part):
                variables = model.trainable_variables
                with keras.StatelessScope(list(zip(variables, values, strict=True))):
                    return keras.ops.mean((model(IDS[part]) - ANSWERS[part]) ** 2)

            gradients = jax.grad(loss)([v.value for v in model.trainable_variables])
            apply(model.optimizer, gradients, model.trainable_variables)

    assert_equal(*both(train), rtol=1e-4, atol=5e-6)


def test_a_bad_id_of_a_call_that_was_broken_off_is_not_the_next_ones():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = classifier(Embedding)
    model.compile("adam", "mse")
    bad = IDS.copy()
    bad[0, 0] = ROWS
    with pytest.raises(KeyboardInterrupt):
        model.fit(bad, ANSWERS, shuffle=False, verbose=0, callbacks=[Stop()])
    fit(model, 0, 2)
    assert model.layers[0].table.steps == 2


def test_a_clipping_factor_that_is_no_number_goes_where_it_goes_in_keras():
    def train(model):
        model.compile(keras.optimizers.SGD(0.1, global_clipnorm=1.0), "mse")
        model.train_on_batch(IDS[:8], ANSWERS[:8] * 1e30)

    ours, theirs = both(train)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(np.isnan(mine).any(), np.isnan(other).any())


def test_accumulated_gradients_outlast_a_step_of_another_optimizer():
    def make(layer):
        keras.utils.set_random_seed(0)
        ids, embed = keras.Input((5,), dtype="int32"), layer(ROWS, DIM)
        flat = keras.layers.Flatten()(embed(ids))
        first = keras.Model(ids, keras.layers.Dense(1)(flat))
        object.__setattr__(first, "second", keras.Model(ids, keras.layers.Dense(1)(flat)))
        return first

    def train(model):
        model.compile(keras.optimizers.Adam(0.01, gradient_accumulation_steps=3), "mse")
        model.second.compile("adam", "mse")
        for turn in range(8):
            part = slice(8 * turn, 8 * turn + 8)
            (model, model.second)[turn % 2].train_on_batch(IDS[part], ANSWERS[part])

    assert_equal(*both(train, make), rtol=1e-4)


class EachSample(keras.layers.Layer):
    """A layer called on one sample after the other, by `jax.vmap`."""

    def __init__(self, inner, weights=None, **options):
        super().__init__(**options)
        self.inner, self.weights_of_all = inner, weights

    def call(self, ids):
        given = {} if self.weights_of_all is None else {"weights": self.weights_of_all}
        return jax.vmap(lambda one: self.inner(one, **given))(ids)

    def compute_output_shape(self, shape):
        return (shape[0], *self.inner.compute_output_shape(shape[1:]))


@pytest.mark.parametrize("weights", [None, np.array([[1.0, 2.0], [0.5, 0.0], [3.0, 1.0]], "f")])
@pytest.mark.parametrize("layer", [Embedding, EmbedReduce])
def test_samples_mapped_one_by_one_train_to_the_same_numbers(layer, weights):
    if layer is Embedding and weights is not None:
        pytest.skip("has no weights")
    ids = np.array([[[0, 1], [1, 1], [2, 3]], [[4, 0], [1, 2], [3, 3]], [[0, 0], [4, 4], [1, 3]]])

    def trained(wrap):
        keras.utils.set_random_seed(0)
        inner = layer(5, 2, **({"combiner": "sum"} if layer is EmbedReduce else {}))
        inner.build()
        inputs = keras.Input(ids.shape[1:], dtype="int32")
        if wrap:
            vectors = EachSample(inner, weights)(inputs)
        elif weights is None:
            vectors = inner(inputs)
        else:
            each = [
                inner(inputs[:, i], weights=keras.ops.broadcast_to(weights[i], (3, 2)))
                for i in range(3)
            ]
            vectors = keras.ops.stack(each, axis=1)
        outputs = keras.layers.Dense(1)(keras.layers.Flatten()(vectors))
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.Adam(0.1), "mse")
        model.fit(ids, np.ones((3, 1)), epochs=3, verbose=0)
        assert inner.embeddings.binding.mode == "sparse"
        return model.get_weights()

    for mapped, plain in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(mapped, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": False}], ids=str)
def test_steps_that_are_not_compiled_leave_nothing_behind(how):
    model = classifier(Embedding)
    model.compile("adam", "mse", **how)
    fit(model, 0, 2)
    calls = dict(model.layers[0].embeddings._callbacks)
    fit(model, 2, 6)
    assert model.layers[0].embeddings._callbacks == calls


def test_a_bad_id_in_an_epochs_last_batch_is_raised_before_the_epoch_is_over(tmp_path):
    model = classifier(Embedding)
    model.compile("adam", "mse")
    ids = IDS[:8].copy()
    ids[-1, 0] = ROWS
    ended = []
    callbacks = [
        BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ended.append("epoch")),
    ]
    with pytest.raises(IndexError, match=f"id {ROWS} at position"):
        model.fit(ids, ANSWERS[:8], batch_size=2, shuffle=False, verbose=0, callbacks=callbacks)
    assert ended == []
    assert not (tmp_path / "backup").exists()


def test_bad_batches_leave_no_gradients_waiting():
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((2,), dtype="int32") for _ in range(2)]
    vectors = [Embedding(5, 2)(one) for one in inputs]
    both = keras.layers.Flatten()(keras.layers.Concatenate()(vectors))
    model = keras.Model(inputs, keras.layers.Dense(1)(both))
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=3)
    model.compile(optimizer, "mse")
    good, bad, answers = np.array([[0, 1]]), np.array([[0, 7]]), np.ones((1, 1))
    first = model.layers[2].embeddings
    model.train_on_batch([good, good], answers)
    for _ in range(3):
        with pytest.raises(IndexError, match="id 7"):
            model.train_on_batch([good, bad], answers)
        assert first.program.waiting == 1  # which is summed up
    for _ in range(2):
        model.train_on_batch([good, good], answers)
    assert first.program.waiting == 0
    assert model.layers[2].table.steps == 1


def test_a_training_step_that_steps_twice_takes_back_the_bad_one_alone():
    class Twice(keras.Model):
        def train_step(self, state, data):
            trained, others, slots, metrics = state
            x, y = data[:2]
            for half in (x[:, :1], x[:, 1:]):

                def loss(trained, half=half):
                    outputs, _ = self.stateless_call(trained, others, half)
                    return jax.numpy.mean((outputs - y) ** 2)

                value, gradients = jax.value_and_grad(loss)(trained)
                trained, slots = self.optimizer.stateless_apply(slots, gradients, trained)
            return {"loss": value}, (trained, others, slots, metrics)

    def trained(ids, times):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((None,), dtype="int32")
        outputs = keras.layers.Dense(1)(EmbedReduce(5, 2)(inputs))
        model = (Twice if times == 2 else keras.Model)(inputs, outputs)
        model.compile(keras.optimizers.Adam(0.1), "mse")
        if times == 2:
            with pytest.raises(IndexError, match="id 7"):
                model.train_on_batch(ids, np.ones((1, 1)))
        else:
            model.train_on_batch(ids, np.ones((1, 1)))
        return model.get_weights() + [numpy_of(v) for v in model.optimizer.variables]

    for twice, once in zip(
        trained(np.array([[1, 7]]), 2), trained(np.array([[1]]), 1), strict=True
    ):
        np.testing.assert_allclose(twice, once, rtol=1e-6, atol=1e-7)


def clipped_by_norm(gradients):
    norm = sum((g**2).sum() for g in gradients) ** 0.5
    return [g / jax.numpy.maximum(norm, 1) for g in gradients]


def half_of(gradients):
    return [g.astype("float16").astype("float32") for g in gradients]


def without_nan(gradients):
    return [jax.numpy.where(jax.numpy.isfinite(g), g, 0) for g in gradients]


def trained_by_own_step(layer, change=None, apply=None, optimizer=None, labels=1.0, batches=3):
    """Return weights after steps whose gradients, or whose state, a train_step changes."""

    class Own(keras.Model):
        def train_step(self, state, data):
            trained, others, slots, metrics = state

            def loss(trained):
                outputs, _ = self.stateless_call(trained, others, data[0])
                return jax.numpy.mean((outputs - data[1]) ** 2)

            value, gradients = jax.value_and_grad(loss)(trained)
            if change is not None:
                gradients = change(gradients, trained)
            step = self.optimizer.stateless_apply
            trained, slots = (
                step(slots, gradients, trained)
                if apply is None
                else apply(step, slots, gradients, trained, value)
            )
            return {"loss": value}, (trained, others, slots, metrics)

    keras.utils.set_random_seed(0)
    ids = keras.Input((2,), dtype="int32")
    pooled = [keras.layers.GlobalAveragePooling1D()(layer(5, 2)(ids)) for _ in range(2)]
    model = Own(ids, keras.layers.Dense(1)(keras.layers.Multiply()(pooled)))
    adam = keras.optimizers.Adam(0.1)
    model.compile(adam if optimizer is None else optimizer(adam), "mse")
    for _ in range(batches):
        model.train_on_batch(np.array([[1, 2], [3, 1]]), np.full((2, 1), labels))
    return model.get_weights()


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda gradients, _: [g.clip(-1, 1) for g in gradients], {}),
        (lambda gradients, _: [jax.numpy.sign(g) for g in gradients], {}),
        (lambda gradients, _: clipped_by_norm(gradients), {}),
        (
            lambda gradients, _: clipped_by_norm(gradients),
            {"optimizer": keras.optimizers.LossScaleOptimizer},
        ),
        (
            lambda gradients, _: clipped_by_norm(gradients),
            {"optimizer": lambda _: keras.optimizers.SGD(0.1, loss_scale_factor=2.0**15)},
        ),
        (lambda gradients, weights: [g + w for g, w in zip(gradients, weights, strict=True)], {}),
        (lambda gradients, _: half_of(gradients), {}),
        (
            lambda gradients, _: half_of(gradients),
            {"optimizer": keras.optimizers.LossScaleOptimizer},
        ),
        (lambda gradients, _: without_nan(gradients), {"labels": np.nan}),
        (lambda gradients, _: [gradients[1], gradients[0], *gradients[2:]], {}),
    ],
    ids=[
        *("clip", "sign", "norm", "norm-loss-scale", "norm-factor", "decay", "float16"),
        *("float16-loss-scale", "nan", "another table's"),
    ],
)
def test_a_train_step_that_changes_gradients_other_than_by_a_factor_is_refused(change, options):
    with pytest.raises(RuntimeError, match="clipnorm, clipvalue or global_clipnorm"):
        trained_by_own_step(Embedding, change, **options)


@pytest.mark.parametrize(
    ("apply", "labels"),
    [
        (lambda step, *state_and_loss: step(*state_and_loss[:3]), 1.0),
        (
            lambda step, slots, gradients, trained, _: step(
                slots, [-2 * g for g in gradients], trained
            ),
            1.0,
        ),
        (
            lambda step, slots, gradients, trained, loss: jax.lax.cond(
                jax.numpy.isfinite(loss),
                lambda: step(slots, gradients, trained),
                lambda: (trained, slots),
            ),
            np.nan,
        ),
    ],
    ids=["alone", "by a factor", "not at all"],
)
def test_a_train_step_may_scale_gradients_or_leave_out_the_step(apply, labels):
    mine = trained_by_own_step(Embedding, apply=apply, labels=labels)
    kerass = trained_by_own_step(keras.layers.Embedding, apply=apply, labels=labels)
    for own, other in zip(mine, kerass, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)


def own_descent(_, slots, gradients, trained, __):
    return [w - 0.1 * g for w, g in zip(trained, gradients, strict=True)], slots


def averaged(step, slots, gradients, trained, _):
    after, slots = step(slots, gradients, trained)
    return [(a + b) / 2 for a, b in zip(after, trained, strict=True)], slots


@pytest.mark.parametrize("apply", [own_descent, averaged])
def test_a_train_step_that_changes_the_state_is_refused_at_once(apply):
    with pytest.raises(RuntimeError, match="did not return the state"):
        trained_by_own_step(Embedding, apply=apply, batches=1)


@pytest.mark.parametrize("change", [lambda w, g: w + 0.1 * g, lambda w, g: w.astype("float16")])
def test_a_step_from_a_state_that_a_train_step_changed_is_refused(change):
    def elsewhere(step, slots, gradients, trained, _):
        tables = [change(*pair) for pair in zip(trained[:2], gradients[:2], strict=True)]
        return step(slots, gradients, [*tables, *trained[2:]])

    with pytest.raises(RuntimeError, match="changed the state of this table"):
        trained_by_own_step(Embedding, apply=elsewhere)


def test_an_interrupt_while_a_step_runs_comes_once_the_step_is_whole():
    armed = []

    def interrupt():
        if armed:
            armed.clear()
            time.sleep(0.02)  # the step is waited for by now
            os.kill(os.getpid(), signal.SIGINT)

    class Watched(keras.layers.Layer):
        def call(self, inputs):
            jax.debug.callback(interrupt)
            return inputs

    pool = keras.layers.GlobalAveragePooling1D()
    model = keras.Sequential([Embedding(5, 2), pool, Watched(), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for batch in range(3):
            armed.extend([True] if batch == 1 else [])
            with pytest.raises(KeyboardInterrupt) if batch == 1 else nullcontext():
                model.train_on_batch(np.array([[1, 2], [3, batch]]), np.ones((2, 1)))
            assert model.layers[0].table.steps == int(model.optimizer.iterations) == batch + 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert np.isfinite(model.predict(np.array([[1, 2]]), verbose=0)).all()


def test_under_a_distribution_the_variable_is_kerass_on_all_devices():
    devices = keras.distribution.list_devices("cpu")
    with keras.distribution.DataParallel(devices=devices).scope():
        with pytest.warns(UserWarning, match="trained densely, by Keras; a keras.distribution is"):
            model = classifier(Embedding)
        model.compile("adam", "mse")
        fit(model, 0, 2)
        theirs = classifier(keras.layers.Embedding)
        theirs.compile("adam", "mse")
        fit(theirs, 0, 2)
        sharding = theirs.layers[0].embeddings.value.sharding
        assert model.layers[0].embeddings.value.sharding == sharding
        with pytest.raises(IndexError, match="id -1"):
            model.predict(-np.ones((2, 2), int), verbose=0)
    for mine, kerass in zip(model.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, kerass)


# ---------------------------------------------------------------------- native calls


@needs_handlers
def test_a_training_step_calls_no_python():
    model = classifier(Embedding)
    model.compile(keras.optimizers.Adam(0.01, global_clipnorm=1.0), "mse")
    fit(model)
    assert model.layers[0].table.steps == 32
    assert model.layers[0].embeddings._callbacks == {}


@needs_handlers
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("untrained", ["zeros", "mean"])
def test_programs_fill_untrained_rows_without_python(untrained, dtype, monkeypatch):
    monkeypatch.setattr(host_callback.HostCallback, "in_place", None)
    layer = Embedding(9, 3, untrained=untrained, dtype=dtype)
    layer.build()
    layer.table.mark_trained([0, 4, 5])
    ids = np.array([[0, 8, 1], [4, 5, 8]])
    expected = numpy_of(layer(ids))
    filled = layer.table.lookup(ids, untrained=untrained)
    np.testing.assert_allclose(expected.astype("f"), filled, rtol=1e-2)
    for program in (jax.jit(layer), jax.jit(jax.vmap(layer))):
        np.testing.assert_array_equal(numpy_of(program(ids)), expected)
    model = keras.Sequential([keras.Input((3,), dtype="int32"), layer])
    np.testing.assert_array_equal(model.predict(ids, verbose=0), expected)


@needs_handlers
def test_errors_of_untrained_rows_are_those_of_a_call():
    layer, unmarked = Embedding(9, 3, untrained="error"), Embedding(9, 3, untrained="mean")
    model = keras.Sequential([keras.Input((2,), dtype="int32"), layer])
    unmarked.build()
    layer.table.mark_trained([0, 4])
    ids, trained = np.array([[0, 4], [4, 7]]), np.array([[0, 4]])
    message = r"row 7, asked for at position \(1, 1\), was never trained"
    with pytest.raises(UntrainedError, match=message):
        model.predict(ids, verbose=0)
    with pytest.raises(raised_in_a_program(UntrainedError), match=message):
        jax.block_until_ready(jax.jit(layer)(ids))
    np.testing.assert_array_equal(numpy_of(jax.jit(layer)(trained)), layer.table.lookup(trained))
    with pytest.raises(raised_in_a_program(ValueError), match="'mean' needs trained rows"):
        jax.block_until_ready(jax.jit(unmarked)(ids))


@needs_handlers
def test_a_layer_that_is_jitted_by_itself_calls_no_python(monkeypatch):
    monkeypatch.setattr(host_callback.HostCallback, "in_place", None)
    model = classifier(Embedding)
    layer, ids = model.layers[0], IDS[:4]
    programs = [jax.jit(layer), jax.jit(jax.vmap(layer)), jax.jit(lambda ids: layer(ids))]
    for optimizer in ("adam", "sgd"):  # a program outlives what `compile` begins anew
        for program in programs:
            np.testing.assert_array_equal(numpy_of(program(ids)), layer.table.lookup(ids))
            with pytest.raises(raised_in_a_program(IndexError), match=r"id -1 at position \(.*0\)"):
                jax.block_until_ready(program(-np.eye(4, dtype="int32")[:, :2]))
            with pytest.raises(
                raised_in_a_program(ValueError), match=r"id 0.5 at .* is not a whole"
            ):
                jax.block_until_ready(program(np.full((2, 2), 0.5, "f")))
        model.compile(optimizer, "mse")
        fit(model, last=2)
    slopes = jax.grad(lambda ids: layer(ids).sum())(ids.astype("float32"))
    np.testing.assert_array_equal(slopes, np.zeros_like(ids))


@needs_handlers
@pytest.mark.parametrize(
    "options",
    [{}, {"clipnorm": 0.1}, {"clipvalue": 1e-3}, {"gradient_accumulation_steps": 2}],
    ids=str,
)
def test_programs_that_call_by_way_of_python_make_the_same_steps(monkeypatch, options):
    """As on a device that is no CPU, or where the extension was built without XLA's header."""

    def trained():
        model = classifier(Embedding)
        model.compile(keras.optimizers.Adam(0.01, **options), "mse")
        fit(model)
        with pytest.raises(IndexError, match=f"id {ROWS} at position"):
            model.train_on_batch(np.full((8, IDS.shape[1]), ROWS), ANSWERS[:8])
        return model

    directly = trained()
    monkeypatch.setattr(host_callback, "has_handlers", lambda: False)
    by_way_of_python = trained()
    assert by_way_of_python.layers[0].embeddings._callbacks
    for mine, other in zip(contents(directly), contents(by_way_of_python), strict=True):
        np.testing.assert_array_equal(mine, other)


@needs_handlers
def test_gradients_that_a_mean_repeats_go_to_the_table_once_a_sequence(monkeypatch):
    def trained():
        model = classifier(Embedding)
        model.compile(keras.optimizers.Adam(0.01), "mse")
        fit(model)
        return contents(model)

    def not_seen(*given):
        found.append(repeated(*given) is not None)

    repeated, found = push_rows._repeated, []
    monkeypatch.setattr(push_rows, "_repeated", not_seen)
    once_an_id = trained()
    assert found
    assert all(found)
    monkeypatch.undo()
    for mine, other in zip(trained(), once_an_id, strict=True):
        np.testing.assert_array_equal(mine, other)


@needs_handlers
def test_a_jaxlib_that_refuses_the_handlers_is_told_of_once(monkeypatch):
    def refuse(*_, **__):
        raise ValueError("another version")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    with pytest.warns(UserWarning, match="does not take rowwise's handlers .another version."):
        assert not host_callback.has_handlers.__wrapped__()


def test_a_program_that_outlives_its_table_gives_an_error():
    layer = Embedding(5, 2)
    layer.build()
    variable = layer.embeddings
    token = jax.numpy.asarray(variable.token())
    arguments = (token, np.int32([[1, 4]]))

    def look(token, ids, variable=variable):
        return host_callback.call_table(variable, "lookup", (1, 2, 2), np.float32, token, ids)

    program = jax.jit(look).lower(*arguments).compile()
    np.testing.assert_array_equal(program(*arguments)[0], layer.get_weights()[0][[1, 4]])
    del layer, variable, look
    jax.clear_caches()
    gc.collect()
    with pytest.raises(Exception, match="the table that this program calls is gone"):
        jax.block_until_ready(program(*arguments))


def test_whoever_reads_a_table_or_a_slot_amid_fit_waits_for_the_steps():
    model, seen = classifier(Embedding), []
    model.compile("adam", "mse")

    class Read(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            embeddings = model.layers[0].embeddings
            (slots,) = embeddings.slots.values()
            steps = model.layers[0].table.steps
            momentum = np.asarray(slots["momentum"].value) if batch % 2 else None
            seen.append((steps, model.layers[0].table.steps, momentum is None or momentum.any()))

    fit(model, callbacks=[Read()])
    assert seen == [(step, step, True) for step in range(1, 33)]


def test_a_write_to_the_table_makes_a_token_of_before_it_invalid():
    model = classifier(Embedding)
    model.compile("adam", "mse")
    fit(model, 0, 2)
    state = model._get_jax_state(trainable_variables=True, non_trainable_variables=True)
    table = model.layers[0].table
    table.update(IDS[0], np.ones((*IDS[0].shape, DIM), "float32"))
    model.stateless_call(*state, IDS[:8])
    with pytest.raises(RuntimeError, match="a table has one state, the present one"):
        model.train_on_batch(IDS[:8], ANSWERS[:8])
    model.train_on_batch(IDS[:8], ANSWERS[:8])
    assert table.steps == 4


def test_rows_brought_up_to_date_in_the_middle_of_fit_change_nothing():
    class Materialize(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.layers[0].table.materialize()

    models = []
    for callbacks in ([], [Materialize()]):
        model = classifier(Embedding)
        model.compile("adam", "mse")
        model.fit(IDS, ANSWERS, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
        models.append(model)
    for mine, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)


def test_numbers_of_the_time_when_the_step_was_compiled_go_on_as_in_keras():
    def train(model):
        optimizer = keras.optimizers.Adam(0.01)
        model.compile(optimizer, "mse")
        fit(model, 0, 4)
        optimizer.beta_1 = 0.5  # which Keras's compiled step does not hear of
        fit(model, 4, 8)
        fit(model, 8, 12)

    ours, theirs = both(train)
    assert_equal(ours, theirs, rtol=1e-4, atol=5e-6)
    assert ours.layers[0].table.rule.beta_1 == 0.9
