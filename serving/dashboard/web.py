"""Answers browsers: the page's own files, and the state as JSON. Reads only: there is no other method than GET."""

import functools
import http.server
import importlib.resources
import json
import math
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from serving.dashboard.state import Board
from serving.errors import ServingError

__all__ = ["Website", "plain"]

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
# Nothing but our own files, whatever stands in a reason or a task's name.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Website:
    """Serves a board at host:port from `start` to `close`."""

    def __init__(self, board: Board, address: str) -> None:
        """Binds the address; port 0 takes any free one. Raises ServingError where it cannot be bound."""
        host, _, port = address.rpartition(":")
        try:
            self._server = http.server.ThreadingHTTPServer((host, int(port)), functools.partial(_Handler, board))
        except (OSError, ValueError, OverflowError) as error:
            raise ServingError(f"--address: {address!r} cannot be bound ({error}); give host:port, e.g. 127.0.0.1:8090") from error
        self._server.daemon_threads = True
        self.address = f"{host}:{self._server.server_port}"
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.1,), name="dashboard", daemon=True),
            threading.Thread(target=board.watch, args=(self._stop,), name="dashboard-looks", daemon=True),
        ]

    def start(self) -> None:
        """Answers from now on."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends both threads and frees the port."""
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    # A connection a request: none that is kept open outlives the website.
    protocol_version = "HTTP/1.0"
    server_version = "slateloop"
    sys_version = ""
    # A browser that opens a connection and asks nothing keeps no thread for ever, seconds.
    timeout = 60.0

    def __init__(self, board: Board, *arguments: Any) -> None:
        self._board = board
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Files of the page, /api/tasks.json and /api/state.json?task=NAME."""
        asked = urllib.parse.urlsplit(self.path)
        name = asked.path.removeprefix("/") or "index.html"
        if name in _TYPES:
            self._send(200, _TYPES[name], _file(name))
        elif name in _API:
            self._send(200, "application/json", _json(_API[name](self._board, dict(urllib.parse.parse_qsl(asked.query)))))
        else:
            self._send(404, "application/json", _json({"error": f"{asked.path[:100]}: there is no such page; begin at /"}))

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: a page that asks every few seconds would bury what matters."""

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for key, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


def _state(board: Board, query: Mapping[str, str]) -> dict[str, Any]:
    tasks = board.tasks()
    return board.state(query.get("task") or (tasks[0] if tasks else ""))


_API: Mapping[str, Callable[[Board, Mapping[str, str]], dict[str, Any]]] = {
    "api/tasks.json": lambda board, query: {"tasks": board.tasks()},
    "api/state.json": _state,
}


@functools.cache
def _file(name: str) -> bytes:
    return (importlib.resources.files("serving.dashboard") / "page" / name).read_bytes()


def _json(value: Any) -> bytes:
    return json.dumps(plain(value), allow_nan=False).encode()


def plain(value: Any) -> Any:
    """The data with null for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
