"""Rules are frozen dataclasses which refuse what their formula cannot take."""

import dataclasses
import inspect
import pickle

import numpy as np
import pytest

import rowwise
from helpers.rules import every_rule
from rowwise.rules import pytorch

KINDS = [
    rowwise.rules.SGD,
    rowwise.rules.RMSprop,
    rowwise.rules.Adagrad,
    rowwise.rules.Adam,
    rowwise.rules.AdamW,
]
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_the_defaults_are_those_of_keras(kind):
    keras = pytest.importorskip("keras")
    theirs = inspect.signature(getattr(keras.optimizers, kind.__name__)).parameters
    for name, value in dataclasses.asdict(kind()).items():
        assert value == theirs[name].default, name


@each_kind
def test_positional_arguments_stand_in_the_order_of_keras(kind):
    assert kind(0.25).learning_rate == 0.25
    second = {
        "SGD": "momentum",
        "RMSprop": "rho",
        "Adagrad": "initial_accumulator_value",
        "Adam": "beta_1",
        "AdamW": "weight_decay",
    }[kind.__name__]
    try:
        rule = kind(0.25, 0.5)
    except TypeError:
        return  # refusing is fine, taking it for another hyperparameter is not
    assert getattr(rule, second) == 0.5


OUT_OF_BOUNDS = [
    (kind, name, value)
    for kind in KINDS
    for names, values in {
        ("learning_rate", "weight_decay"): [-1e-3, float("nan"), float("inf")],
        ("momentum", "rho", "beta_1", "beta_2"): [-0.1, 1.0, 1.5, float("nan")],
        ("epsilon", "initial_accumulator_value"): [-1e-7, float("nan"), float("inf")],
    }.items()
    for name in names
    for value in values
    if name in kind.__dataclass_fields__
]


@pytest.mark.parametrize(("kind", "name", "value"), OUT_OF_BOUNDS)
def test_a_hyperparameter_out_of_bounds_is_named_with_its_value_and_bound(kind, name, value):
    with pytest.raises(ValueError, match=name) as error:
        kind(**{name: value})
    assert str(value) in str(error.value)
    assert "0" in str(error.value).replace(str(value), "")


def test_a_whole_number_beyond_floats_is_named():
    with pytest.raises(ValueError, match="weight_decay is a whole number too large"):
        rowwise.rules.AdamW(weight_decay=10**400)


@each_kind
@pytest.mark.parametrize("value", ["0.1", True, [0.1]])
def test_a_hyperparameter_that_is_not_a_number_is_a_type_error(kind, value):
    with pytest.raises(TypeError, match="learning_rate"):
        kind(learning_rate=value)


@each_kind
def test_the_bounds_themselves_are_taken(kind):
    assert kind(learning_rate=0).learning_rate == 0
    assert kind(weight_decay=0.0).weight_decay == 0
    for name in {"momentum", "rho", "beta_1", "beta_2"} & set(kind.__dataclass_fields__):
        assert getattr(kind(**{name: 0.0}), name) == 0


def test_a_rowwise_accumulator_is_a_number_a_row_in_table_growth_and_file(tmp_path):
    table = rowwise.Table(3, 4, rowwise.rules.RowwiseAdagrad(0.5), init="zeros")
    table.update([1], [[3.0, 4.0, 0.0, 5.0]])
    np.testing.assert_array_equal(table.slot("accumulator"), [[0], [12.5], [0]])
    np.testing.assert_allclose(
        table.lookup(1), -0.5 * np.array([3, 4, 0, 5]) / np.sqrt(12.5), rtol=1e-6
    )
    assert table.nbytes == 3 * (4 * 4 + 4 + 16)
    table.remap([2, 1, -1, 0])
    np.testing.assert_array_equal(table.slot("accumulator"), [[0], [12.5], [0], [0]])
    table.save(tmp_path / "table")
    again = rowwise.Table.load(tmp_path / "table")
    np.testing.assert_array_equal(again.slot("accumulator"), table.slot("accumulator"))
    table.store.write_slot("accumulator", [[7.0]], np.array([3]))
    np.testing.assert_array_equal(table.slot("accumulator"), [[0], [12.5], [0], [7]])


