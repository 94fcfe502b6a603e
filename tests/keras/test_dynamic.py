"""`rowwise.keras.DynamicEmbedding`: the dynamic table as a layer, with its numbers."""

import copy
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from side_by_side import BACKEND, only_jax, only_tensorflow, only_torch

import rowwise.keras
from rowwise.dynamic import DynamicTable
from rowwise.keras import BackupAndRestore
from rowwise.keras._encoded_ids import decode_ids

CAPACITY, DIM, LENGTH, BATCH = 24, 3, 2, 6
OPTIONS = {"admit_after": 2, "evict_share": 0.2, "unknown_rows": 2}
LARGE = 10**15 + 7
not_on_tensorflow = pytest.mark.skipif(BACKEND == "tensorflow", reason="has tensors of strings")


class Product(keras.losses.Loss):
    """A loss whose gradient is the targets themselves."""

    def __init__(self, **options):
        super().__init__(**{"reduction": "sum", **options})

    def call(self, targets, vectors):
        return ops.sum(targets * vectors, axis=(-2, -1))


def start(seed=3):
    return keras.initializers.RandomUniform(-0.05, 0.05, seed=seed)


def log(steps, seed=0):
    """Ids of a click log, new ones every day, and a gradient for each."""
    rng = np.random.default_rng(seed)
    day = np.arange(steps * BATCH)[:, None] // 30
    ids = rng.zipf(1.3, (steps * BATCH, LENGTH)).clip(max=200) + day
    return ids, rng.standard_normal((*ids.shape, DIM)).astype(np.float32)


def make(optimizer="adam", width=2, dtype="int32", ids="integers", length=LENGTH, **options):
    """Return a compiled model that takes encoded ids, as every backend can hold them."""
    options = {"embeddings_initializer": start(), **OPTIONS, **options}
    capacity = options.pop("capacity", CAPACITY)
    layer = rowwise.keras.DynamicEmbedding(capacity, DIM, ids=ids, encoded=True, **options)
    model = keras.Sequential([keras.Input((length, width), dtype=dtype), layer])
    model.compile(optimizer, Product())
    return model, layer


def fit(model, ids, gradients, **options):
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}
    return model.fit(rowwise.keras.encode_ids(ids), gradients, **options)


def contents(layer):
    """Ids, counts, rows and slots, as they are now."""
    table = layer.dynamic
    state, rows = table.index.state(), table.table
    arrays = [rows.to_numpy(), *(rows.slot(name) for name in rows.slot_names), *state.values()]
    return [array.tobytes() for array in arrays], table.steps


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.05),
    "adamw": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("evict", ["lru", "lfu"])
def test_fit_has_the_numbers_of_a_dynamic_table(kind, evict):
    gone, gone_there = [], []
    model, layer = make(OPTIMIZERS[kind](), evict=evict, on_evict=lambda *a: gone.append(a))
    ids, gradients = log(150)
    fit(model, ids + LARGE, gradients)

    table = DynamicTable(
        CAPACITY,
        DIM,
        layer.dynamic.table.rule,
        evict=evict,
        seed=3,
        on_evict=lambda *a: gone_there.append(a),
        **OPTIONS,
    )
    for at in range(0, len(ids), BATCH):
        batch = ids[at : at + BATCH] + LARGE
        table.observe(batch)
        table.update(batch, gradients[at : at + BATCH], float(np.float32(0.05)))
    assert layer.dynamic.index.ids().tolist() == table.index.ids().tolist()
    assert layer.dynamic.evictions == table.evictions > 30
    assert layer.dynamic.steps == table.steps == 150
    for mine, theirs in zip(gone, gone_there, strict=True):
        assert mine[0].tolist() == theirs[0].tolist()
        np.testing.assert_array_equal(mine[1], theirs[1])
    every = np.unique(ids) + LARGE
    np.testing.assert_array_equal(layer.dynamic.lookup(every), table.lookup(every))


