"""Models recorded by the backend: the lookup is in the record, with the values of that moment."""

import io
import subprocess
import sys

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

from rowwise.keras import Embedding, EmbedReduce, export_scope

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
def test_what_is_traced_for_export_calls_no_table(model):
    import jax

    with export_scope():
        program = jax.export.export(jax.jit(lambda ids: model(ids)))(IDS[:4])
    before = numpy_of(model(IDS[:4]))
    again = jax.export.deserialize(program.serialize())  # which refuses calls of Python
    model.fit(*data(), epochs=1, verbose=0)
    np.testing.assert_allclose(numpy_of(again.call(IDS[:4])), before, rtol=1e-6)


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


# ---------------------------------------------------------------------- TensorFlow's own forms


def spec():
    import tensorflow as tf

    return tf.TensorSpec((None, 5), tf.int32)


def operations(function):
    """The names of the operations in a function, and in those that it calls."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return {node.op for node in nodes}


SERVE = """
import sys
import numpy as np
import tensorflow as tf

folder, ids, by_objects, by_session = sys.argv[1], np.load(sys.argv[2]), *sys.argv[3:]
serve = tf.saved_model.load(folder).signatures["serving_default"]
(answers,) = serve(tf.constant(ids)).values()
np.save(by_objects, answers.numpy())
with tf.Graph().as_default(), tf.compat.v1.Session() as session:  # as TensorFlow Serving does
    signature = tf.compat.v1.saved_model.load(session, ["serve"], folder).signature_def
    signature = signature["serving_default"]
    (given,), (answers,) = signature.inputs.values(), signature.outputs.values()
    np.save(by_session, session.run(answers.name, {given.name: ids}))
"""


def served_elsewhere(folder, tmp_path):
    """Return the answers of a saved model in a process without Keras and rowwise."""
    np.save(tmp_path / "ids.npy", IDS)
    files = [str(tmp_path / f"{name}.npy") for name in ("ids", "by_objects", "by_session")]
    serve = [sys.executable, "-c", SERVE, str(folder), *files]
    subprocess.run(serve, check=True, capture_output=True)
    return [np.load(file) for file in files[1:]]


@only_tensorflow
@pytest.mark.parametrize("own", [True, False], ids=["tf.saved_model.save", "model.export"])
def test_a_saved_model_serves_elsewhere_what_the_model_predicted(model, own, tmp_path):
    """A session restores Keras's own variables wrongly from what `tf.saved_model.save` writes."""
    import tensorflow as tf

    model = keras.Sequential([keras.Input((5,), dtype="int32"), model.layers[0]]) if own else model
    before = model.predict(IDS, verbose=0)
    if own:
        tf.saved_model.save(model, tmp_path / "saved")
    else:
        model.export(tmp_path / "saved", verbose=False)
    for answers in served_elsewhere(tmp_path / "saved", tmp_path):
        np.testing.assert_allclose(answers, before, rtol=1e-5, atol=1e-7)


@only_tensorflow
def test_a_frozen_graph_gathers_from_constants(model):
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    with export_scope():
        served = tf.function(model).get_concrete_function(spec())
    before = model.predict(IDS, verbose=0)
    frozen = convert_variables_to_constants_v2(served)
    assert not {"PyFunc", "EagerPyFunc", "ReadVariableOp"} & operations(frozen)
    model.fit(*data(), epochs=1, verbose=0)
    (answers,) = frozen(tf.constant(IDS))
    np.testing.assert_allclose(numpy_of(answers), before, rtol=1e-5, atol=1e-7)


@only_tensorflow
def test_a_function_that_calls_the_table_is_neither_frozen_nor_saved(model, tmp_path):
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    live = tf.function(lambda ids: model(ids)).get_concrete_function(spec())
    with pytest.raises(
        ValueError, match=r"Trace it anew within `with rowwise\.keras\.export_scope"
    ):
        convert_variables_to_constants_v2(live)
    with pytest.raises(ValueError, match=r"calls the table of .*embeddings in this process"):
        tf.saved_model.save(model, tmp_path / "saved", signatures=live)


@only_tensorflow
def test_a_training_step_is_not_exported(model):
    import tensorflow as tf

    def step(ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(ids))
        model.optimizer.apply(tape.gradient(loss, model.trainable_variables))

    with export_scope(), pytest.raises(NotImplementedError, match="trains or writes a table"):
        tf.function(step).get_concrete_function(spec())


@only_tensorflow
def test_an_exported_function_called_again_by_a_traced_one_is_traced_anew(model):
    """A `tf.function` within the model was traced when the model was trained."""
    import tensorflow as tf

    inner = tf.function(lambda ids: model(ids))
    inner(IDS)
    with export_scope():
        served = tf.function(lambda ids: inner(ids)).get_concrete_function(spec())
    assert "PyFunc" not in operations(served)
    assert "PyFunc" in operations(inner.get_concrete_function(spec()))


@only_tensorflow
def test_a_model_written_for_serving_holds_its_rows_once(model, tmp_path):
    model.export(tmp_path / "ours", verbose=False)
    theirs = classifier(keras.layers.Embedding)
    theirs.export(tmp_path / "theirs", verbose=False)
    sizes = [
        sum(file.stat().st_size for file in (tmp_path / name / "variables").iterdir())
        for name in ("ours", "theirs")
    ]
    assert sizes[0] < 1.2 * sizes[1]


# ---------------------------------------------------------------------- other programs' formats


@only_tensorflow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of the interpreter, that it has a successor
def test_litert_answers_as_the_model_does(model, tmp_path):
    import tensorflow as tf

    file = str(tmp_path / "model.tflite")
    model.export(file, format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(file)
    serve = interpreter.get_signature_runner()
    (answers,) = serve(**{next(iter(serve.get_input_details())): IDS}).values()
    np.testing.assert_allclose(answers, model.predict(IDS, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # the converters'
@pytest.mark.parametrize("untrained", ["as-is", "mean"])
@pytest.mark.parametrize("layer", [Embedding, EmbedReduce])
def test_onnx_runtime_answers_as_the_model_does(layer, untrained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip({"tensorflow": "tf2onnx", "jax": "jax2onnx"}.get(BACKEND, "onnx"))
    model = keras.Sequential([keras.Input((5,), dtype="int32"), layer(120, 3, untrained=untrained)])
    model.compile("adam", "mse")
    model.train_on_batch(IDS[:4], np.ones((4, *model.output_shape[1:])))
    file = str(tmp_path / "model.onnx")
    model.export(file, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {session.get_inputs()[0].name: IDS})
    np.testing.assert_allclose(answers, model.predict(IDS, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(BACKEND == "jax", reason="OpenVINO reads nothing that Keras writes on JAX")
def test_openvino_answers_as_the_model_does(model, tmp_path):
    openvino = pytest.importorskip("openvino")
    model.export(str(tmp_path / "model.xml"), format="openvino", verbose=False)
    compiled = openvino.Core().compile_model(str(tmp_path / "model.xml"), "CPU")
    (answers,) = compiled([IDS]).values()
    # It keeps the rows in half precision.
    np.testing.assert_allclose(answers, model.predict(IDS, verbose=0), rtol=1e-2, atol=1e-3)
