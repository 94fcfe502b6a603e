"""`rowwise.Table`: what goes in, what comes out, and what is refused without a trace."""

import copy
import math
import pickle

import numpy as np
import pytest

import rowwise
import rowwise.vectors
from helpers.rules import each, every_family

WEIGHTS = np.arange(10, dtype=np.float32).reshape(5, 2)  # row i is (2i, 2i + 1)


def table_of_five(rule="sgd"):
    return rowwise.Table(5, 2, rule, init=WEIGHTS)


def contents(table):
    """Everything that can be seen of a table, for comparing bit by bit."""
    return {
        "weights": table.to_numpy(),
        **{name: table.slot(name) for name in table.slot_names},
        "updates": table.update_counts,
        "last_update": table.last_update,
        "steps": np.array(table.steps),
        "learning_rate": np.array(table.learning_rate),
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert one[name].tobytes() == other[name].tobytes(), name


def train(table, steps=20, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        ids = rng.integers(table.rows, size=rng.integers(0, 2 * table.rows))
        table.update(ids, rng.normal(size=(len(ids), table.dim)), learning_rate=rng.uniform(0, 0.1))
    return table


# Making a table


def test_a_table_says_what_it_is():
    table = rowwise.Table(5, 2, "adam")
    assert (table.rows, table.dim, table.shape, len(table)) == (5, 2, (5, 2), 5)
    assert table.nbytes >= 5 * 2 * 4 * 3  # weights and two slots
    assert table.steps == 0
    assert table.rule == rowwise.rules.Adam()
    assert table.learning_rate == rowwise.rules.Adam().learning_rate
    assert rowwise.Table(5, 2).rule is None
    assert rowwise.Table(5, 2).slot_names == ()


@pytest.mark.parametrize("name", ["rows", "dim"])
@pytest.mark.parametrize("value", [0, -1, -(2**40)])
def test_no_rows_or_no_columns_are_a_value_error(name, value):
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        rowwise.Table(**{"rows": 5, "dim": 2, name: value})


@pytest.mark.parametrize("name", ["rows", "dim"])
@pytest.mark.parametrize("value", [5.0, 2.5, True, "5", None, (5,)])
def test_rows_and_dim_that_are_not_integers_are_a_type_error(name, value):
    with pytest.raises(TypeError, match=name):
        rowwise.Table(**{"rows": 5, "dim": 2, name: value})


def test_numpy_integers_are_integers():
    table = rowwise.Table(np.int32(5), np.uint8(2))
    assert table.shape == (5, 2)
    assert type(table.rows) is type(table.dim) is int


@pytest.mark.parametrize(("rows", "dim"), [(10**12, 64), (10**9, 10**9), (2**62, 2**62)])
@pytest.mark.parametrize("rule", [None, "adam"])
def test_a_table_larger_than_memory_names_the_bytes_needed_and_available(rows, dim, rule):
    with pytest.raises(MemoryError) as error:
        rowwise.Table(rows, dim, rule)
    numbers = [
        int(word.replace(",", ""))
        for word in str(error.value).replace("(", " ").split()
        if word.replace(",", "").isdecimal()
    ]
    assert max(numbers) >= rows * dim * 4
    assert any(2**20 < number < rows * dim * 4 for number in numbers)  # what is available


def test_uniform_is_the_default_and_keras_s():
    values = rowwise.Table(1000, 100, seed=1).to_numpy()
    assert values.dtype == np.float32
    assert -0.05 <= values.min() < -0.0499
    assert 0.0499 < values.max() <= 0.05
    assert abs(values.mean()) < 0.001
    assert values.std() == pytest.approx(0.1 / math.sqrt(12), rel=0.01)
    same = rowwise.Table(1000, 100, init="uniform", seed=1)
    np.testing.assert_array_equal(values, same.to_numpy())


def test_normal_has_a_deviation_of_a_twentieth():
    values = rowwise.Table(1000, 100, init="normal", seed=1).to_numpy()
    assert values.std() == pytest.approx(0.05, rel=0.01)
    assert abs(values.mean()) < 0.001


@pytest.mark.parametrize("init", ["uniform", "normal"])
def test_the_same_seed_makes_the_same_table(init):
    one, same, other = (rowwise.Table(70, 3, init=init, seed=s).to_numpy() for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.99
    assert len(np.unique(one)) > 0.99 * one.size


@pytest.mark.parametrize("init", ["uniform", "normal"])
def test_without_a_seed_two_tables_differ(init):
    one, other = (rowwise.Table(70, 3, init=init).to_numpy() for _ in range(2))
    assert (one != other).mean() > 0.99


def test_zeros_are_zeros():
    assert not rowwise.Table(70, 3, init="zeros").to_numpy().any()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64])
def test_an_array_is_copied_as_float32(dtype):
    weights = WEIGHTS.astype(dtype)
    table = rowwise.Table(5, 2, init=weights)
    weights += 1
    np.testing.assert_array_equal(table.to_numpy(), WEIGHTS)
    np.testing.assert_array_equal(
        rowwise.Table(5, 2, init=np.asfortranarray(WEIGHTS)).to_numpy(), WEIGHTS
    )


def test_a_callable_is_given_the_shape():
    table = rowwise.Table(5, 2, init=lambda shape: np.full(shape, 7.0))
    assert (table.to_numpy() == 7).all()


@pytest.mark.parametrize("init", [np.zeros((2, 5)), np.zeros(10), lambda shape: np.zeros(3), 0.5])
def test_an_init_of_another_shape_is_refused(init):
    with pytest.raises((ValueError, TypeError), match=r"init"):
        rowwise.Table(5, 2, init=init)


def test_an_unknown_init_is_refused_by_name():
    with pytest.raises(ValueError, match="glorot"):
        rowwise.Table(5, 2, init="glorot")


# Ids


@pytest.mark.parametrize(
    "shape", [(), (4,), (2, 3), (2, 1, 3), (1, 2, 3, 2), (0,), (3, 0), (2, 0, 4)]
)
def test_a_lookup_has_the_shape_of_the_ids_and_one_more(shape):
    ids = np.random.default_rng(0).integers(5, size=shape)
    found = table_of_five().lookup(ids)
    assert found.shape == (*shape, 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, WEIGHTS[ids])


def test_a_lookup_is_one_hot_times_the_weights():
    ids = np.random.default_rng(0).integers(5, size=(7, 3))
    one_hot = np.eye(5, dtype=np.float32)[ids]
    np.testing.assert_array_equal(table_of_five().lookup(ids), one_hot @ WEIGHTS)


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.mark.parametrize("dtype", [*INTEGERS, "float16", "float32", "float64", ">i4", ">i8"])
def test_ids_of_any_number_type_mean_the_same(dtype):
    ids = np.array([[4, 0], [3, 4]], dtype)
    np.testing.assert_array_equal(table_of_five().lookup(ids), WEIGHTS[[[4, 0], [3, 4]]])
    table = table_of_five(rowwise.rules.SGD(learning_rate=1.0))
    table.update(ids, np.ones((2, 2, 2)))
    np.testing.assert_array_equal(
        WEIGHTS - table.to_numpy(), [[1, 1], [0, 0], [0, 0], [1, 1], [2, 2]]
    )


@pytest.mark.parametrize(
    "ids", [3, [3], [[1, 2], [0, 4]], (1, 2), [1.0, 2.0], [], [[], []], range(3)]
)
def test_lists_and_plain_numbers_are_ids(ids):
    array = np.asarray(ids).astype(int)
    np.testing.assert_array_equal(table_of_five().lookup(ids), WEIGHTS[array])
    table = table_of_five()
    table.update(ids, np.ones((*array.shape, 2)))
    assert table.steps == 1


def test_arrays_need_not_be_contiguous():
    ids = np.arange(40).reshape(8, 5) % 5
    for view in (ids[::2], ids.T, ids[:, ::-1], ids[1:4, 2:]):
        np.testing.assert_array_equal(table_of_five().lookup(view), WEIGHTS[view])
        gradients = np.random.default_rng(0).normal(size=(*view.shape, 4))
        one, other = table_of_five(), table_of_five()
        one.update(view, gradients[..., ::2])
        other.update(view.copy(), gradients[..., ::2].copy())
        assert_same(contents(one), contents(other))


def test_ids_that_cannot_be_written_to_are_fine():
    ids, gradients = np.array([1, 2]), np.ones((2, 2), np.float32)
    ids.flags.writeable = gradients.flags.writeable = False
    table = table_of_five()
    table.lookup(ids)
    table.update(ids, gradients)
    assert table.steps == 1


OUTSIDE = [
    (7, "id 7 "),
    ([5], "id 5 "),
    ([0, -1], "id -1 "),
    ([[0, 1, 2, 7]], r"id 7 at position \(0, 3\)"),
    (np.int8([-128]), "id -128 "),
    (np.uint8([255]), "id 255 "),
    (np.uint64([2**63 + 1]), f"id {2**63 + 1} "),
    (np.int64([2**62]), f"id {2**62} "),
    (np.int64([-(2**63)]), f"id -{2**63} "),
    ([1.0, 7.0], "id 7 "),
    (np.int64([2**32]), f"id {2**32} "),  # row 0 to whoever cuts it to 32 bits
]


@pytest.mark.parametrize(("ids", "message"), OUTSIDE)
def test_an_id_outside_the_table_is_named_with_its_position(ids, message):
    table = train(table_of_five("adam"))
    before = contents(table)
    with pytest.raises(IndexError, match=message):
        table.lookup(ids)
    with pytest.raises(IndexError, match=message):
        table.update(ids, np.ones((*np.shape(ids), 2)))
    assert_same(contents(table), before)


def test_the_message_for_an_id_outside_the_table_names_the_rows():
    with pytest.raises(IndexError) as error:
        table_of_five().lookup([[0, 1, 2, 7]])
    assert str(error.value).startswith(
        "id 7 at position (0, 3) is outside the table's 5 rows (0..4); make the table larger, or "
        "map such ids to a row of their own"
    )


def test_of_many_ids_outside_the_first_is_named():
    ids = np.zeros(100_000, np.int64)
    ids[[40_321, 70_000, 99_999]] = 11, 12, -13
    with pytest.raises(IndexError, match="id 11 at position 40321"):
        table_of_five().lookup(ids)
    with pytest.raises(IndexError, match="id 11 at position 40321"):
        table_of_five().update(ids, np.ones((100_000, 2)))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.0, 1.5], "1.5"),
        ([1.0, math.nan], "nan"),
        ([math.inf, 1.0], "inf"),
        (np.float16([0.5]), "0.5"),
        (-0.5, "-0.5"),
    ],
)
def test_floats_that_are_not_whole_are_a_value_error(ids, message):
    table = train(table_of_five("adam"))
    before = contents(table)
    with pytest.raises(ValueError, match=message):
        table.lookup(ids)
    with pytest.raises(ValueError, match=message):
        table.update(ids, np.ones((*np.shape(ids), 2)))
    assert_same(contents(table), before)


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (["1", "2"], "Vocabulary"),
        (np.array(["a"], "S"), "Vocabulary"),
        ([1, "a"], "Vocabulary"),
        (np.array([1, 2], object), "object"),
        ([True, False], "bool"),
        (np.bool_(True), "bool"),
        ([1 + 0j], "complex"),
        (None, "object"),
        (np.array(["2024-01-01"], "datetime64[D]"), "datetime"),
    ],
)
def test_ids_that_are_no_numbers_are_a_type_error(ids, why):
    with pytest.raises(TypeError, match=why):
        table_of_five().lookup(ids)
    with pytest.raises(TypeError, match=why):
        table_of_five().update(ids, np.ones((*np.shape(ids), 2)))


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("float32", 24)])
def test_a_float_never_lets_two_ids_collide(dtype, bits):
    table = rowwise.Table(2**bits + 8, 1, init="zeros")
    last = 2**bits - 1
    assert table.lookup(np.array([last], dtype)).shape == (1, 1)
    for meant in range(2**bits + 1, 2**bits + 8):
        with pytest.raises(ValueError, match=dtype):
            table.lookup(np.array([0, meant], dtype))
    assert table.lookup(np.array([2**bits + 7], "int64")).shape == (1, 1)


