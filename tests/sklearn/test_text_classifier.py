"""`TextClassifier`: what scikit-learn asks for, and what texts of any script and length give."""

import itertools
import json
import os
import pickle
import shutil

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")
pytest.importorskip("regex")
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import FunctionTransformer  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

import rowwise  # noqa: E402
from helpers.killing import in_a_process_killed_at  # noqa: E402
from rowwise.files._container import Container, write  # noqa: E402
from rowwise.sklearn import TextClassifier  # noqa: E402
from rowwise.sklearn._model import BagModel  # noqa: E402
from rowwise.sklearn._training import Training  # noqa: E402
from rowwise.vectors import Vectors  # noqa: E402

FRUIT = ["apple", "pear", "plum", "cherry", "melon"]
TOOLS = ["hammer", "saw", "drill", "wrench", "chisel"]


def texts(count=200, seed=0):
    rng = np.random.default_rng(seed)
    kinds = [("fruit", FRUIT), ("tools", TOOLS)]
    return (
        [" ".join(rng.choice(kinds[i % 2][1], 4)) + f" the and only{i}" for i in range(count)],
        [kinds[i % 2][0] for i in range(count)],
    )


@pytest.fixture(scope="module")
def model():
    return TextClassifier().fit(*texts())


def test_scikit_learns_own_checks_pass():
    with pytest.warns(UserWarning, match="Can't test estimator TextClassifier"):
        check_estimator(TextClassifier(), on_skip=None)


def test_texts_get_their_labels(model):
    assert model.predict(["saw drill", "plum pear"]).tolist() == ["tools", "fruit"]
    assert model.classes_.tolist() == ["fruit", "tools"]
    assert model.score(*texts(seed=1)) == 1.0
    proba = model.predict_proba(["saw drill", "", "plum"])
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert proba.shape == (3, 2)
    assert model.predict([]).shape == (0,)
    assert model.transform(["saw", "plum"]).shape == (2, model.table_.dim)


def test_rows_are_named_by_words_and_all_are_trained(model):
    words = model.table_.vocabulary
    assert {*FRUIT, *TOOLS, "the", "and"} <= set(words)
    assert len(words) < model.table_.rows
    assert len(model.table_.untrained()) == 0


def test_words_of_held_out_texts_have_rows_after_a_refit_alone(model):
    alone = TextClassifier(refit=False, max_epochs=2, char_ngrams=4).fit(*texts())
    assert len(model.held_out_) == len(alone.held_out_) == 20
    for i in range(200):
        assert (f"only{i}" in alone.vocabulary_) == (i in alone.training_)
    assert {f"only{i}" for i in range(200)} <= set(model.vocabulary_)


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_model():
    first, again = (TextClassifier(max_epochs=2).fit(*texts()) for _ in range(2))
    other = TextClassifier(max_epochs=2, random_state=1).fit(*texts())
    np.testing.assert_array_equal(first.table_.to_numpy(), again.table_.to_numpy())
    assert (first.predict_proba(["saw"]) != other.predict_proba(["saw"])).any()


def test_the_best_epoch_is_kept():
    rng = np.random.default_rng(0)
    noise = [" ".join(rng.choice(FRUIT + TOOLS, 3)) + f" w{i}" for i in range(300)]
    labels = rng.integers(2, size=300)  # nothing to learn: the held-out loss rises at once
    model = TextClassifier(learning_rate=0.01, patience=2, refit=False).fit(noise, labels)
    losses = model.history_["val_loss"]
    assert model.best_epoch_ == int(np.argmin(losses)) + 1 < model.n_iter_
    assert model.n_iter_ == model.best_epoch_ + 2
    held_out = [noise[i] for i in model.held_out_]
    proba = model.predict_proba(held_out)[np.arange(30), labels[model.held_out_]]
    assert -np.log(proba).mean() == pytest.approx(min(losses), rel=1e-4)


def test_case_and_ngrams_are_chosen_by_cross_validation():
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(FRUIT + TOOLS, 5)) for _ in range(300)]
    loud = rng.integers(2, size=300)
    shouted = [text.upper() if is_loud else text for text, is_loud in zip(words, loud, strict=True)]
    model = TextClassifier(max_epochs=5).fit(shouted, loud)
    assert not model.lowercase_
    assert model.score(shouted, loud) == 1.0
    told = TextClassifier(max_epochs=5, lowercase=True, char_ngrams=(3, 3)).fit(shouted, loud)
    assert (told.lowercase_, told.char_ngrams_) == (True, (3, 3))
    # Single letters tell the labels apart, in new words.
    letters = list("abcdefghijklmnopqrstuvwy")
    kinds = rng.integers(2, size=300)
    coined = ["".join(rng.permutation(letters)[:9]) + "xz"[kind] for kind in kinds]
    model = TextClassifier(max_epochs=20).fit(coined, kinds)
    assert (model.lowercase_, model.char_ngrams_) == (True, (2, 5))