@pytest.mark.skipif(BACKEND == "jax", reason="trains tables in trainers alone")
def test_a_loop_of_ones_own_has_the_bits_of_fit():
    ids, gradients = log(40)
    encoded = rowwise.keras.encode_ids(ids)
    by_fit, layer = make()
    fit(by_fit, ids, gradients)
    model, own = make()
    optimizer, loss = keras.optimizers.get("adam"), Product()
    for at in range(0, len(ids), BATCH):
        batch = [ops.convert_to_tensor(a[at : at + BATCH]) for a in (encoded, gradients)]
        weights = model.trainable_weights
        if BACKEND == "torch":
            model.zero_grad()
            loss(batch[1], model(batch[0], training=True)).backward()
            optimizer.apply([weight.value.grad for weight in weights], weights)
        else:
            import tensorflow as tf

            with tf.GradientTape() as tape:
                value = loss(batch[1], model(batch[0], training=True))
            optimizer.apply(tape.gradient(value, weights), weights)
    assert contents(own) == contents(layer)


def test_predict_and_evaluate_admit_nobody():
    model, layer = make()
    ids, gradients = log(10)
    fit(model, ids, gradients, validation_data=(rowwise.keras.encode_ids(ids), gradients))
    before = contents(layer)
    seen = rowwise.keras.encode_ids(ids)
    predicted = model.predict(seen, verbose=0)
    model.evaluate(seen, gradients, verbose=0)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(seen)), predicted)
    np.testing.assert_array_equal(predicted, layer.dynamic.lookup(ids))
    layer.trainable = False
    model(seen, training=True)
    assert contents(layer) == before


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_a_file_holds_the_ids(tmp_path, suffix):
    model, layer = make(OPTIMIZERS["momentum"]())
    ids, gradients = log(60)
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(tmp_path / f"model{suffix}"), save_weights_only=suffix != ".keras"
    )
    fit(model, ids[:180], gradients[:180], callbacks=[checkpoint])
    at_save = contents(layer)
    if suffix == ".keras":
        again = keras.saving.load_model(tmp_path / "model.keras", {"Product": Product})
    else:
        again, _ = make(OPTIMIZERS["momentum"](), embeddings_initializer=start(seed=99))
        again.build((None, LENGTH, 2))
        again.optimizer.build(again.trainable_variables)
        again.load_weights(tmp_path / "model.weights.h5")
    [its] = again.layers
    assert contents(its) == at_save
    fit(model, ids[180:], gradients[180:])
    fit(again, ids[180:], gradients[180:])
    assert contents(its) == contents(layer)


