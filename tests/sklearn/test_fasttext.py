"""Models that fastText's `supervised` trained predict what fastText says."""

import gzip

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("regex")
from helpers.fasttext_files import Model
from rowwise.errors import VectorsFileError
from rowwise.sklearn import FastTextClassifier, TextClassifier
from rowwise.vectors import load

WORDS = ["</s>", "tea", "cup", "of", "naïve", "日本"]
LABELS = ["__label__drink", "__label__ride", "__label__sleep", "__label__read", "__label__rest"]
COUNTS = [50, 40, 8, 5, 1]
TEXTS = [
    "cup of tea", "", "tea", "a naïve 日本 kettle", "__label__ride tea cup", "__label__new of",
    "tea\tcup\nof  tea", "tea\u00a0cup", "of of of unknown words there tea", "é",
]  # fmt: skip


def model_of(tmp_path, **parts):
    model = Model(WORDS, LABELS, COUNTS, **parts)
    path = tmp_path / "model.bin"
    path.write_bytes(model.to_bytes())
    return model, path


@pytest.mark.parametrize("loss", ["softmax", "hs", "ns", "ova"])
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"word_ngrams": 3, "buckets": 11},
        {"lengths": (2, 4), "buckets": 17},
        {"lengths": (1, 1), "word_ngrams": 2, "buckets": 1000, "scale": 4.0},
        {"lengths": (3, 3), "word_ngrams": 2, "buckets": 9, "pruned": {0: 1, 3: 2, 8: 0}},
        {"quantized": True},
        {"quantized": True, "norms": True, "dim": 6, "word_ngrams": 2, "buckets": 5},
        {"quantized": True, "word_ngrams": 2, "buckets": 7, "pruned": {}},
    ],
    ids=lambda parts: "-".join(parts) or "plain",
)
def test_probabilities_are_fasttexts(tmp_path, loss, parts):
    expected, path = model_of(tmp_path, loss=loss, **parts)
    model = FastTextClassifier.load(path)
    found = model.predict_proba(TEXTS)
    probabilities = np.array([expected.probabilities(text) for text in TEXTS])
    np.testing.assert_allclose(found, probabilities, atol=2e-6)
    assert model.classes_.tolist() == ["drink", "ride", "sleep", "read", "rest"]
    if loss == "ova":
        assert model.multilabel_
        np.testing.assert_array_equal(model.predict(TEXTS), probabilities >= 0.5)
    elif loss != "ns":  # whose probabilities can be equal
        best = model.classes_[probabilities.argmax(axis=1)]
        assert model.predict(TEXTS).tolist() == best.tolist()
    if loss in ("softmax", "hs"):
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=2e-4)
    assert model.predict_proba([]).shape == (0, 5)


@pytest.mark.parametrize("loss", ["softmax", "hs", "ns", "ova"])
def test_fasttext_itself_agrees(tmp_path, loss):
    fasttext = pytest.importorskip("fasttext")
    _, path = model_of(tmp_path, loss=loss, word_ngrams=2, lengths=(2, 3), buckets=30)
    own, other = FastTextClassifier.load(path), fasttext.load_model(str(path))
    for text in ("cup of tea", "a naïve 日本 kettle"):
        labels, probabilities = other.predict(text, k=5)
        found = dict(zip(own.classes_, own.predict_proba([text])[0], strict=True))
        expected = [found[label.removeprefix("__label__")] for label in labels]
        np.testing.assert_allclose(probabilities, expected, atol=2e-6)


@pytest.mark.parametrize("loss", ["ns", "ova"])
def test_scores_fall_on_fasttexts_side_of_a_step(tmp_path, loss):
    # Summed one after the other, the small products are rounded away: the score stays below the
    # step at 1 that the exact sum reaches.
    row = np.array([[1 - 2.0**-21 - 2.0**-24, *[2.0**-26] * 4]])
    labels = np.array([np.ones(5), np.array([1, 0, 0, 0, 0]), np.full(5, 1 + 2.0**-20)])
    model = Model(["</s>"], ["a", "b", "c"], [3, 2, 1], loss, given=[row, labels])
    (tmp_path / "model.bin").write_bytes(model.to_bytes())
    found = FastTextClassifier.load(tmp_path / "model.bin").predict_proba([""])[0]
    expected = 1 / (1 + np.exp([-31 / 32, -31 / 32, -1])) + 1e-5
    np.testing.assert_allclose(found, expected, atol=2e-7)


