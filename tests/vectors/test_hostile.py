"""Files made with bad intent: time is linear in their length, memory bounded, nothing is run."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest

import rowwise
from rowwise.errors import VectorsFileError
from rowwise.vectors import Subwords, Vectors, load
from rowwise.vectors._text_layout import header_of, is_number, numbers_at_end

SECONDS_PER_MB = 10  # some hundred times what it takes: a bound that no busy machine breaks


class Counted(bytes):
    """Bytes that count how many of them are looked at by a search or a test."""

    looked_at = 0

    def rfind(self, sub, start=0, end=None):
        end = len(self) if end is None else end
        found = super().rfind(sub, start, end)
        Counted.looked_at += end - max(found, start)
        return found

    def __getitem__(self, part):
        piece = super().__getitem__(part)
        if isinstance(piece, bytes):
            Counted.looked_at += len(piece)
        return piece


@pytest.mark.parametrize(
    "line_of",
    [
        lambda n: b"tea " + b"1" * n,
        lambda n: b"tea " + b"1" * n + b"x",
        lambda n: b"tea " + b"1." * (n // 2),
        lambda n: b"tea " + b"1e" * (n // 2),
        lambda n: b"tea " + b"1 " * (n // 2),
        lambda n: b"tea" + b" " * n + b"1",
        lambda n: b"tea x" + b" 1" * (n // 2),
    ],
    ids=["digits", "digits and a letter", "points", "exponents", "numbers", "spaces", "a word"],
)
def test_the_work_to_recognise_a_line_grows_with_its_length(line_of):
    work = []
    for size in (1_000, 10_000, 100_000):
        line = Counted(line_of(size))
        Counted.looked_at = 0
        numbers_at_end(line)
        work.append(Counted.looked_at / len(line))
    assert max(work) <= 4  # looks at each byte


@pytest.mark.parametrize(
    "end", [b"", b"x", b".", b" 1\ncup 1 2", b"e", b"e+", b" ", b"\r"], ids=repr
)
@pytest.mark.parametrize("size", [16_000, 4_000_000])
def test_a_line_of_digits_is_judged_in_time_that_grows_with_its_length(tmp_path, end, size):
    (tmp_path / "v.txt").write_bytes(b"tea " + b"1" * size + end + b"\n")
    start = time.perf_counter()
    with pytest.raises(VectorsFileError, match=r"line [12]"):
        load(tmp_path / "v.txt")
    assert time.perf_counter() - start < SECONDS_PER_MB * max(1, size / 1e6)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        *((field, True) for field in ("1", "-1", "+1", "1.", ".5", "1.5", "1e5", "1E-5", "-.5e+3",
                                      "nan", "NaN", "-inf", "Infinity")),
        *((field, False) for field in ("", "-", ".", "1e", "1e+", "e5", "1.2.3", "1_0", "0x1",
                                       "1 ", "--1", "infinit", "١", "1e5.0", "nane")),
    ],
)  # fmt: skip
def test_what_is_a_number(field, expected):
    assert is_number(field.encode()) is expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"2 3", (2, 3)), (b" 2  3 \r", (2, 3)), (b"2", None), (b"2 3 4", None), (b"2 x", None),
        (b"2\t3", None), (b"-2 3", None), (b"1" * 20 + b" 3", None), (b"2 3" + b" " * 10**6, None),
    ],
)  # fmt: skip
def test_what_is_a_header(line, expected):
    assert header_of(line) == expected


# ------------------------------------------------------------------ compressed


def zipped(content, method, name="v.txt"):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as archive:
        archive.writestr(name, content)
    return whole.getvalue()


ROWS = b"tea 1 2\ncup 3 4\n"


@pytest.mark.parametrize("name", ["v.txt.bz2", "v.txt.xz", "v.vec.bz2", "v.bin.xz", "v.tsv.bz2"])
def test_bzip2_and_xz_are_written_and_read(tmp_path, name):
    vectors = Vectors(["tea", "cup"], np.arange(6, dtype=np.float32).reshape(2, 3))
    vectors.save(tmp_path / name)
    start = (tmp_path / name).read_bytes()
    assert start.startswith((b"BZh", b"\xfd7zXZ"))
    assert load(tmp_path / name).words == vectors.words
    np.testing.assert_array_equal(load(tmp_path / name).matrix, vectors.matrix)
    vectors.save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == start


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_what_is_compressed_is_seen_from_the_content(tmp_path, compress):
    (tmp_path / "v.txt").write_bytes(compress(ROWS))
    assert load(tmp_path / "v.txt").words == ["tea", "cup"]


def test_a_word_that_looks_like_a_compression_is_a_word(tmp_path):
    (tmp_path / "v.txt").write_bytes(b"BZh9 1 2\nRar! 3 4\n7z 5 6\n")
    assert load(tmp_path / "v.txt").words == ["BZh9", "Rar!", "7z"]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_cut_or_changed_anywhere_is_an_error(tmp_path, compress):
    path, content = tmp_path / "v.vec", compress(b"2 2\n" + ROWS)
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(VectorsFileError):
            load(path)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 4
        path.write_bytes(changed)
        try:
            vectors = load(path)
        except VectorsFileError:
            continue
        assert len(vectors.words) == len(vectors.matrix)


@pytest.mark.parametrize(
    "bomb",
    [
        lambda rows: bz2.compress(rows),
        lambda rows: lzma.compress(rows),
        lambda rows: zipped(rows, zipfile.ZIP_BZIP2),
        lambda rows: zipped(rows, zipfile.ZIP_LZMA),
    ],
    ids=["bz2", "xz", "bz2 in zip", "lzma in zip"],
)
def test_content_that_swells_beyond_all_measure_is_not_read_to_its_end(tmp_path, bomb):
    content = bomb(ROWS * (1 << 20))
    assert len(content) < 1 << 15
    (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(VectorsFileError, match=r"more than .* bytes of content"):
        load(tmp_path / "v.txt")


_PEAK = """
import resource, sys, warnings
from rowwise.errors import VectorsFileError
from rowwise.vectors import load
warnings.simplefilter("ignore")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(load(sys.argv[1])), end=" ")
except VectorsFileError as error:
    print(str(error)[:200].replace(" ", "_"), end=" ")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def _peak_mb(path):
    """Load a file in a process of its own; return what came out, and MiB of memory for it."""
    output = subprocess.run(
        [sys.executable, "-c", _PEAK, path], check=True, capture_output=True, text=True
    ).stdout.split()
    return output[0], int(output[1])