def test_float64_ids_beyond_2_to_the_53_are_refused():
    for ids in ([2.0**53 + 2], [1e300], np.float64(-1e300)):
        with pytest.raises(ValueError, match="float64"):
            table_of_five().lookup(ids)


# Looking


def test_everything_handed_out_is_a_copy():
    table = train(table_of_five("adam"))
    before = contents(table)
    for array in (
        table.lookup([0, 1]),
        table.to_numpy(),
        table.slot("momentum"),
        table.update_counts,
        table.last_update,
        table.untrained(),
    ):
        array[...] = 99
    assert_same(contents(table), before)


def test_an_unknown_slot_is_refused_by_name():
    with pytest.raises((KeyError, ValueError), match="velocity"):
        rowwise.Table(5, 2, rowwise.rules.SGD(momentum=0.9)).slot("velocity")


# Updating


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3), (1, 2, 3, 2), (0,), (2, 0)])
def test_gradients_have_the_shape_of_the_ids_and_one_more(shape):
    rng = np.random.default_rng(0)
    ids, gradients = rng.integers(5, size=shape), rng.normal(size=(*shape, 2))
    one, other = table_of_five("adam"), table_of_five("adam")
    one.update(ids, gradients)
    other.update(ids.ravel(), gradients.reshape(-1, 2))
    assert_same(contents(one), contents(other))
    assert one.steps == 1


