"""The server answers who knows its address, and nobody else."""

import csv
import http.client
import io
import json
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

import rowwise


def ask(server, method, path, body=None, host=None, token=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    headers = {"Host": host} if host else {}
    token = server.token if token is None else token
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
    connection.request(method, f"/{token}/{path}", data, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_it_listens_on_this_machine_alone_and_needs_the_token(server):
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32
    for token in ("", "wrong", server.token[:-1], server.token + "x", "%"):
        response, content = ask(server, "GET", "about", token=token)
        assert (response.status, content) == (404, b"not found\n")
    assert ask(server, "GET", "")[0].status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", "localhost"])
def test_another_host_name_is_refused(server, host):
    response, content = ask(server, "GET", "about", host=host)
    assert (response.status, content) == (403, b"not from here\n")


def test_nothing_but_its_own_files_may_run(server):
    response, _ = ask(server, "GET", "")
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in response.headers
    for path in ("../page.js", "%2e%2e/server.py", "server.py", "page/index.html", "etc/passwd"):
        assert ask(server, "GET", path)[0].status == 404


def test_facts_and_arrays(server):
    about = json.loads(ask(server, "GET", "about")[1])
    assert (about["rows"], about["dim"], about["untrained"]) == (60, 5, 1)
    assert about["snapshots"] == ["start", "end"]
    assert [column["name"] for column in about["columns"]] == [
        "<b>kind</b>", "updates", "norm", "moved since start",
    ]  # fmt: skip
    explorer = server.explorer
    for snapshot in (0, 1):
        coordinates = np.frombuffer(
            ask(server, "GET", f"coordinates?snapshot={snapshot}")[1], np.float32
        )
        np.testing.assert_array_equal(coordinates.reshape(-1, 2), explorer.coordinates(snapshot))
    updates = np.frombuffer(ask(server, "GET", "column?number=1")[1], np.float32)
    np.testing.assert_array_equal(updates, np.arange(60))
    untrained = np.frombuffer(ask(server, "GET", "untrained")[1], np.uint8)
    assert np.flatnonzero(untrained).tolist() == [0]


def test_words_and_neighbours(server):
    found = json.loads(ask(server, "GET", "search?text=WORD5")[1])
    assert found["words"] == ["word5", *(f"word5{i}" for i in range(6))]
    question = {"words": ["word1", "absent"], "ids": [7], "snapshot": 1, "k": 3}
    answer = json.loads(ask(server, "POST", "near", question)[1])
    assert (answer["of"], answer["missing"]) == ([7, 5], ["absent"])
    ids, cosines = server.explorer.near([7, 5], 3, 1)
    assert answer["ids"] == ids.tolist()
    np.testing.assert_allclose(answer["cosines"], cosines)
    assert json.loads(ask(server, "POST", "words", {"ids": [3, 4]})[1]) == ["(padding)", "word0"]


def test_chosen_rows_are_exported_with_columns_and_vectors(server):
    question = {"ids": [0, 9], "snapshot": 1, "vectors": True}
    text = ask(server, "POST", "export", question)[1].decode()
    first, second = csv.DictReader(io.StringIO(text))
    assert first["word"] == "<img src=x onerror=alert(1)>"
    assert (first["row"], first["untrained"], first["<b>kind</b>"]) == ("0", "1", "odd")
    assert (second["untrained"], second["updates"]) == ("0", "9")
    vector = np.array([second[f"d{d}"] for d in range(5)], np.float32)
    np.testing.assert_array_equal(vector, server.explorer.vectors[1][9])


@pytest.mark.parametrize(
    ("method", "path", "body", "message"),
    [
        ("GET", "coordinates?snapshot=2", None, "snapshot 2 is not among the 2 (0..1)"),
        ("GET", "coordinates?snapshot=x", None, "invalid literal"),
        ("GET", "coordinates", None, "snapshot"),
        ("GET", "column?number=-1", None, "column -1 is not among the 4"),
        ("POST", "words", {"ids": [60]}, "row 60 is not among the 60 rows (0..59)"),
        ("POST", "words", {"ids": [True]}, "row True"),
        ("POST", "words", {"ids": ["1"]}, "row '1'"),
        ("POST", "words", [1], "not an object"),
        ("POST", "near", {"words": [1], "snapshot": 0}, "not all text"),
        ("POST", "near", {"ids": 5, "snapshot": 0}, "not iterable"),
        ("POST", "words", b"{", "Expecting"),
        ("POST", "words", b"[" * 100_000, ""),
        ("POST", "words", b"\xff", "decode"),
    ],
)
def test_a_bad_question_is_answered_with_its_fault(server, method, path, body, message):
    response, content = ask(server, method, path, body)
    assert response.status == 400
    assert message in content.decode()
    assert ask(server, "GET", "about")[0].status == 200


def test_a_question_that_says_it_is_huge_is_not_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest("POST", f"/{server.token}/words")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 400
    assert b"is above" in response.read()


def test_the_command_serves_what_train_saved(tmp_path):
    table = rowwise.Table(5, 3, seed=0)
    table.vocabulary = rowwise.Vocabulary(["tea", "pot", "cup", "sky"])
    table.save(tmp_path / "a.safetensors")
    (tmp_path / "kinds.csv").write_text("word,kind\ntea,drink\ncup,thing\n")
    program = "from rowwise.cli import main; main()"
    options = ("a.safetensors", "--columns", "kinds.csv", "--no-browser")
    viewing = subprocess.Popen(
        [sys.executable, "-u", "-c", program, "view", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        told = viewing.stdout.readline()
        assert "5 rows: http://127.0.0.1:" in told
        with urllib.request.urlopen(told.split()[-1] + "about", timeout=10) as answer:
            about = json.load(answer)
        assert [column["name"] for column in about["columns"]] == ["kind", "updates", "norm"]
        assert about["columns"][0]["labels"] == ["drink", "thing"]
        question = urllib.request.Request(told.split()[-1] + "words", b'{"ids": [3, 4]}')
        with urllib.request.urlopen(question, timeout=10) as answer:
            assert json.load(answer) == ["sky", "row 4"]  # a row that has no word
    finally:
        viewing.kill()
        viewing.communicate()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.safetensors"], "there is no file"),
        (["a.safetensors", "b.txt"], "vectors of 3 numbers and 'b.txt' of 2"),
        (["a.safetensors", "--columns", "c.csv"], "has no column 'word'"),
    ],
)
def test_bad_input_to_the_command_is_named(tmp_path, monkeypatch, arguments, message):
    app = pytest.importorskip("rowwise.cli._app").app
    runner = pytest.importorskip("typer.testing").CliRunner()
    monkeypatch.chdir(tmp_path)
    rowwise.Table(2, 3, seed=0).save("a.safetensors")
    (tmp_path / "b.txt").write_text("tea 1 2\ncup 3 4\n")
    (tmp_path / "c.csv").write_text("name,kind\ntea,drink\n")
    result = runner.invoke(app, ["view", *arguments, "--no-browser"])
    assert result.exit_code == 2
    assert message in result.output
