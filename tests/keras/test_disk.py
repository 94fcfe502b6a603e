"""Layers whose rows lie on a disk: the bits of the layers in memory."""

import mmap

import keras
import numpy as np
import pytest

import rowwise.keras
from rowwise.store import DiskStore

ROWS, DIM = 400, 4
SMALL = 14_000  # bytes: a few dozen rows


def model_of(layer):
    keras.utils.set_random_seed(0)
    pooled = isinstance(layer, rowwise.keras.EmbedReduce)
    layers = [layer] if pooled else [layer, keras.layers.GlobalAveragePooling1D()]
    return keras.Sequential([*layers, keras.layers.Dense(1)])


def pair(tmp_path, kind=rowwise.keras.Embedding, **options):
    """Return a model in memory and the same on a disk."""
    keras.utils.set_random_seed(1)
    there = kind(ROWS, DIM, scratch=tmp_path, memory=SMALL, **options)
    here = kind(ROWS, DIM, **options)
    models = [model_of(here), model_of(there)]
    for model in models:
        model.build((None, 3))
    assert isinstance(there.table.store, DiskStore)
    assert len(there.table.store._row_of) < ROWS / 2
    here.set_weights([there.table.to_numpy()])
    there.table.mark_trained()
    return models


def twice(model):
    """Return a model that looks up rows twice, in the layer of another."""
    keras.utils.set_random_seed(0)
    layer, inputs = model.layers[0], keras.Input((3,), dtype="int32")
    both = keras.layers.Flatten()(layer(inputs) + 2 * layer(inputs // 2))
    return keras.Model(inputs, keras.layers.Dense(1)(both))


def fit(model, optimizer, epochs=3):
    rng = np.random.default_rng(0)
    model.compile(optimizer(), "mse")
    x, y = rng.integers(0, ROWS, (160, 3)), rng.standard_normal((160, 1))
    return model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0).history["loss"]


def bits(model):
    layer = next(one for one in model.layers if isinstance(one, rowwise.keras.Embedding))
    table = layer.table
    slots = [table.slot(name) for name in table.slot_names]
    dense = [np.asarray(weight) for weight in model.layers[-1].get_weights()]
    return [a.tobytes() for a in (table.to_numpy(), *slots, table.update_counts, *dense)]


ON_TORCH = keras.backend.backend() == "torch"
OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "clipped": lambda: keras.optimizers.Adam(global_clipnorm=0.1),
    "accumulated": lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), 4.0),
}
if ON_TORCH:  # the rules are the same everywhere
    OPTIMIZERS |= {
        "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        "adam": keras.optimizers.Adam,
        "nadam": keras.optimizers.Nadam,
        "ftrl": keras.optimizers.Ftrl,
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_gives_the_bits_of_memory(optimizer, tmp_path):
    results = [(fit(model, optimizer), bits(model)) for model in pair(tmp_path)]
    assert results[0] == results[1]


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="there gradients wait by row")
def test_sums_of_gradients_lie_on_the_disk(tmp_path):
    model = pair(tmp_path)[1]
    fit(model, OPTIMIZERS["accumulated"], epochs=1)
    sums = model.layers[0]._embeddings.accumulators[model.optimizer].sums.sums
    while isinstance(sums, np.ndarray):
        sums = sums.base
    assert isinstance(sums.obj, mmap.mmap)


def test_options_give_the_bits_of_memory(tmp_path):
    models = pair(tmp_path, mask_zero=True, freeze_mask_row=True, untrained="mean")
    results = []
    for model in models:
        losses = fit(model, keras.optimizers.Adam)
        model.layers[0].prefetch(np.arange(3))
        results.append((losses, model.predict(np.arange(ROWS - 1).reshape(-1, 3)), bits(model)))
    assert results[0][::2] == results[1][::2]
    assert (results[0][1] == results[1][1]).all()