@pytest.mark.parametrize(
    ("ids", "shape"),
    [
        ([1, 2], (2,)),
        ([1, 2], (2, 3)),
        ([1, 2], (3, 2)),
        ([1, 2], (1, 2, 2)),
        ([[1, 2]], (2, 2)),
        ([[1], [2]], (1, 2, 2)),
        (1, (1, 2)),
        ([], (1, 2)),
        ([], (0,)),
        ([1], ()),
    ],
)
def test_gradients_of_another_shape_are_refused(ids, shape):
    table = train(table_of_five("adam"))
    before = contents(table)
    with pytest.raises(ValueError, match="shape"):
        table.update(ids, np.ones(shape))
    assert_same(contents(table), before)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", ">f4", ">f8"])
def test_gradients_are_cast_to_float32(dtype):
    gradients = np.array([[1, 2], [3, 5]], dtype)
    one, other = table_of_five("adam"), table_of_five("adam")
    one.update([1, 4], gradients)
    other.update([1, 4], gradients.astype(np.float32).tolist())
    assert_same(contents(one), contents(other))


@every_family
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(rule, value):
    table = train(rowwise.Table(5, 2, rule, seed=0))
    before = contents(table)
    gradients = np.ones((2, 3, 2))
    gradients[1, 0, 1] = value
    with pytest.raises(ValueError, match=rf"{value}.*\(1, 0, 1\)|\(1, 0, 1\).*{value}"):
        table.update([[0, 1, 2], [3, 4, 0]], gradients)
    assert_same(contents(table), before)
    assert_same(contents(train(table)), contents(train(train(rowwise.Table(5, 2, rule, seed=0)))))