def test_a_file_of_other_ids_is_refused(tmp_path):
    model, _ = make()
    fit(model, *log(2))
    model.save_weights(tmp_path / "a.weights.h5")
    other, layer = make(unknown_rows=1)
    before = contents(layer)
    with pytest.raises(ValueError, match="embeddings are"):
        other.load_weights(tmp_path / "a.weights.h5")
    assert contents(layer) == before
    with pytest.raises(ValueError, match=r"as \.keras"):
        model.save(tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
    assert "optimizer" in model.get_compile_config()
    # A file of plain rows, as many as this layer has.
    plain = keras.layers.Embedding(*layer.dynamic.table.shape)
    keras.Sequential([keras.Input((1,), dtype="int32"), plain, *other.layers[1:]]).save(
        tmp_path / "a.h5"
    )
    with pytest.raises(ValueError, match="holds no ids"):
        other.load_weights(tmp_path / "a.h5")
    assert contents(layer) == before


def test_a_config_makes_the_same_layer():
    _, layer = make(evict="lfu", ttl=9, mask_zero=True, name="items")
    again = rowwise.keras.DynamicEmbedding.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    again.build()
    assert again.dynamic.index.config() == layer.dynamic.index.config()
    assert again.dynamic.starts == layer.dynamic.starts


def test_training_a_layer_leaves_its_copy_unchanged():
    model, layer = make()
    ids, gradients = log(20)
    fit(model, ids, gradients)
    copied = copy.deepcopy(layer)
    assert copied.dynamic.table is copied._embeddings.table
    before = contents(copied)[0]
    fit(model, ids + 3, gradients)
    assert contents(copied)[0] == before


def test_a_checkpoint_of_other_ids_of_the_same_shape_is_refused_and_nothing_changes(tmp_path):
    model, _ = make()
    fit(model, *log(3), callbacks=[BackupAndRestore(tmp_path, delete_checkpoint=False)])
    other = rowwise.keras.DynamicEmbedding(CAPACITY + 1, DIM, start(seed=4), encoded=True)
    model = keras.Sequential([keras.Input((LENGTH, 2), dtype="int32"), other])
    model.compile("adam", Product())
    fit(model, *log(3, seed=1))
    before = contents(other)
    with pytest.raises(ValueError, match=f"of capacity={CAPACITY}, the table's of {CAPACITY + 1}"):
        fit(model, *log(3), callbacks=[BackupAndRestore(tmp_path)])
    assert contents(other) == before


def test_a_checkpoint_is_of_dynamic_tables_or_of_plain_ones(tmp_path):
    def plain(rows):
        table = rowwise.keras.Embedding(rows, DIM)
        model = keras.Sequential([keras.Input((LENGTH,), dtype="int32"), table])
        model.compile("adam", Product())
        return model

    (ids, gradients), (dynamic, layer) = log(3), make()
    kept = BackupAndRestore(tmp_path / "dynamic", delete_checkpoint=False)
    fit(dynamic, ids, gradients, callbacks=[kept])
    model = plain(layer.dynamic.table.rows)
    with pytest.raises(ValueError, match=r"its dynamic_tables is \[0\], and this one's \[\]"):
        model.fit(ids % 5, gradients, callbacks=[BackupAndRestore(tmp_path / "dynamic")])
    kept = BackupAndRestore(tmp_path / "plain", delete_checkpoint=False)
    model.fit(ids % 5, gradients, verbose=0, callbacks=[kept])
    with pytest.raises(ValueError, match=r"its dynamic_tables is \[\], and this one's \[0\]"):
        fit(dynamic, ids, gradients, callbacks=[BackupAndRestore(tmp_path / "plain")])


class Killed(BaseException):
    """An end that nobody catches."""


@pytest.mark.parametrize("place", ["memory", pytest.param("disk", marks=only_torch)])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(place, tmp_path):
    options = {"scratch": tmp_path, "memory": 13_000, "capacity": 300} if place == "disk" else {}

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == self.params["epochs"] - 1 and model is not whole:
                raise Killed

    def train(epochs):
        backup = BackupAndRestore(tmp_path / "backup", delete_checkpoint=model is whole)
        fit(model, *log(20), epochs=epochs, callbacks=[backup, Kill()])

    model, layer = make(**options)
    whole = model
    train(4)
    expected = contents(layer)
    model, layer = make(**options)
    with pytest.raises(Killed):
        train(3)
    model, layer = make(**options, embeddings_initializer=start(seed=99))
    whole = model
    train(4)
    assert contents(layer) == expected


def test_rows_of_ids_that_come_back_start_anew():
    model, layer = make(OPTIMIZERS["momentum"](), admit_after=1)
    first, gradients = np.array([[5, 6]] * BATCH), np.ones((BATCH, LENGTH, DIM), np.float32)
    at_start = layer.dynamic.starts.rows(np.array([5, 6]), DIM)
    fit(model, first, gradients)
    others = 100 + np.arange(40 * BATCH * LENGTH).reshape(-1, LENGTH)
    fit(model, others, np.ones((*others.shape, DIM), np.float32))
    assert not layer.has_row([5, 6]).any()
    model.optimizer.learning_rate.assign(0.0)
    fit(model, first, gradients)
    np.testing.assert_array_equal(layer.dynamic.lookup([5, 6]), at_start)


def test_several_layers_and_calls_of_one_are_counted_in_order():
    item = rowwise.keras.DynamicEmbedding(6, DIM, start(), encoded=True, evict_share=0.2)
    user = rowwise.keras.DynamicEmbedding(9, DIM, start(4), encoded=True)
    inputs = [keras.Input((2,), dtype="int32") for _ in range(3)]
    outputs = item(inputs[0]) * item(inputs[1]) + user(inputs[2])
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 40, (3, 60))
    model.fit(
        [rowwise.keras.encode_ids(one) for one in ids],
        np.ones((60, DIM)),
        batch_size=2,
        shuffle=False,
        verbose=0,
    )
    table = DynamicTable(6, DIM, "sgd", evict_share=0.2, seed=3)
    for at in range(0, 60, 2):
        for one in ids[:2, at : at + 2]:
            table.observe(one)
        table.update([], np.empty((0, DIM)), 0.0)
    assert item.dynamic.index.ids().tolist() == table.index.ids().tolist()
    assert item.dynamic.evictions == table.evictions > 20