def test_memory_of_a_bomb_is_that_of_a_block(tmp_path):
    """Words and numbers of equal rows, 100 and 200 MB of them, in files of some hundred KB."""
    count = 4_000_000
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "vectors.tsv.gz").write_bytes(gzip.compress(b"1\t2\n" * count))
    (tmp_path / "p" / "metadata.tsv.gz").write_bytes(gzip.compress(b"a\n" * count))
    np.savez_compressed(
        tmp_path / "v.npz", words=np.zeros(count, "U6"), vectors=np.zeros((count, 2), np.float32)
    )
    for name in ("p", "v.npz"):
        found, megabytes = _peak_mb(tmp_path / name)
        assert found == "1"
        assert megabytes < 100


def test_words_without_rows_for_them_are_counted_and_not_kept(tmp_path):
    (tmp_path / "vectors.tsv").write_bytes(b"1\t2\n")
    (tmp_path / "metadata.tsv").write_bytes(gzip.compress(b"a\n" * 20_000_000))
    found, megabytes = _peak_mb(tmp_path / "vectors.tsv")
    assert "20,000,000_rows" in found
    assert megabytes < 50


# ------------------------------------------------------------------ archives


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("options", [{}, {"format": "glove"}])
def test_a_tar_archive_is_refused_with_what_to_do(tmp_path, mode, options):
    path = tmp_path / "v.tar.gz"
    with tarfile.open(path, mode) as archive:
        about = tarfile.TarInfo("v.txt")
        about.size = len(ROWS)
        archive.addfile(about, io.BytesIO(ROWS))
    with pytest.raises(VectorsFileError, match=r"a tar archive.*tar -xf 'v\.tar\.gz'"):
        load(path, **options)