def test_rows_of_16_bits_give_the_bits_of_memory(tmp_path):
    results, start = [], keras.initializers.RandomNormal(stddev=0.3, seed=1)
    half = {"dtype": keras.DTypePolicy("bfloat16"), "embeddings_initializer": start}
    for place in ({}, {"scratch": tmp_path, "memory": 13_000}):
        model = model_of(rowwise.keras.Embedding(ROWS, DIM, rounding="nearest", **half, **place))
        results.append((fit(model, keras.optimizers.Adam), bits(model)))
    assert results[0] == results[1]
    assert model.layers[0].table.dtype == "bfloat16"
    model.save(tmp_path / "model.keras")
    assert bits(keras.models.load_model(tmp_path / "model.keras")) == bits(model)
    layer = rowwise.keras.Embedding(ROWS, DIM, scratch=tmp_path, memory=SMALL, **half)
    with pytest.raises(
        ValueError, match='of bfloat16 cannot lie on a disk: with rounding="nearest" it'
    ):
        layer.build()


def test_bags_give_the_bits_of_memory(tmp_path):
    models = pair(tmp_path, rowwise.keras.EmbedReduce, mask_zero=True, combiner="sqrtn")
    results = [(fit(model, keras.optimizers.Adam), bits(model)) for model in models]
    assert results[0] == results[1]


def test_rows_that_are_looked_up_twice_give_the_bits_of_memory(tmp_path):
    def clipped():
        return keras.optimizers.Adam(clipvalue=0.01)

    results = [(fit(model, clipped), bits(model)) for model in map(twice, pair(tmp_path))]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("made", "ids", "error"),
    [
        (lambda model: model, [[0, 1, ROWS]], IndexError),
        (lambda model: model, np.arange(390).reshape(-1, 3), MemoryError),
        (twice, np.arange(200, 299).reshape(-1, 3), MemoryError),  # each of two lookups would fit
    ],
    ids=["bad id", "large batch", "two lookups"],
)
def test_a_batch_that_is_refused_changes_nothing(made, ids, error, tmp_path):
    model = made(pair(tmp_path)[1])
    fit(model, keras.optimizers.Adam, epochs=1)
    before = bits(model), int(model.optimizer.iterations)
    ids = np.array(ids)
    with pytest.raises(error):
        model.fit(ids, np.ones((len(ids), 1)), batch_size=len(ids), verbose=0)
    assert (bits(model), int(model.optimizer.iterations)) == before
    assert np.isfinite(model.evaluate(np.array([[0, 1, 2]]), np.ones((1, 1)), verbose=0))


def test_training_goes_on_from_a_backup(tmp_path):
    def stopping():
        return rowwise.keras.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)

    def train(model, epochs, *callbacks):
        x, y = np.arange(ROWS - 1).reshape(-1, 3)[:64], np.ones((64, 1))
        model.fit(x, y, 16, epochs, shuffle=False, verbose=0, callbacks=callbacks)

    whole, stopped, going_on = (pair(tmp_path)[1] for _ in range(3))
    for model in (whole, stopped, going_on):
        model.compile("adam", "mse")
    train(whole, 2)
    train(stopped, 1, stopping())
    train(going_on, 2, stopping())
    assert bits(going_on) == bits(whole)


def test_a_file_holds_rows_and_slots(tmp_path):
    model = pair(tmp_path)[1]
    fit(model, keras.optimizers.Adam)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again.layers[0].table.store, DiskStore)
    assert bits(again) == bits(model)
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, ROWS, (160, 3)), rng.standard_normal((160, 1))
    for each in (model, again):
        each.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    assert bits(again) == bits(model)
    layer = again.layers[0]
    layer.save_assets(tmp_path)
    other = rowwise.keras.Embedding(ROWS + 1, DIM, scratch=tmp_path, memory=SMALL)
    other.build()
    with pytest.raises(ValueError, match="file's rows are"):
        other.load_assets(tmp_path)
    assert other.table.rows == ROWS + 1