def test_a_gradient_too_large_for_float32_is_not_finite():
    table = table_of_five()
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="inf"):
        table.update([1], np.array([[1.0, 1e300]]))
    np.testing.assert_array_equal(table.to_numpy(), WEIGHTS)


@pytest.mark.parametrize("rate", [-1e-3, math.nan, math.inf, -math.inf])
def test_a_learning_rate_that_is_negative_or_not_finite_is_refused(rate):
    table = train(table_of_five("adam"))
    before = contents(table)
    with pytest.raises(ValueError, match=r"learning.rate"):
        table.update([1], np.ones((1, 2)), learning_rate=rate)
    assert_same(contents(table), before)


@pytest.mark.parametrize("rate", [-1e-3, math.nan, math.inf])
def test_so_it_is_when_it_was_set_on_the_table(rate):
    def set_and_use(table):
        table.learning_rate = rate
        table.update([1], np.ones((1, 2)))

    table = table_of_five()
    with pytest.raises(ValueError, match=r"learning.rate"):
        set_and_use(table)
    np.testing.assert_array_equal(table.to_numpy(), WEIGHTS)


@each(["sgd-decay", "adam-decay", "adamw-decay-strong"])
def test_a_refused_step_leaves_no_trace_however_large_its_learning_rate(rule):
    table = train(rowwise.Table(5, 2, rule, seed=0))
    before = contents(table)
    with pytest.raises(IndexError):
        table.update([9], np.ones((1, 2)), learning_rate=2 / rule.weight_decay)
    assert_same(contents(table), before)


