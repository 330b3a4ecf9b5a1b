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

from tests.e2e.canaries import MARK, PLAIN, STEM, hits

RECORDING = Path(__file__).parent / "recording"
READY_WITHIN_S = 60
"""A bound against hanging, wide enough for a busy machine; what is promised is measured elsewhere."""


class DaemonProcess:
    """The real program, as a user starts it, on kernel-chosen ports; `program` is another way to start it."""

    def __init__(
        self,
        config: Path,
        state: Path,
        program: Sequence[str] = (sys.executable, "-m", "yoi_daemon"),
        *,
        record: Path | None = None,
        **environ: str,
    ) -> None:
        self.config = config
        self.state = state
        self._record = record
        env = {key: value for key, value in os.environ.items() if not key.startswith("YOI__")}
        env |= {"YOI__API__LISTEN": "127.0.0.1:0", "YOI__OBSERVE__LISTEN": "127.0.0.1:0"} | environ
        if record is not None:
            env |= {"YOI_TEST_RECORD": str(record), "YOI_TEST_VALUE": f"{PLAIN} value"}
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(RECORDING), *sys.path]))
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

    def sent(self) -> list[bytes]:
        """Every byte it has sent to any client, by connection; whole once it has ended."""
        assert self._record is not None
        return [file.read_bytes() for file in sorted(self._record.iterdir())]

    def canaries(self) -> list[str]:
        """What no client may be told: marked paths and values, the token, the secrets' contents."""
        secrets = [*(self.state / "secrets").glob("*"), self.state / "admin.token"]
        texts = [file.read_text().strip() for file in secrets if file.is_file()]
        return [
            MARK,
            STEM,
            PLAIN,
            PLAIN.lower(),
            str(self.state),
            str(self.config),
            sys.prefix,
            *texts,
        ]

    def leaks(self) -> set[bytes]:
        """The forms of its canaries that it has sent to anyone, where that was recorded."""
        if self._record is None:
            return set()
        return {hit for data in self.sent() for hit in hits(data, self.canaries())}

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
def tmp_path(tmp_path: Path) -> Path:
    """Every path of a test's daemons has a canary in it."""
    marked = tmp_path / MARK
    marked.mkdir()
    return marked


class Daemons:
    """Starts daemons, and keeps them."""

    def __init__(self, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.started: list[DaemonProcess] = []
        self.may_leak = False
        self._tmp_path = tmp_path
        self._factory = tmp_path_factory

    def __call__(
        self,
        config: Path,
        state: Path | None = None,
        ready: bool = True,
        code: str = "",
        recorded: bool = True,
        **environ: str,
    ) -> DaemonProcess:
        """`code` is run in place of `python -m yoi_daemon`.

        Where it is `recorded`, what it sends is searched; each connection then holds a file open.
        """
        record = self._factory.mktemp("record") if recorded else None
        state = state or self._tmp_path / "state"
        program = (sys.executable, "-c", code) if code else (sys.executable, "-m", "yoi_daemon")
        daemon = DaemonProcess(config, state, program, record=record, **environ)
        self.started.append(daemon)
        return daemon.wait_ready() if ready else daemon


@pytest.fixture
def start_daemon(tmp_path, tmp_path_factory):
    """Starts daemons; ends whatever of them is left, and searches all they ever sent for canaries."""
    daemons = Daemons(tmp_path, tmp_path_factory)
    yield daemons
    for daemon in daemons.started:
        daemon.end()
    if not daemons.may_leak:
        assert [daemon.leaks() for daemon in daemons.started] == [set()] * len(daemons.started)


@pytest.fixture
def config(tmp_path):
    """An empty configuration directory, and a way to write into it."""
    directory = tmp_path / "config"
    (directory / "plugins").mkdir(parents=True)
    return directory
