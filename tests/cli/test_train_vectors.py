"""`rowwise train` without labels, and labels that start from its vectors."""

import csv
import gzip
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import rowwise
from rowwise.vectors import load

app = pytest.importorskip("rowwise.cli._app").app
CliRunner = pytest.importorskip("typer.testing").CliRunner

FRUIT = ["apple", "pear", "plum", "cherry", "melon", "fig"]
TOOLS = ["hammer", "saw", "drill", "wrench", "chisel", "axe"]


def run(*arguments, input=None):
    return CliRunner().invoke(app, [*map(str, arguments)], input=input)


def sentences(count=600):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice((FRUIT, TOOLS)[i % 2], 5)) for i in range(count)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n".join(sentences()))
    return path


@pytest.fixture(scope="module")
def vectors(corpus):
    """A folder of trained vectors."""
    out = corpus.parent / "vectors"
    result = run("train", corpus, "--objective", "skipgram", "--out", out, "--dim", 12,
        "--sample", 0, "--epochs", 20)  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize("objective", ["skipgram", "cbow"])
def test_words_used_alike_become_neighbours(corpus, tmp_path, objective):
    out = tmp_path / "out"
    result = run("train", corpus, "--objective", objective, "--out", out, "--sample", 0,
        "--epochs", 20, "--words", "apple,nonesuch")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3,000 words, 12 different ones" in result.output
    assert "words a second" in result.output
    assert "'nonesuch' is not in the vocabulary" in result.output
    learned = load(out / "table.safetensors")
    for kind in (FRUIT, TOOLS):
        for word in kind:
            assert {near for near, _ in learned.nearest(word, 5)} == {*kind} - {word}


def test_the_folder_serves_the_other_commands(vectors, tmp_path):
    table = rowwise.Table.load(vectors / "table.safetensors")
    assert len(table.untrained()) == 0
    assert (table.dim, table.steps) == (12, 60_000)
    assert run("neighbors", vectors, "fig").exit_code == 0
    assert run("inspect", vectors / "table.safetensors").exit_code == 0
    result = run("report", vectors, "--out", tmp_path / "r.html")
    assert result.exit_code == 0, result.output
    assert "How far rows moved" in (tmp_path / "r.html").read_text(encoding="utf-8")
    result = run("predict", vectors, "fig")
    assert result.exit_code == 2
    assert "rowwise train makes it of texts with labels" in result.output


