"""EmbedReduce beside keras.layers.Embedding and the same reduction written with keras.ops."""

import io
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from side_by_side import (
    DIM,
    ROWS,
    all_three,
    assert_as_exact,
    assert_equal,
    assert_sparse_steps,
    both,
    data,
    float64_there_is,
    gradients_of,
    numpy_of,
    only_torch,
)

import rowwise.keras
from rowwise.keras import Embedding, EmbedReduce
from rowwise.store import HostStore

IDS = data()[0]
SCORES = np.random.default_rng(1).standard_normal(IDS.shape).astype("float32")
VALUES = np.random.default_rng(2).standard_normal((ROWS, DIM)).astype("float32")
COMBINERS = pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])


class Reduce(keras.layers.Layer):
    """The reduction of (vectors, weights), as its formula is."""

    def __init__(self, combiner, **options):
        super().__init__(**options)
        self.combiner = combiner

    def call(self, vectors, weights):
        w = ops.expand_dims(weights, -1)
        total = ops.sum(w * vectors, axis=-2)
        if self.combiner == "sum":
            return total
        divisor = ops.sum(w if self.combiner == "mean" else w * w, axis=-2)
        divisor = ops.where(divisor == 0, ops.ones_like(divisor), divisor)
        return total / (divisor if self.combiner == "mean" else ops.sqrt(divisor))


