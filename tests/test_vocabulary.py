"""Words to ids and back."""

import copy
import hashlib
import json
import pickle

import numpy as np
import pandas
import polars
import pyarrow
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from rowwise import Vocabulary
from rowwise.text._tokenizing import words

SENTENCES = ["Hope to see you soon", "Nice to see you again"]


def test_ids_follow_the_order_of_appearance():
    vocabulary = Vocabulary.from_texts(SENTENCES)
    assert vocabulary.encode_batch(SENTENCES).tolist() == [[0, 1, 2, 3, 4], [5, 1, 2, 3, 6]]
    assert list(vocabulary) == ["hope", "to", "see", "you", "soon", "nice", "again"]


def test_frequent_words_come_first_and_ties_by_appearance():
    vocabulary = Vocabulary.from_texts(["b a a", "c b a d"], order="frequency")
    assert vocabulary.tokens == ("a", "b", "c", "d")


def test_mask_and_unknown_stand_first_and_count_towards_the_size():
    vocabulary = Vocabulary.from_texts(
        ["a b c", "a"], order="frequency", max_size=4, mask_token="", oov_token="[UNK]"
    )
    assert vocabulary.tokens == ("", "[UNK]", "a", "b")
    assert vocabulary.encode("c a") == [1, 2]


def test_rare_words_are_left_out():
    assert Vocabulary.from_texts(["a b a"], min_count=2).tokens == ("a",)


def test_words_keep_their_apostrophes_and_any_script():
    assert words("L'été, c'est ÇA! 你好") == ["l'été", "c'est", "ça", "你好"]


def test_short_texts_are_padded_and_long_ones_cut_at_the_end_asked_for():
    vocabulary = Vocabulary(["a", "b", "c"], mask_token="")
    texts = ["a", "a b c"]
    assert vocabulary.encode_batch(texts, 2).tolist() == [[1, 0], [1, 2]]
    ends = {"padding": "pre", "truncating": "pre"}
    assert vocabulary.encode_batch(texts, 2, **ends).tolist() == [[0, 1], [2, 3]]
    assert vocabulary.encode_batch([], 3).shape == (0, 3)
    assert vocabulary.encode_batch(texts).dtype == np.int64


def test_padding_without_a_mask_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"text 0 has 1 words .* mask_token"):
        Vocabulary(["a"]).encode_batch(["a", "a a"])


def test_an_unknown_word_without_an_entry_for_it_is_named():
    with pytest.raises(KeyError, match=r"'zebra' .* oov_token"):
        Vocabulary(["a"]).encode("a zebra")


def test_decode_gives_the_words_back_and_refuses_other_ids():
    vocabulary = Vocabulary.from_texts(SENTENCES)
    assert vocabulary.decode(np.array([5, 1])) == ["nice", "to"]
    for bad in (-1, 7):
        with pytest.raises(IndexError, match=rf"id {bad} .* 7 tokens \(0\.\.6\)"):
            vocabulary.decode([bad])
    with pytest.raises(IndexError, match="id 1180591620717411303424 "):
        vocabulary.decode([2**70])


@pytest.mark.parametrize("ids", [[1.7], "12", [None]])
def test_decode_takes_integers_alone(ids):
    with pytest.raises(TypeError):
        Vocabulary.from_texts(SENTENCES).decode(ids)


def test_a_length_below_zero_and_a_text_that_is_none_are_named():
    vocabulary = Vocabulary(["a"], mask_token="")
    with pytest.raises(ValueError, match="length=-1 is below 0"):
        vocabulary.encode_batch(["a"], -1)
    with pytest.raises(TypeError, match="text None at position 1 is not a string"):
        vocabulary.encode_batch(["a", None])


def test_a_token_twice_is_refused():
    with pytest.raises(ValueError, match="'a' occurs twice, with ids 0 and 2"):
        Vocabulary(["a", "b", "a"])


def test_one_text_is_not_a_list_of_texts():
    for call in (Vocabulary, Vocabulary.from_texts, Vocabulary(["a"]).encode_batch):
        with pytest.raises(TypeError, match="list of strings"):
            call("a text")


ANY_CHARACTER = st.characters(exclude_categories=())  # lone surrogates too


@given(st.lists(st.text(ANY_CHARACTER), unique=True), st.booleans())
def test_it_is_equal_after_a_round_trip_whatever_the_tokens(tmp_path_factory, tokens, lowercase):
    path = tmp_path_factory.mktemp("vocabulary") / "v.json"
    vocabulary = Vocabulary(tokens, lowercase=lowercase)
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    assert json.loads(path.read_bytes())["words"] == tokens