def test_text_comes_as_a_file_in_gzip_as_a_column_or_by_standard_input(tmp_path):
    text = sentences(40)
    with gzip.open(tmp_path / "corpus.txt.gz", "wt") as file:
        file.write("\n".join(text))
    with (tmp_path / "corpus.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("said",), *([line] for line in text)])
    common = ("--objective", "cbow", "--epochs", 1, "--out")
    results = [
        run("train", tmp_path / "corpus.txt.gz", *common, tmp_path / "a"),
        run("train", tmp_path / "corpus.csv", "--text", "said", *common, tmp_path / "b"),
        run("train", "-", *common, tmp_path / "c", input="\n".join(text)),
    ]
    for result in results:
        assert result.exit_code == 0, result.output
        assert "200 words, 12 different ones" in result.output


def test_a_program_gets_the_outcome_as_json(corpus, tmp_path):
    data = tmp_path / "few.csv"
    data.write_text("text,kind\n" + "apple pear,fruit\nhammer saw,tools\n" * 10)
    common = ("--epochs", 2, "--json", "--out")
    labelled = ("train", data, "--text", "text", "--label", "kind", *common, tmp_path / "a")
    plain = ("train", corpus, "--objective", "cbow", *common, tmp_path / "b")
    outcomes = [json.loads(run(*arguments).stdout) for arguments in (labelled, plain)]
    assert [outcome["words"] for outcome in outcomes] == [4, 3000]
    assert outcomes[1]["rows"] == 12
    assert [outcome["interrupted"] for outcome in outcomes] == [False, False]
    assert outcomes[0]["held_out"]["majority"] == 0.5
    assert len(outcomes[0]["history"]["loss"]) == 2
    out = json.loads(run("convert", tmp_path / "b" / "table.safetensors", tmp_path / "v.txt",
        "--json").stdout)  # fmt: skip
    assert out == {"out": str(tmp_path / "v.txt"), "words": 12, "dim": 100}
    page = json.loads(run("report", tmp_path / "b", "--json").stdout)
    assert page["address"] == (tmp_path / "b" / "report.html").as_uri()


def test_labels_start_from_vectors_and_their_words_are_known(vectors, tmp_path):
    data = tmp_path / "few.csv"
    with data.open("w", newline="") as file:
        rows = [("apple pear", "fruit"), ("hammer saw", "tools")] * 10
        csv.writer(file).writerows([("text", "kind"), *rows])
    out = tmp_path / "out"
    columns = ("--text", "text", "--label", "kind", "--out", out)
    result = run("train", data, *columns, "--init-from", vectors)
    assert result.exit_code == 0, result.output
    table = rowwise.Table.load(out / "table.safetensors")
    assert table.dim == 12
    words = table.vocabulary
    start = load(vectors / "table.safetensors")
    np.testing.assert_array_equal(table.lookup([words["melon"]])[0], start["melon"])
    assert not np.array_equal(table.lookup([words["apple"]])[0], start["apple"])
    assert run("predict", out, "melon cherry fig", "chisel axe").output == "fruit\ntools\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus.txt", "--objective", "cbow", "--label", "x"], "--label is not for --objective"),
        (["corpus.txt", "--objective", "cbow", "--batch-size", "64"], "--batch-size is not for"),
        (["d.csv", "--text", "a", "--label", "b", "--window", "3"], "--window is not for"),
        (["corpus.txt"], "'corpus.txt' has no column 'text'; its columns are 'one two'"),
        (["d.csv", "--objective", "cbow"], "has columns; --text names that of the texts"),
        (["corpus.txt", "--objective", "cbow", "--text", "a"], "has no columns"),
        (["none.txt", "--objective", "cbow"], "none.txt"),
        (["latin.txt", "--objective", "cbow"], "line 2, byte 4 (0xe9) is not UTF-8;"),
        (["corpus.txt", "--objective", "cbow", "--min-count", "9"], "no word occurs 9 times"),
        (["corpus.txt", "--objective", "cbow", "--learning-rate", "0"], "learning_rate=0.0"),
        (["corpus.txt", "--objective", "cbow", "--sample", "1"], "sample=1.0"),
        (["corpus.txt", "--objective", "glove"], "'glove' is not one of"),
        (["d.csv", "--text", "a", "--label", "b", "--init-from", "none.txt"], "none.txt"),
        (["d.csv", "--text", "a", "--label", "b", "--init-from", "v.txt", "--dim", "3"],
         "--dim 3: the vectors of 'v.txt' have 2 numbers"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_nothing_is_written(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("one two\n" * 6)
    (tmp_path / "latin.txt").write_bytes("one\ncaf\xe9".encode("latin-1"))
    (tmp_path / "d.csv").write_text("a,b\nx,1\ny,2\n")
    (tmp_path / "v.txt").write_text("x 1.5 2.5\ny 0.5 1.5\n")
    result = run("train", *arguments, "--out", "out")
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_an_interrupt_keeps_what_was_learned(corpus, tmp_path):
    command = ["train", corpus, "--objective", "skipgram", "--out", "out", "--epochs", "10000000"]
    program = "from rowwise.cli import main; main()"
    training = subprocess.Popen(
        [sys.executable, "-u", "-c", program, *map(str, command)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "12 different ones" in training.stdout.readline()
        training.send_signal(signal.SIGINT)
        rest, _ = training.communicate(timeout=60)
        assert training.returncode == 130
        assert "Interrupted at 0%" in rest
        assert len(rowwise.Table.load(tmp_path / "out" / "table.safetensors")) == 12
    finally:
        training.kill()
