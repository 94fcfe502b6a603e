"""`rowwise predict`, `neighbors`, `analogy` and `inspect`, as a person or a program runs them."""

import csv
import json
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import rowwise
from rowwise.vectors import Vectors, load

app = pytest.importorskip("rowwise.cli._app").app
CliRunner = pytest.importorskip("typer.testing").CliRunner


def run(*arguments, input=None):
    return CliRunner().invoke(app, [*map(str, arguments)], input=input)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the folder that train makes of texts on fruit and on tools."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [("apple pear plum", "fruit"), ("hammer saw drill", "tools")] * 60
    with (folder / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "kind"), *rows])
    out = folder / "model"
    columns = ("--text", "text", "--label", "kind")
    result = run("train", folder / "data.csv", *columns, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_a_report_shows_what_train_saved(model, tmp_path):
    result = run("report", model, "--out", tmp_path / "r.html", "--title", "Fruit")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "r.html").as_uri() in result.output
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    for part in ("Fruit", "epoch", "A row's label"):
        assert part in page
    assert run("report", model / "table.safetensors").exit_code == 0
    assert (model / "report.html").is_file()


def test_an_interrupted_training_keeps_what_it_learned(tmp_path):
    """Ctrl-C after the first epoch of very many."""
    rows = [("apple pear plum", "fruit"), ("hammer saw drill", "tools")] * 60
    with (tmp_path / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "kind"), *rows])
    columns = ["--text", "text", "--label", "kind"]
    command = ["train", "data.csv", *columns, "--out", "model", "--epochs", "1000000",
        "--patience", "1000000"]  # fmt: skip
    training = subprocess.Popen(
        [sys.executable, "-u", "-c", "from rowwise.cli import main; main()", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in training.stdout:
        if line.startswith("epoch "):
            training.send_signal(signal.SIGINT)
            break
    rest, _ = training.communicate(timeout=120)
    assert training.returncode == 130
    assert "Interrupted" in rest
    assert run("predict", tmp_path / "model", "pear").output == "fruit\n"
    history = json.loads((tmp_path / "model" / "classifier.json").read_text())["history"]
    assert len(history["loss"]) >= 1
    table = rowwise.Table.load(tmp_path / "model" / "table.safetensors")
    assert len(table.untrained()) == 0


@pytest.fixture
def vectors(tmp_path):
    """Six words on a plane, man : king = woman : queen."""
    plane = {
        "man": [1, 0],
        "woman": [0, 1],
        "king": [1, -0.9],
        "queen": [0.05, 0.1],
        "tea": [-1, -1],
    }
    Vectors(list(plane), np.array(list(plane.values()), np.float32)).save(tmp_path / "v.txt")
    return tmp_path / "v.txt"


def test_texts_are_labelled(model):
    result = run("predict", model, "a pear and an apple", "drill saw")
    assert result.exit_code == 0, result.output
    assert result.output == "fruit\ntools\n"
    told = run("predict", model, "a pear", "drill", "-p", "--top", 2).output.splitlines()
    cells = [line.split("\t") for line in told]
    assert [cell[::2] for cell in cells] == [["fruit", "tools"], ["tools", "fruit"]]
    assert all(float(cell[1]) > 0.5 > float(cell[3]) for cell in cells)


def test_texts_are_read_from_standard_input_and_answered_in_json(model):
    result = run("predict", model, "-", "--json", "-k", 2, input="plum\nnew hammer\n")
    answers = [json.loads(line) for line in result.output.splitlines()]
    assert [answer["labels"][0]["label"] for answer in answers] == ["fruit", "tools"]
    for answer in answers:
        total = sum(label["probability"] for label in answer["labels"])
        assert total == pytest.approx(1, abs=1e-5)
    assert [answer["unknown"] for answer in answers] == [[], ["new"]]


def test_texts_are_read_from_a_file(model, tmp_path):
    (tmp_path / "new.csv").write_text("words,other\nplum pear,1\nsaw,2\n")
    result = run("predict", model, "--file", tmp_path / "new.csv", "--text", "words")
    assert result.output == "fruit\ntools\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["predict", "nowhere", "text"], "there is no folder 'nowhere'"),
        (["predict", ".", "text"], "has no classifier.safetensors"),
        (["inspect", "."], "has no table.safetensors"),
        (["predict", "nowhere"], "give texts"),
        (["neighbors", "nowhere.txt", "a"], "nowhere.txt"),
        (["inspect", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_what_is_missing_is_named(arguments, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert why in result.stderr
    assert "Traceback" not in result.stderr


def test_neighbors_are_ordered_by_cosine(vectors):
    result = run("neighbors", vectors, "man", "-k", 2)
    assert result.output.splitlines() == ["man", "   0.743  king", "   0.447  queen"]


def test_neighbors_of_a_table_trained_here(model):
    answer = json.loads(run("neighbors", model / "table.safetensors", "apple", "--json").output)
    near = [word for word, _ in answer["nearest"]]
    assert set(near[:2]) == {"pear", "plum"}
    assert "apple" not in near


def test_words_without_a_vector_are_an_error_that_names_them(vectors):
    result = run("neighbors", vectors, "coffee", "King", "milk", "-k", 1)
    assert result.exit_code == 2
    assert "'coffee' has no vector" in result.stderr
    assert "'milk' has no vector" in result.stderr
    assert result.stdout.splitlines()[0] == "king"  # in lower case, and the others all the same


def test_words_come_from_standard_input(vectors):
    result = run("neighbors", vectors, "-", "-k", 1, input="man\n\ntea\n")
    assert [line for line in result.output.splitlines() if line[0] != " "] == ["man", "tea"]


def test_words_that_are_not_utf8_are_read_if_asked(tmp_path):
    (tmp_path / "latin.vec").write_bytes(b"2 2\ncaf\xe9 1 2\ntea 3 4\n")
    result = run("neighbors", tmp_path / "latin.vec", "tea")
    assert result.exit_code == 2
    assert "--errors replace or ignore reads on" in result.stderr
    result = run("neighbors", tmp_path / "latin.vec", "tea", "--errors", "ignore")
    assert result.output.split() == ["tea", "0.984", "caf"]
    (tmp_path / "d.csv").write_text("text,label\ntea,a\ncup,b\n" * 9)
    start = ("--init-from", tmp_path / "latin.vec")
    result = run("train", tmp_path / "d.csv", *start, "--out", tmp_path / "m")
    assert result.exit_code == 2
    assert "rowwise convert --errors replace or ignore reads on" in result.stderr


def test_vectors_in_an_archive_are_read(vectors, tmp_path):
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as archive:
        archive.write(vectors, "small.txt")
    member = tmp_path / "v.zip" / "small.txt"
    for source in (member, vectors):
        assert run("neighbors", source, "man", "-k", 1).output == "man\n   0.743  king\n"
    assert run("analogy", member, "man", "king", "woman", "-k", 1).exit_code == 0
    assert json.loads(run("inspect", vectors, "--json").output)["untrained"] == 0


@pytest.mark.parametrize("kind", ["model", "quantized", "table"])
def test_commands_take_a_folder_of_train_alike(model, tmp_path, kind):
    source = model
    if kind == "quantized":
        source = tmp_path / "small"
        assert run("quantize", model, "--out", source, "--keep", 1).exit_code == 0
    elif kind == "table":
        source = model / "table.safetensors"
    assert run("convert", source, tmp_path / "out.vec").exit_code == 0
    assert {"apple", "saw"} <= set(load(tmp_path / "out.vec").words)
    assert run("convert", source, tmp_path / "two.vec", "--limit", 2).exit_code == 0
    assert len(load(tmp_path / "two.vec")) == 2
    near = run("neighbors", source, "saw", "-k", 1).output.split()
    assert near == run("neighbors", tmp_path / "out.vec", "saw", "-k", 1).output.split()
    assert run("analogy", source, "saw", "drill", "pear", "-k", 1).exit_code == 0
    facts = json.loads(run("inspect", source, "--json").output)
    assert facts["vocabulary"] >= len(load(tmp_path / "out.vec"))
    assert facts["untrained"] == 0
    assert run("report", source, "--out", tmp_path / "r.html").exit_code == 0
    assert "untrained</th><td>0 rows" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_an_analogy_leaves_its_own_words_out(vectors):
    result = run("analogy", vectors, "man", "king", "woman", "-k", 1)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == "man : king = woman : ?"
    assert result.output.split()[-1] in {"queen", "tea"}
    assert Vectors(["a"], np.ones((1, 2))).analogy("a", "a", "a") == []


def test_a_table_is_inspected(tmp_path):
    table = rowwise.Table(6, 2, "adam", seed=0)
    for _ in range(3):
        table.update([1, 2], np.ones((2, 2), np.float32))
    table.vocabulary = rowwise.Vocabulary(list("abcdef"), mask_token=None, oov_token=None)
    table.save(tmp_path / "t.safetensors")

    about = json.loads(run("inspect", tmp_path / "t.safetensors", "--json").output)
    assert (about["rows"], about["dim"], about["steps"], about["vocabulary"]) == (6, 2, 3, 6)
    assert about["untrained"] == 4
    assert about["untrained_rows"] == ["a", "d", "e", "f"]
    assert about["most_updated_rows"][:2] == ["b", "c"]
    assert about["duplicate_rows"] == 0
    assert about["nonfinite_rows"] == 0
    assert about["norms"]["max"] == pytest.approx(
        float(np.linalg.norm(table.to_numpy(), axis=1).max()), rel=1e-6
    )
    shown = run("inspect", tmp_path / "t.safetensors").output
    assert "rule" in shown
    assert "Adam" in shown
    assert "a, d, e, f" in shown


def test_rows_that_repeat_and_rows_of_zeros_are_counted(tmp_path):
    table = rowwise.Table(3, 2, init=np.array([[1, 2], [1, 2], [0, 0]], np.float32))
    table.save(tmp_path / "t.safetensors")
    about = json.loads(run("inspect", tmp_path / "t.safetensors", "--json").output)
    assert about["duplicate_rows"] == 1
    assert about["zero_rows"] == 1