def test_gradients_summed_over_batches_are_the_rows_own():
    layer = rowwise.keras.DynamicEmbedding(CAPACITY, DIM, start(), encoded=True)
    same = keras.layers.Dense(DIM, use_bias=False, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((LENGTH, 2), dtype="int32"), layer, same])
    model.compile(keras.optimizers.SGD(1.0, gradient_accumulation_steps=2), Product())
    ids = np.array([[1, 2]] * BATCH + [[3, 1]] * BATCH)
    fit(model, ids, np.ones((*ids.shape, DIM), np.float32))
    starts = layer.dynamic.starts.rows(np.array([1, 2, 3]), DIM)
    moved = starts - BATCH * np.array([[1.0], [0.5], [0.5]])
    np.testing.assert_allclose(layer.dynamic.lookup([1, 2, 3]), moved, rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(use_ema=True),
        lambda: keras.optimizers.Adafactor(),
    ],
)
def test_an_optimizer_that_steps_every_row_is_refused(optimizer):
    model, layer = make(optimizer())
    for _ in range(2):  # the first refusal leaves nothing behind
        with pytest.raises(ValueError, match="that it can step sparsely"):
            fit(model, *log(1))
    assert len(layer.dynamic) == 0


def test_an_optimizer_that_returns_after_evictions_is_refused():
    model, _ = make(OPTIMIZERS["momentum"]())
    first = model.optimizer
    fit(model, *log(30))
    model.compile(OPTIMIZERS["adam"](), Product())
    fit(model, *log(30, seed=1))
    model.compile(first, Product())
    for _ in range(2):
        with pytest.raises(ValueError, match="compile with a new optimizer"):
            fit(model, *log(1))


def test_an_error_of_on_evict_goes_to_fit():
    def fail(ids, vectors):
        raise KeyError("no such cache")

    model, layer = make()
    layer.on_evict = fail
    with pytest.raises(KeyError, match="no such cache"):
        fit(model, *log(150))


def test_padding_is_masked():
    _, layer = make(mask_zero=True)
    encoded = rowwise.keras.encode_ids([[0, 2**32], [1, 0]])
    mask = ops.convert_to_numpy(layer.compute_mask(ops.convert_to_tensor(encoded)))
    assert mask.tolist() == [[False, True], [True, False]]


def test_ids_are_encoded_without_loss():
    ids = np.array([[0, -1, 2**63 - 1], [-(2**63), LARGE, 7]])
    encoded = rowwise.keras.encode_ids(ids)
    np.testing.assert_array_equal(decode_ids(encoded, "integers"), ids)
    np.testing.assert_array_equal(rowwise.keras.encode_ids(ids.view(np.uint64)), encoded)
    texts = np.array([["tea", ""], ["Übergröße", "a\0b"]])
    encoded_texts = np.char.encode(texts, "utf-8")
    for given in (texts, texts.tolist(), encoded_texts, encoded_texts.tolist()):
        decoded = decode_ids(rowwise.keras.encode_ids(given), "strings")
        assert decoded.tolist() == texts.tolist()
    with pytest.raises(ValueError, match="'teapot' has 6 bytes"):
        rowwise.keras.encode_ids(["teapot"], width=3)
    with pytest.raises(ValueError, match="ends in the character 0"):
        rowwise.keras.encode_ids(["a\0"])
    for mixed in (["tea", 1], ["tea", 2.5], [b"tea", 1]):
        with pytest.raises(TypeError, match="ids are strings here, not"):
            rowwise.keras.encode_ids(mixed)
    with pytest.raises(ValueError, match=r"353 is no byte \(0\.\.255\)"):
        decode_ids(np.array([[353, 98]]), "strings")
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\), as encode_ids makes them"):
        decode_ids(encoded[..., :1], "integers")
    with pytest.raises(ValueError, match=f"{LARGE} is no half of an id"):
        decode_ids(np.array([[1, LARGE]]), "integers")
    with pytest.raises(ValueError, match="longer tells neighbouring ids apart"):
        decode_ids(encoded.astype(np.float32), "integers")


def test_strings_are_ids_on_every_backend():
    gone = []
    model, layer = make(
        width=4,
        dtype="uint8",
        ids="strings",
        admit_after=1,
        length=1,
        on_evict=lambda ids, _: gone.extend(ids),
    )
    words = np.array([[f"w{i}"] for i in range(90)])
    gradients = np.ones((90, 1, DIM), np.float32)
    encoded = rowwise.keras.encode_ids(words, width=4)
    model.fit(encoded, gradients, batch_size=6, shuffle=False, verbose=0)
    assert layer.has_row(["w89", "w0", "tea"]).tolist() == [True, False, False]
    assert gone[:2] == ["w0", "w1"]