def test_files_of_weights_alone_are_refused_before_anything_is_written(tmp_path):
    model = pair(tmp_path)[1]
    whole, alone = tmp_path / "model.keras", tmp_path / "model.weights.h5"
    model.save(whole)
    before = bits(model)
    for call in (lambda: model.save_weights(alone), lambda: model.load_weights(whole)):
        with pytest.raises(ValueError, match=r"model\.save\(path\).*layer\.table\.save\(path\)"):
            call()
    with pytest.raises(ValueError, match=r"save the model as \.keras"):
        model.save(tmp_path / "model.h5")
    variables, layer = {}, model.layers[0]
    with pytest.raises(ValueError, match=r"have no rows from a disk, as those of layer"):
        layer.save_own_variables(variables)
    assert not variables
    assert not alone.exists()
    assert not (tmp_path / "model.h5").exists()
    assert bits(model) == before
    layer.load_own_variables({"0": np.ones((ROWS, DIM), np.float32)})
    assert (layer.table.to_numpy() == 1).all()


def test_rows_start_as_the_initializer_says(tmp_path):
    def rows(initializer):
        layer = rowwise.keras.Embedding(
            ROWS, DIM, embeddings_initializer=initializer, scratch=tmp_path, memory=SMALL
        )
        layer.build()
        return layer.table.to_numpy(), layer.table.store._era_of.any()

    values, written = rows("uniform")
    assert not written
    assert -0.05 <= values.min() < -0.04 < 0.04 < values.max() <= 0.05
    values, written = rows(keras.initializers.RandomNormal(stddev=0.3, seed=1))
    assert written
    expected = keras.initializers.RandomNormal(stddev=0.3, seed=1)((ROWS, DIM))
    assert (values == keras.ops.convert_to_numpy(expected)).all()


def test_rows_that_are_added_start_as_the_initializer_says(tmp_path):
    model = pair(tmp_path)[1]
    fit(model, keras.optimizers.Adam, epochs=1)
    layer = model.layers[0]
    before = layer.table.to_numpy()
    layer.grow(ROWS + 50)
    rows = layer.table.to_numpy()
    assert (rows[:ROWS] == before).all()
    assert -0.05 <= rows[ROWS:].min() < -0.03 < 0.03 < rows[ROWS:].max() <= 0.05
    model.fit(np.array([[ROWS + 9] * 3]), np.ones((1, 1)), verbose=0)
    assert (layer.table.lookup([ROWS + 9]) != rows[ROWS + 9]).all()
    layer.embeddings_initializer = keras.initializers.RandomNormal(stddev=0.3)
    with pytest.raises(ValueError, match="start by name; give init='uniform'"):
        layer.remap([1, -1])


def test_what_needs_all_rows_is_an_error(tmp_path):
    model = pair(tmp_path)[1]
    layer = model.layers[0]
    with pytest.raises(RuntimeError, match=r"call the layer with ids; layer\.table\.save\(path\)"):
        layer.get_weights()
    with pytest.raises(ValueError, match="has its rows on a disk, and LoRA would keep"):
        layer.enable_lora(2)
    for option, value in (("regularizer", "l2"), ("constraint", "non_neg")):
        given = {f"embeddings_{option}": value, "scratch": tmp_path, "memory": SMALL}
        with pytest.raises(ValueError, match=f"embeddings_{option} needs all rows"):
            rowwise.keras.Embedding(ROWS, DIM, **given).build()
    averaging = keras.optimizers.Adam(use_ema=True)
    for _ in range(2):  # the first refusal leaves nothing behind
        with pytest.raises(ValueError, match="an embedding on a disk is stepped by a rule alone"):
            fit(model, lambda: averaging)
    with pytest.raises(ValueError, match="scratch= needs memory="):
        rowwise.keras.Embedding(ROWS, DIM, scratch=tmp_path)


def test_an_optimizer_whose_slots_are_gone_is_refused(tmp_path):
    model = pair(tmp_path)[1]
    first, second = keras.optimizers.Adagrad(), keras.optimizers.Adagrad()
    fit(model, lambda: first)
    fit(model, lambda: second)
    before = bits(model)
    with pytest.raises(ValueError, match="compile the model with a new optimizer"):
        fit(model, lambda: first)
    assert bits(model) == before