@pytest.mark.parametrize(
    "tokens", [["", "\t", "\n", "\r\n", "\u2028"], ["\ud800\udc00", "\U00010000"]]
)
def test_tokens_that_files_like_to_change_come_back_unchanged(tmp_path, tokens):
    Vocabulary(tokens).save(tmp_path / "v.json")
    assert list(Vocabulary.load(tmp_path / "v.json")) == tokens


@given(st.lists(st.text(), min_size=1), st.integers(0, 6), st.booleans(), st.booleans())
def test_a_batch_holds_the_ids_of_each_text_cut_and_padded(texts, length, pad_first, cut_first):
    vocabulary = Vocabulary.from_texts(texts, mask_token="")
    ends = {
        "padding": "pre" if pad_first else "post",
        "truncating": "pre" if cut_first else "post",
    }
    batch = vocabulary.encode_batch(texts, length, **ends)
    for text, row in zip(texts, batch.tolist(), strict=True):
        ids = vocabulary.encode(text)
        kept = ids[max(0, len(ids) - length) :] if cut_first else ids[:length]
        padding = [0] * (length - len(kept))
        assert row == (padding + kept if pad_first else kept + padding)


@given(st.lists(st.text()))
def test_decode_gives_back_the_words_that_were_encoded(texts):
    vocabulary = Vocabulary.from_texts(texts)
    for text in texts:
        assert vocabulary.decode(vocabulary.encode(text)) == words(text)


WHOLE = {
    "format": "rowwise vocabulary 1",
    "words": ["a"],
    "mask_token": None,
    "oov_token": None,
    "num_oov_indices": 1,
    "lowercase": True,
    "split": "words",
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ("[]", "does not say 'rowwise vocabulary 1'"),
        ("{", "Expecting property name"),
        ("[" * 200_000, "recursion"),
        ('{"format": "rowwise vocabulary 1"}', "it has no 'mask_token'"),
        (json.dumps(WHOLE | {"words": "ab"}), "its 'words' is 'ab'"),
        (json.dumps(WHOLE | {"words": ["a", "a"]}), "'a' occurs twice"),
        (json.dumps(WHOLE | {"words": [1]}), "token 1 with id 0 is not a string"),
        (json.dumps(WHOLE | {"mask_token": 5}), "its 'mask_token' is '5'"),
        (json.dumps(WHOLE | {"lowercase": "no"}), "its 'lowercase' is 'no'"),
        (json.dumps(WHOLE | {"num_oov_indices": 2}), "num_oov_indices=2 needs an oov_token"),
        (json.dumps(WHOLE | {"split": "/etc/passwd"}), "its 'split' is '/etc/passwd'"),
        (json.dumps(WHOLE | {"split": {}}), "not a tokenizer.json"),
    ],
    ids=range(13),
)
def test_another_file_is_refused_and_what_is_wrong_is_named(tmp_path, content, message):
    path = tmp_path / "v.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"not a vocabulary's file: .*{message}"):
        Vocabulary.load(path)


def test_several_unknown_entries_take_words_by_their_hash(tmp_path):
    vocabulary = Vocabulary(["a"], mask_token="", oov_token="[UNK]", num_oov_indices=3)
    assert vocabulary.tokens == ("", "[UNK]", "[UNK]", "[UNK]", "a")
    unknown = [f"word{i}" for i in range(100)]
    ids = vocabulary.lookup(unknown)
    assert set(ids) == {1, 2, 3}
    # BLAKE2b of the word, 8 bytes, little endian: the same in every process and on every machine.
    assert ids[:4].tolist() == [
        1 + int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little") % 3
        for word in unknown[:4]
    ]
    assert vocabulary.decode(ids[:2]) == ["[UNK]", "[UNK]"]
    assert vocabulary["a"] == 4
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary
    assert copy.deepcopy(vocabulary).lookup(unknown).tolist() == ids.tolist()
    with pytest.raises(ValueError, match="num_oov_indices=2 needs an oov_token"):
        Vocabulary(["a"], num_oov_indices=2)
    with pytest.raises(ValueError, match="num_oov_indices=0 is below 1"):
        Vocabulary(["a"], oov_token="?", num_oov_indices=0)
    with pytest.raises(ValueError, match="'x' occurs twice, with ids 0 and 1"):
        Vocabulary([], mask_token="x", oov_token="x")