def test_a_table_without_a_rule_cannot_be_updated():
    table = rowwise.Table(5, 2, seed=0)
    with pytest.raises(ValueError, match="rule"):
        table.update([1], np.ones((1, 2)))
    assert table.steps == 0


def test_the_learning_rate_is_the_rule_s_until_it_is_set_and_a_step_s_own_comes_first():
    gradients = np.ones((1, 2))
    table = rowwise.Table(5, 2, rowwise.rules.SGD(learning_rate=0.5), init="zeros")
    table.update([0], gradients)
    table.learning_rate = 0.25
    table.update([1], gradients)
    table.update([2], gradients, learning_rate=0.125)
    table.update([3], gradients, learning_rate=0)
    np.testing.assert_array_equal(table.to_numpy()[:, 0], [-0.5, -0.25, -0.125, 0, 0])
    assert table.rule.learning_rate == 0.5
    assert table.learning_rate == 0.25


def test_updates_count_the_steps_that_touched_a_row_and_not_its_duplicates():
    table = rowwise.Table(5, 2, "adam", seed=0)
    table.update([1, 1, 1, 3], np.ones((4, 2)))
    table.update([], np.ones((0, 2)))
    table.update([[3, 3], [4, 3]], np.zeros((2, 2, 2)))
    assert table.steps == 3
    assert table.update_counts.tolist() == [0, 1, 0, 2, 1]
    assert table.last_update.tolist() == [0, 1, 0, 3, 3]
    assert table.untrained().tolist() == [0, 2]
    assert table.untrained().dtype == table.last_update.dtype == np.int64
    table.materialize()
    assert table.update_counts.tolist() == [0, 1, 0, 2, 1]
    assert table.last_update.tolist() == [0, 1, 0, 3, 3]


@every_family
def test_duplicates_act_as_their_sum(rule):
    one, other = (rowwise.Table(5, 2, rule, seed=0) for _ in range(2))
    one.update([4, 2, 4, 4], [[1, 2], [8, 8], [2, 4], [-1, 1]])
    other.update([2, 4], [[8, 8], [2, 7]])
    assert_same(contents(one), contents(other))


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_threads_are_counted_from_one(threads):
    with pytest.raises((ValueError, TypeError), match="threads"):
        rowwise.set_num_threads(threads)


# Copies and files


def by_pickle(table):
    return pickle.loads(pickle.dumps(table))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, by_pickle])
@every_family
def test_a_copy_has_the_same_contents_and_its_own_life(rule, duplicate):
    table = train(rowwise.Table(5, 2, rule, seed=0))
    table.learning_rate = 0.03
    before = contents(table)
    twin = duplicate(table)
    assert twin.rule == table.rule
    assert_same(contents(twin), before)
    train(twin, seed=1)
    assert_same(contents(table), before)
    assert twin.steps == 40


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle])
@every_family
def test_a_copy_trains_on_as_the_original_does(rule, duplicate):
    table = train(rowwise.Table(5, 2, rule, seed=0))
    table.materialize()
    twin = duplicate(table)
    assert_same(contents(train(twin, seed=1)), contents(train(table, seed=1)))


def test_a_table_without_a_rule_can_be_copied():
    np.testing.assert_array_equal(by_pickle(table_of_five(None)).to_numpy(), WEIGHTS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.safetensors"


@every_family
def test_a_saved_table_comes_back(rule, path):
    table = train(rowwise.Table(5, 2, rule, seed=0))
    table.learning_rate = 0.03
    table.save(path)
    back = rowwise.Table.load(path)
    assert back.rule == table.rule
    assert_same(contents(back), contents(table))


def test_a_saved_table_without_a_rule_comes_back(path):
    table_of_five(None).save(path)
    back = rowwise.Table.load(path)
    assert back.rule is None
    np.testing.assert_array_equal(back.to_numpy(), WEIGHTS)


@every_family
def test_training_on_from_a_file_equals_not_having_stopped(rule, path):
    table = train(rowwise.Table(5, 2, rule, seed=0))
    table.save(str(path))
    expected = contents(train(table, seed=1))
    assert_same(contents(train(rowwise.Table.load(str(path)), seed=1)), expected)


def test_a_file_that_is_not_there_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"table\.safetensors"):
        rowwise.Table.load(path)


