"""A layer over a vocabulary that grows; rows never seen; vectors from elsewhere."""

import keras
import numpy as np
import pytest

import rowwise.keras
from rowwise.errors import UntrainedError
from rowwise.vectors import Vectors

ROWS, DIM = 10, 3


def model_of(rows=ROWS, optimizer="adam", **options):
    keras.utils.set_random_seed(0)
    options.setdefault("embeddings_initializer", "zeros")
    layer = rowwise.keras.Embedding(rows, DIM, **options)
    ids = keras.Input((2,), dtype="int32")
    model = keras.Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(layer(ids))))
    model.compile(optimizer, "mse")
    return model, layer


def batches(count, upto, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(0, upto, (4, 2)), rng.standard_normal((4, 1)).astype(np.float32)


def train(model, count, upto, seed=0):
    for ids, targets in batches(count, upto, seed):
        model.train_on_batch(ids, targets)


@pytest.mark.parametrize("options", [{}, {"embeddings_regularizer": "l2"}], ids=["rows", "dense"])
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam", "nadam", "lion"])
@pytest.mark.filterwarnings("ignore:.*visits all")
def test_a_model_trains_on_after_its_vocabulary_has_grown(optimizer, options):
    (grown, layer), (always, other) = (model_of(n, optimizer, **options) for n in (6, ROWS))
    for model in (grown, always):
        train(model, 10, 6)
    layer.grow(ROWS)
    for model in (grown, always):
        train(model, 10, ROWS, seed=1)
    assert layer.input_dim == ROWS
    assert layer.embeddings.shape == (ROWS, DIM)
    for mine, theirs in zip(grown.get_weights(), always.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=1e-6)
    for mine, theirs in zip(grown.optimizer.variables, always.optimizer.variables, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=2e-5, atol=1e-6)
    assert other.table.steps == layer.table.steps


def test_sums_of_gradients_start_anew():
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
    model, layer = model_of(6, optimizer)
    train(model, 3, 6)
    layer.grow(ROWS)
    train(model, 4, ROWS)
    assert layer.table.update_counts[6:].any()


def test_a_grown_model_is_saved_and_opened(tmp_path):
    model, layer = model_of(6)
    train(model, 5, 6)
    layer.grow(ROWS)
    train(model, 5, ROWS)
    model.save(tmp_path / "m.keras")
    opened = rowwise.keras.load_model(tmp_path / "m.keras")
    for mine, theirs in zip(opened.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_rows_are_dropped_and_moved():
    model, layer = model_of()
    train(model, 5, ROWS)
    before = layer.get_weights()[0]
    layer.remap([4, -1, 2])
    np.testing.assert_array_equal(layer.get_weights()[0][[0, 2]], before[[4, 2]])
    train(model, 2, 3)


def test_new_rows_start_as_asked_for():
    values = np.arange(12 * DIM, dtype=np.float32).reshape(12, DIM)
    layer = model_of(embeddings_initializer="ones")[1]
    layer.grow(11)
    np.testing.assert_array_equal(layer.get_weights()[0][10], np.ones(DIM))
    layer.grow(12, init=values)
    np.testing.assert_array_equal(layer.get_weights()[0][11], values[11])
    layer.remap([3, -1], init="zeros")
    np.testing.assert_array_equal(layer.get_weights()[0], [np.ones(DIM), np.zeros(DIM)])


@pytest.mark.parametrize("of", [np.asarray, list, keras.ops.convert_to_tensor])
def test_a_layer_starts_with_given_vectors_which_count_as_trained(of, capsys):
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    layer = rowwise.keras.Embedding.from_pretrained(of(values), trainable=False, untrained="zeros")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(np.arange(3))), values)
    assert layer.table.is_trained().all()
    assert not layer.trainable
    assert layer.pretrained is None
    assert capsys.readouterr().out == ""
    with pytest.raises(TypeError, match="vocabulary= needs words"):
        rowwise.keras.Embedding.from_pretrained(of(values), ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        rowwise.keras.Embedding.from_pretrained(of(values[:, 0]))


def test_given_weights_count_as_trained():
    layer = rowwise.keras.Embedding(3, 2, weights=np.ones((3, 2)), untrained="zeros")
    assert layer.table.is_trained().all()
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(np.arange(3))), np.ones((3, 2)))


def test_a_layers_repr_shows_what_is_not_a_default():
    layer = rowwise.keras.Embedding(3, 2, name="e")
    assert repr(layer) == "<Embedding name=e, built=False, input_dim=3, output_dim=2>"
    layer = rowwise.keras.EmbedReduce(
        3, 2, "zeros", mask_zero=True, freeze_mask_row=True, untrained="mean", combiner="sum"
    )
    for shown in (
        "embeddings_initializer=Zeros",
        "mask_zero=True",
        "freeze_mask_row=True",
        "untrained=mean",
        "combiner=sum",
    ):
        assert shown in repr(layer)


