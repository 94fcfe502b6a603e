"""The private parts of Keras that rowwise.keras uses: a Keras without them fails here first."""

import importlib.util
import inspect
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.models import Functional
from side_by_side import classifier, data, numpy_of, only_jax, only_torch

import rowwise.keras
from rowwise.keras import _patches
from rowwise.keras._optimizer import RULE_ARGUMENTS, TableOptimizer, rule_of


@pytest.mark.parametrize(
    "patch",
    _patches.patches(),
    ids=lambda patch: f"{patch.owner.__name__}.{patch.method}",
)
def test_what_is_patched_takes_the_arguments_that_its_wrapper_expects(patch):
    """Parameters are None where they are only passed on."""
    assert patch.installed
    wrapped = vars(patch.owner)[patch.method]
    if patch.parameters is not None:
        assert tuple(inspect.signature(wrapped).parameters) == patch.parameters


def test_no_method_is_patched_twice():
    names = [(patch.owner, patch.method) for patch in _patches.patches()]
    assert len(set(names)) == len(names)


def test_patches_can_be_taken_out_and_put_back():
    table = _patches.patches()
    wrapped = [vars(patch.owner)[patch.method] for patch in table]
    _patches.uninstall()
    try:
        originals = [vars(patch.owner)[patch.method] for patch in table]
        assert all(own is not ours for own, ours in zip(originals, wrapped, strict=True))
        assert not any(patch.installed for patch in table)
    finally:
        _patches.install()
    _patches.install()  # once more changes nothing
    for patch, original, before in zip(table, originals, wrapped, strict=True):
        assert inspect.unwrap(vars(patch.owner)[patch.method]) is inspect.unwrap(original)
        setattr(patch.owner, patch.method, before)  # with what side_by_side put around it


UNTOUCHED = """
import inspect, keras
from keras.src.optimizers.base_optimizer import BaseOptimizer

def classes():
    found = [c for c in vars(keras.optimizers).values() if inspect.isclass(c)]
    found += [type(c("sgd" if "Scale" in c.__name__ else 0.1)) for c in found
              if issubclass(c, BaseOptimizer) and c.__name__ in ("Adam", "SGD", "Nadam")]
    return {base for c in found for base in c.__mro__ if base.__module__.startswith("keras.")}

before = {c: dict(vars(c)) for c in classes()}
import rowwise.keras
from rowwise.keras import _patches
changed = {
    (c, name)
    for c, own in before.items()
    for name in {*own, *vars(c)}
    if own.get(name) is not vars(c).get(name)
}
assert len(before) > 10
allowed = {(p.owner, p.method) for p in _patches.patches()}
print(sorted(f"{c.__name__}.{name}" for c, name in changed if (c, name) not in allowed))
print(sorted(f"{c.__name__}.{name}" for c, name in changed))
"""


def test_keras_optimizers_are_untouched_but_for_the_table_of_patches():
    run = subprocess.run(
        [sys.executable, "-c", UNTOUCHED], capture_output=True, text=True, check=True
    )
    beyond, changed = run.stdout.strip().splitlines()[-2:]
    assert beyond == "[]"
    assert changed == str(["BaseOptimizer.build"])


def test_a_model_without_tables_keeps_its_optimizer_class():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    assert not isinstance(model.optimizer, TableOptimizer)
    assert not any("rowwise" in base.__module__ for base in type(model.optimizer).__mro__)


class Custom(keras.optimizers.SGD):
    """A user's own optimizer."""


@pytest.mark.parametrize("make", [keras.optimizers.Adam, keras.optimizers.SGD, Custom])
@pytest.mark.filterwarnings("ignore:.*the optimizer Custom has no exact lazy update")
def test_the_optimizer_of_a_table_is_of_its_own_class_to_everybody_else(make, tmp_path):
    optimizer = make(0.1)
    own, written = type(optimizer), keras.saving.serialize_keras_object(optimizer)
    model = classifier(rowwise.keras.Embedding)
    model.compile(optimizer, "mse")
    ids, targets = data(32)
    model.fit(ids, targets, verbose=0)
    mixed = type(optimizer)
    assert isinstance(optimizer, TableOptimizer)
    assert isinstance(optimizer, own)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(mixed, name) == getattr(own, name)
    now = keras.saving.serialize_keras_object(optimizer)
    for name in ("module", "class_name", "registered_name"):
        assert now[name] == written[name]
    assert keras.optimizers.get(optimizer) is optimizer
    again = keras.optimizers.deserialize(now, custom_objects={"Custom": Custom})
    assert type(again) is own
    twin = mixed.from_config(optimizer.get_config())
    assert isinstance(twin, own)
    if make is not Custom:
        model.save(tmp_path / "model.keras")
        opened = rowwise.keras.load_model(tmp_path / "model.keras")
        assert opened.optimizer.get_config() == optimizer.get_config()
        assert type(pickle.loads(pickle.dumps(model)).optimizer).__name__ == own.__name__
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras leaves out variables that are not built
            assert type(pickle.loads(pickle.dumps(model.optimizer))) is own


