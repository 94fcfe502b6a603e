"""`rowwise.keras.RowwiseAdagrad`: lazy on a table, dense on other variables, the same numbers."""

import keras
import numpy as np
import pytest
from side_by_side import DIM, ROWS, all_three, assert_as_exact, classifier, data

import rowwise.keras
from rowwise.keras import RowwiseAdagrad


def fit(**options):
    def train(model):
        model.compile(RowwiseAdagrad(0.05, **options), "mse")
        model.fit(*data(), batch_size=8, epochs=2, shuffle=False, verbose=0)

    return train


@pytest.mark.parametrize(
    "options",
    [{}, {"initial_accumulator_value": 0.1, "weight_decay": 0.01}, {"clipnorm": 0.1}],
    ids=str,
)
def test_fit_gives_the_same_weights_and_slots(options):
    models = all_three(fit(**options))
    assert models[0].layers[0]._embeddings.binding.mode == "sparse"
    assert models[0].layers[0].table.slot("accumulator").shape == (ROWS, 1)
    assert_as_exact(*models)


def test_batches_that_are_summed_up_give_the_same_weights_and_slots():
    assert_as_exact(*all_three(fit(gradient_accumulation_steps=3)))


def test_a_step_of_dense_variables_is_the_formula():
    matrix, bias = keras.Variable(np.ones((2, 2))), keras.Variable(np.ones(2))
    optimizer = RowwiseAdagrad(0.5, epsilon=1.0, initial_accumulator_value=0.1)
    gradient = np.array([[2.0, 4.0], [0.0, 0.0]], "float32")
    optimizer.apply([gradient, gradient[0]], [matrix, bias])
    expected = 1 - 0.5 * gradient / (np.sqrt(0.1 + np.array([[10.0], [0.0]])) + 1)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(matrix), expected, rtol=1e-6)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(bias), expected[0], rtol=1e-6)


def test_a_training_goes_on_from_a_file(tmp_path):
    model = classifier(rowwise.keras.Embedding)
    fit()(model)
    model.save(tmp_path / "model.keras")
    saved = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(saved.optimizer, RowwiseAdagrad)
    for both in (model, saved):
        both.fit(*data(), batch_size=8, shuffle=False, verbose=0)
    for mine, other in zip(saved.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_table_that_grows_takes_its_accumulators_along():
    model = classifier(rowwise.keras.Embedding)
    fit()(model)
    model.layers[0].grow(ROWS + 5)
    slot = next(v for v in model.optimizer.variables if "accumulator" in v.path)
    assert tuple(slot.shape) == (ROWS + 5, 1)
    assert model.layers[0].table.shape == (ROWS + 5, DIM)


@pytest.mark.parametrize("name", ["initial_accumulator_value", "epsilon"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_numbers_below_zero_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, not {value}"):
        RowwiseAdagrad(**{name: value})
