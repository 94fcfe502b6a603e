"""Nobody's data is changed or lost: rows as they stand, models whole or not at all."""

import csv
import gzip
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.fasttext_files import Model
from rowwise.vectors import load

TextClassifier = pytest.importorskip("rowwise.sklearn").TextClassifier
app = pytest.importorskip("rowwise.cli._app").app
CliRunner = pytest.importorskip("typer.testing").CliRunner
from rowwise.cli._labelled import Columns, read_labelled, read_texts  # noqa: E402
from rowwise.cli._read import Layout, UsageError, read_columns  # noqa: E402

ROWS = [("apple pear plum", "fruit"), ("hammer saw drill", "tools")] * 30


def run(*arguments, input=None):
    return CliRunner().invoke(app, [*map(str, arguments)], input=input)


def write_csv(path, rows=ROWS, names=("text", "label"), **options):
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        csv.writer(file, **options).writerows([names, *rows] if names else rows)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    result = run("train", write_csv(folder / "d.csv"), "--out", folder / "model", "--epochs", 20)
    assert result.exit_code == 0, result.output
    return folder / "model"


# ---------------------------------------------------------------------- cells as they stand

ODD = [
    "01",
    "1",
    "1.0",
    "2.50",
    "1e3",
    "True",
    "10:00",
    "12345678901234567890",
    "NULL",
    "NaN",
    " x ",
]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_labels_and_texts_are_what_stands_in_the_file(tmp_path, ending):
    path = tmp_path / f"d{ending}"
    rows = [(value, value) for value in ODD]
    if ending == ".csv":
        write_csv(path, rows)
    elif ending == ".tsv":
        path.write_text("text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    elif ending == ".jsonl":
        path.write_text("".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in rows))
    else:
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({"text": ODD, "label": ODD}), path)
    found = read_labelled(path, Columns())
    assert found.texts == ODD
    assert [label for (label,) in found.labels] == ODD


def test_numbers_of_json_stand_as_they_are_written(tmp_path):
    (tmp_path / "d.jsonl").write_text(
        '{"text": "a", "label": 1}\n{"text": "b", "label": 1.0}\n{"text": "c", "label": true}\n'
        '{"text": "d", "label": 12345678901234567890}\n'
    )
    labels = read_labelled(tmp_path / "d.jsonl", Columns()).labels
    assert labels == [["1"], ["1.0"], ["true"], ["12345678901234567890"]]


def test_halves_of_characters_end_no_training(tmp_path):
    path = tmp_path / "d.jsonl"
    lines = [{"text": f"{w} \ud83d", "label": f"{label}\ud800"} for w, label in ROWS]
    path.write_text("\n".join(map(json.dumps, lines)))  # as \ud83d, which JSON can have
    result = run("train", path, "--out", tmp_path / "m", "--epochs", 2)
    assert result.exit_code == 0, result.output
    assert run("predict", tmp_path / "m", "apple").stdout == "fruit\N{REPLACEMENT CHARACTER}\n"


def test_quotation_marks_in_tsv_are_text_unless_asked(tmp_path):
    path = tmp_path / "d.tsv"
    path.write_text('text\tlabel\n"open\ta\nb\tb\n"c d"\ta\n')
    assert read_labelled(path, Columns()).texts == ['"open', "b", '"c d"']
    path.write_text('text\tlabel\n"c\nd"\ta\nb\tb\n')
    assert read_labelled(path, Columns(layout=Layout(quotes=True))).texts == ["c\nd", "b"]


def test_a_quotation_mark_that_is_never_closed_is_an_error(tmp_path):
    (tmp_path / "d.csv").write_text('text,label\n"open,a\nb,b\n')
    with pytest.raises(UsageError, match="opened and never closed; --no-quotes"):
        read_labelled(tmp_path / "d.csv", Columns())
    assert (
        read_labelled(tmp_path / "d.csv", Columns(layout=Layout(quotes=False))).texts[0] == '"open'
    )


@pytest.mark.parametrize("text", ["a\u2028b", "a\x0cb", "a\x85b", "a\x1cb", "a\x0bb"])
def test_lines_end_with_line_feeds_alone(model, tmp_path, text):
    result = run("predict", model, "-", input=f"{text}\nplum\n".encode())
    assert len(result.stdout.splitlines()) == 2
    (tmp_path / "d.txt").write_bytes(f"{text}\r\nplum\r\n".encode())
    assert read_texts(tmp_path / "d.txt", "text", Layout()) == [text, "plum"]
    write_csv(tmp_path / "d.csv", [(text, "x")])
    assert read_columns(tmp_path / "d.csv", "text") == [[text]]