def test_slots_are_not_kept_for_a_rule_with_slots_of_another_shape():
    table = rowwise.Table(3, 4, "adagrad")
    with pytest.raises(ValueError, match=r"\(3, 1\).*\(3, 4\)"):
        table.set_hyperparameters(rowwise.rules.RowwiseAdagrad())


def test_rowwise_adagrad_of_one_number_a_row_is_the_adagrad_of_pytorch():
    rule, same = rowwise.rules.RowwiseAdagrad(epsilon=1e-4), pytorch.Adagrad(epsilon=1e-4)
    ours, theirs = (rowwise.Table(5, 1, each, seed=0) for each in (rule, same))
    for step in range(10):
        for table in (ours, theirs):
            table.update([step % 3, 4], [[0.1 * step], [-1.0]])
    np.testing.assert_allclose(ours.to_numpy(), theirs.to_numpy(), rtol=1e-6)


def test_nesterov_without_momentum_is_plain_descent():
    assert rowwise.rules.SGD(nesterov=True).slot_names == ()


@every_rule
def test_a_rule_is_frozen_comparable_and_hashable(rule):
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.learning_rate = 0.5
    twin = dataclasses.replace(rule)
    assert twin == rule
    assert hash(twin) == hash(rule)
    assert dataclasses.replace(rule, learning_rate=0.123) != rule


@every_rule
def test_a_repr_is_the_expression_that_makes_the_rule(rule):
    assert eval(repr(rule), vars(pytorch if "pytorch" in rule.name else rowwise.rules)) == rule


@every_rule
def test_a_rule_can_be_pickled(rule):
    assert pickle.loads(pickle.dumps(rule)) == rule


def test_a_rule_is_not_equal_to_one_of_another_kind():
    assert rowwise.rules.Adam(weight_decay=0.004) != rowwise.rules.AdamW()


@each_kind
def test_a_table_takes_a_rule_by_its_name(kind):
    assert rowwise.Table(2, 2, kind.__name__.lower()).rule == kind()


@pytest.mark.parametrize("name", ["adamm", "", "lamb"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"adam.*rmsprop.*sgd"):
        rowwise.Table(2, 2, name)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (3, "a Rule, its name or its config, not 3"),
        (["adam"], r"a Rule, its name or its config, not \['adam'\]"),
        (rowwise.rules.Adam, r"give Adam\(\.\.\.\), or 'adam'"),
    ],
)
def test_what_is_no_rule_is_refused(rule, message):
    with pytest.raises(TypeError, match=message):
        rowwise.Table(2, 2, rule)


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (rowwise.rules.SGD(), ()),
        (rowwise.rules.SGD(momentum=0.9), ("momentum",)),
        (rowwise.rules.RMSprop(), ("velocity",)),
        (rowwise.rules.RMSprop(momentum=0.9), ("velocity", "momentum")),
        (rowwise.rules.RMSprop(centered=True), ("velocity", "average_gradient")),
        (
            rowwise.rules.RMSprop(momentum=0.9, centered=True),
            ("velocity", "momentum", "average_gradient"),
        ),
        (rowwise.rules.Adagrad(), ("accumulator",)),
        (rowwise.rules.Adam(), ("momentum", "velocity")),
        (rowwise.rules.AdamW(), ("momentum", "velocity")),
    ],
)
def test_slots_have_the_names_of_keras(rule, names):
    table = rowwise.Table(3, 2, rule)
    assert table.slot_names == names
    for name in names:
        start = getattr(rule, "initial_accumulator_value", 0.0)
        assert (table.slot(name) == start).all()
        assert table.slot(name).shape == (3, 2)