def test_readings_are_compared_on_some_texts_of_many(monkeypatch):
    x, y = texts(400)
    monkeypatch.setattr("rowwise.sklearn._recipe._CHOSEN_ON", sum(map(len, x)) // 2)
    made, run = [], Training.run

    def recorded(self, batches, *rest):
        made.append(len(batches.targets))
        return run(self, batches, *rest)

    monkeypatch.setattr(Training, "run", recorded)
    model = TextClassifier(max_epochs=2).fit(x, y)
    *compared, first, again = made
    assert len(compared) == 2 * 2
    assert all(190 < count < 210 for count in compared)
    assert (first, again) == (400, 400)
    assert model.score(*texts(seed=1)) == 1.0
    made.clear()
    TextClassifier(max_epochs=2).fit(x[:90], y[:90])
    assert made == [90, 90]  # too few to compare on


def test_long_texts_are_read_to_their_end():
    pad = " filler" * 3000
    x = [f"{pad} {word}" for word in (*FRUIT, *TOOLS)] * 6
    y = (["fruit"] * 5 + ["tools"] * 5) * 6
    assert TextClassifier().fit(x, y).score(x, y) == 1.0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("我喜欢喝茶", "他买了新车"),  # no spaces
        ("お茶を飲む", "車を買った"),
        ("ผมชอบดื่มชา", "เขาซื้อรถใหม่"),
        ("हिन्दी में चाय", "नई गाड़ी खरीदी"),  # combining marks
        ("cafe\u0301s", "cafes"),
        ("İstanbul", "Ankara"),
        ("👍🏽", "👎🏽"),
    ],
)
def test_words_of_any_script_tell_labels_apart(a, b):
    model = TextClassifier().fit([a, b] * 20, [0, 1] * 20)
    assert model.predict([a, b, a.upper()]).tolist() == [0, 1, 0]


def test_equal_letters_in_other_forms_are_equal():
    model = TextClassifier().fit(["caf\u00e9 STRASSE", "tea ﬁve"] * 20, [0, 1] * 20)
    assert "café" in model.vocabulary_
    assert "strasse" in model.vocabulary_
    np.testing.assert_array_equal(
        model.decision_function(["cafe\u0301 straße", "TEA five"]),
        model.decision_function(["CAFÉ strasse", "tea ﬁve"]),
    )


def test_a_text_may_have_several_labels():
    x = ["apple", "saw", "apple saw", "nothing here"] * 20
    y = np.array([[1, 0], [0, 1], [1, 1], [0, 0]] * 20)
    model = TextClassifier().fit(x, y)
    assert model.multilabel_
    np.testing.assert_array_equal(model.predict(x[:4]), y[:4])
    proba = model.predict_proba(x[:4])
    assert proba[2].min() > 0.5 > proba[3].max()
    assert model.score(x, y) == 1.0


def test_class_weights_move_the_boundary():
    x = ["apple tea"] * 90 + ["apple cup"] * 10
    y = ["many"] * 90 + ["few"] * 10
    plain = TextClassifier(max_epochs=3).fit(x, y)
    balanced = TextClassifier(max_epochs=3, class_weight="balanced").fit(x, y)
    weighted = TextClassifier(max_epochs=3, class_weight={"few": 9.0, "many": 1.0}).fit(x, y)
    few = [model.predict_proba(["apple"])[0, 0] for model in (plain, balanced, weighted)]
    assert few[0] < few[1]
    assert few[0] < few[2]


def test_sample_weights_of_zero_leave_texts_out():
    x, y = ["apple", "saw"] * 30, ["fruit", "tools"] * 30
    wrong = ["tools", "fruit"] * 30
    model = TextClassifier(validation_fraction=0)
    model.fit(x + x, y + wrong, sample_weight=[1] * 60 + [0] * 60)
    assert model.score(x, y) == 1.0