@pytest.mark.parametrize(
    ("magic", "says"),
    [
        (b"\x28\xb5\x2f\xfd", "zstd -d"),
        (b"7z\xbc\xaf\x27\x1c", "7z x"),
        (b"Rar!\x1a\x07\x01\x00", "unrar x"),
    ],
)
def test_what_nothing_here_unpacks_is_refused_with_what_to_do(tmp_path, magic, says):
    (tmp_path / "v.txt").write_bytes(magic + bytes(100))
    with pytest.raises(VectorsFileError, match=says):
        load(tmp_path / "v.txt")


@pytest.mark.parametrize("name", ["../v.txt", "a/../../v.txt", "/etc/v.txt", "..\\v.txt"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, name):
    path = tmp_path / "v.zip"
    path.write_bytes(zipped(ROWS, zipfile.ZIP_STORED, name))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(VectorsFileError, match="names within the archive"):
        load(path)
    assert sorted(os.listdir(tmp_path)) == before
    path.write_bytes(zipped(ROWS, zipfile.ZIP_STORED, f"{name}.npy"))
    with pytest.raises(VectorsFileError, match="names within the archive"):
        load(path)


def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VectorsFileError, match="a pipe or a device"):
        load(tmp_path / "pipe")
    with pytest.raises(VectorsFileError, match="a folder"):
        load(tmp_path, format="glove")
    with pytest.raises(VectorsFileError, match=r"vectors\.tsv"):
        load(tmp_path)


# ------------------------------------------------------------------ pickles


class _Trap:
    def __reduce__(self):
        return os.mkdir, (f"{os.environ['PYTEST_TRAP']}/sprung",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_no_pickle_is_opened_in_whatever_it_is_wrapped(tmp_path, protocol, monkeypatch):
    monkeypatch.setenv("PYTEST_TRAP", str(tmp_path))
    trap = pickle.dumps(_Trap(), protocol)
    array = io.BytesIO()
    np.save(array, np.array([_Trap()], dtype=object), allow_pickle=True)
    objects = io.BytesIO()
    np.savez(objects, words=np.array([_Trap()], dtype=object), vectors=np.ones((1, 2)))
    for name, content in {
        "v.kv": trap,
        "v.txt": trap,
        "v.npy": array.getvalue(),
        "v.npz": objects.getvalue(),
        "v.pt": zipped(trap, zipfile.ZIP_STORED, "archive/data.pkl"),
    }.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / "v.words.txt").write_bytes(b"tea\n")
        with pytest.raises(VectorsFileError, match="pickle"):
            load(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


# ------------------------------------------------------------------ sizes that files give


def model(dim=1, longest=6, word=b"tea", shortest=3):
    return (
        struct.pack("<2i12id", 793712314, 12, dim, 5, 5, 1, 5, 1, 2, 2, 1, shortest, longest, 9, 1)
        + struct.pack("<3i2q", 1, 1, 0, 1, -1)
        + word
        + struct.pack("<xqb", 1, 0)
        + struct.pack("<?2q", False, 2, dim)
        + bytes(8 * dim)
    )


def test_n_grams_of_a_length_beyond_any_words_are_refused(tmp_path):
    (tmp_path / "m.bin").write_bytes(model(longest=1024, word=b"a" * 10_000))
    with pytest.raises(VectorsFileError, match="n-grams of 3 to 1024"):
        load(tmp_path / "m.bin")
    (tmp_path / "m.bin").write_bytes(model(longest=64, word=b"a" * 10_000))
    start = time.perf_counter()
    assert isinstance(load(tmp_path / "m.bin").subwords, Subwords)
    assert time.perf_counter() - start < SECONDS_PER_MB
    (tmp_path / "m.bin").write_bytes(model(dim=100_000, longest=64, word=b"a" * 60_000))
    with pytest.raises(VectorsFileError, match="n-grams"):
        load(tmp_path / "m.bin")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 2)}",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (1000000000000, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 3000 + ")}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9" + "9" * 5000 + ", 2)}",
        "{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000000,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1, 2)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 2)}",
        "[" * 9000,
        "__import__('os').getcwd()",
        "{}",
        "{'descr': 3, 'fortran_order': 3, 'shape': 3}",
    ],
)
def test_an_array_is_held_to_what_its_file_can_hold(tmp_path, header):
    raw = header.encode().ljust(10_000) + b"\n"
    content = b"\x93NUMPY\2\0" + struct.pack("<I", len(raw)) + raw + bytes(8)
    (tmp_path / "v.npy").write_bytes(content)
    (tmp_path / "v.words.txt").write_bytes(b"tea\n")
    with pytest.raises(VectorsFileError):
        load(tmp_path / "v.npy")
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("words.npy", content)
    (tmp_path / "v.npz").write_bytes(whole.getvalue())
    with pytest.raises(VectorsFileError):
        load(tmp_path / "v.npz")


