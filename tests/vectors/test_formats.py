"""Every format: files that are written and read back, and files of other programs."""

import gzip
import json
import struct
import sys
import zipfile

import numpy as np
import pytest

from rowwise.errors import VectorsFileError
from rowwise.vectors import Subwords, Vectors, load

WORDS = ["tea", "new york", "naïve", "no\u00a0break", "日本", "1984", "🙂", "</s>"]


def some(words=WORDS, dim=3, dtype=np.float32, **options):
    rng = np.random.default_rng(0)
    return Vectors(words, rng.standard_normal((len(words), dim)).astype(dtype), **options)


def assert_same(read, written):
    assert read.words == written.words
    np.testing.assert_array_equal(read.matrix, written.matrix)


@pytest.mark.parametrize(
    "name",
    ["v.txt", "v.vec", "v.w2v", "v.txt.gz", "v.vec.zip", "v.safetensors", "v.npy", "v.npz",
     "v.tsv", "v.parquet", "folder"],
)  # fmt: skip
@pytest.mark.parametrize("dim", [1, 3, 50])
def test_a_round_trip_keeps_every_bit(tmp_path, name, dim):
    written = some(dim=dim)
    written.save(tmp_path / name)
    assert_same(load(tmp_path / name), written)


@pytest.mark.parametrize("name", ["v.bin", "v.bin.gz"])
def test_word2vecs_binary_format(tmp_path, name):
    written = some([word for word in WORDS if " " not in word])
    written.save(tmp_path / name)
    assert_same(load(tmp_path / name), written)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_text_has_the_digits_that_the_dtype_needs(tmp_path, dtype):
    written = some(dtype=dtype)
    written.save(tmp_path / "v.txt")
    assert_same(load(tmp_path / "v.txt", dtype=dtype), written)


def test_binary_with_line_breaks_between_rows_or_without(tmp_path):
    rows = np.arange(6, dtype="<f4").reshape(2, 3)
    for line_break in (b"", b"\n"):
        content = b"2 3\n" + b"".join(
            word + b" " + row.tobytes() + line_break
            for word, row in zip((b"tea", b"cup"), rows, strict=True)
        )
        (tmp_path / "v.bin").write_bytes(content)
        assert_same(load(tmp_path / "v.bin"), Vectors(["tea", "cup"], rows))


# ------------------------------------------------------------------ fastText