def test_it_learns_day_after_day():
    model = TextClassifier()
    model.partial_fit(*texts(), classes=["fruit", "toys", "tools"])
    for _ in range(4):
        model.partial_fit(*texts())
    before = model.table_.rows
    vector = model.table_[[model.vocabulary_["apple"]]]
    day = ["kite robot", "robot puppet kite", "apple plum", "saw drill"] * 30
    model.partial_fit([], [])
    for _ in range(10):
        model.partial_fit(day, ["toys", "toys", "fruit", "tools"] * 30)
    assert model.table_.rows > before
    assert model.predict(["puppet", "pear", "wrench"]).tolist() == ["toys", "fruit", "tools"]
    assert np.dot(vector[0], model.table_[[model.vocabulary_["apple"]]][0]) > 0
    with pytest.raises(ValueError, match="label 'food' at position 0 is not among the classes"):
        model.partial_fit(["bread"], ["food"])


def test_shares_of_words_sum_to_the_scores(model):
    text = "An apple, a SAW and an apple pear"
    shares = model.explain(text)
    assert [word for word, _ in shares][:4] == ["an", "apple", ",", "a"]
    bias = model.decision_function([""])[0]
    total = bias + sum(share for _, share in shares)
    np.testing.assert_allclose(total, model.decision_function([text])[0], rtol=1e-5, atol=1e-6)
    by_word = {word: share[0] - share[1] for word, share in shares}
    assert by_word["apple"] > 0 > by_word["saw"]
    assert model.explain("") == []


def test_it_works_in_pipelines_searches_and_pickles(model):
    x, y = texts(60)
    pipeline = make_pipeline(FunctionTransformer(list), TextClassifier(max_epochs=3))
    assert cross_val_score(pipeline, x, y, cv=3).min() > 0.5
    search = GridSearchCV(TextClassifier(max_epochs=3), {"word_ngrams": [1, 2]}, cv=2, n_jobs=2)
    assert search.fit(x, y).best_score_ > 0.5
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    assert clone(model).get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        clone(model).predict(["a"])


def test_columns_of_pandas_and_polars_are_taken(model):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    x, y = texts(60)
    expected = TextClassifier(max_epochs=2).fit(x, y).predict_proba(x[:5])
    for column in (pandas.Series, polars.Series, np.array):
        model = TextClassifier(max_epochs=2).fit(column(x), column(y))
        np.testing.assert_array_equal(model.predict_proba(column(x[:5])), expected)


def test_rows_start_from_vectors_and_their_words_are_known():
    vectors = Vectors([*FRUIT, *TOOLS], np.repeat([[1.0, 0, 0], [0, 1, 0]], 5, axis=0))
    model = TextClassifier(init_from=vectors, char_ngrams=0)
    model.fit(["apple pear", "hammer saw"] * 10, ["fruit", "tools"] * 10)
    assert model.table_.dim == 3
    assert model.predict(["melon cherry", "chisel wrench"]).tolist() == ["fruit", "tools"]


def test_a_saved_classifier_predicts_and_learns_on_to_the_same_bits(model, tmp_path):
    model.save(tmp_path)
    again, x = TextClassifier.load(tmp_path), texts(20)[0]
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    assert again.get_params() == model.get_params()
    assert again.history_ == model.history_
    more = pickle.loads(pickle.dumps(model))
    day = ["new kite", "old saw"], ["fruit", "tools"]
    np.testing.assert_array_equal(
        again.partial_fit(*day).predict_proba(x), more.partial_fit(*day).predict_proba(x)
    )


def test_half_a_character_does_not_keep_a_classifier_from_its_file(tmp_path):
    model = TextClassifier(max_epochs=1).fit(["tea \ud83d", "car"] * 10, [0, 1] * 10)
    model.save(tmp_path)
    assert "\N{REPLACEMENT CHARACTER}" in TextClassifier.load(tmp_path).vocabulary_


def test_a_quantized_classifier_predicts_nearly_the_same(model, tmp_path):
    model.save_quantized(tmp_path, keep=1.0)
    x = texts(20)[0]
    small = TextClassifier.load(tmp_path)
    np.testing.assert_allclose(small.predict_proba(x), model.predict_proba(x), atol=0.02)
    with pytest.raises(ValueError, match="keep=0"):
        model.save_quantized(tmp_path, keep=0)


def test_damaged_files_are_refused(model, tmp_path):
    model.save(tmp_path)
    path = tmp_path / "classifier.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(rowwise.errors.DamagedFileError, match="checksum"):
        TextClassifier.load(tmp_path)


