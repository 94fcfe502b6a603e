"""The known traps of vectors as text, and files that are damaged or hostile."""

import gzip
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from rowwise.errors import VectorsFileError
from rowwise.vectors import Vectors, load


@pytest.fixture
def read(tmp_path):
    def read(content, name="v.txt", **options):
        (tmp_path / name).write_bytes(content)
        return load(tmp_path / name, **options)

    return read


def pairs(vectors):
    return {word: row.tolist() for word, row in zip(vectors.words, vectors.matrix, strict=True)}


def test_a_header_line_or_none(read):
    assert pairs(read(b"2 2\ntea 1 2\ncup 3 4\n")) == {"tea": [1, 2], "cup": [3, 4]}
    assert pairs(read(b"tea 1 2\ncup 3 4\n")) == {"tea": [1, 2], "cup": [3, 4]}
    assert pairs(read(b"2 2 3\n3 4 5\n")) == {"2": [2, 3], "3": [4, 5]}


def test_a_header_line_where_vectors_have_one_number(read):
    assert pairs(read(b"2 1\ntea 5\ncup 6\n")) == {"tea": [5], "cup": [6]}
    assert pairs(read(b"7 1\ntea 5\ncup 6\n")) == {"7": [1], "tea": [5], "cup": [6]}
    assert pairs(read(b"7 1\ntea 5\n", format="glove")) == {"7": [1], "tea": [5]}


def test_words_with_spaces_of_any_kind(read):
    vectors = read("new york 1 2\n. . . 3 4\na\u00a0b 5 6\n\u2028 7 8\n".encode())
    assert pairs(vectors) == {
        "new york": [1, 2], ". . .": [3, 4], "a\u00a0b": [5, 6], "\u2028": [7, 8],
    }  # fmt: skip


def test_carriage_returns_trailing_spaces_and_no_last_line_break(read):
    assert pairs(read(b"tea 1 2 \r\ncup 3 4\r\npot 5 6")) == {
        "tea": [1, 2], "cup": [3, 4], "pot": [5, 6],
    }  # fmt: skip


def test_a_byte_order_mark_is_no_part_of_the_first_word(read):
    assert pairs(read("\ufefftea 1 2\n".encode())) == {"tea": [1, 2]}


def test_of_equal_words_the_first_stays_with_a_warning_that_counts(read):
    with pytest.warns(UserWarning, match=r"left out: 2, first 'tea'"):
        vectors = read(b"tea 1 2\ntea 3 4\ncup 5 6\ntea 7 8\n")
    assert pairs(vectors) == {"tea": [1, 2], "cup": [5, 6]}


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (b"tea 1 2\nc\xffp 3 4\n", {}, ["line 2", "byte 2", "0xff", "errors="]),
        (b"tea 1 2\nc\xe6\x97 3 4\n", {}, ["line 2", "0xe6"]),  # cut in mid-character
        (b"3 2\ntea 1 2\ncup 3 4\n", {}, ["line 1", "2 rows", "3, as the header says", "limit=2"]),
        (b"1 2\ntea 1 2\ncup 3 4\n", {"format": "word2vec"}, ["line 1", "2 rows"]),
        (b"tea 1 2\ncup 3\n", {}, ["line 2", "1 number", "2 numbers"]),
        (b"tea 1 2\ncup 3 x\n", {}, ["line 2", "'x'", "after 1 number"]),
        (b"tea 1 2\ncup 3 nan\n", {}, ["line 2", "nan", "number 2", "finite=False"]),
        (b"tea 1 2\ncup 3 1e99\n", {}, ["line 2", "inf"]),
        (b"1000000000000 300\ntea 1 2\n", {"format": "word2vec"}, ["1,000,000,000,000"]),
        (b"", {}, ["an empty file"]),
        (b"no numbers here\n", {}, ["line 1"]),
        (b"tea 1 2\n", {"format": "word2vec"}, ["a header", "glove"]),
    ],
)  # fmt: skip
def test_an_error_names_the_place_and_the_fix(read, content, options, says):
    with pytest.raises(VectorsFileError) as raised:
        read(content, **options)
    for part in ["v.txt", *says]:
        assert part in str(raised.value)


