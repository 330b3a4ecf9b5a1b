"""The processes of one run: a server, and the client with all its subscribers."""

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Self

Mode = Literal["burst", "apart", "scoped"]
"""How events are published; see `daemon_server`."""
EVENT_BYTES = 300
PATIENCE_S = 120
"""For a line that is awaited: beyond, the run has failed."""


class Process:
    """A process that obeys lines and answers with lines."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environ,
            bufsize=0,
        )
        self.pid = self._popen.pid

    def tell(self, line: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{line}\n".encode())

    def hear(self) -> list[str]:
        """The words of the next line."""
        assert self._popen.stdout is not None
        ready, _, _ = select.select([self._popen.stdout], [], [], PATIENCE_S)
        line = self._popen.stdout.readline().decode() if ready else ""
        if not line:
            raise TimeoutError(f"{self._popen.args} said nothing for {PATIENCE_S} s, or ended")
        return line.split()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.kill()
        self._popen.communicate()


class Server(Process):
    """A contender."""

    def find_port(self) -> int:
        return int(self.hear()[0])

    def publish(self, events: int, mode: Mode) -> None:
        self.tell(f"{events} {mode}")

    def processor_s(self) -> float:
        """User and system time so far; see proc_pid_stat(5)."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_kib(self) -> int:
        (line,) = (one for one in self._proc("status").splitlines() if one.startswith("VmRSS"))
        return int(line.split()[1])

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.pid}/{name}").read_text()


class NatsServer(Server):
    """There publishing is a client's part: here a connection of this process."""

    def __init__(self, command: list[str], environ: Mapping[str, str], folder: Path) -> None:
        where = ["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(folder)]
        super().__init__([*command, *where, "--log", str(folder / "log")], environ)
        self._ports = folder / f"nats-server_{self.pid}.ports"
        self._publisher = socket.socket()

    def find_port(self) -> int:
        for _ in range(1000):
            if self._ports.exists() and (text := self._ports.read_text()):
                break
            time.sleep(0.01)
        port = int(json.loads(text)["nats"][0].rpartition(":")[2])
        self._publisher.connect(("127.0.0.1", port))
        self._publisher.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
        return port

    def publish(self, events: int, mode: Mode) -> None:
        self._publisher.sendall(b"".join(_publication() for _ in range(events)))

    def __exit__(self, *error: object) -> None:
        self._publisher.close()
        super().__exit__(*error)


def _publication() -> bytes:
    head = f'{{"type":"event","sent":{time.monotonic_ns()},"fill":"'
    event = head + "x" * (EVENT_BYTES - len(head) - 2) + '"}'
    return f"PUB events {EVENT_BYTES}\r\n{event}\r\n".encode()


class Arrival(NamedTuple):
    """Of what was expected: the median latency, and how many segments with data brought it."""

    p50_us: float
    segments: int


class Client(Process):
    """All subscribers of one server."""

    def wait_open(self) -> None:
        assert self.hear() == ["open"]

    def expect(self, events: int) -> None:
        """So many at each subscriber. To be told before they are published."""
        self.tell(str(events))
        assert self.hear() == ["waits"]

    def wait_came(self) -> "Arrival":
        """When all came."""
        word, p50_us, segments = self.hear()
        assert word == "came"
        return Arrival(float(p50_us), int(segments))
