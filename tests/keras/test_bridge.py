"""What rowwise.keras relies on inside Keras: a Keras that changes it fails here first."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.models import Functional
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.saving import serialization_lib
from keras.src.trainers.trainer import Trainer
from side_by_side import BACKEND, numpy_of, only_jax

import rowwise.keras
from rowwise.keras.optimizers import _ARGUMENTS

SLOT = ["self", "reference_variable", "name", "initializer"]
STEP = ["self", "grads", "trainable_variables", "learning_rate"]


def everywhere():
    """What keeping.py, frozen.py, inputs.py, loading.py take over, and each bridge.py."""
    opening = ["name", "registered_name", "module", "obj_type", "full_config", "custom_objects"]
    return [
        (BaseOptimizer, "build", ["self", "variables"]),
        (BaseOptimizer, "add_variable_from_reference", SLOT),
        (BaseOptimizer, "apply", ["self", "grads", "trainable_variables"]),
        (BaseOptimizer, "finalize_variable_values", ["self", "var_list"]),
        (keras.optimizers.LossScaleOptimizer, "check_finite", ["self", "grads"]),
        (Functional, "_convert_inputs_to_tensors", ["self", "flat_inputs"]),
        (serialization_lib, "_retrieve_class_or_fn", opening),
        (Trainer, "compile", None),
        (Trainer, "get_compile_config", ["self"]),
        (Trainer, "compile_from_config", ["self", "config"]),
    ]


def on_torch():
    from keras.src.backend.torch.optimizers.torch_optimizer import TorchOptimizer
    from keras.src.backend.torch.optimizers.torch_parallel_optimizer import TorchParallelOptimizer

    methods = [
        (BaseOptimizer, "_overwrite_variables_directly_with_gradients", ["self", "grads", "vars"]),
        (TorchOptimizer, "_apply_weight_decay", ["self", "variables"]),
    ]
    for owner in (BaseOptimizer, TorchParallelOptimizer):
        methods.append((owner, "_backend_update_step", STEP))
        methods.append((owner, "_backend_reset_gradient_accumulators", ["self"]))
    return methods


def on_jax():
    from keras.src.backend.jax.optimizer import JaxOptimizer
    from keras.src.backend.jax.trainer import JAXTrainer

    variables = [f"{kind}_variables" for kind in ("trainable", "non_trainable", "optimizer")]
    state = ["self", *variables, "metrics_variables", "purge_model_variables"]
    stateless = ["self", "optimizer_variables", "grads", "trainable_variables"]
    scope = ["self", "state_mapping", "collect_losses", "initialize_variables"]
    methods = [
        (JaxOptimizer, "_backend_apply_gradients", ["self", "grads", "trainable_variables"]),
        (BaseOptimizer, "_clip_gradients", ["self", "grads"]),
        (BaseOptimizer, "stateless_apply", stateless),
        (StatelessScope, "__init__", scope),
        (JAXTrainer, "_get_jax_state", state),
    ]
    for name in ("train", "test", "predict"):
        methods.append((JAXTrainer, f"make_{name}_function", ["self", "force"]))
        methods.append((JAXTrainer, f"{name}_on_batch", None))
    return methods + [(JAXTrainer, name, None) for name in ("fit", "evaluate", "predict")]


def on_tensorflow():
    from keras.src.backend.tensorflow.export import TFExportArchive
    from keras.src.backend.tensorflow.optimizer import TFOptimizer
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
    from keras.src.export.saved_model_export_archive import SavedModelExportArchive

    passing = ["fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch"]
    return [
        (BaseOptimizer, "_overwrite_variables_directly_with_gradients", ["self", "grads", "vars"]),
        (TFOptimizer, "add_variable_from_reference", SLOT),
        (TFOptimizer, "_var_key", ["self", "variable"]),
        (TFOptimizer, "_apply_weight_decay", ["self", "variables"]),
        (TFOptimizer, "_backend_update_step", STEP),
        (TFOptimizer, "_backend_increment_gradient_accumulators", ["self", "grads", "acc_grads"]),
        (TensorFlowTrainer, "make_train_function", ["self", "force"]),
        (TFExportArchive, "_backend_track_layer", ["self", "layer"]),
        *((TensorFlowTrainer, name, None) for name in passing),
        *((SavedModelExportArchive, n, None) for n in ("track", "add_endpoint", "write_out")),
    ]


ON_BACKEND = {"torch": on_torch, "jax": on_jax, "tensorflow": on_tensorflow}


@pytest.mark.parametrize(
    ("owner", "method", "arguments"),
    [*everywhere(), *ON_BACKEND[BACKEND]()],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_the_methods_taken_over_are_there(owner, method, arguments):
    """Arguments are None where they are only passed on."""
    taken_over = getattr(owner, method)
    assert hasattr(taken_over, "__wrapped__")
    if arguments is not None:
        assert list(inspect.signature(taken_over).parameters) == arguments


@only_jax
def test_a_jax_trainer_keeps_its_state_where_it_did():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert model._jax_state_synced
    assert callable(model.jax_state_sync)
    model.compile("adam", "mse")
    for name in ("train", "test", "predict"):
        assert getattr(model, f"{name}_function") is None
        getattr(model, f"make_{name}_function")()
        assert callable(getattr(model, f"{name}_function"))


def test_a_model_knows_which_layers_take_its_inputs():
    ids = keras.Input((2,))
    layer = keras.layers.Embedding(5, 2)
    model = keras.Model(ids, layer(ids))
    assert [tensor is ids for tensor in (*model._inputs, *model._outputs)] == [True, False]
    nodes = [node for level in model._nodes_by_depth.values() for node in level]
    assert [n.operation for n in nodes if any(t is ids for t in n.input_tensors)] == [layer]
    sequential = keras.Sequential([ids, layer])
    assert isinstance(sequential._functional, Functional)


@pytest.mark.parametrize("name", _ARGUMENTS)
def test_optimizers_have_the_attributes_that_rules_are_made_of(name):
    from rowwise.keras.optimizers import rule_of

    optimizer = getattr(keras.optimizers, name)()
    rule = rule_of(optimizer, keras.Variable(np.zeros((2, 2))))
    assert type(rule).__name__ == name
    for attribute in ("_use_weight_decay", "_track_variable", "iterations", "_iterations"):
        assert hasattr(optimizer, attribute)


def test_what_accumulation_and_nadam_keep_is_where_it_was():
    optimizer = keras.optimizers.Nadam(gradient_accumulation_steps=2)
    optimizer.build([keras.Variable(np.zeros((2, 2)))])
    assert [v.path.endswith("_gradient_accumulator") for v in optimizer._accumulated_gradients]
    assert float(numpy_of(optimizer._u_product)) == 1.0


def test_slots_are_named_as_keras_names_them():
    def paths(layer):
        keras.backend.clear_session()
        model = keras.Sequential([keras.Input((2,), dtype="int32"), layer(5, 2, name="e")])
        model.compile(keras.optimizers.RMSprop(momentum=0.9, centered=True), "mse")
        model.optimizer.build(model.trainable_variables)
        return [(v.path, v.shape, v.trainable) for v in model.optimizer.variables]

    assert paths(rowwise.keras.Embedding) == paths(keras.layers.Embedding)


def test_an_ordinary_model_does_not_notice():
    """The step of a model without tables is Keras's, bit for bit."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    x, y = np.ones((4, 3), "float32"), np.zeros((4, 2), "float32")
    kernel = model.get_weights()[0].copy()
    model.fit(x, y, epochs=1, verbose=0)
    # The first step of Adam is the sign of the gradient, times the rate.
    np.testing.assert_allclose(np.abs(model.get_weights()[0] - kernel), 0.1, rtol=1e-4)


@pytest.mark.parametrize("backend", ["openvino", "numpy"])
def test_another_backend_is_refused_with_what_to_set(backend):
    """OpenVINO is not installed here, and NumPy is no backend that trains."""
    run = subprocess.run(
        [sys.executable, "-c", "import rowwise.keras"],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    message = run.stderr.strip().split("\n")[-1]
    assert message.startswith("ImportError")
    assert backend in message
    advised = re.search(r"set the environment variable KERAS_BACKEND=(\w+)", message).group(1)
    assert advised in ON_BACKEND
    assert importlib.util.find_spec(advised)
