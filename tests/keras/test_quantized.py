"""Quantized rows: stored as Keras stores them, and read without the rest of the table."""

import keras
import numpy as np
import pytest
from keras.quantizers import Int4QuantizationConfig
from side_by_side import (
    BACKEND,
    DIM,
    LAYERS,
    ROWS,
    assert_equal,
    both,
    classifier,
    data,
    numpy_of,
    values_of,
)

import rowwise.keras
from rowwise.keras import Embedding

WAYS = {
    "int8": {"mode": "int8"},
    "int4": {"config": Int4QuantizationConfig(block_size=None)},
    "int4 by blocks": {"config": Int4QuantizationConfig(block_size=4)},
}
every_way = pytest.mark.parametrize("way", WAYS)
every_rank = pytest.mark.parametrize("rank", [None, 2], ids=["plain", "lora"])


def quantized(layer, way, rank=None, dtype=None, dim=DIM):
    """A model whose rows are quantized, and adapted after that; its dims odd or even."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    embed = layer(ROWS, dim, embeddings_initializer="normal", dtype=dtype)
    ids = keras.Input((5,), dtype="int32")
    dense = keras.layers.Dense(1)(keras.layers.Flatten()(embed(ids)))
    model = keras.Model(ids, dense)
    embed.quantize(**WAYS[way])
    if rank:
        embed.enable_lora(rank, lora_alpha=3)
        embed.lora_embeddings_b.assign(np.full((rank, dim), 0.01))
    return model


def assert_same_variables(ours, theirs):
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        assert (mine.path, mine.dtype, mine.shape) == (other.path, other.dtype, other.shape)
        np.testing.assert_array_equal(mine.numpy(), other.numpy())


@every_way
@every_rank
@pytest.mark.parametrize("dtype", [None, "mixed_bfloat16"])
@pytest.mark.parametrize("dim", [6, 7])
def test_variables_and_vectors_are_kerass(way, rank, dtype, dim):
    ours, theirs = (quantized(layer, way, rank, dtype, dim) for layer in LAYERS)
    assert_same_variables(ours, theirs)
    ids = data()[0][:8]
    for shaped in (ids, ids[0], ids[0, 0], ids[:0]):
        mine, other = (model.layers[1](shaped) for model in (ours, theirs))
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(numpy_of(mine), numpy_of(other))


@every_way
@every_rank
@pytest.mark.parametrize("reader", LAYERS)
@pytest.mark.parametrize("writer", LAYERS)
def test_files_open_either_way(tmp_path, way, rank, writer, reader):
    model = quantized(writer, way, rank)
    ids = data()[0][:8]
    model.save(tmp_path / "model.keras")
    again = rowwise.keras.load_model(tmp_path / "model.keras", embedding=reader)
    assert type(again.layers[1]) is reader
    np.testing.assert_allclose(
        again.predict(ids, verbose=0),
        model.predict(ids, verbose=0),
        # LoRA is merged into the file, which quantizes again.
        atol=0.1 if rank else 0,
    )


@every_way
def test_training_around_quantized_rows_equals_kerass(way):
    def train(model):
        model.compile("adam", "mse")
        model.fit(*data(), batch_size=16, epochs=3, shuffle=False, verbose=0)

    assert_equal(*both(train, lambda layer: quantized(layer, way, rank=2)), rtol=1e-4)


@every_way
def test_a_call_unpacks_and_casts_no_more_than_the_batchs_rows(way):
    """No tensor of a call has as many rows as the table, but the variables themselves."""
    model = quantized(Embedding, way, rank=2, dtype="mixed_bfloat16")
    made_in = {"torch": made_by_torch, "jax": made_by_jax, "tensorflow": made_by_tensorflow}
    shapes = made_in[BACKEND](model, data()[0][:4])
    assert shapes
    assert not [shape for shape in shapes if ROWS in shape]


def made_by_torch(model, ids):
    """Shapes of the tensors that a call makes, beside its variables."""
    import torch

    made = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                made.append((result.data_ptr(), tuple(result.shape)))
            return result

    with Watch():
        model(ids)
    variables = {variable._value.data_ptr() for variable in model.layers[1].variables}
    return [shape for place, shape in made if place not in variables]


def made_by_jax(model, ids):
    """Shapes of the results of every operation in a call's program."""
    import jax
    from jax.extend.core import jaxprs_in_params

    def results(program):
        for equation in program.eqns:
            yield from (result.aval.shape for result in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from results(inner)

    values = values_of(model.trainable_variables), values_of(model.non_trainable_variables)
    return list(results(jax.make_jaxpr(model.stateless_call)(*values, ids).jaxpr))


HANDING_ON = ("Placeholder", "ReadVariableOp", "Identity", "IdentityN")


def made_by_tensorflow(model, ids):
    """Shapes of what the operations in a call's graph compute, and do not only hand on."""
    import tensorflow as tf

    graph = tf.function(model).get_concrete_function(tf.constant(ids)).graph
    operations = [o for o in graph.get_operations() if o.type not in HANDING_ON]
    shapes = [result.shape for operation in operations for result in operation.outputs]
    return [tuple(shape) for shape in shapes if shape.rank is not None]


@every_way
def test_a_layer_made_quantized_takes_kerass_weights(way):
    theirs = quantized(keras.layers.Embedding, way).layers[1]
    ours = Embedding.from_config(theirs.get_config())
    ours.build()
    ours.set_weights(theirs.get_weights())
    ids = data()[0][:8]
    np.testing.assert_array_equal(numpy_of(ours(ids)), numpy_of(theirs(ids)))


def test_quantizing_what_training_left_behind_takes_the_present_rows():
    model = classifier(Embedding)
    model.compile("adam", "mse")
    model.fit(*data(), batch_size=8, verbose=0)
    layer = model.layers[0]
    present = layer.table.to_numpy()
    layer.quantize("int8")
    theirs = keras.layers.Embedding(ROWS, DIM, weights=present)
    theirs.quantize("int8")
    np.testing.assert_array_equal(layer.get_weights()[0], theirs.get_weights()[0])
    with pytest.raises(ValueError, match="has no table"):
        _ = layer.table