@not_on_tensorflow
def test_strings_need_to_be_encoded():
    with pytest.raises(ValueError, match=r"encode_ids\(strings, width\)"):
        rowwise.keras.DynamicEmbedding(5, DIM, ids="strings")


@only_tensorflow
def test_tensors_of_strings_are_ids():
    import tensorflow as tf

    layer = rowwise.keras.DynamicEmbedding(9, DIM, start(), mask_zero=True, ids="strings")
    model = keras.Sequential([keras.Input((2,), dtype="string"), layer])
    model.compile("sgd", Product())
    words = tf.constant([["tea", "Übergröße"], ["cup", ""]])
    gradients = np.ones((2, 2, DIM), np.float32)
    data = tf.data.Dataset.from_tensor_slices((words, gradients)).batch(1)
    model.fit(data, shuffle=False, verbose=0)
    assert layer.has_row(["tea", "Übergröße", "pot"]).tolist() == [True, True, False]
    assert layer.compute_mask(words).numpy().tolist() == [[True, True], [True, False]]
    texts = [["tea", "Übergröße"], ["cup", ""]]
    np.testing.assert_array_equal(model.predict(words), layer.dynamic.lookup(texts))
    with pytest.raises(ValueError, match="is not UTF-8"):
        model.predict(tf.constant([[b"\xff", b"a"]]))


@pytest.mark.skipif(BACKEND == "jax", reason="has 32 bits")
def test_integers_of_64_bits_are_ids():
    layer = rowwise.keras.DynamicEmbedding(9, DIM, start())
    model = keras.Sequential([layer])
    model.compile("sgd", Product())
    ids = np.array([[LARGE, LARGE + 1], [-LARGE, 2**63 - 1]])
    model.fit(ids, np.ones((2, 2, DIM), np.float32), verbose=0)
    assert sorted(layer.dynamic.index.ids()) == sorted(ids.ravel().tolist())


@only_jax
def test_integers_that_jax_would_cut_are_refused():
    layer = rowwise.keras.DynamicEmbedding(9, DIM, start())
    model = keras.Sequential([keras.Input((1,), dtype="int32"), layer])
    model.compile("sgd", Product())
    ids, gradients = np.array([[LARGE]]), np.ones((1, 1, DIM), np.float32)
    for call in (
        lambda: model.fit(ids, gradients, verbose=0),
        lambda: model.train_on_batch(ids, gradients),
        lambda: model.predict(ids, verbose=0),
        lambda: model(ids),
        lambda: layer(ids),
    ):
        with pytest.raises(IndexError, match=r"Set JAX_ENABLE_X64=1 in.*encoded=True what"):
            call()
    model.fit(ids % 2**31, gradients, verbose=0)
    assert layer.has_row(ids % 2**31).all()


@only_jax
def test_integers_of_64_bits_are_ids_with_x64():
    code = (
        "import keras, numpy as np, rowwise.keras\n"
        "layer = rowwise.keras.DynamicEmbedding(9, 2)\n"
        "model = keras.Sequential([keras.Input((2,), dtype='int64'), layer])\n"
        "model.compile('sgd', 'mse')\n"
        f"ids = np.array([[{LARGE}, -{LARGE}]])\n"
        "model.fit(ids, np.ones((1, 2, 2)), verbose=0)\n"
        "assert layer.has_row(ids).all() and len(layer.dynamic) == 2\n"
        "assert np.array_equal(np.asarray(layer(ids)), layer.dynamic.lookup(ids))\n"
        "try: rowwise.keras.Embedding(5, 2)(np.array([2**32 + 1]))\n"
        "except IndexError as error: assert 'id 4294967297 ' in str(error)\n"
        "else: raise AssertionError('read as row 1')\n"
    )
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@only_jax
def test_a_loop_that_holds_the_whole_table_is_refused():
    model, _ = make("sgd")
    model.optimizer.build(model.trainable_variables)
    state = model.optimizer.variables
    values = [v.value for v in model.trainable_variables]
    with pytest.raises(ValueError, match="holds the whole table"):
        model.optimizer.stateless_apply(state, [v * 0 for v in values], values)


