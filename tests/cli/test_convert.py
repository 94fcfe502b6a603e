"""`rowwise convert`, from each format to another."""

import numpy as np
import pytest

import rowwise
from rowwise.vectors import Vectors, load

app = pytest.importorskip("rowwise.cli._app").app
CliRunner = pytest.importorskip("typer.testing").CliRunner

SMALL = Vectors(["tea", "new york", "cup"], [[1.0, 2.5], [-3.0, 0.25], [4.0, 5.0]])


def run(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.mark.parametrize(
    "name", ["v.txt", "v.vec", "v.txt.gz", "v.safetensors", "v.npz", "v.npy", "v.parquet", "folder"]
)
def test_words_and_numbers_go_into_a_format_and_back(name, tmp_path):
    SMALL.save(tmp_path / "in.safetensors")
    options = ["--to", "static"] if name == "folder" else []
    result = run(tmp_path / "in.safetensors", tmp_path / name, *options)
    assert result.exit_code == 0, result.output
    assert "3 words, 2 numbers each" in result.output
    assert run(tmp_path / name, tmp_path / "back.txt").exit_code == 0
    back = load(tmp_path / "back.txt")
    assert back.words == SMALL.words
    np.testing.assert_array_equal(back.matrix, SMALL.matrix)


def test_a_part_of_the_words_and_other_numbers(tmp_path):
    SMALL.save(tmp_path / "in.txt")
    rowwise.Vocabulary(["cup", "pot"]).save(tmp_path / "words.json")
    assert run(tmp_path / "in.txt", tmp_path / "a.npz", "--limit", 2).exit_code == 0
    assert load(tmp_path / "a.npz").words == ["tea", "new york"]
    chosen = ["--words", tmp_path / "words.json", "--dtype", "float16"]
    assert run(tmp_path / "in.txt", tmp_path / "b.npz", *chosen).exit_code == 0
    assert load(tmp_path / "b.npz", dtype="float16").words == ["cup"]
    assert np.load(tmp_path / "b.npz")["vectors"].dtype == np.float16


def test_the_present_rows_of_a_table(tmp_path):
    table = rowwise.Table(5, 2, "adam", seed=0)
    table.vocabulary = rowwise.Vocabulary(["tea", "cup"], oov_token="?", num_oov_indices=2)
    for _ in range(3):
        table.update([2], [[1.0, 2.0]])
    table.update([0], [[1.0, 2.0]])
    table.save(tmp_path / "table.safetensors")
    assert run(tmp_path / "table.safetensors", tmp_path / "v.npz").exit_code == 0
    vectors = load(tmp_path / "v.npz")
    assert vectors.words == ["?", "tea", "cup"]
    np.testing.assert_array_equal(vectors.matrix, table.lookup([0, 2, 3]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.txt", "out.txt"], "there is no file"),
        (["in.txt", "in.txt"], "is there already; --force replaces it"),
        (["in.txt", "out.what"], "out.what"),
        (["in.txt", "out.txt", "--from", "magic"], "magic"),
        (["in.txt", "out.txt", "--dtype", "int8"], "int8"),
        (["in.txt", "out.txt", "--errors", "magic"], "--errors 'magic' is not a handler"),
        (["in.txt", "out.magic"], "or --to FORMAT, one of"),
        (["latin.vec", "out.txt"], "--errors replace or ignore reads on"),
        (["short.txt", "out.txt"], "--limit 1"),
        (["table.safetensors", "out.txt"], "a table without a vocabulary"),
        (["in.txt", "out.txt", "--words", "missing.json"], "missing.json"),
    ],
    ids=range(11),
)
def test_what_cannot_be_done_is_said_in_a_line_and_nothing_is_written(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    SMALL.save(tmp_path / "in.txt")
    (tmp_path / "latin.vec").write_bytes(b"1 2\ncaf\xe9 1 2\n")
    (tmp_path / "short.txt").write_text("2 2\ntea 1 2\n")
    rowwise.Table(5, 2).save(tmp_path / "table.safetensors")
    before = sorted(path.name for path in tmp_path.iterdir())
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == before
