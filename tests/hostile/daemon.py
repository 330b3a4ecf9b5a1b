"""The real daemon with a plugin to aim at, and what is measured of it from outside."""

import json
import os
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.e2e.conftest import DaemonProcess
from tests.hostile.raw import connect, read_all

_PLUGIN = """
import msgspec
from yoi_daemon.sdk import Context, IngressEvent, Plugin

plugin = Plugin("target")


class Number(msgspec.Struct):
    n: int


@plugin.ingress("take", overflow="drop_oldest")
async def take(ctx: Context, event: IngressEvent) -> None:
    pass


@plugin.every(seconds=0.1)
async def tick(ctx: Context, event: IngressEvent) -> None:
    for _ in range(TICKS):
        await ctx.emit("tick", {"text": "x" * 8000})


@plugin.tool("double")
async def double(ctx: Context, number: Number) -> Number:
    return Number(2 * number.n)
"""
# Small: what is measured is what a connection costs, not the log's window filling up.
_SETTINGS = """
[observe]
window_events = 500
window_bytes = 1_048_576
"""
_TLS = """
[api]
tls_certificate = "cert"
tls_key = "key"
"""
CERTIFICATES = Path(__file__).parents[1] / "data" / "tls"
_SETTLE_S = 20.0


class Answer(NamedTuple):
    """`code` is the problem's, or a Close frame's; empty where there is none."""

    status: int
    code: str


def configure(config: Path, state: Path, *, tls: bool = False, ticks: int = 0) -> None:
    """Writes the configuration of a target; `ticks` events of 8 kB are emitted ten times a second."""
    (config / "plugins").mkdir(parents=True, exist_ok=True)
    (config / "plugins" / "target.py").write_text(_PLUGIN.replace("TICKS", str(ticks)))
    secrets = state / "secrets"
    secrets.mkdir(parents=True, mode=0o700)
    shutil.copy(CERTIFICATES / "server.pem", secrets / "cert")
    shutil.copy(CERTIFICATES / "server.key", secrets / "key")
    text = _SETTINGS + 'tls_certificate = "cert"\ntls_key = "key"\n' * tls + _TLS * tls
    (config / "yoi-daemon.toml").write_text(text)


class Target:
    """A running daemon, seen from outside."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.api = _port(daemon.api)
        self.observe = _port(daemon.observe)
        self.pid = daemon.process.pid

    def head(self, method: str, path: str, *headers: str, port: int = 0) -> bytes:
        """A head as a well-behaved client of this daemon sends it, without its end."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port or self.api}"]
        return "\r\n".join(
            [*lines, f"Authorization: Bearer {self.daemon.token}", *headers]
        ).encode()

    def request(self, method: str, path: str, body: bytes | None = None, *headers: str) -> bytes:
        """A whole request, after which the daemon is to close the connection."""
        lines = ["Connection: close", *headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        return self.head(method, path, *lines) + b"\r\n\r\n" + (body or b"")

    def post_json(self, path: str, body: bytes) -> bytes:
        return self.request("POST", path, body, "Content-Type: application/json")

    def upgrade(self, path: str = "/v1/events", *, token: bool = True) -> bytes:
        """A request to open a stream."""
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.observe}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
            "Sec-WebSocket-Version: 13",
        ]
        if token:
            lines.append(f"Authorization: Bearer {self.daemon.token}")
        return "\r\n".join([*lines, "", ""]).encode()

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def settled_descriptors(self, most: int) -> int:
        """How many are open, once no more than `most` are, or after a while."""
        deadline = time.monotonic() + _SETTLE_S
        while (count := self.descriptors()) > most and time.monotonic() < deadline:
            time.sleep(0.1)
        return count


def ask(port: int, payload: bytes, *, timeout: float = 30) -> Answer:
    """Sends `payload`, reads to the end."""
    with connect(port, timeout=timeout) as opened:
        # The daemon may answer, and close, before it has been sent all.
        with suppress(ConnectionError):
            opened.sendall(payload)
        return answer_of(read_all(opened))


def answer_of(received: bytes) -> Answer:
    """The status of an HTTP answer and the code of its problem, or of its last line."""
    head, _, body = received.partition(b"\r\n\r\n")
    if not head:
        return Answer(0, "")
    problem: Any = {}
    for line in body.splitlines():
        with suppress(ValueError):
            told = json.loads(line)
            problem = told if isinstance(told, dict) and "code" in told else problem
    return Answer(int(head.split()[1]), problem.get("code", ""))


class Latencies:
    """What healthy requests took, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failures: list[str] = []

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.seconds, n=100)[98]


@contextmanager
def healthy_requests(target: Target, *, pause_s: float) -> Generator[Latencies]:
    """Someone who asks for the plugins' list again and again on one connection, beside the block."""
    over = threading.Event()
    latencies = Latencies()

    def ask_on() -> None:
        """Until the daemon says that the connection has carried enough, or it is over."""
        request = target.head("GET", "/api/plugins") + b"\r\n\r\n"
        with connect(target.api, timeout=20) as opened:
            head = b""
            while not over.is_set() and b"connection: close" not in head:
                begun = time.monotonic()
                opened.sendall(request)
                head = _read_answer(opened)
                latencies.seconds.append(time.monotonic() - begun)
                if not head.startswith(b"http/1.1 200 "):
                    latencies.failures.append(head.decode("latin-1"))
                over.wait(pause_s)

    def run() -> None:
        try:
            while not over.is_set():
                ask_on()
        except Exception as error:  # noqa: BLE001 - told below
            latencies.failures.append(repr(error))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield latencies
    finally:
        over.set()
        thread.join()
    assert not latencies.failures, latencies.failures[:3]


def _read_answer(opened: socket.socket) -> bytes:
    """Reads a whole answer; gives its head, in lower case."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = opened.recv(65536)
        if not part:
            raise ConnectionError("the healthy connection was ended")
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    head = head.lower()
    lines = head.split(b"\r\n")
    (length,) = (int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    while len(body) < length:
        part = opened.recv(65536)
        if not part:
            raise ConnectionError("the healthy connection was ended")
        body += part
    return head


def at_once(actions: Sequence[Callable[[], None]], *, threads: int) -> None:
    """Runs every action, `threads` of them at a time. Raises the first failure."""
    left = iter(actions)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        while not failures:
            with lock:
                action = next(left, None)
            if action is None:
                return
            try:
                action()
            except BaseException as error:  # noqa: BLE001 - raised again below
                failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