def test_garbage_is_a_value_error(path):
    rng = np.random.default_rng(0)
    header_too_large = (2**62).to_bytes(8, "little")
    for garbage in (b"", b"{}", b"\0" * 100, rng.bytes(1000), header_too_large, b"glove 1 2 3\n"):
        path.write_bytes(garbage)
        with pytest.raises(ValueError, match=r"table\.safetensors"):
            rowwise.Table.load(path)


def test_another_safetensors_file_is_a_value_error(path):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"weight": WEIGHTS}, path)
    with pytest.raises(ValueError, match=r"table\.safetensors"):
        rowwise.Table.load(path)


def test_saving_over_a_table_replaces_it_and_leaves_nothing_else(path):
    table = train(table_of_five("adam"))
    table.save(path)
    train(table).save(path)
    assert_same(contents(rowwise.Table.load(path)), contents(table))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_saving_into_a_folder_that_is_not_there_is_an_error_and_the_table_lives_on(path):
    table = train(table_of_five("adam"))
    before = contents(table)
    with pytest.raises(FileNotFoundError):
        table.save(path.parent / "nowhere" / "table.safetensors")
    assert_same(contents(table), before)


# ---------------------------------------------------------------------- pretrained rows


def test_pretrained_rows_count_as_trained_and_others_do_not():
    vectors = rowwise.vectors.Vectors(["tea", "cup"], [[1.0, 2.0], [3.0, 4.0]])
    words = rowwise.Vocabulary(["pot", "cup", "tea"])
    table = rowwise.Table.from_pretrained(vectors, "sgd", vocabulary=words, init="zeros")
    assert table.to_numpy().tolist() == [[0, 0], [3, 4], [1, 2]]
    assert table.untrained().tolist() == [0]
    assert table.vocabulary == words
    assert rowwise.Table.from_pretrained(vectors).shape == (2, 2)


def test_numbers_without_words_are_pretrained_rows():
    assert rowwise.Table.from_pretrained(np.eye(3)).untrained().size == 0
    with pytest.raises(TypeError, match="vocabulary= needs words"):
        rowwise.Table.from_pretrained(np.eye(3), vocabulary=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        rowwise.Table.from_pretrained(np.ones(3))


def test_rows_given_as_an_array_count_as_trained():
    assert rowwise.Table(3, 2, init=np.ones((3, 2))).is_trained().all()
    assert not rowwise.Table(3, 2, init=np.ones).is_trained().any()


def test_what_is_trained_is_asked_of_rows_that_there_are():
    table = rowwise.Table(3, 2)
    for ask in (table.is_trained, table.mark_trained, table.lookup):
        with pytest.raises(IndexError, match="id -1 at position 0"):
            ask([-1])
    assert not table.is_trained().any()


def test_numpy_takes_a_table_for_an_array():
    table = rowwise.Table(5, 2, seed=0)
    assert np.asarray(table).shape == (5, 2)
    assert np.asarray(table, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(table[[3, 1]], table.lookup([3, 1]))
    np.testing.assert_array_equal(table[1:3], table.lookup([1, 2]))


def test_dlpack_gives_a_copy_of_the_present_values():
    table = rowwise.Table(5, 2, "adam", seed=0)
    table.update([1], [[1.0, 2.0]])
    table.update([2], [[1.0, 2.0]])  # moves row 1 too
    rows = np.from_dlpack(table)
    np.testing.assert_array_equal(rows, table.to_numpy())
    table.update([1], [[1.0, 2.0]])
    assert not np.array_equal(rows, table.to_numpy())
    with pytest.raises(BufferError, match="always a copy"):
        table.__dlpack__(copy=False)


def test_torch_takes_a_table_by_dlpack():
    torch = pytest.importorskip("torch")
    table = rowwise.Table(5, 2, seed=0)
    tensor = torch.from_dlpack(table)
    np.testing.assert_array_equal(tensor.numpy(), table.to_numpy())
    tensor.zero_()
    assert table.to_numpy().all()