def test_a_row_in_is_a_row_out(model, tmp_path):
    texts = ["plum", "", " ", "?!", "saw\nsaw", "\u2028", "hammer"]
    write_csv(tmp_path / "d.csv", [(text,) for text in texts], ("text",), quoting=csv.QUOTE_ALL)
    lines = "".join(json.dumps({"text": text or None}) + "\n" for text in texts)
    (tmp_path / "d.jsonl").write_text(lines)
    for name in ("d.csv", "d.jsonl"):
        answers = run("predict", model, "--file", tmp_path / name, "-k", 2).stdout.split("\n")
        assert len(answers) == len(texts) + 1
        assert answers[0].startswith("fruit")
        assert answers[-2].startswith("tools")


def test_a_file_given_as_a_text_is_told(model, tmp_path):
    may = write_csv(tmp_path / "may.csv", [("plum",)], ("review",))
    result = run("predict", model, may)
    assert f"'{may}' is labelled as a text; --file {may} reads" in result.stderr
    assert len(result.stdout.splitlines()) == 1
    for texts in ([may], ["plum", may]):
        result = run("predict", model, *texts, "--text", "review")
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"--file {may} reads the texts in it" in result.stderr
    result = run("predict", model, "plum", "--text", "review")
    assert result.exit_code == 2
    assert "--text review names a column of --file" in result.stderr
    for text in ("plum", "plum " * 5000):
        assert run("predict", model, text).stderr == ""
    assert run("predict", model, "--file", may, "--text", "review").stdout == "fruit\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close otherwise there")
def test_a_reader_that_has_enough_ends_predict_quietly(model):
    command = [sys.executable, "-m", "rowwise", "predict", str(model), "-"]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE)  # fmt: skip
    running.stdout.close()
    _, errors = running.communicate(b"apple\n" * 50_000, timeout=120)
    assert (running.returncode, errors) == (1, b"")


def test_rows_without_a_label_are_counted_and_said(tmp_path):
    path = write_csv(tmp_path / "d.csv", [*ROWS, ("a", ""), ("b", "  "), ("", "fruit")])
    found = read_labelled(path, Columns())
    assert (len(found.texts), found.unlabelled) == (61, 2)
    assert "" not in found.classes()
    result = run("train", path, "--out", tmp_path / "m", "--epochs", 1)
    assert "2 rows without a label left out" in " ".join(result.output.split())


def test_a_huge_cell_is_read(tmp_path):
    write_csv(tmp_path / "d.csv", [("word " * 1_000_000, "a"), ("b", "b")])
    assert len(read_labelled(tmp_path / "d.csv", Columns()).texts[0]) == 5_000_000


def test_a_row_with_other_cells_is_named(tmp_path):
    (tmp_path / "d.csv").write_text("text,label\na,x\nb,y,z\n")
    with pytest.raises(UsageError, match="row 3 has 3 cells, and the first row 2"):
        read_labelled(tmp_path / "d.csv", Columns())


# ---------------------------------------------------------------------- files of other kinds


