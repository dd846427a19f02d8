"""Board: serve the page of all runs on this machine alone, or write it into one file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from pufferlib_kcore.analysis import board
from pufferlib_kcore.analysis.board.details import picture_files
from pufferlib_kcore.analysis.board.page import ASSETS
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic

HERE = "127.0.0.1"
HOSTS = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")  # any other name in Host is another site's page
EVERY = 1.0  # seconds from look to look at the folders
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, kw_only=True)
class BoardRequest:
    """Which folders, and where to."""

    roots: tuple[Path, ...]
    port: int = 8765  # 0: any that is free
    export: Path | None = None  # a file in place of a server
    cache: Path | None = None


def cache_file() -> Path:
    """Where the index is kept: below $XDG_CACHE_HOME, outside of what it is of."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pufferlib_kcore" / "board.json"


def export(request: BoardRequest) -> Path:
    """Write one page that holds all.  Raises UserError where it cannot."""
    assert request.export is not None
    index = board.Index(request.roots, request.cache).load()
    index.refresh()
    return atomic.write(request.export, board.exported(index).encode())


class Board(ThreadingHTTPServer):
    """Answers from the index, which a thread of its own keeps up to date; reads files, writes none."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, request: BoardRequest):
        self.index = board.Index(request.roots, request.cache).load()
        self.stopped = threading.Event()
        try:
            super().__init__((HERE, request.port), Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise UserError(
                f"port {request.port} cannot be had ({error.strerror}): choose another --port, or 0 for any"
            ) from None
        threading.Thread(target=self._look, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://{HERE}:{self.server_address[1]}/"

    def _look(self) -> None:
        while not self.stopped.is_set():
            began = time.monotonic()
            try:
                self.index.refresh()
            except OSError:  # a folder that is moved while it is read
                pass
            self.stopped.wait(max(EVERY, 4 * (time.monotonic() - began)))

    def server_close(self) -> None:
        self.stopped.set()
        super().server_close()


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of a few addresses; what a file is called is never taken from an address."""

    server: Board
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not HOSTS.fullmatch(self.headers.get("Host", "")):
            return self._plain(HTTPStatus.FORBIDDEN, "this board answers to 127.0.0.1 and localhost alone")
        path = urlsplit(self.path).path
        for pattern, answer in ROUTES.items():
            if found := re.fullmatch(pattern, path):
                return answer(self, *found.groups())
        self._plain(HTTPStatus.NOT_FOUND, "there is no such page")

    do_HEAD = do_GET

    def _refused(self) -> None:
        self.close_connection = True
        self._plain(HTTPStatus.METHOD_NOT_ALLOWED, "this board only shows")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refused

    def _page(self) -> None:
        self._send(board.page().encode(), "text/html; charset=utf-8")

    def _asset(self, name: str) -> None:
        self._send(board.asset(name).encode(), f"{ASSETS[name]}; charset=utf-8")

    def _runs(self) -> None:
        body = json.dumps(list(self.server.index.entries.values()), allow_nan=False).encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if self.headers.get("If-None-Match") == tag:
            return self._send(b"", "application/json", HTTPStatus.NOT_MODIFIED, tag)
        self._send(body, "application/json", tag=tag)

    def _run(self, id_: str) -> None:
        one = self.server.index.found.get(id_)
        if one is None:
            return self._plain(HTTPStatus.NOT_FOUND, "there is no such run")
        self._send(json.dumps(board.details(one), allow_nan=False).encode(), "application/json")

    def _picture(self, id_: str, number: str) -> None:
        one = self.server.index.found.get(id_)
        files = picture_files(one) if one else []
        if int(number) >= len(files):
            return self._plain(HTTPStatus.NOT_FOUND, "there is no such picture")
        self._send(files[int(number)].read_bytes(), "image/png")

    def _plain(self, status: HTTPStatus, text: str) -> None:
        self._send(f"{text}\n".encode(), "text/plain; charset=utf-8", status)

    def _send(
        self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, tag: str | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        if tag is not None:
            self.send_header("ETag", tag)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is the user's."""


ROUTES: dict[str, Callable[..., None]] = {
    "/": Handler._page,
    r"/(board\.css|chart\.js|board\.js)": Handler._asset,
    "/api/runs": Handler._runs,
    "/api/run/([0-9a-f]{12})": Handler._run,
    "/picture/([0-9a-f]{12})/([0-9]{1,4})": Handler._picture,
}


def serve(request: BoardRequest, say: Callable[[str], None]) -> None:
    """Until interrupted.  say: told the address.  Raises UserError for a port that is taken."""
    with Board(request) as server:
        say(server.address)
        server.serve_forever(poll_interval=0.2)