def test_bytes_that_are_not_utf8_as_in_python(read):
    assert read(b"c\xffp 1 2\n", errors="replace").words == ["c\ufffdp"]
    assert read(b"c\xffp 1 2\n", errors="ignore").words == ["cp"]


def test_numbers_that_are_not_finite_if_asked(read):
    vectors = read(b"tea nan -inf\n", finite=False)
    np.testing.assert_array_equal(vectors.matrix, [[np.nan, -np.inf]])


def test_a_promise_of_a_million_million_rows_asks_for_no_memory(read):
    tracemalloc.start()
    for name, content in (
        ("v.bin", b"1000000000000 300\ntea " + bytes(1200)),
        ("m.bin", struct.pack("<2i12id3i2q", 793712314, 12, 300, *[5] * 5, 2, 2, 2**30,
                              3, 6, 100, 1e-4, 2**31 - 1, 2**31 - 1, 0, 1, -1)),
    ):  # fmt: skip
        with pytest.raises(VectorsFileError):
            read(content, name)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_bad_options_are_refused():
    for options, says in (
        ({"limit": -1}, "limit=-1"), ({"words": "tea"}, "one string"), ({"words": [1]}, "word 1"),
        ({"dtype": "int8"}, "int8"), ({"errors": "loud"}, "loud"), ({"format": "x"}, "'x'"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError, FileNotFoundError), match=says):
            load("absent.txt", **options) if "format" not in options else load(__file__, **options)
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        load("absent.txt")


WHOLE = Vectors(["tea", "cup", "naïve"], np.arange(6, dtype=np.float32).reshape(3, 2) / 7)


@pytest.mark.parametrize(
    "name", ["v.txt", "v.vec", "v.bin", "v.txt.gz", "v.vec.zip", "v.safetensors", "v.npy", "v.npz"]
)
def test_a_file_cut_at_any_byte_is_an_error_or_a_part(tmp_path, name):
    path = tmp_path / name
    WHOLE.save(path)
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        try:
            part = load(path)
        except (VectorsFileError, FileNotFoundError):
            continue
        # Text without a header has no end of its own: it may lose whole rows, and digits.
        assert name.startswith("v.txt") or part.words == WHOLE.words
        assert part.words == WHOLE.words[: len(part)] or name == "v.txt"


@pytest.mark.parametrize("name", ["v.txt", "v.vec", "v.bin", "v.txt.gz", "v.safetensors", "v.npy"])
def test_any_changed_byte_is_an_error_or_numbers(tmp_path, name):
    path = tmp_path / name
    WHOLE.save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            read = load(path, finite=False)
        except (VectorsFileError, MemoryError):
            continue
        assert len(read.words) == len(read.matrix)


def test_a_bomb_of_zeros_is_read_block_by_block(tmp_path):
    (tmp_path / "v.txt.gz").write_bytes(gzip.compress(b"1" * (1 << 27)))
    with pytest.raises(VectorsFileError):
        load(tmp_path / "v.txt.gz")


def test_an_archive_whose_places_or_names_are_damaged(read):
    """Found by fuzz/readers.py: zipfile raises OSError, IndexError and others of its own."""
    for name in ("v.vec", ""):
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), b"tea 1 2\n")
        if name:
            damaged = bytearray(whole.getvalue())
            damaged[-6:-2] = struct.pack("<I", 0xF6E4)  # where the archive's directory begins
            with pytest.raises(VectorsFileError, match=r"v\.vec\.zip"):
                read(bytes(damaged), "v.vec.zip")
        else:
            assert pairs(read(whole.getvalue(), "v.vec.zip")) == {"tea": [1, 2]}
