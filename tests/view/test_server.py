"""The server answers who knows its address, and nobody else."""

import contextlib
import csv
import http.client
import io
import json
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest

import rowwise
from rowwise.inspect import Layout
from rowwise.inspect.view import Explorer, Server, Snapshot


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
    assert about["layout"] is None
    assert about["enlarged"] == [server.explorer.enlarged[0], 1]
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


def test_places_of_a_layout_reach_the_page(server, monkeypatch):
    places = np.arange(120, dtype=np.float32).reshape(60, 2)
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    explorer = Explorer([Snapshot("now", rows)], layout=Layout("UMAP", places))
    monkeypatch.setattr(server, "explorer", explorer)
    assert json.loads(ask(server, "GET", "about")[1])["layout"] == "UMAP"
    found = np.frombuffer(ask(server, "GET", "coordinates?snapshot=0")[1], np.float32)
    np.testing.assert_array_equal(found.reshape(60, 2), places)


def test_words_and_neighbours(server):
    found = json.loads(ask(server, "GET", "search?text=WORD5")[1])
    assert found["words"] == ["word5", *(f"word5{i}" for i in range(6))]
    question = {"words": ["word1", "absent"], "ids": [7], "snapshot": 1, "k": 3}
    answer = json.loads(ask(server, "POST", "near", question)[1])
    assert (answer["of"], answer["missing"]) == ([7, 5], ["absent"])
    ids, cosines = server.explorer.near([7, 5], 3, 1)
    assert answer["ids"] == ids.tolist()
    np.testing.assert_allclose(answer["cosines"], cosines)
    row = json.loads(ask(server, "GET", "row?id=9")[1])
    assert row["word"] == "word5"
    assert row["columns"][:2] == [["<b>kind</b>", "even"], ["updates", "9"]]
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
        ("GET", "row?id=60", None, "row 60 is not among the 60 rows (0..59)"),
        ("GET", "row?id=x", None, "invalid literal"),
        ("POST", "words", {"ids": [60]}, "row 60 is not among the 60 rows (0..59)"),
        ("POST", "words", {"ids": [True]}, "row True"),
        ("POST", "words", {"ids": ["1"]}, "row '1'"),
        ("POST", "words", [1], "not an object"),
        ("POST", "near", {"words": [1], "snapshot": 0}, "not all text"),
        ("POST", "near", {"ids": 5, "snapshot": 0}, "not iterable"),
        ("POST", "near", {"ids": [1], "snapshot": 0, "k": float("inf")}, "infinity"),
        ("POST", "near", {"ids": [1], "snapshot": float("inf")}, "infinity"),
        ("POST", "near", {"ids": [1], "snapshot": "\ud800"}, "invalid literal"),
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


def raw(server, request, timeout=10):
    """The whole answer to bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=timeout) as client:
        with contextlib.suppress(OSError):  # it may answer before it has heard all
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(OSError):
            while piece := client.recv(1 << 16):
                answer += piece
        return answer


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET http://[/ HTTP/1.1", 404),
        ("GET http://[::1/TOKEN/about HTTP/1.1", 404),
        ("GET /TOKEN/../TOKEN/about HTTP/1.1", 404),
        ("GET /TOKEN/../../../../etc/passwd HTTP/1.1", 404),
        ("GET /TOKEN/..%2f..%2fserver.py HTTP/1.1", 404),
        ("GET /TOKEN/page.js\0.html HTTP/1.1", 404),
        ("GET /TOKEN/\0 HTTP/1.1", 404),
        ("GET /TOKEN/%00 HTTP/1.1", 404),
        ("GET \xff\xfe/ HTTP/1.1", 404),
        ("GET /TOKEN/search?text=%ff%00&%%% HTTP/1.1", 200),
        ("GET /" + "x" * 1_000_000 + " HTTP/1.1", 414),
        ("GET / HTTP/1.1\r\nX: " + "x" * 1_000_000, 431),
        ("GET / HTTP/1.1" + "\r\nX: x" * 200, 431),
        ("GET / HTTP/9.9", 505),
        ("BREW / HTTP/1.1", 501),
        ("POST /TOKEN/words HTTP/1.1\r\nContent-Length: -1", 400),
        ("POST /TOKEN/words HTTP/1.1\r\nContent-Length: many", 400),
        ("POST /TOKEN/words HTTP/1.1\r\nTransfer-Encoding: chunked", 400),
        ("nonsense", 400),
        ("", None),
    ],
)
def test_a_request_that_no_browser_makes_is_refused_without_a_word_here(
    server, line, status, capfd
):
    host = f"\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n"
    answer = raw(server, (line.replace("TOKEN", server.token) + host).encode("latin-1"))
    too_long = not answer and len(line) > 10**6  # the connection broke before it heard all
    assert too_long or (int(answer.split()[1]) if answer else None) == status
    assert b"root:" not in answer
    assert ask(server, "GET", "about")[0].status == 200
    assert capfd.readouterr() == ("", "")


def test_the_page_is_answered_beside_500_connections_that_say_nothing_or_too_little(server):
    with contextlib.ExitStack() as stack:
        for number in range(500):
            idle = socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
            stack.enter_context(idle).sendall(b"GET /"[: number % 6])
        assert ask(server, "GET", "about")[0].status == 200


def test_the_page_is_answered_beside_500_clients_that_send_byte_by_byte(server):
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: {'x' * 1_000_000}".encode()
    before, done = threading.active_count(), threading.Event()
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
            for _ in range(500)
        ]

        def send_byte_by_byte():
            for byte in request:
                for client in slow:
                    with contextlib.suppress(OSError):  # closed, as there are newer ones
                        client.send(bytes([byte]))
                if done.is_set():
                    return

        sending = threading.Thread(target=send_byte_by_byte)
        sending.start()
        try:
            longest = 0.0
            for _ in range(20):
                began = time.monotonic()
                assert ask(server, "GET", "about")[0].status == 200
                longest = max(longest, time.monotonic() - began)
                assert threading.active_count() - before < 150
        finally:
            done.set()
            sending.join()
    assert longest < 10


def test_words_that_no_encoding_holds_are_exported(tmp_path):
    explorer = Explorer([Snapshot("a", np.ones((1, 2), np.float32), ["\ud800"])])
    with Server(explorer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        response, content = ask(server, "POST", "export", {"ids": [0], "snapshot": 0})
        server.shutdown()
    assert response.status == 200
    assert b"\\ud800" in content


def test_the_browser_is_told_the_address_in_a_file_of_this_user_alone(monkeypatch):
    view = pytest.importorskip("rowwise.cli._view")
    seen = []

    def opened(url):
        path = Path(url2pathname(urlsplit(url).path))
        seen.append((url, stat.S_IMODE(path.parent.stat().st_mode), path.read_text(), path))

    monkeypatch.setattr("webbrowser.open", opened)
    with view._in_browser("http://127.0.0.1:1/secret/", False):
        assert not seen
    with view._in_browser("http://127.0.0.1:1/secret/", True):
        ((url, mode, text, path),) = seen
    assert "secret" not in url
    assert mode == 0o700
    assert "url=http://127.0.0.1:1/secret/" in text
    assert not path.exists()


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
        (["a.safetensors", "b.txt", "--layout", "tsne"], "--layout tsne places the rows of one"),
        (["a.safetensors", "--layout", "tsne"], "t-SNE needs 5 rows or more, and there are 2"),
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