def bag_model(layer, combiner="mean", weighted=False, mask_zero=False, **options):
    """Ids (and scores) -> one vector -> Dense(1); the weights of ids are learned from scores."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((IDS.shape[1],), dtype="int32")
    inputs, weights = [ids], None
    if weighted:
        inputs.append(keras.Input((IDS.shape[1],)))
        weights = keras.layers.Dense(IDS.shape[1], activation="sigmoid", name="w")(inputs[1])
    options |= {"name": "embedding", "embeddings_initializer": keras.initializers.Constant(VALUES)}
    if layer is rowwise.keras.Embedding:
        reduced = EmbedReduce(ROWS, DIM, combiner=combiner, mask_zero=mask_zero, **options)
        vector = reduced(ids, weights=weights)
    else:
        vectors = layer(ROWS, DIM, **options)(ids)
        present = ops.cast(ops.not_equal(ids, 0 if mask_zero else -1), vectors.dtype)
        shares = present if weights is None else present * weights
        vector = Reduce(combiner)(vectors, shares)
    return keras.Model(inputs, keras.layers.Dense(1, name="dense")(vector))


def fit(optimizer="adam", weighted=False, **options):
    def train(model):
        model.compile(optimizer() if callable(optimizer) else optimizer, "mse", **options)
        x = [IDS, SCORES] if weighted else IDS
        model.fit(x, data()[1], batch_size=8, epochs=2, shuffle=False, verbose=0)

    return train


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "adam": lambda: keras.optimizers.Adam(0.01),
}


@COMBINERS
@pytest.mark.parametrize(
    ("name", "weighted", "mask_zero"),
    [
        ("adam", False, False),
        ("adam", False, True),
        ("adam", True, False),
        ("adam", True, True),
        ("sgd", True, True),
        ("rmsprop", True, True),
    ],
)
def test_fit_gives_the_weights_of_embedding_and_reduction(combiner, name, weighted, mask_zero):
    optimizer = OPTIMIZERS[name]

    def make(layer):
        return bag_model(layer, combiner, weighted, mask_zero)

    models = all_three(fit(optimizer, weighted), make)
    assert_sparse_steps(models[0].get_layer("embedding"))
    assert_as_exact(*models)


@COMBINERS
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (2, 0), (0, 3), (5,), (1, 1)])
def test_the_last_axis_is_combined(combiner, weighted, shape):
    layer = EmbedReduce(ROWS, DIM, combiner=combiner, weights=VALUES, mask_zero=True)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, shape)
    weights = rng.uniform(-1, 2, shape).astype("float32") if weighted else np.ones(shape)
    result = layer(ids, weights=weights if weighted else None)
    if len(shape) == 1:
        present = (ids != 0)[:, None]
        scale = weights[:, None] if combiner == "sum" else 1
        expected = present * scale * VALUES[ids]
    else:
        shares = (weights * (ids != 0)).astype("float32")
        expected = numpy_of(Reduce(combiner)(VALUES[ids], shares))
    assert tuple(result.shape) == layer.compute_output_shape(shape) == np.shape(expected)
    np.testing.assert_allclose(numpy_of(result), expected, rtol=2e-5, atol=1e-5)


@COMBINERS
def test_a_masked_id_counts_for_nothing_and_nothing_counts_as_zero(combiner):
    layer = EmbedReduce(ROWS, DIM, combiner=combiner, weights=VALUES, mask_zero=True)
    ids = np.array([[3, 4, 5, 0], [6, 7, 8, 0]])
    weights = np.float32([[1.0, 2.0, np.nan, 9.0], [3.0, 4.0, 5.0, 9.0]])
    mask = np.array([[True, True, False, True], [False, False, False, True]])
    result = numpy_of(layer(ids, weights=weights, mask=mask))
    assert (result[1] == 0).all()
    alone = numpy_of(layer(np.array([[3, 4]]), weights=np.float32([[1, 2]])))
    np.testing.assert_allclose(result[:1], alone, rtol=1e-6)

    def loss(weights):
        return ops.sum(layer(ids, weights=weights, mask=mask))

    gradient, of_weights = map(numpy_of, gradients_of(loss, [layer._embeddings], weights))
    assert (of_weights[~(mask & (ids != 0))] == 0).all()
    assert np.isfinite(gradient).all()
    assert gradient.any()
    assert (gradient[[0, 5, 6, 7, 8]] == 0).all()


@COMBINERS
@pytest.mark.parametrize("path", ["table", "stateless", "lora", "float64"])
def test_every_path_gives_the_same_numbers_and_gradients(combiner, path):
    with float64_there_is(path == "float64"):
        table, *ours = numbers_and_gradients(combiner, path)
    present = (IDS[:6] != 0).astype("float64")

    def exact(values, weights):
        vectors = ops.take(values, IDS[:6], axis=0)
        return Reduce(combiner, dtype="float64")(vectors, ops.multiply(weights, present))

    with float64_there_is():
        result, *gradients = with_gradients(exact, [], np.float64(table), np.float64(SCORES[:6]))
    of_table, of_weights = gradients
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(ours[0], result, **close)
    np.testing.assert_allclose(ours[-1], of_weights, **close)
    if path in ("table", "stateless"):
        np.testing.assert_allclose(ours[1], of_table, **close)


def numbers_and_gradients(combiner, path):
    """The table (V, D), what is read of it, and gradients: of the table, if asked; of weights."""
    layer = EmbedReduce(
        ROWS, DIM, combiner=combiner, mask_zero=True, dtype="float64" if path == "float64" else None
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*a table of float64 is trained densely")
        layer.build()
    layer.set_weights([VALUES])
    table = VALUES
    if path == "lora":
        layer.enable_lora(2)
        layer.lora_embeddings_b.assign(VALUES[:2])
        table = VALUES + numpy_of(layer.lora_embeddings_a) @ VALUES[:2]
    if path == "stateless":

        def call(values, weights):
            return layer.stateless_call([values], [], IDS[:6], weights=weights)[0]

        return table, *with_gradients(call, [], VALUES, SCORES[:6])
    variables = [layer.embeddings] if path == "table" else []
    return table, *with_gradients(lambda w: layer(IDS[:6], weights=w), variables, SCORES[:6])


def with_gradients(call, variables, *arrays):
    """A call's result, and the gradients of the sum of its squares."""
    gradients = gradients_of(lambda *tensors: ops.sum(call(*tensors) ** 2), variables, *arrays)
    return numpy_of(call(*map(ops.convert_to_tensor, arrays))), *map(numpy_of, gradients)