def hashed(gram, buckets):
    """fastText's FNV-1a, in which bytes above 127 are sign-extended."""
    h = 2166136261
    for byte in gram.encode():
        h = ((h ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
    return h % buckets


def grams_of(word, shortest, longest):
    whole = f"<{word}>"
    return [
        whole[i : i + n]
        for i in range(len(whole))
        for n in range(shortest, longest + 1)
        if i + n <= len(whole) and not (n == 1 and i in (0, len(whole) - 1))
    ]


def fasttext_model(words, rows, buckets, *, new=True, version=12):
    """A model's file, written from its description."""
    dim = rows.shape[1]
    start = struct.pack("<2i", 793712314, version) if new else b""
    arguments = struct.pack("<12id", dim, 5, 5, 1, 5, 1, 2, 2, len(buckets), 3, 6, 100, 1e-4)
    counts = struct.pack("<3iq", len(words), len(words), 0, 100)
    pruned = struct.pack("<q", -1) if new else b""
    entries = b"".join(word.encode() + struct.pack("<xqb", 7, 0) for word in words)
    whole = np.concatenate([rows, buckets]).astype("<f4")
    mark = b"\0" if new else b""
    matrix = mark + struct.pack("<2q", *whole.shape) + whole.tobytes()
    output = mark + struct.pack("<2q", *rows.shape) + rows.astype("<f4").tobytes()
    return start + arguments + counts + pruned + entries + matrix + output


@pytest.mark.parametrize("new", [True, False], ids=["magic number", "old header"])
def test_fasttext_models_and_words_they_never_saw(tmp_path, new):
    rng = np.random.default_rng(0)
    words = ["tea", "naïve", "日本"]
    rows = rng.standard_normal((3, 4)).astype(np.float32)
    buckets = rng.standard_normal((50, 4)).astype(np.float32)
    (tmp_path / "m.bin").write_bytes(fasttext_model(words, rows, buckets, new=new))
    vectors = load(tmp_path / "m.bin")
    for i, word in enumerate(words):
        places = [hashed(gram, 50) for gram in grams_of(word, 3, 6)]
        expected = (rows[i] + buckets[places].sum(0)) / (1 + len(places))
        np.testing.assert_allclose(vectors[word], expected, rtol=1e-5)
    places = [hashed(gram, 50) for gram in grams_of("teapot", 3, 6)]
    np.testing.assert_allclose(vectors.vector_of("teapot"), buckets[places].mean(0), rtol=1e-5)
    with pytest.raises(KeyError, match="vector_of"):
        vectors["teapot"]


def test_fasttext_models_are_written_too(tmp_path):
    grams = Subwords(np.random.default_rng(1).standard_normal((20, 3)).astype(np.float32), 3, 5)
    written = some(["tea", "naïve"], subwords=grams)
    written.save(tmp_path / "m.bin")
    read = load(tmp_path / "m.bin")
    np.testing.assert_allclose(read.matrix, written.matrix, rtol=1e-5)
    np.testing.assert_array_equal(read.subwords.buckets, grams.buckets)


def test_a_quantized_model_is_refused(tmp_path):
    content = bytearray(fasttext_model(["tea"], np.ones((1, 2)), np.ones((3, 2))))
    at = content.index(b"tea\0") + 4 + 9
    content[at] = 1
    (tmp_path / "m.bin").write_bytes(content)
    with pytest.raises(ValueError, match="quantized"):
        load(tmp_path / "m.bin")


# ------------------------------------------------------------------ what to read


def test_limit_words_and_dtype(tmp_path):
    written = some()
    for name in ("v.txt", "v.safetensors", "v.npy", "v.parquet"):
        written.save(tmp_path / name)
        assert load(tmp_path / name, limit=3).words == WORDS[:3]
        part = load(tmp_path / name, words=["1984", "tea", "absent"], dtype="float16")
        assert part.words == ["tea", "1984"]
        assert part.matrix.dtype == np.float16


def test_one_file_of_an_archive(tmp_path):
    some().save(tmp_path / "v.txt")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "v.txt", "small.txt")
        archive.writestr("readme", "nothing")
    assert_same(load(tmp_path / "all.zip" / "small.txt"), some())
    with pytest.raises(ValueError, match=r"small\.txt, readme"):
        load(tmp_path / "all.zip")


def test_a_static_embedding_of_another_program(tmp_path):
    from safetensors.numpy import save_file

    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    save_file({"embedding.weight": rows}, tmp_path / "model.safetensors")
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "tea": 2, "cup": 3}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    assert_same(load(tmp_path), Vectors(list(vocabulary), rows))


def test_a_projectors_two_files(tmp_path):
    (tmp_path / "vectors.tsv").write_text("1\t2\n3\t4\n")
    (tmp_path / "metadata.tsv").write_text("Word\tCount\ntea\t5\ncup\t6\n")
    assert_same(load(tmp_path), Vectors(["tea", "cup"], [[1, 2], [3, 4]]))


# ------------------------------------------------------------------ data frames and Parquet


def test_pandas_has_the_words_as_index_and_a_column_for_each_number():
    pandas = pytest.importorskip("pandas")
    written = some()
    frame = written.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert (frame.index.name, frame.shape) == ("word", (len(WORDS), 3))
    assert_same(Vectors(frame.index, frame), written)
    frame.iloc[0] = 0
    assert written.matrix[0].all()  # a copy


def test_polars_reads_the_parquet_file_as_to_polars_gives_it(tmp_path):
    polars = pytest.importorskip("polars")
    written = some()
    written.save(tmp_path / "v.parquet")
    frame = polars.read_parquet(tmp_path / "v.parquet")
    assert frame.equals(written.to_polars())
    assert frame.schema == {"word": polars.String, "vector": polars.Array(polars.Float32, 3)}
    assert_same(Vectors(frame["word"], frame["vector"].to_numpy()), written)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("words", [WORDS, []], ids=["words", "none"])
def test_parquet_keeps_the_dtype(tmp_path, words, dtype):
    parquet = pytest.importorskip("pyarrow.parquet")
    written = Vectors(words, np.full((len(words), 3), 0.25, dtype))
    written.save(tmp_path / "v.parquet")
    assert_same(load(tmp_path / "v.parquet", dtype=dtype), written)
    kind = parquet.read_schema(tmp_path / "v.parquet").field("vector").type
    assert kind.value_type.to_pandas_dtype() == dtype


