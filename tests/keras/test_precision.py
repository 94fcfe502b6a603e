"""Half precision: around a float32 table, and of tables whose weights have 16 bits."""

import warnings

import keras
import numpy as np
import pytest
from side_by_side import DIM, ROWS, assert_sparse_steps, both, classifier, data, numpy_of

import rowwise
from rowwise.keras import BackupAndRestore, Embedding, EmbedReduce

HALVES = pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])


@HALVES
def test_a_layer_of_mixed_precision_in_a_float32_model_has_sparse_steps(policy):
    def train(model):
        model.compile("adam", "mse")
        model.fit(*data(), batch_size=16, epochs=2, shuffle=False, verbose=0)

    ours, theirs = both(train, lambda layer: classifier(layer, dtype=policy))
    assert_sparse_steps(ours.layers[0])
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=4e-3)  # gradients are rounded to half


@HALVES
def test_vectors_are_the_rows_rounded_to_half(policy):
    ids = np.arange(12).reshape(3, 4)
    values = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype("float32")
    ours, theirs = (
        layer(ROWS, DIM, weights=values, dtype=policy)(ids)
        for layer in (Embedding, keras.layers.Embedding)
    )
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(numpy_of(ours), numpy_of(theirs))


def test_a_table_of_another_dtype_warns_and_is_kerass():
    layer = Embedding(5, 2, dtype="float16")
    with pytest.warns(
        UserWarning, match='a table of float16 is trained densely.*with rounding="nearest"'
    ):
        layer.build()
    assert layer.embeddings.dtype == "float16"
    with pytest.raises(ValueError, match="float32 or with rounding="):
        _ = layer.table
    assert "rounding" not in layer.get_config()


# ---------------------------------------------------------------------- tables of 16 bits

KINDS = pytest.mark.parametrize(
    ("dtype", "rounding"), [("float16", "nearest"), ("bfloat16", "stochastic")]
)


@keras.saving.register_keras_serializable(package="tests")
def given_gradients(targets, vectors):
    """A loss of which the targets are the vectors' gradients."""
    return keras.ops.sum(targets * vectors, axis=(1, 2))


def model_of(dtype, rounding, seed=0):
    keras.utils.set_random_seed(seed)
    layer = Embedding(ROWS, DIM, dtype=dtype, rounding=rounding)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), layer])
    model.compile(keras.optimizers.Adam(0.01, weight_decay=0.1), given_gradients)
    return model


def rows_of(model):
    return model.layers[0].table.to_numpy()


def batches(length=5):
    """Ids, and gradients of their vectors that 16 bits hold, as is their 16th part."""
    rng = np.random.default_rng(1)
    targets = rng.integers(-100, 100, (256, length, DIM)).astype("float32") / 64
    return data(length=length)[0], targets


def fit(model, epochs=2, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(*batches(), batch_size=16, epochs=epochs, shuffle=False, verbose=0, **options)


@KINDS
def test_a_layer_with_rounding_has_the_bits_of_a_table_of_its_dtype(dtype, rounding):
    model = model_of(dtype, rounding)
    own = model.layers[0].table
    start = own.to_numpy()
    fit(model)
    beside = rowwise.Table(
        ROWS,
        DIM,
        own.rule,
        init=start,
        dtype=dtype,
        rounding=rounding,
        seed=own.store.rounding_seed if rounding == "stochastic" else None,
    )
    ids, targets = batches()
    for _ in range(2):
        for i in range(0, 256, 16):
            beside.update(
                ids[i : i + 16], targets[i : i + 16] / 16, learning_rate=float(np.float32(0.01))
            )
    assert_sparse_steps(model.layers[0])
    np.testing.assert_array_equal(own.to_numpy(), beside.to_numpy())
    momentum = model.optimizer.variables[2]
    assert momentum.dtype == "float32"
    np.testing.assert_array_equal(momentum.numpy(), beside.slot("momentum"))
    vectors = model.predict(ids[:2], verbose=0)
    np.testing.assert_array_equal(vectors.astype("float32"), beside.lookup(ids[:2]))
    variable = model.layers[0].embeddings
    assert variable.dtype == variable.numpy().dtype == dtype
    np.testing.assert_array_equal(variable.numpy().astype("float32"), beside.to_numpy())


@KINDS
def test_files_and_backups_go_on_to_the_same_bits(dtype, rounding, tmp_path):
    model = model_of(dtype, rounding)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].rounding == rounding
    for one in (model, loaded):
        fit(one, epochs=1)
    np.testing.assert_array_equal(rows_of(loaded), rows_of(model))
    backup = BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    fit(model_of(dtype, rounding), epochs=1, callbacks=[backup])
    restored, whole = model_of(dtype, rounding, seed=1), model_of(dtype, rounding)
    fit(restored, callbacks=[backup])
    fit(whole)
    np.testing.assert_array_equal(rows_of(restored), rows_of(whole))
    other = model_of(dtype, "nearest" if rounding == "stochastic" else "stochastic")
    with pytest.raises(ValueError, match=r"another training: its table is .*dtype="):
        fit(other, callbacks=[backup])


def test_what_surrounds_a_layer_takes_its_16_bits():
    options = {"mask_zero": True, "freeze_mask_row": True, "untrained": "mean"}
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            EmbedReduce(ROWS, DIM, dtype="bfloat16", rounding="nearest", **options),
            keras.layers.Dense(1),
        ]
    )
    adam = keras.optimizers.Adam(clipnorm=1.0, gradient_accumulation_steps=2)
    model.compile(keras.optimizers.LossScaleOptimizer(adam, initial_scale=8.0), "mse")
    layer = model.layers[0]
    before = layer.table.to_numpy()
    model.fit(*data(), batch_size=16, verbose=0)
    assert layer._embeddings.binding.mode == "sparse"
    moved = (layer.table.to_numpy() != before).any(axis=1)
    assert not moved[0]
    np.testing.assert_array_equal(moved, layer.table.update_counts > 0)
    untrained = layer(np.full((1, 5), ROWS - 1))
    mean = layer.table.to_numpy()[layer.table.is_trained()].mean(axis=0, keepdims=True)
    np.testing.assert_allclose(numpy_of(untrained).astype("float32"), mean, rtol=2.0**-7)


def test_a_dense_step_of_16_bits_is_kerass():
    def train(model):
        model.compile("adam", "mse")
        model.fit(*data(), batch_size=16, shuffle=False, verbose=0)

    def make(layer):
        rounding = {"rounding": "nearest"} if layer is Embedding else {}
        return classifier(layer, dtype="float16", embeddings_constraint="non_neg", **rounding)

    with pytest.warns(UserWarning, match="embeddings_constraint applies to every row"):
        ours, theirs = both(train, make)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=2.0**-10)  # a gradient's sum is float32


def test_roundings_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="rounding='up' is not 'nearest', 'stochastic' or None"):
        Embedding(5, 2, dtype="float16", rounding="up")
    with pytest.raises(ValueError, match="is for variables of 16 bits, not float64"):
        Embedding(5, 2, dtype="float64", rounding="nearest")
    assert Embedding(5, 2, dtype="mixed_float16", rounding="nearest").variable_dtype == "float32"
