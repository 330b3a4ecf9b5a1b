import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from queue import Queue

import pytest

READY_WITHIN_S = 20
"""A bound against hanging, wide enough for a busy machine; what is promised is measured elsewhere."""


class DaemonProcess:
    """The real program, as a user starts it, on kernel-chosen ports; `program` is another way to start it."""

    def __init__(
        self,
        config: Path,
        state: Path,
        program: Sequence[str] = (sys.executable, "-m", "yoi_daemon"),
        **environ: str,
    ) -> None:
        self.config = config
        self.state = state
        env = {key: value for key, value in os.environ.items() if not key.startswith("YOI__")}
        env |= {"YOI__API__LISTEN": "127.0.0.1:0", "YOI__OBSERVE__LISTEN": "127.0.0.1:0"} | environ
        self.process = subprocess.Popen(
            [*program, "run", "--config", config, "--state", state],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._out: Queue[str] = Queue()
        self._readers = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._read_err, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._out.put(line)
        self._out.put("")

    def _read_err(self) -> None:
        assert self.process.stderr
        self.lines.extend(self.process.stderr)

    def wait_ready(self) -> "DaemonProcess":
        line = self._out.get(timeout=READY_WITHIN_S)
        assert line.startswith("ready "), (line, self.lines)
        words = dict(word.split("=", 1) for word in line.split()[1:])
        self.api, self.observe = words["api"], words["observe"]
        self.token = (self.state / "admin.token").read_text().strip()
        return self

    def request(self, method: str, path: str, body=None, headers=None, token=True):
        """Gives (status, decoded JSON)."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        if token:
            sent["Authorization"] = f"Bearer {self.token}"
        asked = urllib.request.Request(
            self.api + path, data=data, method=method, headers=sent | (headers or {})
        )
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 15) -> int:
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(5)
        return code

    def stop(self) -> int:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()


@pytest.fixture
def start_daemon(tmp_path):
    """Starts daemons; ends whatever of them is left."""
    started: list[DaemonProcess] = []

    def start(config: Path, state: Path | None = None, ready: bool = True, **environ: str):
        daemon = DaemonProcess(config, state or tmp_path / "state", **environ)
        started.append(daemon)
        return daemon.wait_ready() if ready else daemon

    yield start
    for daemon in started:
        daemon.end()


@pytest.fixture
def config(tmp_path):
    """An empty configuration directory, and a way to write into it."""
    directory = tmp_path / "config"
    (directory / "plugins").mkdir(parents=True)
    return directory
