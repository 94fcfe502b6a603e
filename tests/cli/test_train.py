"""`rowwise train`, from file to saved model."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rowwise

TextClassifier = pytest.importorskip("rowwise.sklearn").TextClassifier
app = pytest.importorskip("rowwise.cli._app").app
CliRunner = pytest.importorskip("typer.testing").CliRunner

FRUIT = ["apple", "pear", "plum", "cherry", "melon"]
TOOLS = ["hammer", "saw", "drill", "wrench", "chisel"]


def texts(n=200):
    rng = np.random.default_rng(0)
    for i in range(n):
        kind, words = (("fruit", FRUIT), ("tools", TOOLS))[i % 2]
        yield " ".join(rng.choice(words, 4)) + f" the and only{i}", kind


def write(path):
    rows = list(texts())
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerows([("text", "kind"), *rows])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": t, "kind": k}) + "\n" for t, k in rows))
    else:
        import pyarrow as pa
        from pyarrow import parquet

        columns = dict(zip(("text", "kind"), map(list, zip(*rows, strict=True)), strict=True))
        parquet.write_table(pa.table(columns), path)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_file_becomes_a_classifier_that_beats_the_majority(tmp_path, ending):
    out = tmp_path / "out"
    columns = ("--text", "text", "--label", "kind")
    result = run(write(tmp_path / f"data{ending}"), *columns, "--out", out, "--words", "apple")
    assert result.exit_code == 0, result.output
    assert "Held-out accuracy 1.000; always the most frequent label: 0.500" in result.output
    table = rowwise.Table.load(out / "table.safetensors")
    assert "apple" in table.vocabulary
    assert len(table.untrained()) == 0
    model = TextClassifier.load(out)
    assert model.predict(["saw drill", "plum pear"]).tolist() == ["tools", "fruit"]


def test_the_words_of_the_held_out_part_are_not_in_the_vocabulary_without_a_refit(tmp_path):
    run(write(tmp_path / "d.csv"), "--text", "text", "--label", "kind", "--out", tmp_path / "o",
        "--epochs", 1, "--no-refit")  # fmt: skip
    vocabulary = rowwise.Table.load(tmp_path / "o" / "table.safetensors").vocabulary
    assert sum(word.startswith("only") for word in vocabulary) == 180


def test_texts_without_words_harm_nobody(tmp_path):
    data = tmp_path / "d.csv"
    rows = [*texts(), ("", "fruit"), ("!?", "tools")] * 2
    with data.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "kind"), *rows])
    result = run(data, "--text", "text", "--label", "kind", "--out", tmp_path / "o")
    assert result.exit_code == 0
    assert "nan" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.csv", "text", "kind"), "there is no file"),
        (("d.csv", "review", "kind"), "has no column 'review'; its columns are 'text', 'kind'"),
        (("d.csv", "text", "stars"), "has no column 'stars'"),
        (("d.txt", "text", "kind"), "has no column 'kind'; its columns are 'text'"),
        (("one.csv", "text", "kind"), "needs two labels or more, and has 'a' in 2 rows"),
        (("empty.csv", "text", "kind"), "every text is empty"),
        (("twice.csv", "text", "kind"), "has 2 columns 'text'; rename all but one"),
        (("broken.parquet", "text", "kind"), "cannot be read"),
        (("d.csv", "text", "kind", "--char-ngrams", "x"), "--char-ngrams 'x' is neither"),
        (("d.csv", "text", "kind", "--learning-rate", "0"), "--learning-rate 0.0 is not above"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d.csv")
    Path("d.txt").write_text("text")
    Path("one.csv").write_text("text,kind\nx,a\ny,a\n")
    Path("empty.csv").write_text("text,kind\n,a\n ,b\n")
    Path("twice.csv").write_text("text,text,kind\nx,y,a\nx,y,b\n")
    Path("broken.parquet").write_text("PAR1 and no more")
    file, text, label, *rest = arguments
    result = run(file, "--text", text, "--label", label, "--out", "out", *rest)
    assert result.exit_code == 2
    assert message in result.output
    assert not Path("out").exists()


def test_a_folder_in_use_is_left_alone_unless_forced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("keep")
    data = write(tmp_path / "d.csv")
    columns = ("--text", "text", "--label", "kind", "--out", out, "--epochs", 1)
    result = run(data, *columns)
    assert result.exit_code == 2
    assert "is not empty; --force" in result.output
    assert [p.name for p in out.iterdir()] == ["mine"]
    assert run(data, *columns, "--force").exit_code == 0
    assert (out / "mine").read_text() == "keep"


def test_a_folder_that_cannot_be_made_is_named_before_training(tmp_path):
    (tmp_path / "file").write_text("keep")
    data = write(tmp_path / "d.csv")
    result = run(data, "--text", "text", "--label", "kind", "--out", tmp_path / "file" / "out")
    assert result.exit_code == 2
    assert "is a file; name a folder" in result.output
    assert "epoch" not in result.output
    assert (tmp_path / "file").read_text() == "keep"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning-rate", "1e30"], "with --learning-rate 1e+30; give a smaller one"),
        (["--char-ngrams", "5-3"], "--char-ngrams 5-3 is neither 0, a length of 2 or more, two"),
        (["--char-ngrams", "1"], "--char-ngrams 1 is neither"),
    ],
)
def test_messages_name_the_command_lines_options(options, message, tmp_path):
    result = run(write(tmp_path / "d.csv"), "--text", "text", "--label", "kind", "--out",
        tmp_path / "m", *options)  # fmt: skip
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "m").exists()


def test_words_to_show_may_be_anything(tmp_path):
    out = tmp_path / "out[bold]"
    result = run(write(tmp_path / "d.csv"), "--text", "text", "--label", "kind", "--out", out,
        "--epochs", 1, "--words", "Apple, pear,no[/b]pe")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "'no[/b]pe' is not in the vocabulary" in result.output
    assert "\napple" in result.output
    assert "\npear" in result.output
    assert "out[bold]" in result.output


def test_every_label_stays_in_the_training_part(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("text,kind\n" + "".join(f"word{i},kind{i}\n" for i in range(6)))
    result = run(path, "--text", "text", "--label", "kind", "--out", tmp_path / "out",
        "--validation", 0.9, "--epochs", 1, "--json", "--no-refit")  # fmt: skip
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.stdout)
    assert (outcome["words"], outcome["held_out"]["texts"]) == (5, 1)


def test_without_typer_one_line_says_what_to_install():
    program = "import sys; sys.modules['typer'] = None; from rowwise.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "rowwise's command line needs typer; pip install 'rowwise[cli]'\n"


def test_the_module_runs_as_the_program_does():
    command = [sys.executable, "-m", "rowwise", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == rowwise.__version__


def test_help_shows_an_example_and_version_the_version():
    assert "Example: rowwise train reviews.csv" in " ".join(run("--help").output.split())
    assert CliRunner().invoke(app, ["--version"]).output.strip() == rowwise.__version__


def test_python_docs_writes_the_same_texts_each_time_and_none_twice(tmp_path):
    script = Path(__file__).parents[2] / "examples" / "python_docs.py"
    command = [sys.executable, script, tmp_path / "docs.csv"]
    subprocess.run(command, check=True, capture_output=True)
    with (tmp_path / "docs.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    spec = importlib.util.spec_from_file_location("python_docs", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert header == ["text", "label"]
    assert len({text for text, _ in rows}) == len(rows) > 2000
    assert {label for _, label in rows} == {*module.FAMILIES, "language"}
    first = dict(list(module.FAMILIES.items())[:2])  # no texts of others keep texts of these out
    module.FAMILIES = first
    again = [list(document) for document in module.documents() if document[1] in first]
    assert again == [row for row in rows if row[1] in first]