@pytest.mark.parametrize("name", ["table.safetensors", "head.safetensors"])
def test_a_file_of_another_classifier_is_refused(name, model, tmp_path):
    for folder, reversed_labels in (("one", False), ("other", True)):
        x, y = texts()
        labels = y[::-1] if reversed_labels else y
        TextClassifier(max_epochs=2).fit(x, labels).save(tmp_path / folder)
    shutil.copy(tmp_path / "other" / name, tmp_path / "one" / name)
    with pytest.raises(rowwise.errors.DamagedFileError, match=f"{name} has the checksum"):
        TextClassifier.load(tmp_path / "one")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process that it forks")
def test_killed_at_every_call_of_a_save_the_old_or_the_new_is_there_or_none_is_read(
    folder_in_memory,
):
    x, y = texts(20)
    old, new = (TextClassifier(dim=dim, max_epochs=1).fit(x, y) for dim in (2, 3))
    outcomes = []
    for number in itertools.count():
        old.save(folder_in_memory)
        lived = in_a_process_killed_at(number, lambda: new.save(folder_in_memory))
        try:
            outcomes.append(TextClassifier.load(folder_in_memory).table_.dim)
        except rowwise.errors.DamagedFileError as error:
            outcomes.append("refused" if "was saved" in str(error) else str(error))
        if lived:
            break
    assert [outcome for outcome, _ in itertools.groupby(outcomes)] == [2, "refused", 3]
    new.save(folder_in_memory)
    assert not [name for name in os.listdir(folder_in_memory) if name.startswith(".")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about, arrays: about.pop("classes"), "it has no 'classes'"),
        (lambda about, arrays: about.pop("n_iter"), "it has no 'n_iter'"),
        (lambda about, arrays: about.pop("lowercase"), "it has no 'lowercase'"),
        (lambda about, arrays: about.update(classes=["x"]), r"its labels have shape \(1,\)"),
        (lambda about, arrays: about.update(history=[1]), "cannot convert"),
        (lambda about, arrays: about["parameters"].update(patience=0), "patience=0 is below 1"),
        (lambda about, arrays: about["parameters"].update(other=0), "'other'"),
        (lambda about, arrays: about["features"].update(word_ngrams=-1), "word_ngrams is -1"),
        (lambda about, arrays: about["features"].update(char_ngrams=4), "char_ngrams|unpack"),
        (lambda about, arrays: arrays.update(keys=arrays["keys"][:-1]), "its keys are"),
        (lambda about, arrays: arrays.update(chars=arrays["keys"]), "its chars are int64"),
    ],
)
def test_parts_that_do_not_fit_are_refused_though_their_checksums_are_right(
    change, message, model, tmp_path
):
    model.save(tmp_path)
    path = tmp_path / "classifier.safetensors"
    with Container(path) as file:
        arrays = {name: file.read(name) for name in file.entries}
        about = json.loads(file.about["classifier"])
        change(about, arrays)
        write(path, arrays, file.about | {"classifier": json.dumps(about)})
    with pytest.raises(rowwise.errors.DamagedFileError, match=message):
        TextClassifier.load(tmp_path)


@pytest.mark.parametrize(
    ("parameters", "x", "y", "message"),
    [
        ({}, ["a", "b"], ["x"], "there are 2 texts and 1 labels"),
        ({}, ["a", "b"], ["x", "x"], "y has 1 label, 'x'; a classifier needs two or more"),
        ({}, [], [], "y has 0 labels, no text"),
        ({}, ["", " "], ["x", "y"], "none of 1 texts has a word"),
        ({"min_count": 0}, ["a", "b"], ["x", "y"], "min_count=0 is below 1"),
        ({"learning_rate": 0.0}, ["a", "b"], ["x", "y"], "learning_rate=0.0"),
        ({"validation_fraction": 1.0}, ["a", "b"], ["x", "y"], "validation_fraction=1.0"),
        ({"lowercase": "maybe"}, ["a", "b"], ["x", "y"], "lowercase='maybe'"),
        ({"char_ngrams": (4, 3)}, ["a", "b"], ["x", "y"], r"char_ngrams=\(4, 3\)"),
        ({"learning_rate": 1e37}, ["a", "b"] * 20, ["x", "y"] * 20, "the loss became"),
    ],
)
def test_bad_input_is_named(parameters, x, y, message):
    with pytest.raises(ValueError, match=message):
        TextClassifier(**parameters).fit(x, y)


def test_a_text_that_is_none_is_named():
    with pytest.raises(TypeError, match="text None at position 1 is not a string"):
        TextClassifier().fit(["a", None], ["x", "y"])


def test_lengths_are_compared_at_every_partial_fit():
    model = TextClassifier().partial_fit(["black tea", "a red car"], ["drink", "ride"])
    with pytest.raises(ValueError, match="3"):
        model.partial_fit(["a", "b", "c"], ["drink"])


