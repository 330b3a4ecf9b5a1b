"""A server process of its own for each hostile client, and the proof that it is well."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from tests.hostile.raw import (
    MARKER,
    PING,
    connect,
    connecting_over_tls,
    frame,
    open_stream,
    read_head,
    request,
)

_SERVER = Path(__file__).with_name("server.py")
_ROOT = _SERVER.parents[2]
_SETTLE_S = 4.0
_TERM_S = 5.0


class Server:
    """`port` by listener. Use as a context manager; what is left of it is killed at the end."""

    def __init__(
        self,
        variant: Literal["guarded", "stock"],
        options: Mapping[str, float] | None = None,
    ) -> None:
        arguments = [f"{name}={value}" for name, value in (options or {}).items()]
        self._process = subprocess.Popen(
            [sys.executable, str(_SERVER), variant, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONWARNINGS": "ignore"},
        )
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise

    def _begin(self) -> None:
        assert self._process.stdout is not None
        ready = json.loads(self._process.stdout.readline())
        self.pid: int = ready["pid"]
        self.port: dict[str, int] = {
            "http": ready["http"],
            "websocket": ready["websocket"],
            "https": ready.get("https", 0),
            "wss": ready.get("wss", 0),
        }
        # The first request of each kind opens what stays open: it is no leak.
        self.check_health()
        self._descriptors = self._settled_descriptors()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def check_health(self) -> None:
        """A request and a stream are answered."""
        self._check_health(self.port["http"], self.port["websocket"])
        if self.port["https"]:
            with connecting_over_tls():
                self._check_health(self.port["https"], self.port["wss"])

    def _check_health(self, http: int, websocket: int) -> None:
        with connect(http) as opened:
            opened.sendall(request(b"/ping", b"Connection: close"))
            head = read_head(opened)
            assert head.startswith(b"HTTP/1.1 200 "), head
        with open_stream(websocket) as opened:
            opened.sendall(frame(PING, b"well?"))
            received = b""
            while b"well?" not in received:
                part = opened.recv(4096)
                assert part, "the stream was ended"
                received += part

    def check_descriptors(self, settle_s: float = _SETTLE_S) -> None:
        """As many are open as before the attack, after `settle_s` at most."""
        deadline = time.monotonic() + settle_s
        while (count := self._count_descriptors()) > self._descriptors:
            assert time.monotonic() < deadline, f"{count - self._descriptors} descriptors leaked"
            time.sleep(0.02)

    def terminate(self) -> str:
        """SIGTERM must end it, with exit code 0, within 5 s. What it logged."""
        os.kill(self.pid, signal.SIGTERM)
        _, errors = self._process.communicate(timeout=_TERM_S)
        log = errors.decode(errors="replace")
        assert self._process.returncode == 0, log
        return log

    def check_log(self, log: str) -> None:
        """Nothing of ours failed, and nothing the client sent, nor an exception's words, is told."""
        assert "connection_failed" not in log, log
        assert "Traceback" not in log, log
        assert MARKER.decode() not in log, log
        assert "secret words" not in log, log

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGESIZE"
        )

    def _count_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def _settled_descriptors(self) -> int:
        """The health check's own connections must not count as the base."""
        lowest = self._count_descriptors()
        deadline = time.monotonic() + _SETTLE_S
        while time.monotonic() < deadline:
            time.sleep(0.03)
            count = self._count_descriptors()
            if count == lowest:
                return lowest
            lowest = min(lowest, count)
        return lowest