def test_parquet_of_another_program(tmp_path):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"id": [1, 2], "token": ["tea", "cup"], "v": [[1, 2], [3, 4]]})
    frame.write_parquet(tmp_path / "v.parquet")
    assert_same(load(tmp_path / "v.parquet"), Vectors(["tea", "cup"], [[1, 2], [3, 4]]))
    assert load(tmp_path / "v.parquet", limit=1).words == ["tea"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"word": ["tea"], "0": [1.0], "1": [2.0]}, "columns word"),
        ({"a": ["tea"], "b": ["cup"], "vector": [[1.0]]}, "'word', strings"),
        ({"word": ["tea", "cup"], "vector": [[1.0], [1.0, 2.0]]}, r"lengths \[1 2\]"),
        ({"word": ["tea", None], "vector": [[1.0], [2.0]]}, "a word that is missing"),
        ({"word": ["tea", "cup"], "vector": [[1.0], None]}, "1 missing"),
        ({"word": ["tea"], "vector": [[1.0, None]]}, "1 missing"),
        ({"word": ["tea"], "vector": [[]]}, "lengths"),
        ({"word": ["tea"], "vector": [[1.0, float("nan")]]}, "nan as number 2 of 'tea'"),
    ],
)
def test_parquet_that_is_no_words_with_vectors_is_refused(tmp_path, columns, says):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kinds = {"vector": pyarrow.list_(pyarrow.float32())}
    table = {name: pyarrow.array(cells, kinds.get(name)) for name, cells in columns.items()}
    parquet.write_table(pyarrow.table(table), tmp_path / "v.parquet")
    with pytest.raises(VectorsFileError, match=says):
        load(tmp_path / "v.parquet")


def test_a_parquet_file_cut_anywhere_is_an_error(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "v.parquet"
    some().save(path)
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(VectorsFileError):
            load(path, format="parquet")


def test_parquet_holds_words_of_utf8_alone(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"save as \.safetensors"):
        some(["tea", "\udcff"]).save(tmp_path / "v.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "use", "says"),
    [
        ("pyarrow", lambda: some().save("v.parquet"), r"rowwise\[files\]"),
        ("pandas", lambda: some().to_pandas(), "pip install pandas"),
        ("polars", lambda: some().to_polars(), "pip install polars"),
    ],
)
def test_a_missing_library_is_named_with_what_installs_it(tmp_path, monkeypatch, module, use, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=says):
        use()


def test_gensims_pickles_are_refused_and_its_objects_taken(tmp_path):
    class KeyedVectors:
        index_to_key, vectors = ["tea"], np.ones((1, 2), np.float32)

    assert load(KeyedVectors()).words == ["tea"]
    (tmp_path / "v.kv").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ValueError, match="pickle"):
        load(tmp_path / "v.kv")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    some().save(tmp_path / "v.txt")
    before = (tmp_path / "v.txt").read_bytes()
    with pytest.raises(ValueError, match="line break"):
        some(["tea", "a\nb"]).save(tmp_path / "v.txt")
    assert (tmp_path / "v.txt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["v.txt"]


def test_compressed_content_gives_the_same_bytes_each_time(tmp_path):
    for name in ("a.txt.gz", "b.txt.gz"):
        some().save(tmp_path / name)
    assert gzip.decompress((tmp_path / "a.txt.gz").read_bytes()).startswith(b"tea ")
    some().save(tmp_path / "a.txt.gz")
    first = (tmp_path / "a.txt.gz").read_bytes()
    some().save(tmp_path / "a.txt.gz")
    assert (tmp_path / "a.txt.gz").read_bytes() == first


def test_a_format_is_one_file(tmp_path, monkeypatch):
    from rowwise.vectors import formats

    (tmp_path / "shouted.py").write_text(
        """
from pathlib import Path
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors.formats._format import Confidence, Format
import numpy as np

def read(path, options):
    return WordMatrix([Path(path).read_text()], np.ones((1, 2), np.float32))

def write(vectors, path):
    Path(path).write_text(vectors.words[0].upper())

FORMAT = Format("shouted", "one word, loud", (".loud",),
                lambda sample: Confidence(3 * sample.head.isupper()), read, write)
"""
    )
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    for name, format in formats._declared().items():
        monkeypatch.setitem(formats.FORMATS, name, format)
    some(["tea"]).save(tmp_path / "v.loud")
    assert load(tmp_path / "v.loud").words == ["TEA"]