def test_a_fit_that_failed_leaves_nothing_that_counts_as_fitted():
    model = TextClassifier()
    with pytest.raises(ValueError, match="word"):
        model.fit(["", " "] * 5, ["drink", "ride"] * 5)
    with pytest.raises(NotFittedError):
        model.predict(["tea"])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([b"a", b"b"], TypeError, r"b'a' at position 0 is bytes; give strings"),
        ([1.0, np.nan], ValueError, r"label nan at position 1: labels must not be None or NaN"),
        (
            np.array(["a", np.nan], object),
            ValueError,
            r"at position 1: labels must not be None or NaN",
        ),
        (["a", None], ValueError, r"label None at position 1: labels must not be None or NaN"),
    ],
)
def test_labels_that_no_model_can_have_are_refused(labels, error, message):
    x = ["black tea", "a red car"]
    with pytest.raises(error, match=message):
        TextClassifier().fit(x, labels)
    with pytest.raises(error, match=message):
        TextClassifier().partial_fit(x, ["a", "b"], classes=labels)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_fit_that_failed_leaves_the_model_as_it_was(stopped, monkeypatch):
    texts = ["black tea", "green tea", "a red car", "a fast car"] * 5
    model = TextClassifier(max_epochs=2).fit(texts, ["drink", "drink", "ride", "ride"] * 5)
    scores = model.decision_function(["a cup of tea"])
    if stopped:  # by Ctrl-C while readings are compared
        monkeypatch.setattr("rowwise.sklearn._recipe.Recipe.choose", _interrupt)
    with pytest.raises(KeyboardInterrupt if stopped else ValueError):
        model.set_params(lowercase=False).fit(["", " "] * 5, ["x", "y"] * 5)
    assert model.predict(["a cup of tea"]).tolist() == ["drink"]
    assert model.lowercase_
    np.testing.assert_array_equal(model.decision_function(["a cup of tea"]), scores)


@pytest.mark.parametrize("where", ["_features.Features._insert", "_model.Table.remap"])
def test_a_partial_fit_that_is_interrupted_leaves_the_model_as_it_was(where, monkeypatch):
    model = TextClassifier().partial_fit(["black tea", "a red car"], ["drink", "ride"])
    scores = model.decision_function(["black tea"])
    with monkeypatch.context() as patched:
        patched.setattr(f"rowwise.sklearn.{where}", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.partial_fit(["cold milk", "black bikes"], ["drink", "ride"])
    np.testing.assert_array_equal(model.decision_function(["black tea"]), scores)
    assert model.unknown_words("cold tea") == ["cold"]
    model.partial_fit(["cold milk", "black bikes"], ["drink", "ride"])
    assert model.unknown_words("cold tea") == []


def test_a_prediction_is_of_one_fit_while_another_ends(monkeypatch):
    texts = ["black tea", "green tea", "a red car", "a fast car"] * 5
    model = TextClassifier(max_epochs=20).fit(texts, ["drink", "drink", "ride", "ride"] * 5)
    scores_of = BagModel.scores

    def scores(*given):
        monkeypatch.setattr(BagModel, "scores", scores_of)
        model.fit(texts, [["ride", "work", "tea"][i % 3] for i in range(20)])
        return scores_of(*given)

    monkeypatch.setattr(BagModel, "scores", scores)
    assert model.predict(["a cup of tea"]).tolist() == ["drink"]
    assert model.classes_.tolist() == ["ride", "tea", "work"]


def _interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("value", [7, 0.3, -1, np.nan])
def test_of_several_labels_each_partial_fit_takes_0_and_1_alone(value):
    model = TextClassifier().partial_fit(["black tea", "a red car"], [[1, 0], [0, 1]])
    before = model.decision_function(["tea"])
    with pytest.raises(ValueError, match=rf"y has {value} at position \(1, 1\)"):
        model.partial_fit(["black tea", "a red car"], np.array([[1, 0], [0, value]]))
    np.testing.assert_array_equal(model.decision_function(["tea"]), before)


def test_class_weights_of_numbers_come_back_from_a_file(tmp_path):
    texts = ["black tea", "green tea", "a red car", "a fast car"] * 5
    model = TextClassifier(class_weight={0: 2.0, 1: 1.0}).fit(texts, [0, 0, 1, 1] * 5)
    model.save(tmp_path / "model")
    loaded = TextClassifier.load(tmp_path / "model")
    assert loaded.class_weight == {0: 2.0, 1: 1.0}
    loaded.partial_fit(["a slow car"], [1])