def test_lines_of_fasttext_are_read(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("__label__a one two\n__label__a __label__b three\n\nnone\n__label__b\n")
    found = read_labelled(path, Columns())
    assert found.texts == ["one two", "three", ""]
    assert found.labels == [["a"], ["a", "b"], ["b"]]
    assert (found.several, found.unlabelled) == (True, 1)


def test_a_folder_with_a_folder_a_label_is_read(tmp_path):
    for label, text in (("good", "fine\nday"), ("bad", "rain")):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.txt").write_text(text)
    found = read_labelled(tmp_path, Columns())
    assert (found.texts, found.labels) == (["rain", "fine\nday"], [["bad"], ["good"]])
    with pytest.raises(UsageError, match="has no folders with texts"):
        read_labelled(tmp_path / "good", Columns())


def test_columns_go_by_number_without_a_header(tmp_path):
    write_csv(tmp_path / "d.csv", [("1", "text one", "a"), ("2", "two", "b")], None)
    columns = Columns("2", "3", layout=Layout(header=False))
    assert read_labelled(tmp_path / "d.csv", columns).texts == ["text one", "two"]


def test_a_text_file_with_tabs_is_tsv(tmp_path):
    (tmp_path / "d.txt").write_text("text\tlabel\none\ta\ntwo\tb\n")
    assert read_labelled(tmp_path / "d.txt", Columns()).texts == ["one", "two"]


def test_damaged_gzip_is_named(tmp_path):
    path = tmp_path / "d.tsv.gz"
    whole = gzip.compress(b"text\tlabel\napple pear\tfruit\n" * 20)
    refused = 0
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 0xFF
        path.write_bytes(changed)
        try:
            read_labelled(path, Columns())
        except UsageError as error:
            refused += "cannot be read after line" in str(error)
    assert refused > len(whole) / 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252", "utf-16-le"])
def test_other_encodings_are_read(tmp_path, encoding):
    write_csv(tmp_path / "d.csv", [("café", "x")], encoding=encoding)
    named = None if encoding in ("utf-8-sig", "utf-16") else encoding
    found = read_labelled(tmp_path / "d.csv", Columns(layout=Layout(named)))
    assert found.texts == ["café"]


def test_another_encoding_is_named_with_file_line_and_byte(tmp_path):
    write_csv(tmp_path / "d.csv", [("tea", "x"), ("café", "y")], encoding="cp1252")
    result = run("train", tmp_path / "d.csv", "--out", tmp_path / "m")
    assert result.exit_code == 2
    assert (
        "line 3, byte 4 (0xe9) is not UTF-8; name the encoding, such as --encoding" in result.output
    )
    result = run("train", tmp_path / "d.csv", "--out", tmp_path / "m", "--encoding", "nonsense")
    assert "--encoding 'nonsense' is not an encoding" in result.output


def test_several_labels_a_text(tmp_path):
    rows = [("apple", "fruit"), ("saw", "tools"), ("apple saw", "fruit|tools"), ("sky", "")] * 20
    path = write_csv(tmp_path / "d.csv", rows)
    result = run("train", path, "--out", tmp_path / "m", "--separator", "|", "--json")
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.stdout)
    assert outcome["labels"] == ["fruit", "tools"]
    assert outcome["held_out"]["accuracy"] == 1.0
    answers = run("predict", tmp_path / "m", "saw", "saw apple", "sky").stdout.split("\n")
    assert [set(answer.split("\t")) for answer in answers[:3]] == [
        {"tools"}, {"fruit", "tools"}, {""},
    ]  # fmt: skip
    answers = run("predict", tmp_path / "m", "saw apple", "-k", 2, "-p").stdout.split()
    assert {answers[0], answers[2]} == {"fruit", "tools"}
    assert min(float(answers[1]), float(answers[3])) > 0.5
    found = json.loads(run("test", tmp_path / "m", path, "--separator", "|", "--json").stdout)
    assert found["accuracy"] == 1.0
    assert found["confusion"] is None


# ---------------------------------------------------------------------- measuring


def test_a_model_is_tested(model, tmp_path):
    rows = [("apple", "fruit"), ("saw", "tools"), ("plum", "tools"), ("pear", "toys")]
    path = write_csv(tmp_path / "t.csv", rows)
    found = json.loads(run("test", model, path, "--json", "-k", 2).stdout)
    assert (found["texts"], found["accuracy"]) == (4, 0.5)
    assert (found["precision_at_k"], found["recall_at_k"]) == (3 / 8, 3 / 4)
    assert found["confusion"] == [[1, 0], [1, 1]]
    assert found["unknown_labels"] == ["toys"]
    tools = found["labels"][1]
    assert (tools["precision"], tools["recall"], tools["support"]) == (1.0, 0.5, 2)
    told = run("test", model, path).stdout
    assert "Accuracy 0.500" in told
    assert "Labels that the model does not have: toys" in told


def test_held_out_and_test_files_are_used(tmp_path):
    path = write_csv(tmp_path / "d.csv")
    held_out = write_csv(tmp_path / "v.csv", [("apple", "fruit"), ("saw", "tools")])
    result = run("train", path, "--out", tmp_path / "m", "--json", "--validation-file", held_out,
        "--test-file", held_out)  # fmt: skip
    outcome = json.loads(result.stdout)
    assert outcome["held_out"]["texts"] == outcome["test"]["texts"] == 2
    write_csv(held_out, [("apple", "food")])
    result = run("train", path, "--out", tmp_path / "n", "--validation-file", held_out)
    assert result.exit_code == 2
    assert "has the label 'food'" in " ".join(result.output.split())


