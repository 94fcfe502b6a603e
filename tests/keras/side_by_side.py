"""Models from the same start on the same batches: with our layer, with Keras's, and with Keras's
in float64, which is the truth that the other two are measured by."""

import contextlib
import warnings

import keras
import numpy as np
import pytest

import rowwise
import rowwise.keras

ROWS, DIM = 120, 6
LAYERS = (rowwise.keras.Embedding, keras.layers.Embedding)

BACKEND = keras.backend.backend()
only_torch = pytest.mark.skipif(BACKEND != "torch", reason="is about what torch alone has")
only_jax = pytest.mark.skipif(BACKEND != "jax", reason="is about what JAX alone has")
only_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="is about what TensorFlow alone has"
)
not_on_tensorflow = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="Keras has no stateless_apply on TensorFlow"
)


if BACKEND == "tensorflow":
    import tensorflow as tf
    from keras.src.optimizers.base_optimizer import BaseOptimizer

    from rowwise.keras._backend import backend
    from rowwise.keras._patches import Patch

    def _of_whole_gradients(original, self, grads, trainable_variables=None):
        """Keras's own steps of variables that are no tables are made with whole gradients.

        On TensorFlow alone, Keras squares the parts of a repeated id's gradient before it sums
        them, so that its numbers are not those of dense training.
        """
        variables = self._trainable_variables if self.built else trainable_variables
        if trainable_variables is not None:
            variables = trainable_variables = list(trainable_variables)
        grads = [
            tf.convert_to_tensor(gradient)
            if isinstance(gradient, tf.IndexedSlices)
            and not isinstance(variable, backend.TableVariable)
            else gradient
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        return original(self, grads, trainable_variables)

    def _of_rounded_constants(original, self, variables):
        """In float64 as in float32 an optimizer has the constants that Keras makes of Python's
        floats on TensorFlow: those of float32. beta_2 is 0.99900001 there, also in the truth.
        """
        for name, value in vars(self).items():
            if type(value) is float:
                object.__setattr__(self, name, float(np.float32(value)))
        return original(self, variables)

    Patch(BaseOptimizer, "apply", _of_whole_gradients).install()
    Patch(BaseOptimizer, "build", _of_rounded_constants).install()


def data(n=256, length=5, rows=ROWS):
    """Ids of which few are frequent, many are rare and some never occur; and answers."""
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.pareto(0.6, (n, length)).astype(int), rows - 6)
    return ids, rng.standard_normal((n, 1)).astype("float32")


def classifier(layer, **options):
    """Embedding -> mean -> Dense(1), from a fixed start."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layer(ROWS, DIM, name="embedding", **options),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1, name="dense"),
        ]
    )


def both(train, make=classifier):
    """Return (our model, Keras's) after `train(model)`."""
    ours = _trained(train, lambda: make(rowwise.keras.Embedding))
    return ours, _trained(train, lambda: make(keras.layers.Embedding))


def all_three(train, make=classifier):
    """Return (our model, Keras's, Keras's in float64) after `train(model)`."""
    start = []

    def make_exact():
        keras.config.set_dtype_policy("float64")
        model = make(keras.layers.Embedding)
        model.set_weights(start[0])
        return model

    start.append(_trained(lambda model: None, lambda: make(keras.layers.Embedding)).get_weights())
    ours = both(train, make)
    try:
        with float64_there_is():
            return *ours, _trained(train, make_exact)
    finally:
        keras.config.set_dtype_policy("float32")


def float64_there_is(wanted=True):
    """While it lasts: JAX has float32 alone, unless told otherwise."""
    if BACKEND != "jax" or not wanted:
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


def _trained(train, make):
    keras.backend.clear_session(free_memory=False)  # so that names agree
    model = make()
    train(model)
    return model


def assert_as_exact(ours, theirs, truth):
    """Weights and slots are no further from the truth than Keras's own.

    The measure is the worst relative error of any variable. Training feeds rounding back into
    gradients, so that either side may be luckier by a factor.
    """
    assert [v.path for v in _variables(ours)] == [v.path for v in _variables(theirs)]
    error, limit = _error(ours, truth), 5 * _error(theirs, truth) + 8 * np.finfo("float32").eps
    assert error <= limit, f"{error:.2e} from the truth, above {limit:.2e}"


def _error(model, truth):
    errors = []
    for variable, true in zip(_variables(model), _variables(truth), strict=True):
        if true.shape in ((), (1,)):
            continue  # a single number near zero has no scale to be measured by
        distance = np.abs(variable.numpy() - true.numpy()).max(initial=0)
        errors.append(distance / (np.abs(true.numpy()).max(initial=0) or 1))
    return max(errors)


def assert_equal(ours, theirs, rtol=1e-5, atol=1e-6, names=True):
    """Weights and optimizer variables agree, variable by variable, to float32 rounding."""
    for mine, other in zip(_variables(ours), _variables(theirs), strict=True):
        assert mine.name == other.name or not names  # Keras shortens them in a loaded optimizer
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol, atol, err_msg=mine.path)


