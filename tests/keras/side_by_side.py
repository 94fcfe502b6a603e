"""Models from the same start on the same batches: with our layer, with Keras's, and with Keras's
in float64, which is the truth that the other two are measured by."""

import keras
import numpy as np

import rowwise.keras

ROWS, DIM = 120, 6
LAYERS = (rowwise.keras.Embedding, keras.layers.Embedding)


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
    """What `train(model)` leaves of (our model, Keras's)."""
    ours = _trained(train, lambda: make(rowwise.keras.Embedding))
    return ours, _trained(train, lambda: make(keras.layers.Embedding))


def all_three(train, make=classifier):
    """What `train(model)` leaves of (our model, Keras's, Keras's in float64)."""
    start = []

    def make_exact():
        keras.config.set_dtype_policy("float64")
        model = make(keras.layers.Embedding)
        model.set_weights(start[0])
        return model

    start.append(_trained(lambda model: None, lambda: make(keras.layers.Embedding)).get_weights())
    try:
        return *both(train, make), _trained(train, make_exact)
    finally:
        keras.config.set_dtype_policy("float32")


def _trained(train, make):
    keras.backend.clear_session()  # so that names agree
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
