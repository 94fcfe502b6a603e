"""`CategoryEmbedder`: categories of any kind become rows that y trained, within scikit-learn."""

import pickle

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")
pytest.importorskip("regex")
import joblib  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.compose import make_column_transformer  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import LogisticRegression, Ridge  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from rowwise.errors import UntrainedError  # noqa: E402
from rowwise.sklearn import CategoryEmbedder  # noqa: E402


def shops(count=2000, seed=0):
    """Return shops (n, 2), a city and a number of the week's day, and whether they are open.

    Coastal cities open on days 5 and 6, others on the rest: neither column alone says anything.
    """
    rng = np.random.default_rng(seed)
    cities, days = rng.integers(20, size=count), rng.integers(7, size=count)
    X = np.empty((count, 2), object)
    X[:, 0], X[:, 1] = [f"city{city}" for city in cities], days
    return X, (cities < 10) == (days >= 5)


def test_scikit_learns_own_checks_pass():
    skipped = [
        check["check_name"]
        for check in check_estimator(CategoryEmbedder(cv=1), on_skip=None)
        if check["status"] == "skipped"
    ]
    assert len(skipped) <= 1  # without SCIPY_ARRAY_API in the environment


def test_fit_transform_gives_rows_that_do_not_know_their_examples_y():
    rng = np.random.default_rng(0)
    X = rng.permutation(np.arange(600) // 2)[:, None]  # two examples a category
    y = rng.integers(2, size=600)  # nothing to learn
    embedder = CategoryEmbedder(max_epochs=10, patience=10, validation_fraction=0)
    fitted = embedder.fit_transform(X, y)
    rows = embedder.transform(X)
    assert fitted.shape == rows.shape
    from_own, from_others = (LogisticRegression().fit(r, y).score(r, y) for r in (rows, fitted))
    assert from_own > 0.75 > from_others + 0.1
    alone = CategoryEmbedder(max_epochs=2, cv=1)
    np.testing.assert_array_equal(alone.fit_transform(X, y), alone.transform(X))


def test_an_examples_own_number_has_no_part_in_its_rows():
    X, _ = shops(60)
    y = np.random.default_rng(0).normal(size=60)
    other = y.copy()
    other[7] += 1e3
    embedder = CategoryEmbedder(max_epochs=2, validation_fraction=0)
    rows, changed = embedder.fit_transform(X, y), embedder.fit_transform(X, other)
    np.testing.assert_array_equal(rows[7], changed[7])
    assert (rows != changed).any()


def test_rows_of_other_trainings_mean_the_same():
    X, y = shops()
    embedder = CategoryEmbedder(dim=2, max_epochs=20)
    forest = RandomForestClassifier(random_state=0).fit(embedder.fit_transform(X, y), y)
    new = shops(500, seed=1)
    assert forest.score(embedder.transform(new[0]), new[1]) > 0.95


def test_rows_say_what_columns_mean_together():
    X, y = shops()
    embedder = CategoryEmbedder(dim=2).fit(X, y)
    rows = embedder.transform(X)
    assert rows.shape == (2000, 4)
    assert rows.dtype == np.float32
    new = shops(500, seed=1)
    hidden = embedder._model.scores(embedder._ids([list(column) for column in new[0].T]))
    assert (hidden.argmax(axis=1) == new[1]).mean() > 0.95
    city = {name: embedder.transform([[name, 0]])[0, :2] for name in embedder.categories_[0]}
    coast = [vector for name, vector in city.items() if int(name[4:]) < 10]
    inland = [vector for name, vector in city.items() if int(name[4:]) >= 10]
    between = np.linalg.norm(np.mean(coast, axis=0) - np.mean(inland, axis=0))
    assert between > 2 * max(np.std(coast, axis=0).max(), np.std(inland, axis=0).max())


def test_numbers_are_predicted_at_their_own_scale():
    X, _ = shops()
    y = 1e6 + 1e3 * np.array([int(name[4:]) for name in X[:, 0]]) + 0.5
    pipeline = make_pipeline(CategoryEmbedder(dim=3), Ridge(alpha=1e-3))
    assert pipeline.fit(X, y).score(X, y) > 0.95


def test_several_targets_at_once_are_taken():
    X, y = shops(400)
    both = np.stack([y, ~y], axis=1).astype(int)
    assert CategoryEmbedder(max_epochs=2).fit(X, both)._model.loss == "sigmoid"
    assert CategoryEmbedder(max_epochs=2).fit(X, both + 0.5)._model.loss == "squared"
    whole = np.arange(400) % 7
    assert CategoryEmbedder(max_epochs=1).fit(X, whole)._model.loss == "softmax"
    counts = CategoryEmbedder(max_epochs=1, target_type="continuous").fit(X, whole)
    assert counts._model.loss == "squared"


def test_the_best_epoch_is_kept():
    X, _ = shops(300)
    y = np.random.default_rng(1).integers(2, size=300)  # nothing to learn
    model = CategoryEmbedder(learning_rate=0.02, patience=2).fit(X, y)
    losses = model.history_["val_loss"]
    assert model.best_epoch_ == int(np.argmin(losses)) + 1 == model.n_iter_ - 2


def test_training_ends_when_the_held_out_loss_hardly_falls():
    model = CategoryEmbedder(patience=2).fit(*shops())  # what is certain falls without end
    losses = np.array(model.history_["val_loss"])
    assert model.n_iter_ == model.best_epoch_ < 30
    assert losses[-3] - losses[-1] < 1e-4 < losses[-5] - losses[-3]


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_rows():
    X, y = shops(200)
    first, again, other = (
        CategoryEmbedder(max_epochs=2, random_state=seed).fit(X, y).transform(X)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_unknown_categories_give_what_untrained_says():
    X, y = shops(200)
    embedder = CategoryEmbedder(dim=2, max_epochs=2).fit(X, y)
    table = embedder.tables_[0]
    new = [["elsewhere", 3], ["nowhere", 3]]
    mean = table.lookup(np.flatnonzero(table.is_trained())).mean(axis=0)
    rows = embedder.transform(new)
    np.testing.assert_allclose(rows[:, :2], [mean, mean], rtol=1e-5)
    np.testing.assert_array_equal(rows[:, 2:], embedder.transform([["city1", 3]])[[0, 0], 2:])
    assert (embedder.set_params(untrained="zeros").transform(new)[:, :2] == 0).all()
    as_is = embedder.set_params(untrained="as-is").transform(new)[:, :2]
    np.testing.assert_array_equal(as_is, table[[20, 20]])
    with pytest.raises(UntrainedError, match="'elsewhere' of column 'x0' at position 1"):
        embedder.set_params(untrained="error").transform([["city1", 3], *new])


def test_categories_only_held_out_count_as_unknown():
    X = np.array([[f"only{i}"] for i in range(50)])
    embedder = CategoryEmbedder(max_epochs=1, dim=2).fit(X, np.arange(50) % 2)
    assert (~embedder.tables_[0].is_trained()).sum() == 5 + 1
    assert len(np.unique(embedder.transform(X), axis=0)) == 45 + 1


def test_numbers_strings_and_missing_values_are_categories_side_by_side():
    pandas = pytest.importorskip("pandas")
    values = ["tea", 7, 2.5, None, float("nan"), pandas.NA, pandas.NaT, True]
    X = np.empty((80, 1), object)
    X[:, 0] = values * 10
    embedder = CategoryEmbedder(max_epochs=1, dim=2).fit(X, np.arange(80) % 2)
    assert embedder.categories_ == [[2.5, 7, True, "tea", None]]
    missing = embedder.transform(X)[3:7]
    assert (missing == missing[0]).all()


def test_frames_and_arrays_give_the_same_rows():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    X, y = shops(200)
    expected = CategoryEmbedder(max_epochs=2).fit(X, y).transform(X)
    for frame in (pandas.DataFrame, polars.DataFrame):
        table = frame({"city": X[:, 0].tolist(), "day": X[:, 1].tolist()})
        embedder = CategoryEmbedder(max_epochs=2).fit(table, y)
        np.testing.assert_array_equal(embedder.transform(table), expected)
        assert embedder.get_feature_names_out()[[0, -1]].tolist() == ["city_0", "day_1"]
    narrow = CategoryEmbedder(max_epochs=1, dim=[2, 1]).fit(table, y)
    for kind in ("pandas", "polars"):
        found = narrow.set_output(transform=kind).transform(table)
        assert list(found.columns) == ["city_0", "city_1", "day_0"]
    categories = pandas.DataFrame({"city": pandas.Categorical(X[:, 0]), "day": X[:, 1]})
    np.testing.assert_array_equal(
        CategoryEmbedder(max_epochs=2).fit(categories, y).transform(categories), expected
    )


def test_names_of_columns_are_checked():
    X, y = shops(50)
    embedder = CategoryEmbedder(max_epochs=1, dim=1).fit(X, y)
    assert embedder.get_feature_names_out(["city", "day"]).tolist() == ["city_0", "day_0"]
    with pytest.raises(ValueError, match="input_features should have length equal"):
        embedder.get_feature_names_out(["city"])


def test_it_works_in_pipelines_searches_and_files(tmp_path):
    X, y = shops(600)
    columns = make_column_transformer(
        (CategoryEmbedder(max_epochs=20), [0, 1]), (OneHotEncoder(), [1])
    )
    pipeline = make_pipeline(columns, LogisticRegression())
    assert cross_val_score(pipeline, X, y, cv=3).min() > 0.5
    search = GridSearchCV(
        make_pipeline(CategoryEmbedder(max_epochs=3), LogisticRegression()),
        {"categoryembedder__dim": [1, 4]}, cv=2, n_jobs=2, error_score="raise",
    )  # fmt: skip
    search.fit(X, y)
    embedder = search.best_estimator_[0]
    joblib.dump(embedder, tmp_path / "embedder.joblib")
    for again in (
        pickle.loads(pickle.dumps(embedder)),
        joblib.load(tmp_path / "embedder.joblib"),
    ):
        np.testing.assert_array_equal(again.transform(X), embedder.transform(X))
    with pytest.raises(NotFittedError):
        clone(embedder).transform(X)


def test_a_fit_that_failed_leaves_nothing_that_counts_as_fitted():
    X, y = shops(50)
    embedder = CategoryEmbedder(max_epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="the loss became"):
        embedder.set_params(learning_rate=1e37, max_epochs=9).fit(X, y)
    with pytest.raises(NotFittedError):
        embedder.transform(X)


def test_nothing_held_out_makes_all_epochs():
    X, y = shops(50)
    embedder = CategoryEmbedder(max_epochs=7, validation_fraction=0).fit(X, y)
    assert embedder.best_epoch_ == embedder.n_iter_ == 7
    assert embedder.tables_[0].is_trained()[:-1].all()


@pytest.mark.parametrize(
    ("parameters", "y", "message"),
    [
        ({"dim": 0}, [0, 1], "dim=0 is below 1"),
        ({"dim": [2]}, [0, 1], r"dim=\[2\] has 1 numbers for 2 columns"),
        ({"hidden": 0}, [0, 1], "hidden=0 is below 1"),
        ({"cv": 0}, [0, 1], "cv=0 is below 1"),
        ({"target_type": "ordinal"}, [0, 1], "target_type='ordinal' is not one of"),
        ({"target_type": "multiclass"}, [0.5, 1.5], "y is continuous"),
        ({"untrained": "skip"}, [0, 1], "untrained='skip' is not one of"),
        ({"validation_fraction": 1.0}, [0, 1], "validation_fraction=1.0"),
        ({"learning_rate": 0.0}, [0, 1], "learning_rate=0.0"),
        ({"learning_rate": 1e37}, [0, 1], "the loss became"),
        ({}, [1, 1], "y has one label alone, 1"),
    ],
)
def test_bad_input_is_named(parameters, y, message):
    with pytest.raises(ValueError, match=message):
        CategoryEmbedder(**parameters).fit([["a", 1], ["b", 2]] * 40, y * 40)