@only_torch
def test_an_optimizer_of_torch_is_refused():
    import torch

    model, _ = make("sgd")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids, gradients = log(1)
    vectors = model(rowwise.keras.encode_ids(ids), training=True)
    (vectors * torch.from_numpy(gradients)).sum().backward()
    with pytest.raises(ValueError, match="Here: SGD of torch's"):
        optimizer.step()


@only_torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")
def test_a_trace_is_refused_and_a_compiled_call_reads():
    import torch

    model, _ = make()
    encoded = torch.from_numpy(rowwise.keras.encode_ids(np.array([[1, 2]])))
    for trace in (torch.jit.trace, torch.export.export):
        with pytest.raises(NotImplementedError, match=r"layer\.dynamic\.lookup"):
            trace(model, (encoded,))
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(encoded), model(encoded))


@pytest.mark.filterwarnings("ignore:The `native_serialization` parameter:DeprecationWarning")
def test_an_export_is_refused(tmp_path):
    model, _ = make()
    fit(model, *log(1))
    with pytest.raises(NotImplementedError, match=r"layer\.dynamic\.lookup"):
        model.export(tmp_path / "model")


@pytest.mark.parametrize(
    "initializer", ["glorot_uniform", "ones", keras.initializers.RandomUniform(0, 1)]
)
def test_a_start_that_is_not_by_id_is_refused(initializer):
    with pytest.raises(ValueError, match=r"take 'uniform', 'normal', 'zeros'"):
        rowwise.keras.DynamicEmbedding(5, DIM, initializer)


def test_options_out_of_bounds_are_refused():
    with pytest.raises(ValueError, match="evict='oldest'"):
        rowwise.keras.DynamicEmbedding(5, DIM, evict="oldest")
    with pytest.raises(ValueError, match="rows are float32, not bfloat16"):
        rowwise.keras.DynamicEmbedding(5, DIM, dtype="bfloat16")


@pytest.mark.parametrize("seed", [0, 7])
def test_the_seed_of_keras_decides_where_none_is_given(seed):
    def starts():
        keras.utils.set_random_seed(seed)
        return rowwise.keras.DynamicEmbedding(5, DIM)._starts_of_rows

    assert starts() == starts()


def on_disk(tmp_path, **options):
    """Return what `make` does, of more rows than memory holds."""
    return make(capacity=300, scratch=tmp_path, memory=13_000, **options)


@only_torch
def test_rows_on_a_disk_have_the_bits_of_memory(tmp_path):
    results = []
    for model, layer in (make(capacity=300), on_disk(tmp_path)):
        gone = []
        layer.on_evict = lambda ids, vectors, gone=gone: gone.append(
            (ids.tolist(), vectors.tobytes())
        )
        ids, gradients = log(100)
        fit(model, ids * 3 + np.arange(len(ids))[:, None] // 2, gradients)
        layer.prefetch(rowwise.keras.encode_ids(ids[:3]))
        looked_up = model.predict(rowwise.keras.encode_ids(ids), verbose=0).tobytes()
        results.append((gone, looked_up, contents(layer)))
    assert results[0] == results[1]
    assert gone
    store = layer.dynamic.table.store
    assert store.device == "disk"
    assert len(store._row_of) < store.shape[0] / 2


@only_torch
def test_a_file_holds_rows_and_ids_of_a_disk(tmp_path):
    model, layer = on_disk(tmp_path)
    fit(model, *log(20))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Product": Product})
    there = again.layers[-1]
    assert there.dynamic.table.store.device == "disk"
    assert contents(there) == contents(layer)
    for one in (model, again):
        fit(one, *log(20, seed=1))
    assert contents(there) == contents(layer)
    with pytest.raises(ValueError, match=r"layer\.dynamic\.save\(path\)"):
        model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"layer\.dynamic\.save\(path\)"):
        layer.save_own_variables({})
    with pytest.raises(ValueError, match=r"layer\.dynamic\.save\(path\)"):
        layer.load_own_variables({"about": 1})
    copied = copy.deepcopy(layer)  # by way of a file, as Keras copies layers
    fit(model, *log(5))
    assert contents(copied) == contents(there)


@pytest.mark.skipif(BACKEND == "torch", reason="is about the other backends")
def test_rows_on_a_disk_are_refused_elsewhere(tmp_path):
    with pytest.raises(ValueError, match="needs Keras's backend torch"):
        on_disk(tmp_path)