@pytest.mark.parametrize(
    ("loss", "best"), [("softmax", "d"), ("hs", "a"), ("ns", "d"), ("ova", "d")]
)
def test_of_equally_probable_labels_fasttexts_is_chosen(tmp_path, loss, best):
    given = [np.ones((1, 2)), np.zeros((4, 2))]
    model = Model(["</s>"], ["a", "b", "c", "d"], [4, 4, 4, 4], loss, dim=2, given=given)
    (tmp_path / "model.bin").write_bytes(model.to_bytes())
    own = FastTextClassifier.load(tmp_path / "model.bin")
    assert own.classes_[own._ranking(own.predict_proba([""]))[0, 0]] == best
    if loss != "ova":
        assert own.predict([""]).tolist() == [best]


def test_a_file_of_fasttexts_is_no_folder_of_ours(tmp_path):
    _, path = model_of(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"model.bin' is a file; FastTextClassifier\.load"):
        TextClassifier.load(path)


def test_many_texts_are_read_in_parts(tmp_path):
    _, path = model_of(tmp_path, word_ngrams=2, buckets=100)
    model = FastTextClassifier.load(path)
    texts = [f"tea cup number{i % 7}" for i in range(3000)]
    found = model.transform(texts)
    np.testing.assert_allclose(found, found[np.arange(3000) % 7], rtol=1e-6)
    texts[2000] = None
    with pytest.raises(TypeError, match="text None at position 2000 is not a string"):
        model.predict(texts)


def test_the_end_of_a_sentence_ends_a_text(tmp_path):
    _, path = model_of(tmp_path, word_ngrams=2, buckets=100)
    model = FastTextClassifier.load(path)
    first, second = model.transform(["tea </s> cup", "tea"])
    np.testing.assert_array_equal(first, second)


def test_labels_of_another_prefix_stay_as_they_are(tmp_path):
    model = Model(["</s>", "tea"], ["#drink", "#ride"], [2, 1])
    (tmp_path / "model.bin.gz").write_bytes(gzip.compress(model.to_bytes()))
    own = FastTextClassifier.load(tmp_path / "model.bin.gz")
    assert own.classes_.tolist() == ["#drink", "#ride"]
    first, second = own.transform(["#drink tea", "tea"])
    np.testing.assert_array_equal(first, second)
    assert own.unknown_words("tea #ride pot") == ["pot"]


def test_vectors_of_its_words_are_read_as_others_are(tmp_path):
    expected, path = model_of(tmp_path)
    vectors = load(path)
    assert vectors.words == WORDS
    np.testing.assert_array_equal(vectors.matrix, expected.matrices[0])
    _, path = model_of(tmp_path, quantized=True)
    with pytest.raises(VectorsFileError, match=r"a quantized model.*FastTextClassifier"):
        load(path)


def test_word_vectors_are_no_classifier(tmp_path):
    path = tmp_path / "vectors.bin"
    path.write_bytes(Model(WORDS, [], []).to_bytes(model=2))
    with pytest.raises(VectorsFileError, match=r"found a model of word vectors.*vectors\.load"):
        FastTextClassifier.load(path)


@pytest.mark.parametrize(
    "parts",
    [
        {"word_ngrams": 2, "buckets": 7},
        {"quantized": True, "norms": True, "buckets": 7, "pruned": {1: 0, 2: 1}},
    ],
    ids=["plain", "quantized"],
)
def test_a_file_cut_anywhere_is_refused(tmp_path, parts):
    _, path = model_of(tmp_path, dim=3, **parts)
    content = path.read_bytes()
    for size in [*range(0, 400, 7), *range(400, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(VectorsFileError):
            FastTextClassifier.load(path)


@pytest.mark.parametrize("loss", ["softmax", "hs"])
def test_damaged_files_are_refused_or_predict_numbers(tmp_path, loss):
    parts = {"quantized": True, "norms": True, "buckets": 7, "pruned": {1: 0, 2: 1}, "dim": 3}
    _, path = model_of(tmp_path, word_ngrams=2, loss=loss, **parts)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(min(len(content), 600))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            model = FastTextClassifier.load(path)
        except VectorsFileError:
            refused += 1
            continue
        assert model.predict_proba(TEXTS).shape == (len(TEXTS), len(model.classes_))
    assert refused > 30