def test_a_quantized_model_is_a_tenth_of_the_size_and_predicts(model, tmp_path):
    path = write_csv(tmp_path / "t.csv")
    result = run("quantize", model, "--out", tmp_path / "small", "--test-file", path, "--json",
        "--keep", 1)  # fmt: skip
    answer = json.loads(result.stdout)
    assert answer["accuracy"] == [1.0, 1.0]
    assert answer["bytes"][1] < answer["bytes"][0] / 3  # a small model has much that stays
    assert run("predict", tmp_path / "small", "apple", "saw").stdout == "fruit\ntools\n"
    assert run("neighbors", tmp_path / "small", "apple").exit_code == 0


@pytest.mark.parametrize("name", ["model.bin", "small.ftz"])
def test_fasttexts_own_models_predict_and_are_tested(tmp_path, name):
    labels = ["__label__drink", "__label__ride"]
    made = Model(["</s>", "tea", "car"], labels, [2, 1], quantized=name == "small.ftz", seed=1)
    (tmp_path / name).write_bytes(made.to_bytes())
    answer = json.loads(run("predict", tmp_path / name, "tea pot", "--json", "-k", 2).output)
    found = {x["label"]: x["probability"] for x in answer["labels"]}
    expected = dict(zip(["drink", "ride"], made.probabilities("tea pot"), strict=True))
    assert found == pytest.approx(expected, abs=1e-6)
    assert answer["unknown"] == ["pot"]
    texts = ["tea", "car", "tea car"]
    given = run("predict", tmp_path / name, *texts).output.splitlines()
    lines = [f"__label__{x} {text}" for x, text in zip(given, texts, strict=True)]
    (tmp_path / "test.txt").write_text("\n".join([*lines, "__label__other tea"]))
    scores = run("test", tmp_path / name, tmp_path / "test.txt", "--json").output
    assert json.loads(scores)["accuracy"] == 0.75
    result = run("quantize", tmp_path / name, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "is a file; name a folder that rowwise train made" in " ".join(result.output.split())


def test_labels_of_a_one_vs_all_model_are_those_of_one_half_and_more(tmp_path):
    labels = ["__label__a", "__label__b", "__label__c"]
    made = Model(["</s>", "tea"], labels, [3, 2, 1], loss="ova", seed=4)
    (tmp_path / "model.bin").write_bytes(made.to_bytes())
    given = run("predict", tmp_path / "model.bin", "tea").output.split()
    likely = made.probabilities("tea") >= 0.5
    assert sorted(given) == [label for label, one in zip("abc", likely, strict=True) if one]
    assert len(given) == 2
    best = made.probabilities("tea").max()
    for options, count in (
        (["--threshold", f"{best - 0.001:.4f}"], 1),
        (["--threshold", f"{best + 0.001:.4f}"], 0),
        (["--threshold", "0"], 3),
        (["--threshold", "0", "--top", "2"], 2),
    ):
        lines = run("predict", tmp_path / "model.bin", "tea", "tea", *options).output.split("\n")
        assert [len(line.split()) for line in lines] == [count, count, 0]


def test_words_of_a_model_are_written_as_vec(model, tmp_path):
    assert run("convert", model, tmp_path / "words.vec").exit_code == 0
    vectors, own = load(tmp_path / "words.vec"), TextClassifier.load(model)
    assert vectors.words == own._features.words
    np.testing.assert_allclose(vectors["saw"], own.table_[[own.vocabulary_["saw"]]][0])


def test_autotune_keeps_the_best_within_its_time(tmp_path):
    path = write_csv(tmp_path / "d.csv")
    result = run("autotune", path, "--out", tmp_path / "m", "--seconds", 2, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["trials"] >= 1
    assert answer["held_out"]["accuracy"] == 1.0
    assert run("predict", tmp_path / "m", "apple").stdout == "fruit\n"


# ---------------------------------------------------------------------- models, whole or not at all


def test_a_rate_that_ends_in_nan_saves_no_model(tmp_path):
    path = write_csv(tmp_path / "d.csv")
    result = run("train", path, "--out", tmp_path / "m", "--learning-rate", 1e37)
    assert result.exit_code == 2
    assert "the loss became nan" in " ".join(result.output.split())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.csv"]


def test_the_old_model_stays_until_the_new_one_is_whole(model, tmp_path, monkeypatch):
    path, out = write_csv(tmp_path / "d.csv"), tmp_path / "m"
    assert run("train", path, "--out", out, "--epochs", 1).exit_code == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rowwise.cli._new_folder.flush", fail)
    result = run("train", path, "--out", out, "--force", "--epochs", 2)
    assert result.exit_code == 2
    told = "".join(result.output.split())
    assert "Nospaceleftondevice;themodelisin" in told
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    (rescued,) = (p for p in tmp_path.iterdir() if p.name.startswith("rowwise-"))
    assert run("predict", rescued, "apple").exit_code == 0


def test_files_that_are_not_the_models_stay(tmp_path):
    path, out = write_csv(tmp_path / "d.csv"), tmp_path / "m"
    assert run("train", path, "--out", out, "--epochs", 1).exit_code == 0
    (out / "notes").write_text("mine")
    (out / "start.safetensors").write_text("of word vectors, once")
    assert run("train", path, "--out", out, "--force", "--epochs", 1).exit_code == 0
    assert (out / "notes").read_text() == "mine"
    assert not (out / "start.safetensors").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.csv", "m"]


@pytest.mark.skipif(sys.platform != "linux", reason="nobody can write into Linux's /proc")
def test_a_folder_that_cannot_be_written_is_named_before_training(tmp_path):
    path = write_csv(tmp_path / "d.csv")
    result = run("train", path, "--out", "/proc/rowwise/m")
    assert result.exit_code == 2
    assert "cannot be made" in result.output
    assert "epoch" not in result.output


def test_two_interrupts_lose_nothing(tmp_path):
    write_csv(tmp_path / "d.csv")
    command = ["train", "d.csv", "--out", "m", "--epochs", "1000000", "--patience", "1000000"]
    training = subprocess.Popen(
        [sys.executable, "-u", "-m", "rowwise", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in training.stdout:
        if line.startswith("epoch "):
            training.send_signal(signal.SIGINT)
            break
    for line in training.stdout:
        if "Interrupted" in line:
            training.send_signal(signal.SIGINT)
            break
    rest, _ = training.communicate(timeout=120)
    assert training.returncode == 130
    assert "Saved in m" in rest
    assert run("predict", tmp_path / "m", "pear").stdout == "fruit\n"


def test_what_comes_out_as_json_is_json(tmp_path):
    path = write_csv(tmp_path / "d.csv", [("apple", "a"), ("saw", "b")])
    result = run("train", path, "--out", tmp_path / "m", "--json", "--epochs", 1)
    assert result.exit_code == 0, result.output

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    json.loads(result.stdout, parse_constant=refuse)
    json.loads((tmp_path / "m" / "classifier.json").read_text(), parse_constant=refuse)


def test_a_report_on_a_changed_outcome_says_so(model, tmp_path):
    shutil.copytree(model, tmp_path / "m")
    outcome = json.loads((model / "classifier.json").read_text())
    for changed in ([], {}, outcome | {"labels": 3}, outcome | {"held_out": []}):
        (tmp_path / "m" / "classifier.json").write_text(json.dumps(changed))
        result = run("report", tmp_path / "m")
        assert result.exit_code == 2, changed
        assert "is not what rowwise train writes in classifier.json" in result.stderr


def test_the_vocabulary_of_another_model_is_refused(model, tmp_path):
    rows = [("apple pear plum", "tools"), ("hammer saw drill", "fruit")] * 30
    other = tmp_path / "other"
    assert run("train", write_csv(tmp_path / "d.csv", rows), "--out", other).exit_code == 0
    shutil.copytree(model, tmp_path / "m")
    shutil.copy(other / "table.safetensors", tmp_path / "m")
    result = run("predict", tmp_path / "m", "pear")
    assert result.exit_code == 2
    assert "table.safetensors has the checksum" in result.stderr


def test_a_report_and_a_page_are_made_of_a_classifier(model, tmp_path):
    result = run("report", model, "--out", tmp_path / "r.html")
    assert result.exit_code == 0, result.output
    from rowwise.cli._view import _snapshots

    (snapshot,) = _snapshots([Path(model)])
    assert "apple" in snapshot.words
    assert len(snapshot.words) == len(snapshot.vectors)
