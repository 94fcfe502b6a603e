"""`TextVectorizer`: texts become pooled vectors of their words, wherever those come from."""

import pickle

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")
pytest.importorskip("regex")
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from rowwise import Table, Vocabulary  # noqa: E402
from rowwise.errors import UntrainedError  # noqa: E402
from rowwise.sklearn import TextClassifier, TextVectorizer  # noqa: E402
from rowwise.vectors import Subwords, Vectors  # noqa: E402

VECTORS = Vectors(["tea", "cup", "Rome", "strasse"], [[1, 2], [3, 0], [5, 5], [0, 1]])


def test_scikit_learns_own_checks_pass():
    with pytest.warns(UserWarning, match="Can't test estimator TextVectorizer"):
        check_estimator(TextVectorizer(VECTORS), on_skip=None)


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [2, 1]), ("sum", [4, 2]), ("max", [3, 2])]
)
def test_vectors_of_words_are_pooled(pooling, expected):
    found = TextVectorizer(VECTORS, pooling=pooling).fit_transform(["a CUP of tea!", "", "none"])
    np.testing.assert_array_equal(found, [expected, [0, 0], [0, 0]])
    assert found.dtype == np.float32


def test_a_word_is_looked_up_as_it_stands_and_then_in_lower_case():
    found = TextVectorizer(VECTORS).fit_transform(["Rome", "rome", "TEA", "Straße"])
    np.testing.assert_array_equal(found, [[5, 5], [0, 0], [1, 2], [0, 1]])


def test_words_without_a_vector_give_what_untrained_says():
    texts = ["tea", "tea, kettle!"]
    mean = VECTORS.matrix.mean(axis=0)
    for untrained, expected in (
        ("skip", [1, 2]),
        ("zeros", [0.5, 1]),
        ("mean", (mean + VECTORS["tea"]) / 2),
    ):
        found = TextVectorizer(VECTORS, untrained=untrained).fit_transform(texts)
        np.testing.assert_allclose(found, [[1, 2], expected])
    with pytest.raises(UntrainedError, match="word 'kettle' of the text at position 1"):
        TextVectorizer(VECTORS, untrained="error").fit_transform(texts)
    assert TextVectorizer(VECTORS, untrained="error").fit_transform(["tea, cup!"]).shape == (1, 2)


def test_positions_in_errors_count_all_texts():
    texts = ["tea"] * 3000
    texts[2500] = "cup of tea"
    with pytest.raises(UntrainedError, match="word 'of' of the text at position 2500"):
        TextVectorizer(VECTORS, untrained="error").fit_transform(texts)


def test_n_grams_give_vectors_to_other_words():
    grams = Subwords(np.random.default_rng(0).random((50, 2), np.float32), 3, 4)
    vectors = Vectors(["tea"], [[1.0, 2.0]], subwords=grams)
    found = TextVectorizer(vectors, untrained="error").fit_transform(["tea kettle."])
    expected = (vectors["tea"] + grams.vector_of("kettle")) / 2
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_rows_of_a_table_are_read_as_they_are_now():
    vocabulary = Vocabulary(["tea", "cup", "don't"], oov_token="[UNK]")
    table = Table(4, 2, "sgd", init="zeros")
    table.vocabulary = vocabulary
    vectorizer = TextVectorizer(table, pooling="sum").fit()
    table.update([1, 3], [[-1, -2], [-4, -8]], learning_rate=1.0)
    np.testing.assert_array_equal(
        vectorizer.transform(["Tea, don't!", "cup", "other"]), [[5, 10], [0, 0], [0, 0]]
    )
    table.update([0], [[-7, -7]], learning_rate=1.0)  # the row of unknown words
    np.testing.assert_array_equal(vectorizer.transform(["other"]), [[7, 7]])
    vectorizer.set_params(untrained="mean")
    np.testing.assert_allclose(vectorizer.transform(["cup"]), [[4, 17 / 3]])


def test_a_table_without_words_for_unknown_ones_skips_them():
    table = Table(2, 1, init=np.array([[1.0], [3.0]]))
    table.vocabulary = Vocabulary(["tea", "cup"])
    np.testing.assert_array_equal(TextVectorizer(table).fit_transform(["tea of cup"]), [[2]])


def test_words_of_a_classifier_have_its_rows():
    model = TextClassifier(char_ngrams=0).fit(["black tea", "a red car"] * 10, [0, 1] * 10)
    found = TextVectorizer(model, pooling="sum").fit_transform(["Tea of a car"])
    rows = model.table_[[model.vocabulary_[word] for word in ("tea", "a", "car")]]
    np.testing.assert_allclose(found[0], rows.sum(axis=0), rtol=1e-6)
    again = clone(TextVectorizer(model))
    assert again.fit_transform(["tea"]).shape == (1, model.table_.dim)


def test_columns_of_pandas_and_polars_are_taken_and_given():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    texts = ["tea cup", "cup"]
    for column in (pandas.Series, polars.Series, np.array):
        found = TextVectorizer(VECTORS).fit_transform(column(texts))
        np.testing.assert_array_equal(found, [[2, 1], [3, 0]])
    vectorizer = TextVectorizer(VECTORS).fit(texts)
    assert vectorizer.get_feature_names_out().tolist() == ["textvectorizer0", "textvectorizer1"]
    frame = vectorizer.set_output(transform="pandas").transform(pandas.Series(texts))
    assert list(frame.columns) == ["textvectorizer0", "textvectorizer1"]


def test_it_works_in_pipelines_searches_and_pickles():
    texts, y = ["a tea", "some cup", "my tea", "in rome, a cup"] * 10, [0, 1, 0, 1] * 10
    pipeline = make_pipeline(TextVectorizer(VECTORS), LogisticRegression())
    assert cross_val_score(pipeline, texts, y, cv=3).min() == 1.0
    grid = {"textvectorizer__pooling": ["mean", "max"]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, error_score="raise").fit(texts, y)
    assert search.best_score_ == 1.0
    vectorizer = search.best_estimator_[0]
    again = pickle.loads(pickle.dumps(vectorizer))
    np.testing.assert_array_equal(again.transform(texts), vectorizer.transform(texts))
    assert clone(vectorizer).vectors is vectorizer.vectors
    with pytest.raises(NotFittedError):
        clone(vectorizer).transform(texts)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"vectors": "glove.txt"}, TypeError, "vectors='glove.txt' is neither"),
        ({"vectors": Table(2, 2)}, ValueError, "the table has no words"),
        ({"vectors": VECTORS, "pooling": "min"}, ValueError, "pooling='min'"),
        ({"vectors": VECTORS, "untrained": "as-is"}, ValueError, "untrained='as-is'"),
        ({"vectors": TextClassifier()}, NotFittedError, "not fitted"),
    ],
)
def test_bad_parameters_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        TextVectorizer(**arguments).fit(["tea"])


def test_a_text_that_is_none_is_named():
    with pytest.raises(TypeError, match="text None at position 1 is not a string"):
        TextVectorizer(VECTORS).fit_transform(["a", None])