@only_torch
def test_the_gradient_names_each_id_once():
    layer = EmbedReduce(ROWS, DIM, weights=VALUES)
    model = keras.Sequential([keras.Input((3,), dtype="int32"), layer])
    model.compile("adam", "mse")
    model.fit(np.array([[7, 3, 7], [3, 7, 5]]), np.zeros((2, DIM)), verbose=0)
    assert layer.embeddings.value.grad._indices().tolist() == [[3, 5, 7]]


@pytest.mark.parametrize("weighted", [False, True])
def test_no_vector_of_a_single_id_is_ever_in_memory(weighted, monkeypatch):
    model = bag_model(Embedding, weighted=weighted)
    fit(weighted=weighted)(model)

    def never(*arguments):
        raise AssertionError("rows were written out")

    monkeypatch.setattr(HostStore, "gather", never)
    x = [IDS, SCORES] if weighted else [IDS]
    model.train_on_batch(x, data()[1])
    model.evaluate(x, data()[1], verbose=0)
    model.predict(x, verbose=0)


def test_a_layer_called_twice_in_a_step_is_moved_once():
    def make(layer):
        keras.utils.set_random_seed(0)
        first, second = (keras.Input((5,), dtype="int32") for _ in range(2))
        start = keras.initializers.Constant(VALUES)
        if layer is Embedding:
            reduced = EmbedReduce(ROWS, DIM, start, combiner="sum", name="embedding")
            vectors = [reduced(first), reduced(second)]
        else:
            whole = layer(ROWS, DIM, start, name="embedding")
            vectors = [ops.sum(whole(first), axis=1), ops.sum(whole(second), axis=1)]
        both_vectors = keras.layers.Concatenate()(vectors)
        return keras.Model([first, second], keras.layers.Dense(1, name="dense")(both_vectors))

    def train(model):
        model.compile("adam", "mse")
        x = [IDS, IDS[::-1]]
        model.fit(x, data()[1], batch_size=8, epochs=1, shuffle=False, verbose=0)

    ours, theirs = both(train, make)
    np.testing.assert_allclose(ours.get_weights()[0], theirs.get_weights()[0], rtol=1e-4, atol=1e-5)


def test_a_constraint_makes_the_steps_dense_and_right():
    def make(layer):
        return bag_model(layer, embeddings_constraint=keras.constraints.MaxNorm(0.5))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*visits all")
        assert_equal(*both(fit(), make), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_rounds_the_result_alone(policy):
    ids, weights = IDS[:9], SCORES[:9]
    layer = EmbedReduce(ROWS, DIM, combiner="sum", weights=VALUES, dtype=policy)
    result = layer(ids, weights=weights)
    assert keras.backend.standardize_dtype(result.dtype) == layer.compute_dtype
    exact = (VALUES[ids] * weights[..., None]).sum(axis=1)
    np.testing.assert_allclose(numpy_of(result).astype("float32"), exact, rtol=2**-8, atol=1e-3)

    def train(model):
        model.compile("adam", "mse")
        model.fit(IDS, data()[1], batch_size=16, epochs=2, shuffle=False, verbose=0)

    ours, theirs = both(train, lambda layer: bag_model(layer, dtype=policy))
    assert_sparse_steps(ours.get_layer("embedding"))
    np.testing.assert_allclose(ours.get_weights()[0], theirs.get_weights()[0], atol=6e-3)


@pytest.mark.parametrize("combiner", ["mean", "sqrtn"])
@pytest.mark.parametrize("way", [{"untrained": "zeros"}, {"lora_rank": 1}], ids=str)
def test_sums_that_half_precision_does_not_hold(combiner, way):
    """Neither 3,000 hundreds nor the squares of 300 are a float16."""
    start = keras.initializers.Constant(100.0)
    layer = EmbedReduce(5, 2, start, combiner=combiner, dtype="mixed_float16", **way)
    layer.build()
    layer.table.mark_trained()
    result = numpy_of(layer(np.ones((1, 3000), int), weights=np.full((1, 3000), 300.0)))
    expected = 100.0 * (1 if combiner == "mean" else np.sqrt(3000))
    np.testing.assert_allclose(result.astype("float32"), expected, rtol=1e-3)


CALLS = {
    "call": lambda model, ids: model.layers[0](ids),
    "one by one": lambda model, ids: model.layers[0](ids[0]),
    "predict": lambda model, ids: model.predict(ids, verbose=0),
    "fit": lambda model, ids: model.fit(ids, np.zeros((1, 2)), verbose=0),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[0, 5]], IndexError, r"id 5 at position .* is outside the table's 5 rows \(0..4\)"),
        ([[-1, 0]], IndexError, r"id -1 at position .* is outside"),
        ([[0.5, 1.0]], ValueError, r"id 0.5 at position .* not a whole .* keras.Input\(shape, dty"),
    ],
)
def test_a_bad_id_is_named_and_the_table_stays(call, ids, error, message):
    layer = EmbedReduce(5, 2, mask_zero=True)
    model = keras.Sequential([layer])
    model.compile("adam", "mse")
    model.build((None, 2))
    before = layer.get_weights()[0].copy()
    with pytest.raises(error, match=message):
        CALLS[call](model, np.array(ids))
    np.testing.assert_array_equal(layer.get_weights()[0], before)
    assert layer.table.steps == 0


