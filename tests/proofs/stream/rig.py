"""A daemon that makes events on demand, and clients of its stream made of nothing but sockets."""

import json
import selectors
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from tests.e2e.conftest import DaemonProcess
from tests.hostile.raw import read_head, reset, upgrade

GENERATOR = Path(__file__).with_name("generator.py")
TICKS = "kinds=gen.tick"
LOOK_EACH_S = 0.01
"""Readers look so often, and find several events: a healthy one need not take a system call for each."""

PATIENCE_S = 120
"""A bound against hanging on a busy machine; nothing here waits for it."""


def write_config(config: Path, toml: str = "", **plugins: str) -> Path:
    """The generator, and other plugins' sources: a negative control breaks the daemon by one."""
    (config / "plugins").mkdir(parents=True)
    shutil.copy(GENERATOR, config / "plugins" / "gen.py")
    for name, source in plugins.items():
        (config / "plugins" / f"{name}.py").write_text(source)
    (config / "yoi-daemon.toml").write_text(toml)
    return config


def call(daemon: DaemonProcess, tool: str, **arguments: Any) -> dict[str, Any]:
    status, answer = daemon.request("POST", f"/api/tools/gen/{tool}", arguments)
    assert status == 200, answer
    return answer["result"]


def burst(daemon: DaemonProcess, count: int, size: int, *, wait: bool = False) -> None:
    """Asks for so many events at once; they come soon, or are there where it waits."""
    wanted = {"count": count, "size": size}
    status, answer = daemon.request("POST", "/api/plugins/gen/ingress/burst", wanted)
    assert status == 202, answer
    if wait:
        with Stream(daemon, f"cursor=earliest&{TICKS}") as stream:
            while next(stream).get("data", {}).get("number") != count - 1:
                pass


def slow_consumers(daemon: DaemonProcess) -> int:
    return daemon.request("GET", "/api/status")[1]["observe"]["slow_consumers"]


class Stream:
    """One connection of RFC 6455, with nothing that reads ahead or keeps up by itself."""

    def __init__(
        self, daemon: DaemonProcess, query: str, receive_buffer: int | None = None
    ) -> None:
        address = urlsplit(daemon.observe)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect((address.hostname, address.port))
        authorization = b"Authorization: Bearer " + daemon.token.encode()
        host = f"{address.hostname}:{address.port}".encode()
        target = f"/v1/events?{query}".encode()
        self.socket.sendall(upgrade(target, authorization, host=host))
        head = read_head(self.socket)
        assert head.startswith(b"HTTP/1.1 101 "), head
        self._received = bytearray()
        self.close_code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def frame(self) -> bytes | None:
        """The next text message; None when the daemon has closed, or cut the connection."""
        while (found := self._whole_frame()) is None:
            try:
                data = self.socket.recv(1 << 18)
            except ConnectionError:
                return None
            if not data:
                return None
            self._received += data
        opcode, payload = found
        if opcode == 8:
            self.close_code = int.from_bytes(payload[:2], "big")
            return None
        assert opcode == 1
        return payload

    def _whole_frame(self) -> tuple[int, bytes] | None:
        data = self._received
        if len(data) < 2:
            return None
        extra = {126: 2, 127: 8}.get(data[1], 0)
        if len(data) < 2 + extra:
            return None
        size = int.from_bytes(data[2 : 2 + extra], "big") if extra else data[1]
        end = 2 + extra + size
        if len(data) < end:
            return None
        opcode, payload = data[0] & 0xF, bytes(data[2 + extra : end])
        del data[:end]
        return opcode, payload

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        frame = self.frame()
        if frame is None:
            raise StopIteration
        return json.loads(frame)

    def until_live(self) -> list[dict[str, Any]]:
        """Every message up to the bookmark at the end of the replay."""
        messages: list[dict[str, Any]] = []
        for message in self:
            messages.append(message)
            if message.get("reason") == "live":
                return messages
        raise AssertionError(f"the stream ended with {self.close_code} before it was live")

    def reset(self) -> None:
        """A cut without a word."""
        reset(self.socket)


def seqs(messages: list[dict[str, Any]]) -> list[int]:
    return [message["seq"] for message in messages if message["type"] == "event"]


class Readers:
    """Streams that read as fast as they can, all in one thread; what some of them got is kept."""

    def __init__(self, daemon: DaemonProcess, count: int, query: str, kept: int) -> None:
        self.streams = [Stream(daemon, query) for _ in range(count)]
        self.received = [0] * count
        self.kept = {number: bytearray() for number in range(kept)}
        self.lost: list[int] = []
        for stream in self.streams:
            stream.until_live()
            assert not stream._received
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(PATIENCE_S)
        for stream in self.streams:
            stream.socket.close()

    def wait_all(self, enough: int) -> None:
        """Until each got so many bytes."""
        deadline = time.monotonic() + PATIENCE_S
        while min(self.received) < enough:
            assert time.monotonic() < deadline, (min(self.received), enough)
            assert not self.lost
            time.sleep(0.05)

    def _read(self) -> None:
        buffer = memoryview(bytearray(1 << 20))
        with selectors.DefaultSelector() as selector:
            for number, stream in enumerate(self.streams):
                stream.socket.setblocking(False)
                selector.register(stream.socket, selectors.EVENT_READ, number)
            while not self._is_over.is_set():
                time.sleep(LOOK_EACH_S)
                for key, _ in selector.select(0.1):
                    number = key.data
                    # What is only counted is not copied (tcp(7)): the machine's time is the daemon's.
                    flags = 0 if number in self.kept else socket.MSG_TRUNC
                    try:
                        size = self.streams[number].socket.recv_into(buffer, len(buffer), flags)
                    except BlockingIOError:
                        continue
                    except ConnectionError:
                        size = 0
                    if not size:
                        self.lost.append(number)
                        selector.unregister(key.fileobj)
                        continue
                    self.received[number] += size
                    if number in self.kept:
                        self.kept[number] += buffer[:size]


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class Memory:
    """The most that a process has resident while the context is open, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        self.most = resident_bytes(pid)
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.1):
            self.most = max(self.most, resident_bytes(self._pid))
