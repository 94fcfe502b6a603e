"""The page's server: it listens on this machine alone, at an address nobody can guess."""

from __future__ import annotations

import csv
import hmac
import io
import json
import secrets
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from rowwise.inspect.view._explorer import Explorer

_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
    **{
        name: (name, "text/javascript; charset=utf-8")
        for name in ("page.js", "picture.js", "colours.js", "server.js")
    },
}
_HEADERS = {
    # Nothing but the page's own files is loaded or run, whatever words hold.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address is a secret
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_JSON, _BYTES, _CSV = "application/json", "application/octet-stream", "text/csv; charset=utf-8"
_LONGEST = 64 << 20  # bytes of a question: ids of some millions of rows
_MOST = 1000  # answers to one
_CONNECTIONS = 128  # at once; each has a thread and a file


class Server(ThreadingHTTPServer):
    """Serve an explorer on 127.0.0.1; `serve_forever` until `shutdown`.

    The address holds a random token, without which everything is "not found"; requests under
    another host name than this machine's are refused, as pages of other sites may make them (DNS
    rebinding). Of more than 128 connections the oldest are closed, so that clients that never
    finish a request keep nobody from theirs.

    Args:
        explorer: the rows.
        title: of the page.
        port: 0: any that is free.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True
    request_queue_size = 128  # connections that wait to be accepted

    def __init__(self, explorer: Explorer, title: str = "Rows", port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.explorer, self.title = explorer, title
        self.token = secrets.token_urlsafe(24)
        self._open: dict[Any, None] = {}  # connections, oldest first

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own; close the oldest of too many."""
        self._open[request] = None
        for oldest in list(self._open)[:-_CONNECTIONS]:
            with suppress(OSError):  # it has just ended
                oldest.shutdown(socket.SHUT_RDWR)
            self._open.pop(oldest, None)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that was answered."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that leaves in the middle of an answer."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"


class _Refused(Exception):
    """The reason why a request is refused."""


# What a question of another form than the page's makes of the code that answers it.
_FAULTS = (_Refused, ValueError, TypeError, KeyError, ArithmeticError, RecursionError)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "rowwise"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without a byte

    def do_GET(self) -> None:
        """Answer with files, facts and arrays."""
        self._answer(
            {
                "about": self._about,
                "coordinates": self._coordinates,
                "column": self._column,
                "untrained": self._untrained,
                "row": self._row,
                "search": self._search,
            }
        )

    def do_POST(self) -> None:
        """Answer questions about rows."""
        self._answer({"words": self._words, "near": self._near, "export": self._export})

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the terminal is the user's."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request, or too long, as any other that is refused."""
        self.request_version = self.protocol_version  # else there is no status line
        status = HTTPStatus(code)
        self._send(status, "text/plain", f"{status.phrase.lower()}\n".encode())

    # ------------------------------------------------------------------ of any request

    def _answer(self, questions: dict[str, Callable[[], tuple[str, bytes]]]) -> None:
        path, _, query = self.path.partition("?")
        token, slash, name = path[1:].partition("/")
        known = hmac.compare_digest(token.encode(), self.server.token.encode())
        port = self.server.server_port
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            return self._send(HTTPStatus.FORBIDDEN, "text/plain", b"not from here\n")
        if not (known and slash):
            return self._send(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")
        self.asked = {key: values[-1] for key, values in parse_qs(query).items()}
        if self.command == "GET" and name in _FILES:
            file, kind = _FILES[name]
            return self._send(
                HTTPStatus.OK, kind, (files("rowwise.inspect.view") / "page" / file).read_bytes()
            )
        if name not in questions:
            return self._send(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")
        try:
            kind, body = questions[name]()
        except _FAULTS as error:
            fault = f"{error}\n".encode(errors="backslashreplace")
            return self._send(HTTPStatus.BAD_REQUEST, "text/plain", fault)
        return self._send(HTTPStatus.OK, kind, body)

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status != HTTPStatus.OK:  # a question that was not read would be taken for the next
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _question(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length", "0"))
        if not 0 <= length <= _LONGEST:
            raise _Refused(f"a question of {length} bytes is above {_LONGEST}")
        question = json.loads(self.rfile.read(length))
        if not isinstance(question, dict):
            raise _Refused("the question is not an object")
        return question

    def _ids(self, question: dict[str, Any]) -> list[int]:
        ids, rows = question.get("ids", []), len(self.server.explorer.words)
        for row in ids:
            if type(row) is not int or not 0 <= row < rows:
                raise _Refused(f"row {row!r} is not among the {rows} rows (0..{rows - 1})")
        return list(ids)

    def _snapshot(self, value: Any) -> int:
        snapshot, count = int(value), len(self.server.explorer.names)
        if not 0 <= snapshot < count:
            raise _Refused(f"snapshot {snapshot} is not among the {count} (0..{count - 1})")
        return snapshot

    # ------------------------------------------------------------------ the questions

    def _about(self) -> tuple[str, bytes]:
        explorer = self.server.explorer
        columns = [
            {"name": column.name, "labels": column.labels, "log": column.log}
            for column in explorer.columns
        ]
        return _json(
            {
                "title": self.server.title,
                "rows": len(explorer.words),
                "dim": explorer.vectors[-1].shape[1],
                "untrained": int(explorer.untrained.sum()),
                "snapshots": explorer.names,
                "enlarged": explorer.enlarged,
                "columns": columns,
                "layout": None if explorer.layout is None else explorer.layout.name,
                "variance_explained": explorer.projection.variance_explained.tolist(),
            }
        )

    def _coordinates(self) -> tuple[str, bytes]:
        snapshot = self._snapshot(self.asked["snapshot"])
        return _BYTES, self.server.explorer.coordinates(snapshot).tobytes()

    def _column(self) -> tuple[str, bytes]:
        columns = self.server.explorer.columns
        number = int(self.asked["number"])
        if not 0 <= number < len(columns):
            raise _Refused(f"column {number} is not among the {len(columns)}")
        return _BYTES, columns[number].values.astype(np.float32).tobytes()

    def _untrained(self) -> tuple[str, bytes]:
        return _BYTES, self.server.explorer.untrained.astype(np.uint8).tobytes()

    def _row(self) -> tuple[str, bytes]:
        explorer = self.server.explorer
        (row,) = self._ids({"ids": [int(self.asked["id"])]})
        cells = [(column.name, column.cell(row)) for column in explorer.columns]
        filled = [(name, cell) for name, cell in cells if cell]
        return _json({"word": explorer.words[row], "columns": filled})

    def _search(self) -> tuple[str, bytes]:
        explorer = self.server.explorer
        ids = explorer.search(self.asked.get("text", "")).tolist()
        return _json({"ids": ids, "words": [explorer.words[row] for row in ids]})

    def _words(self) -> tuple[str, bytes]:
        words = self.server.explorer.words
        return _json([words[row] for row in self._ids(self._question())[:_MOST]])

    def _near(self) -> tuple[str, bytes]:
        explorer, question = self.server.explorer, self._question()
        words = question.get("words", [])
        if not all(isinstance(word, str) for word in words):
            raise _Refused("words are not all text")
        found, missing = explorer.rows_of(words)
        rows = [*dict.fromkeys([*self._ids(question), *found])]
        answer: dict[str, Any] = {"of": rows, "missing": missing, "ids": [], "words": []}
        if rows:
            k = min(max(int(question.get("k", 20)), 0), _MOST)
            ids, cosines = explorer.near(rows, k, self._snapshot(question["snapshot"]))
            answer["ids"], answer["cosines"] = ids.tolist(), cosines.tolist()
            answer["words"] = [explorer.words[row] for row in ids]
        return _json(answer)

    def _export(self) -> tuple[str, bytes]:
        """Answer with chosen rows, their columns and vectors, as CSV."""
        explorer, question = self.server.explorer, self._question()
        ids, vectors = self._ids(question), explorer.vectors[self._snapshot(question["snapshot"])]
        columns = explorer.columns
        numbers = range(vectors.shape[1]) if question.get("vectors") else ()
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        names = [column.name for column in columns]
        writer.writerow(["row", "word", "untrained", *names, *(f"d{d}" for d in numbers)])
        for row in ids:
            cells = [column.cell(row) for column in columns]
            start = [row, explorer.words[row], int(explorer.untrained[row])]
            writer.writerow([*start, *cells, *(repr(float(vectors[row, d])) for d in numbers)])
        return _CSV, text.getvalue().encode(errors="backslashreplace")


def _json(answer: Any) -> tuple[str, bytes]:
    return _JSON, json.dumps(answer).encode()