def test_two_optimizers_of_tables_have_one_class():
    optimizers = []
    for _ in range(2):
        model = classifier(rowwise.keras.Embedding)
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        optimizers.append(model.optimizer)
    assert type(optimizers[0]) is type(optimizers[1])


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


@pytest.mark.parametrize("name", RULE_ARGUMENTS)
def test_optimizers_have_the_attributes_that_rules_are_made_of(name):
    place = keras.optimizers if hasattr(keras.optimizers, name) else rowwise.keras
    optimizer = getattr(place, name)()
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
        keras.backend.clear_session(free_memory=False)
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


@only_torch  # the process has the other backend, whatever this one has
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
    assert advised in ("torch", "jax", "tensorflow")
    assert importlib.util.find_spec(advised)


OTHER_KERAS = """
import keras, numpy as np, sys, warnings
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.models import Functional, Model

def trained(layer):
    keras.utils.set_random_seed(0)
    pool = keras.layers.GlobalAveragePooling1D()
    model = keras.Sequential([layer(128, 3, mask_zero=True), pool, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    # Each id once: Keras on TensorFlow squares a repeated id's gradients before it sums them.
    ids = np.random.default_rng(0).permutation(128).reshape(32, 4)
    model.fit(ids, np.ones((32, 1)), epochs=3, shuffle=False, verbose=0)
    model.save("model.keras")
    again = keras.models.load_model("model.keras")
    np.testing.assert_array_equal(again.predict(ids, verbose=0), model.predict(ids, verbose=0))
    return model

own = trained(keras.layers.Embedding)
for owner, name, other in CHANGES:
    owner = eval(owner)
    real = getattr(owner, name)
    if other is None:
        moved = owner is Functional and not hasattr(Model, name)
        if moved:
            setattr(Model, name, real)  # so that models go on working
        delattr(owner, name)
    else:
        setattr(owner, name, eval(other))
    before = BaseOptimizer.build
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import rowwise.keras
    told = [str(w.message) for w in caught if "rowwise" in str(w.message)]
    assert len(told) == 1 and "trained densely" in told[0], told
    assert BaseOptimizer.build is before
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ours = trained(rowwise.keras.Embedding)
    for one, two in zip(ours.get_weights(), own.get_weights()):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)
    for use in (lambda: ours.layers[0].table,
                lambda: rowwise.keras.Embedding(5, 2, mask_zero=True, freeze_mask_row=True)):
        try:
            use()
            raise AssertionError
        except ValueError as error:
            assert str(error).split(": ")[-1] in told[0], error
    print(told[0])
    setattr(owner, name, real)  # for the next one, which imports anew
    if other is None and moved:
        delattr(Model, name)
    for module in [m for m in sys.modules if m.startswith("rowwise.keras")]:
        del sys.modules[module]
    del rowwise.keras
"""

CHANGES = {
    ("keras", "__version__", "'3.99.0'"): "3.8 to 3.15, and this is 3.99.0",
    ("Functional", "_convert_inputs_to_tensors", None): (
        "there is no Functional._convert_inputs_to_tensors"
    ),
    (
        "Functional",
        "_convert_inputs_to_tensors",
        "lambda self, flat, deep=1: real(self, flat)",
    ): "Functional._convert_inputs_to_tensors takes ('self', 'flat', 'deep'), not",
    ("keras.src.backend", "AutocastScope", None): "cannot import name 'AutocastScope'",
}


def test_on_a_keras_that_is_not_known_layers_train_densely_with_one_warning(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", OTHER_KERAS.replace("CHANGES", repr(list(CHANGES)))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    told = run.stdout.strip().splitlines()[-len(CHANGES) :]
    for line, says in zip(told, CHANGES.values(), strict=True):
        assert says in line


def test_the_versions_that_are_known_are_those_that_the_package_asks_for():
    oldest, newest = _patches.OLDEST, _patches.NEWEST
    bounds = f"keras>={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert bounds in project.read_text()
