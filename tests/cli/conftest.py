import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from yoi_daemon.cli.main import run_command


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Run:
    """Runs command lines as the script does, and gives what a shell would see."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Outcome:
        self._capsys.readouterr()
        code = run_command(arguments)
        out, err = self._capsys.readouterr()
        return Outcome(code, out, err)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    for name in list(os.environ):
        if name.startswith("XDG_") or name.endswith("_DIRECTORY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Run(capsys)


class Requested(NamedTuple):
    method: str
    path: str
    token: str
    key: str | None
    body: bytes


class FakeDaemon:
    """Answers over real HTTP what a test put into `answers`, and notes what was asked.

    An answer is (status, body), or a list of them, one after the other, the last one for ever. A body of
    bytes is sent as it is, another as JSON.
    """

    def __init__(self, state: Path, port: int) -> None:
        self.state = state
        self.url = f"http://127.0.0.1:{port}"
        self.answers: dict[str, tuple[int, Any] | list[tuple[int, Any]]] = {}
        self.requests: list[Requested] = []
        self.write()

    def write(self, **fields: Any) -> None:
        self.state.mkdir(exist_ok=True)
        told = {"pid": os.getpid(), "api": self.url, "epoch": "e", "version": "0", **fields}
        (self.state / "daemon.json").write_text(json.dumps(told))
        (self.state / "admin.token").write_text("tok\n")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            fake.requests.append(
                Requested(
                    self.command,
                    self.path,
                    self.headers.get("authorization", ""),
                    self.headers.get("idempotency-key"),
                    body,
                )
            )
            missing = (404, {"code": "route_not_found", "detail": "no such route"})
            found = fake.answers.get(f"{self.command} {self.path}", missing)
            if isinstance(found, list):
                found = found.pop(0) if len(found) > 1 else found[0]
            status, answer = found
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET
        do_DELETE = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake = FakeDaemon(tmp_path / "state", server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()