COLUMNS = {
    "list": list,
    "generator": iter,
    "numpy": np.array,
    "objects": lambda values: np.array(values, dtype=object),
    "pandas": pandas.Series,
    "categories": lambda values: pandas.Series(values, dtype="category"),
    "polars": polars.Series,
    "pyarrow": pyarrow.array,
    "chunks": lambda values: pyarrow.chunked_array([values[:1], values[1:]]),
    "dictionary": lambda values: pyarrow.array(values).dictionary_encode(),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_columns_of_any_library(column):
    users = ["u7", "u9", "u7"]
    vocabulary = Vocabulary.from_tokens(column(users), oov_token="?", order="frequency")
    assert vocabulary.tokens == ("?", "u7", "u9")
    assert vocabulary.lookup(column(["u9", "u1"])).tolist() == [2, 0]
    assert Vocabulary(column(["u7", "u9"])).tokens == ("u7", "u9")
    texts = ["Nice to see you", "see you"]
    assert Vocabulary.from_texts(column(texts)).tokens == ("nice", "to", "see", "you")
    ids, offsets = Vocabulary.from_texts(texts).encode_ragged(column(texts))
    assert ids.tolist() == [0, 1, 2, 3, 2, 3]
    assert offsets.tolist() == [0, 4, 6]


def test_ids_have_the_shape_of_an_array_of_tokens():
    vocabulary = Vocabulary(["a", "b"])
    assert vocabulary.lookup(np.array([["a", "b"], ["b", "b"]])).tolist() == [[0, 1], [1, 1]]
    assert vocabulary.lookup([]).shape == (0,)
    with pytest.raises(KeyError, match="'c' is not in the vocabulary"):
        vocabulary.lookup(["a", "c"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pandas.Series(["a", None]), "not a string"),
        ([1, 2], "token 1 "),
        ({"a": 1}, "one column of strings, not a dict"),
        (
            pandas.DataFrame({"a": ["x"]}),
            r"one column of strings, not a DataFrame of shape \(1, 1\)",
        ),
        (3, "list of strings, not 3"),
    ],
    ids=range(5),
)
def test_what_is_no_column_of_strings_is_named(values, message):
    with pytest.raises(TypeError, match=message):
        Vocabulary.from_tokens(values)
    with pytest.raises(TypeError, match=message):
        Vocabulary(["a"]).lookup(values)


def test_new_words_come_after_the_old_ones():
    monday = Vocabulary.from_texts(["a b"], mask_token="", oov_token="?", lowercase=False)
    tuesday = monday.with_texts(["c b C c"])
    assert tuesday.tokens == ("", "?", "a", "b", "c", "C")
    assert monday.tokens == ("", "?", "a", "b")
    assert monday.with_texts(["c b d d"], min_count=2).tokens == ("", "?", "a", "b", "d")
    assert monday.with_texts(["c d d"], max_size=5, order="frequency").words == ("a", "b", "d")
    assert tuesday.with_tokens(["x y", "a"]).words == ("a", "b", "c", "C", "x y")
    assert tuesday.indexer_from(monday).tolist() == [0, 1, 2, 3, -1, -1]
    with pytest.raises(ValueError, match="max_size=2 is below the 4 tokens"):
        monday.with_texts(["c"], max_size=2)


def test_unknown_entries_are_carried_to_unknown_entries():
    old = Vocabulary(["a", "b"], oov_token="?", num_oov_indices=2)
    new = Vocabulary(["b", "?!"], mask_token="", oov_token="[UNK]", num_oov_indices=3)
    assert new.indexer_from(old).tolist() == [-1, 0, 1, -1, 3, -1]


def test_texts_are_split_at_white_space_or_by_a_tokenizer(tmp_path):
    text = "It's  Mr. Müller-Lüdenscheidt\u00a0!"
    assert Vocabulary.from_texts([text], split="whitespace").tokens == tuple(text.lower().split())
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "?": 3}, merges=[("a", "b")])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(1)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for split in (tokenizer, tmp_path / "tokenizer.json"):
        vocabulary = Vocabulary.from_texts(["aba b"], split=split, oov_token="?")
        assert vocabulary.tokens == ("?", "ab", "a", "b")
        assert vocabulary.encode("bab") == [3, 1]
        vocabulary.save(tmp_path / "v.json")
        assert Vocabulary.load(tmp_path / "v.json") == vocabulary
        assert pickle.loads(pickle.dumps(vocabulary)).encode("bab") == [3, 1]
    with pytest.raises(ValueError, match="lowercase=True"):
        Vocabulary([], split=tokenizer, lowercase=True)
    with pytest.raises(FileNotFoundError, match=r"'word' is neither 'words' nor 'whitespace'"):
        Vocabulary([], split="word")
    with pytest.raises(TypeError, match="split=7 is not"):
        Vocabulary([], split=7)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not a tokenizer.json"):
        Vocabulary([], split=tmp_path / "other.json")


def test_many_short_texts_are_encoded():
    texts = [f"word{i % 1000} and word{i % 7}" for i in range(100_000)]
    vocabulary = Vocabulary.from_texts(texts, mask_token="")
    assert vocabulary.encode_batch(texts, 3).shape == (100_000, 3)