def test_strings_of_numpy_beyond_unicode_are_an_error(tmp_path):
    words = np.array([0x7FFFFFFF], "<u4").view("<U1")
    np.savez(tmp_path / "v.npz", words=words, vectors=np.ones((1, 2), np.float32))
    with pytest.raises(VectorsFileError, match="not text"):
        load(tmp_path / "v.npz")


def test_arrays_in_the_order_of_columns_are_read(tmp_path):
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "v.npy", np.asfortranarray(rows))
    (tmp_path / "v.txt").write_text("a\nb\nc\n")
    np.testing.assert_array_equal(load(tmp_path / "v.npy", limit=2).matrix, rows[:2])
    np.savez(tmp_path / "v.npz", words=np.array(["a", "b", "c"]), vectors=np.asfortranarray(rows))
    np.testing.assert_array_equal(load(tmp_path / "v.npz").matrix, rows)


def test_tensors_that_numpy_has_no_dtype_for_are_an_error(tmp_path):
    Vectors(["tea"], np.ones((1, 2), np.float16)).save(tmp_path / "v.safetensors")
    content = (tmp_path / "v.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    grown = content[8 : 8 + size].rstrip().replace(b'"F16"', b'"BF16"')
    (tmp_path / "v.safetensors").write_bytes(
        len(grown).to_bytes(8, "little") + grown + content[8 + size :]
    )
    with pytest.raises(VectorsFileError, match="BF16"):
        load(tmp_path / "v.safetensors")


def test_a_damaged_table_is_an_error_of_the_vectors_too(tmp_path):
    table = rowwise.Table(2, 3, init="zeros")
    table.vocabulary = rowwise.Vocabulary(["tea", "cup"])
    table.save(tmp_path / "t.safetensors")
    assert load(tmp_path / "t.safetensors").words == ["tea", "cup"]
    content = (tmp_path / "t.safetensors").read_bytes()
    (tmp_path / "t.safetensors").write_bytes(
        content.replace(b"rowwise table 1", b"rowwise table x")
    )
    with pytest.raises(VectorsFileError, match="damaged table"):
        load(tmp_path / "t.safetensors")


def test_a_mapping_of_rows_is_followed_a_block_at_a_time(tmp_path):
    from safetensors.numpy import save_file

    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    mapping, weights = np.array([2, 0, 2, 1]), np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    save_file(
        {"embeddings": rows, "mapping": mapping, "weights": weights},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a":0,"b":1,"c":2,"d":3}}}')
    np.testing.assert_array_equal(load(tmp_path).matrix, rows[mapping] * weights[:, None])
    assert load(tmp_path, words=["c"]).matrix.tolist() == (rows[[2]] * 3).tolist()