def _variables(model):
    return model.weights + getattr(getattr(model, "optimizer", None), "variables", [])


# ---------------------------------------------------------------------- on every backend


def numpy_of(value):
    """A tensor, a variable or a gradient as a NumPy array."""
    if getattr(value, "is_sparse", False):
        value = value.to_dense()
    return keras.ops.convert_to_numpy(value)


def gradients_of(loss, variables, *arrays):
    """The gradients of `loss(*tensors)`, tensors of the arrays: of the variables, then of these.

    It is done as in a loop of one's own in Keras's guide for the backend.
    """
    variables = list(variables)
    if BACKEND == "jax":
        import jax

        def loss_of(values, tensors):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return loss(*tensors)

        tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
        values = [variable.value for variable in variables]
        of_values, of_tensors = jax.value_and_grad(loss_of, (0, 1))(values, tensors)[1]
        return [*of_values, *of_tensors]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(*tensors)
        return tape.gradient(value, [*variables, *tensors])
    import torch

    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    for variable in variables:
        variable.value.grad = None
    loss(*tensors).backward()
    return [*(variable.value.grad for variable in variables), *(tensor.grad for tensor in tensors)]


def apply(optimizer, gradients, variables):
    """A step in a loop of one's own, as Keras's guide for the backend has it."""
    if BACKEND == "torch":
        import torch

        with torch.no_grad():
            optimizer.apply(gradients, variables)
    elif BACKEND == "tensorflow":
        optimizer.apply(gradients, variables)
    else:
        if not optimizer.built:
            optimizer.build(variables)
        slots = [slot.value for slot in optimizer.variables]
        values = [variable.value for variable in variables]
        results = stateless_apply(optimizer, slots, gradients, values)
        for own, values in zip((variables, optimizer.variables), results, strict=True):
            for variable, value in zip(own, values, strict=True):
                variable.assign(value)


def stateless_apply(optimizer, slots, gradients, values):
    """A stateless step, which on JAX warns that it holds whole tables."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*the state of this loop holds the whole table")
        return optimizer.stateless_apply(slots, gradients, values)


def raised_in_a_program(error):
    """Return the error of a user's own compiled program where a call raises `error`."""
    if BACKEND != "jax":
        return error
    import jax

    return jax.errors.JaxRuntimeError


def values_of(variables):
    """Return the arguments of a stateless call: copies of the variables' values."""
    return [keras.ops.convert_to_tensor(numpy_of(variable).copy()) for variable in variables]


def assert_sparse_steps(layer):
    """Assert that the table made the steps, from the gradients of the batches' rows."""
    assert layer._embeddings.binding.mode == "sparse"
    assert layer.table.steps > 0
    if BACKEND == "torch":
        assert layer._embeddings.value.grad.is_sparse


def at_reads_of_whole_tables(monkeypatch, do):
    """Calls `do()` whenever all rows of a table are read."""
    if BACKEND == "torch":
        from rowwise.torch._parameter import TableParameter

        monkeypatch.setattr(TableParameter, "materialize", lambda parameter: do())
    else:
        monkeypatch.setattr(rowwise.Table, "to_numpy", lambda table: do())
