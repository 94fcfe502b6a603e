"""What bridge.py relies on inside Keras: a Keras that changes it fails here first."""

import inspect
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras.src.backend.torch.optimizers.torch_optimizer import TorchOptimizer
from keras.src.backend.torch.optimizers.torch_parallel_optimizer import TorchParallelOptimizer
from keras.src.models import Functional
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.saving import serialization_lib

import rowwise.keras
from rowwise.keras.optimizers import _ARGUMENTS


@pytest.mark.parametrize(
    ("owner", "method", "arguments"),
    [
        (BaseOptimizer, "build", ["self", "variables"]),
        (
            BaseOptimizer,
            "add_variable_from_reference",
            ["self", "reference_variable", "name", "initializer"],
        ),
        (
            BaseOptimizer,
            "_overwrite_variables_directly_with_gradients",
            ["self", "grads", "vars"],
        ),
        (TorchOptimizer, "_apply_weight_decay", ["self", "variables"]),
        *(
            (
                owner,
                "_backend_update_step",
                ["self", "grads", "trainable_variables", "learning_rate"],
            )
            for owner in (BaseOptimizer, TorchParallelOptimizer)
        ),
        *(
            (owner, "_backend_reset_gradient_accumulators", ["self"])
            for owner in (BaseOptimizer, TorchParallelOptimizer)
        ),
        (BaseOptimizer, "apply", ["self", "grads", "trainable_variables"]),
        (BaseOptimizer, "finalize_variable_values", ["self", "var_list"]),
        (keras.optimizers.LossScaleOptimizer, "check_finite", ["self", "grads"]),
        (Functional, "_convert_inputs_to_tensors", ["self", "flat_inputs"]),
        (
            serialization_lib,
            "_retrieve_class_or_fn",
            ["name", "registered_name", "module", "obj_type", "full_config", "custom_objects"],
        ),
    ],
)
def test_the_methods_taken_over_are_there(owner, method, arguments):
    assert list(inspect.signature(getattr(owner, method)).parameters) == arguments


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
    assert float(optimizer._u_product.numpy()) == 1.0


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


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_another_backend_is_refused_with_what_to_set(backend):
    run = subprocess.run(
        [sys.executable, "-c", "import rowwise.keras"],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert run.stderr.strip().split("\n")[-1].startswith("ImportError")
    assert "KERAS_BACKEND=torch" in run.stderr