@pytest.mark.parametrize("argument", ["weights", "mask"])
def test_weights_and_masks_of_another_shape_are_refused(argument):
    layer = EmbedReduce(5, 2)
    with pytest.raises(ValueError, match=rf"{argument} have shape \(3,\), the ids \(1, 3\)"):
        layer(np.array([[1, 2, 3]]), **{argument: np.ones(3)})


def test_what_it_does_not_have_is_refused():
    with pytest.raises(ValueError, match="combiner='max' is not one of mean, sum, sqrtn"):
        EmbedReduce(5, 2, combiner="max")
    with pytest.raises(NotImplementedError, match="no int8 form"):
        EmbedReduce(5, 2, dtype="int8_from_float32").build()


def test_symbolic_calls_have_the_shape_and_dtype_of_real_ones():
    layer = EmbedReduce(5, 2, mask_zero=True, dtype="mixed_float16")
    ids = keras.Input((None,), dtype="int32")
    for output in (layer(ids), layer(ids, weights=keras.Input((None,)))):
        assert (output.shape, output.dtype) == ((None, 2), "float16")
        assert getattr(output, "_keras_mask", None) is None
    assert layer.compute_output_shape((3, 4, 5)) == (3, 4, 2)


def test_a_layer_is_made_again_from_its_config():
    layer = EmbedReduce(5, 2, combiner="sqrtn", mask_zero=True, name="bags")
    again = EmbedReduce.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.combiner, again.mask_zero, again.name) == ("sqrtn", True, "bags")


def test_training_goes_on_from_a_file_as_if_never_stopped(tmp_path):
    train = fit(lambda: keras.optimizers.Adam(0.01), weighted=True)
    keras.backend.clear_session(free_memory=False)
    model = bag_model(Embedding, "sqrtn", weighted=True)
    train(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.get_layer("embedding")) is EmbedReduce
    for each in (model, again):
        each.fit([IDS, SCORES], data()[1], batch_size=8, shuffle=False, verbose=0)
    assert_equal(again, model, names=False)


# Warnings of torch's own: about tracing, its replacement, and tensors between two graphs.
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf",
)
@only_torch
@pytest.mark.parametrize("how", ["trace", "export", "compile"])
def test_a_recorded_model_keeps_its_values(how):
    import torch

    model = bag_model(Embedding, mask_zero=True)
    fit()(model)
    ids = torch.from_numpy(IDS.astype("int32"))
    expected = model(ids[4:8]).detach()
    if how == "trace":
        recorded = torch.jit.trace(model, (ids[:4],), check_trace=False)
    elif how == "export":
        file = io.BytesIO()
        torch.export.save(torch.export.export(model, (ids[:4],)), file)
        file.seek(0)
        recorded = torch.export.load(file).module()
    else:
        recorded = torch.compile(model, backend="eager")
    np.testing.assert_allclose(recorded(ids[4:8]).detach(), expected, rtol=1e-5, atol=1e-6)
