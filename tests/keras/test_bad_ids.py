"""Ids that are not rows: a clear error on every path, and nothing changed."""

import keras
import numpy as np
import pytest
from side_by_side import float64_there_is, numpy_of, values_of

from rowwise.keras import DynamicEmbedding, Embedding, EmbedReduce


def model_of_five(**options):
    model = keras.Sequential([Embedding(5, 2, **options), keras.layers.Flatten()])
    model.compile("adam", "mse")
    return model


CALLS = {
    "call": lambda model, ids: model.layers[0](ids),
    "predict": lambda model, ids: model.predict(ids, verbose=0),
    "evaluate": lambda model, ids: model.evaluate(ids, np.zeros((1, 4)), verbose=0),
    "fit": lambda model, ids: model.fit(ids, np.zeros((1, 4)), verbose=0),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[0, 5]], IndexError, r"id 5 at position \(0, 1\) is outside the table's 5 rows \(0..4\)"),
        ([[-1, 0]], IndexError, r"id -1 at position \(0, 0\) is outside"),
        ([[0.5, 1.0]], ValueError, r"id 0.5 at position \(0, 0\) is not a whole number"),
        ([[np.nan, 1.0]], ValueError, r"id nan at position \(0, 0\) is not a whole number"),
        (
            np.float32([[1.0, 2.0**24]]),
            ValueError,
            r"id 16777216.0 at position \(0, 1\) is not below 16777216",
        ),
    ],
)
def test_a_bad_id_is_named_and_the_table_stays(call, ids, error, message):
    model = model_of_five()
    model.fit(np.array([[0, 1]]), np.zeros((1, 4)), verbose=0)
    table = model.layers[0].table
    before = table.to_numpy(), table.update_counts, table.steps
    with pytest.raises(error, match=message):
        CALLS[call](model, np.array(ids))
    np.testing.assert_array_equal(table.to_numpy(), before[0])
    np.testing.assert_array_equal(table.update_counts, before[1])
    assert table.steps == before[2]


INPUTS = {
    "functional": lambda ids, layer: keras.Model(ids, keras.layers.Flatten()(layer(ids))),
    "Sequential": lambda ids, layer: keras.Sequential([ids, layer, keras.layers.Flatten()]),
}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("make", INPUTS)
@pytest.mark.parametrize("kind", [Embedding, DynamicEmbedding])
def test_floats_for_an_input_of_integers_are_ids_or_refused(kind, make, policy):
    """Keras would make other integers of them: of a column of pandas's with a gap, for example."""
    layer = kind(1000, 2, dtype=policy)
    model = INPUTS[make](keras.Input((1,), dtype="int32"), layer)
    model.compile("sgd", "mse")
    before = layer.get_weights()[0]
    targets = np.zeros((2, 2), "float32")
    for bad in (3.7, np.nan, 2.0**24 + 1):
        for call in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match=r"id .* at position .*give integers"):
                call(np.array([[1.0], [bad]]), targets, verbose=0)
    np.testing.assert_array_equal(layer.get_weights()[0], before)
    if kind is DynamicEmbedding:
        assert not layer.has_row([1, 3, 0, 2**24, -(2**63)]).any()
    model.fit(np.array([[1.0], [999.0]]), targets, verbose=0)
    whole = model.predict(np.array([[1], [999]]), verbose=0)
    np.testing.assert_array_equal(model.predict(np.array([[1.0], [999.0]]), verbose=0), whole)


WAYS = {
    "table": {},
    "table, LoRA": {"lora_rank": 2},
    "table, mixed": {"dtype": "mixed_bfloat16"},
    "int8": {"dtype": "int8_from_float32"},
    "int8, LoRA": {"dtype": "int8_from_float32", "lora_rank": 2},
    "int4": {"dtype": "int4_from_float32"},
    "int4, LoRA": {"dtype": "int4_from_float32", "lora_rank": 2},
    "float16": {"dtype": "float16"},
    "float64": {"dtype": "float64"},
    "float64, LoRA": {"dtype": "float64", "lora_rank": 2},
}


def stateless(layer, ids):
    trained = [value + 1 for value in values_of(layer.trainable_variables)]
    return layer.stateless_call(trained, values_of(layer.non_trainable_variables), ids)


@pytest.mark.filterwarnings("ignore:.*is trained densely")
@pytest.mark.parametrize("call", ["layer", "stateless"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("id", "error", "message"),
    [
        (-1, IndexError, r"id -1 at position \(0, 1\) is outside the table's 5 rows"),
        (5, IndexError, r"id 5 at position \(0, 1\) is outside the table's 5 rows"),
        (1.5, ValueError, r"id 1.5 at position \(0, 1\) is not a whole number"),
        (np.nan, ValueError, r"id nan at position \(0, 1\) is not a whole number"),
    ],
)
def test_every_way_to_keep_and_read_rows_refuses_a_bad_id(way, call, id, error, message):
    with float64_there_is("float64" in way):
        layer = Embedding(5, 2, **WAYS[way])
        layer.build()
        before = layer.get_weights()
        with pytest.raises(error, match=message):
            (layer if call == "layer" else lambda ids: stateless(layer, ids))(np.array([[0, id]]))
        for mine, was in zip(layer.get_weights(), before, strict=True):
            np.testing.assert_array_equal(mine, was)


def by_optimizers():
    chosen = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1))
    chosen[".*embeddings"] = keras.optimizers.Adam(0.1)
    return keras.optimizers.MultiOptimizer(chosen)