def test_what_untrained_rows_give_when_the_model_does_not_train():
    for untrained in ("zeros", "mean"):
        model, layer = model_of(embeddings_initializer="uniform", untrained=untrained)
        train(model, 20, 6)
        ids = np.array([[0, 8]])
        expected = layer.table.lookup(ids, untrained=untrained)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(ids)), expected)
        as_it_is = keras.ops.convert_to_numpy(layer(ids, training=True))
        np.testing.assert_array_equal(as_it_is, layer.table.lookup(ids))
        model.predict(ids, verbose=0)
        assert rowwise.keras.Embedding.from_config(layer.get_config()).untrained == untrained
    model, layer = model_of(untrained="error")
    train(model, 20, 6)
    with pytest.raises(UntrainedError, match="row 8"):
        model.predict(np.array([[0, 8]]), verbose=0)
    with pytest.raises(ValueError, match="untrained='none'"):
        rowwise.keras.Embedding(3, 2, untrained="none")


def test_what_untrained_rows_give_to_a_reduction():
    ids, weights = np.array([[0, 8, 1], [9, 8, 8]]), np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    layer = rowwise.keras.EmbedReduce(ROWS, DIM, combiner="mean", untrained="zeros")
    layer.build()
    layer.table.mark_trained([0, 1])
    rows = layer.table.lookup(ids, untrained="zeros") * weights[..., None]
    expected = rows.sum(axis=1) / weights.sum(axis=1, keepdims=True)
    given = keras.ops.convert_to_numpy(layer(ids, weights))
    np.testing.assert_allclose(given, expected, rtol=1e-5)
    assert not given[1].any()
    in_training = keras.ops.convert_to_numpy(layer(ids, weights, training=True))
    np.testing.assert_allclose(in_training, layer.table.pool(ids, weights=weights), rtol=1e-5)
    error = rowwise.keras.EmbedReduce(ROWS, DIM, untrained="error")
    with pytest.raises(UntrainedError, match="row 0"):
        error(ids)


def test_files_keep_what_was_trained(tmp_path):
    model, layer = model_of()
    train(model, 20, 6)
    model.save(tmp_path / "m.keras")
    opened = rowwise.keras.load_model(tmp_path / "m.keras").layers[1].table
    np.testing.assert_array_equal(opened.update_counts, layer.table.update_counts)
    np.testing.assert_array_equal(opened.last_update, layer.table.last_update)
    assert opened.steps == layer.table.steps
    model.save_weights(tmp_path / "m.weights.h5")
    twin, other = model_of()
    twin.optimizer.build(twin.trainable_variables)
    twin.load_weights(tmp_path / "m.weights.h5")
    assert other.table.is_trained().all()  # such a file does not say which were
    plain = keras.saving.load_model(
        tmp_path / "m.keras", custom_objects={"rowwise>Embedding": keras.layers.Embedding}
    )
    np.testing.assert_array_equal(plain.layers[1].get_weights()[0], layer.get_weights()[0])


def test_a_layer_of_pretrained_vectors(capsys):
    vectors = Vectors(["tea", "cup"], [[1.0, 2.0], [3.0, 4.0]])
    vocabulary = rowwise.Vocabulary(["cup", "pot", "tea"], mask_token="", oov_token="[UNK]")
    layer = rowwise.keras.Embedding.from_pretrained(
        vectors, vocabulary, trainable=False, init="zeros", mask_zero=True, untrained="zeros"
    )
    assert capsys.readouterr().out == "2 of 3 words found (66.7%); missing: 'pot'\n"
    assert layer.pretrained.missing == ["pot"]
    np.testing.assert_array_equal(layer.get_weights()[0], [[0, 0], [0, 0], [3, 4], [0, 0], [1, 2]])
    assert layer.table.is_trained().tolist() == [False, False, True, False, True]
    assert not layer.trainable_variables
    assert layer.mask_zero


def test_rows_that_lora_adapts_stay_as_they_are():
    _, layer = model_of()
    layer.enable_lora(2)
    with pytest.raises(ValueError, match="LoRA"):
        layer.grow(ROWS + 1)
    assert layer.table.rows == ROWS


@pytest.mark.filterwarnings("ignore:.*visits all")
def test_rows_with_slots_elsewhere_stay_as_they_are():
    model, layer = model_of(optimizer="adafactor")
    train(model, 1, ROWS)
    with pytest.raises(ValueError, match=r"'adafactor\w*' keeps slots for 10 rows"):
        layer.grow(ROWS + 1)
    assert layer.table.rows == ROWS
    model.compile("adam", "mse")
    layer.grow(ROWS + 1)
    train(model, 1, ROWS + 1)
