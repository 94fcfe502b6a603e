"""Models recorded by the backend: the lookup is in the record, with the values of that moment."""

import io

import keras
import numpy as np
import pytest
from side_by_side import (
    BACKEND,
    classifier,
    data,
    numpy_of,
    only_jax,
    only_tensorflow,
    only_torch,
    raised_in_a_program,
    values_of,
)

from rowwise.keras import Embedding, EmbedReduce

IDS = data()[0].astype("int32")


@pytest.fixture(scope="module")
def model():
    """Adam has left rows behind that are yet to be brought to now."""
    model = classifier(Embedding)
    model.compile("adam", "mse")
    model.fit(*data(), batch_size=8, epochs=1, verbose=0)
    return model


def tensors(*parts):
    return tuple(map(keras.ops.convert_to_tensor, parts))


# Warnings of torch's own about tracing, and about its replacement.
@only_torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_model_looks_up_other_ids_than_those_it_was_traced_with(model):
    import torch

    first, then = tensors(IDS[:4], IDS[4:8])
    traced = torch.jit.trace(model, (first,), check_trace=False)
    np.testing.assert_array_equal(numpy_of(traced(then)), numpy_of(model(then)))


@only_torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_exported_model_is_saved_and_keeps_its_values(model):
    import torch

    first, then = tensors(IDS[:4], IDS[4:8])
    exported = torch.export.export(model, (first,))
    file = io.BytesIO()
    torch.export.save(exported, file)
    before = numpy_of(model(then))
    model.fit(*data(), epochs=1, verbose=0)
    file.seek(0)
    again = torch.export.load(file).module()
    np.testing.assert_array_equal(numpy_of(again(then)), before)


# Torch's compiler asks a tensor between two parts of the graph for its gradient, and warns itself.
@only_torch
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_breaks_its_graph_at_the_lookup_and_is_right(model):
    import torch

    (then,) = tensors(IDS[4:8])
    compiled = torch.compile(model, backend="eager")
    np.testing.assert_array_equal(numpy_of(compiled(then)), numpy_of(model(then)))


@only_tensorflow
def test_a_model_written_for_serving_serves_what_it_predicted(model, tmp_path):
    import tensorflow as tf

    before = model.predict(IDS, verbose=0)
    model.export(tmp_path / "served", verbose=False)
    model.fit(*data(), epochs=1, verbose=0)
    loaded = tf.saved_model.load(tmp_path / "served")  # whose variables go when it goes
    np.testing.assert_allclose(
        numpy_of(loaded.serve(tf.constant(IDS))), before, rtol=1e-5, atol=1e-7
    )
    assert np.abs(model.predict(IDS, verbose=0) - before).max() > 1e-3


@only_jax
def test_a_jitted_stateless_call_is_the_call(model):
    import jax

    call = jax.jit(model.stateless_call)
    values = values_of(model.trainable_variables), values_of(model.non_trainable_variables)
    for part in (IDS[:4], IDS[4:8]):
        outputs, _ = call(*values, part)
        np.testing.assert_allclose(numpy_of(outputs), numpy_of(model(part)), rtol=1e-6)
    twice, _ = call([2 * value for value in values[0]], values[1], IDS[:4])
    assert not np.allclose(numpy_of(twice), numpy_of(model(IDS[:4])))


@only_jax
def test_a_jitted_call_reads_the_table_as_it_is_when_it_runs(model):
    import jax

    call = jax.jit(model.layers[0])
    np.testing.assert_array_equal(numpy_of(call(IDS[:4])), numpy_of(model.layers[0](IDS[:4])))
    model.fit(*data(), epochs=1, verbose=0)
    np.testing.assert_array_equal(numpy_of(call(IDS[:4])), numpy_of(model.layers[0](IDS[:4])))


@only_jax
def test_a_bad_id_in_a_jitted_call_is_named(model):
    import jax

    with pytest.raises(raised_in_a_program(IndexError), match=r"id 120 at position \(0, 1\)"):
        numpy_of(jax.jit(model.layers[0])(np.array([[1, 120]])))


def recorded(model, ids, tmp_path):
    """The model as its backend writes it out: a function of ids."""
    if BACKEND == "torch":
        import torch

        return lambda ids: torch.export.export(model, (ids[:4],)).module()(ids)
    import tensorflow as tf

    model.export(tmp_path / "served", format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "served")
    return lambda ids: (loaded, loaded.serve(numpy_of(ids)))[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("untrained", ["zeros", "mean", "error"])
@pytest.mark.parametrize("layer", [Embedding, EmbedReduce])
def test_rows_never_trained_are_recorded_as_what_stands_in_for_them(layer, untrained, tmp_path):
    layers = [keras.Input((2,), dtype="int32"), layer(9, 3, untrained=untrained)]
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.fit(np.array([[1, 2], [3, 4]]), np.ones((2, 1)), verbose=0)
    (ids,) = tensors(np.array([[1, 2], [1, 7], [8, 8], [0, 4]], "int32"))
    if untrained == "error":
        with pytest.raises(ValueError, match="untrained='error' cannot be recorded"):
            recorded(model, ids, tmp_path)(ids)
        return
    before = model.predict(numpy_of(ids), verbose=0)
    again = numpy_of(recorded(model, ids, tmp_path)(ids))
    np.testing.assert_allclose(again, before, rtol=1e-5, atol=1e-7)