# name -> (layers of ids, layers after them, optimizer)
MODELS = {
    **{way: (lambda way=way: [Embedding(5, 2, **WAYS[way])], list, None) for way in WAYS},
    "two tables": (lambda: [Embedding(9, 2), Embedding(5, 2)], list, None),
    "a table and float16": (
        lambda: [Embedding(9, 2), Embedding(5, 2, dtype="float16")],
        list,
        None,
    ),
    "one not trained": (lambda: [Embedding(9, 2), Embedding(5, 2, trainable=False)], list, None),
    "summed": (lambda: [Embedding(9, 2), EmbedReduce(5, 2)], list, None),
    "statistics": (
        lambda: [Embedding(5, 2)],
        lambda: [keras.layers.BatchNormalization(momentum=0.5)],
        None,
    ),
    "several batches": (
        lambda: [Embedding(5, 2)],
        list,
        lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=3),
    ),
    "scaled": (
        lambda: [Embedding(5, 2)],
        list,
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)),
    ),
    "two optimizers": (lambda: [Embedding(9, 2), Embedding(5, 2)], list, by_optimizers),
    "no rule": (lambda: [Embedding(5, 2)], list, lambda: keras.optimizers.Lamb(0.1)),
}


@pytest.mark.filterwarnings("ignore:.*is trained densely", "ignore:.*has no exact lazy update")
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("good", [1, 2, 3])
def test_fit_stops_at_a_bad_id_with_everything_as_it_was_before_that_batch(kind, good):
    id_layers, others, optimizer = MODELS[kind]
    batches = np.array([[0, 1], [2, 2], [4, 3]][:good])
    targets = np.ones((4, 1), "float32")

    def trained(bad):
        keras.utils.set_random_seed(3)
        inputs = keras.Input((2,), dtype="int32")
        vectors = [keras.layers.Flatten()(layer(inputs)) for layer in id_layers()]
        output = vectors[0] if len(vectors) == 1 else keras.layers.Concatenate()(vectors)
        for layer in (*others(), keras.layers.Dense(1)):
            output = layer(output)
        model = keras.Model(inputs, output)
        model.compile(optimizer() if optimizer else keras.optimizers.Adam(0.1), "mse")
        options = {"batch_size": 1, "shuffle": False, "verbose": 0}
        model.fit(batches, targets[:good], **options)
        if bad:
            with pytest.raises(IndexError, match=r"id 5 at position .* the table's 5 rows"):
                model.fit(np.array([[0, 5], [3, 3]]), targets[:2], **options)
        return model

    with float64_there_is("float64" in kind):
        model, like = trained(bad=True), trained(bad=False)
        for _ in range(3):
            pairs = (
                (model.variables, like.variables),
                (
                    model.optimizer.variables,
                    like.optimizer.variables,
                ),
            )
            for mine, others_own in (pair for both in pairs for pair in zip(*both, strict=True)):
                np.testing.assert_array_equal(numpy_of(mine), numpy_of(others_own), mine.path)
            for one in (model, like):  # and can go on
                one.fit(np.array([[1, 2]]), targets[:1], verbose=0)


def test_shapes_are_learnt_from_placeholders_that_are_no_ids():
    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Embedding(1, 2)

        def call(self, ids):
            return keras.ops.squeeze(self.inner(ids), axis=0)

    assert Outer()(keras.Input(batch_shape=(1, 3), dtype="int32")).shape == (3, 2)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "float32", "float64"])
def test_any_number_that_is_whole_is_an_id(dtype):
    layer = Embedding(5, 2)
    ids = np.array([[4, 0], [1, 4]], dtype)
    np.testing.assert_array_equal(numpy_of(layer(ids)), layer.get_weights()[0][ids.astype(int)])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (1, 2, 3, 4), (0, 7), (2, 0)])
def test_ids_of_any_shape(shape):
    layer = Embedding(5, 2)
    ids = np.random.default_rng(0).integers(0, 5, shape)
    assert tuple(layer(ids).shape) == (*shape, 2)


def test_no_rows_and_no_dim_are_refused_as_in_keras():
    for arguments in ((0, 2), (5, 0), (-1, 2), (2.5, 2)):
        with pytest.raises(ValueError, match="must be a positive integer"):
            Embedding(*arguments)
