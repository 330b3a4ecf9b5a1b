"""What a durable event costs, beside its peers, in one run on one disk.

- streaming: 20,000 events of 300 bytes appended as fast as the log takes them (`room`), until the last is
  committed; beside them bare `executemany` of the same events, encoded already and a row each, in
  transactions of 1,000, and a commit for each event. Both with `synchronous=FULL`. By the clock on the wall.
- waiting: 10 appenders that each wait for their commit; beside them Redis with `appendfsync always` under
  its own `redis-benchmark` with 10 connections (Debian's, fetched into the user's cache directory).
- replay: what a log of 100,000 events takes to be read and framed at the start, processor time.
- path: the real daemon: NDJSON batches over HTTP -> accepted, durable -> lane -> handled -> told to 100
  subscribers over WebSockets. Processor time of the daemon's process for each accepted event.

`--check` fails where a goal is missed or a peer is not there.
"""

import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median

import trio

from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.events import Draft
from yoi_daemon.model.settings import ObserveSettings, StoreSettings
from yoi_daemon.store.opening import FILE_NAME, open_store
from yoi_daemon.store.sqlite.connection import connect
from yoi_daemon.store.sqlite.segments import events_of

ROUNDS = 3
STREAMED = 20_000
ALONE = 400
WAITERS = 10
WAITED_S = 3.0
REPLAYED = 100_000
SUBSCRIBERS = 100
BATCH = 200
BATCHES = 25
DRAFT = Draft(kind="bench.event", plugin_id="bench", data={"text": "x" * 90})
STREAMING_GOAL, ALONE_GOAL, REDIS_GOAL, REPLAY_GOAL_US, PATH_GOAL_US = 0.7, 50.0, 0.6, 3.0, 60.0

PLUGIN = """
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("bench")

@plugin.ingress("go")
async def go(ctx: Context, event: IngressEvent) -> None:
    pass
"""


class Goals:
    """Prints each figure beside its goal, and remembers what was missed."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def at_least(self, name: str, value: float, goal: float, unit: str) -> None:
        self._tell(name, value >= goal, f"{value:8.2f} {unit}, goal at least {goal:g}")

    def at_most(self, name: str, value: float, goal: float, unit: str) -> None:
        self._tell(name, value <= goal, f"{value:8.2f} {unit}, goal at most {goal:g}")

    def absent(self, name: str, why: str) -> None:
        self._tell(name, False, f"not measured: {why}")

    def _tell(self, name: str, reached: bool, text: str) -> None:
        print(f"{'ok    ' if reached else 'MISSED'} {name:44} {text}")
        if not reached:
            self.missed.append(name)


async def _stream(directory: Path) -> tuple[float, list[tuple]]:
    async with (
        open_store(StoreSettings(), directory) as store,
        open_event_log(ObserveSettings(), store) as log,
    ):
        begun = time.perf_counter()
        for number in range(STREAMED):
            log.append(DRAFT)
            if number % 256 == 255:
                await log.room()
                await trio.lowlevel.checkpoint()
        await log.committed(STREAMED)
        took_s = time.perf_counter() - begun
    reading = sqlite3.connect(directory / FILE_NAME)
    rows = [
        (
            event.seq,
            event.kind,
            None,
            None,
            event.plugin_id,
            False,
            event.monotonic_s,
            event.message,
        )
        for (content,) in reading.execute("SELECT content FROM volume_segment ORDER BY last_seq")
        for event in events_of(content)
    ]
    reading.close()
    return STREAMED / took_s, rows


def _bare(directory: Path, rows: list[tuple], transaction: int) -> float:
    writing = connect(directory / FILE_NAME)
    writing.execute("PRAGMA journal_mode = WAL")
    writing.execute("PRAGMA synchronous = FULL")
    writing.execute(
        "CREATE TABLE event (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, runtime_id TEXT, worker_id TEXT,"
        " plugin_id TEXT, is_last INTEGER NOT NULL, age_s REAL NOT NULL, message BLOB NOT NULL) STRICT"
    )
    begun = time.perf_counter()
    for start in range(0, len(rows), transaction):
        writing.execute("BEGIN IMMEDIATE")
        writing.executemany(
            "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows[start : start + transaction],
        )
        writing.execute("COMMIT")
    took_s = time.perf_counter() - begun
    writing.close()
    return len(rows) / took_s


async def _wait(directory: Path) -> float:
    count = 0
    async with (
        open_store(StoreSettings(), directory) as store,
        open_event_log(ObserveSettings(), store) as log,
    ):

        async def appender() -> None:
            nonlocal count
            while True:
                await log.committed(log.append(DRAFT))
                count += 1

        with trio.move_on_after(WAITED_S):
            async with trio.open_nursery() as nursery:
                for _ in range(WAITERS):
                    nursery.start_soon(appender)
    return count / WAITED_S


class NotInstalled(Exception):
    """A peer cannot be had here."""


def _redis() -> tuple[Path, dict[str, str]]:
    """The folder of Redis's programs, and their environment."""
    if found := shutil.which("redis-server"):
        return Path(found).parent, dict(os.environ)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yoi-daemon-bench"
    folder = cache / "redis"
    if not (folder / "usr/bin/redis-server").exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            raise NotInstalled("no redis-server on the path, and no apt-get to take Debian's with")
        folder.mkdir(parents=True, exist_ok=True)
        packages = ["redis-server", "redis-tools", "libjemalloc2", "liblua5.1-0", "liblzf1"]
        packages += ["lua-bitop", "lua-cjson"]
        done = subprocess.run(
            ["apt-get", "download", *packages], cwd=folder, capture_output=True, timeout=300
        )
        if done.returncode:
            raise NotInstalled("apt-get download redis-server failed; run apt-get update first")
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
    libraries = ":".join(str(path) for path in sorted((folder / "usr/lib").glob("*-linux-*")))
    return folder / "usr/bin", {**os.environ, "LD_LIBRARY_PATH": libraries}


def _wait_redis(directory: Path) -> float:
    programs, environ = _redis()
    port = _free_port()
    server = subprocess.Popen(
        [
            *(programs / "redis-server", "--port", str(port), "--bind", "127.0.0.1"),
            *("--dir", directory, "--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ],
        env=environ,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for_port(port, server)
        done = subprocess.run(
            [
                *(programs / "redis-benchmark", "-p", str(port), "-c", str(WAITERS), "-n", "6000"),
                *("-q", "--csv", "rpush", "log", "x" * 300),
            ],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
    finally:
        server.terminate()
        server.wait(10)
    return float(done.stdout.strip().splitlines()[-1].split(",")[1].strip('"'))


async def _fill(directory: Path) -> None:
    async with (
        open_store(StoreSettings(), directory) as store,
        open_event_log(ObserveSettings(), store) as log,
    ):
        for number in range(REPLAYED):
            log.append(DRAFT)
            if number % 256 == 255:
                await log.room()
        await log.committed(REPLAYED)


async def _replay(directory: Path) -> float:
    async with open_store(StoreSettings(), directory) as store:
        begun = time.process_time()
        async with open_event_log(ObserveSettings(), store) as log:
            took_s = time.process_time() - begun
            assert log.window().events == REPLAYED
    return took_s / REPLAYED * 1e6


def _path(directory: Path) -> float:
    """Processor time of the daemon for each event, in us."""
    config = directory / "config"
    (config / "plugins").mkdir(parents=True)
    (config / "plugins" / "bench.py").write_text(PLUGIN)
    ports = _free_port(), _free_port()
    (config / "yoi-daemon.toml").write_text(
        f'[api]\nlisten = "127.0.0.1:{ports[0]}"\n[observe]\nlisten = "127.0.0.1:{ports[1]}"\n'
        "[plugins.bench]\nqueue_events = 1000\n"
    )
    state = directory / "state"
    program = [sys.executable, "-m", "yoi_daemon", "run"]
    daemon = subprocess.Popen(
        [*program, "--config", config, "--state", state],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    readers: subprocess.Popen[str] | None = None
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline().startswith("ready")
        token = (state / "admin.token").read_text().strip()
        expected = 2 * BATCH * BATCHES
        readers = subprocess.Popen(
            [sys.executable, __file__, "read", str(ports[1]), token, str(expected)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert readers.stdout is not None
        assert readers.stdout.readline() == "following\n"
        before = _processor_s(daemon.pid)
        body = b"".join(
            json.dumps({"ingress": "go", "payload": {"n": number, "text": "x" * 200}}).encode()
            + b"\n"
            for number in range(BATCH)
        )
        for _ in range(BATCHES):
            _post(ports[0], token, body)
        assert readers.stdout.readline() == "done\n"
        return (_processor_s(daemon.pid) - before) / (BATCH * BATCHES) * 1e6
    finally:
        for process in (readers, daemon):
            if process is not None:
                process.terminate()
                process.wait(20)


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _post(port: int, token: str, body: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST /api/plugins/bench/ingress HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
            b"Authorization: Bearer %s\r\nContent-Type: application/x-ndjson\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (port, token.encode(), len(body))
        )
        connection.sendall(body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    accepted = answer.count(b'"event_id"')
    assert accepted == BATCH, f"{accepted} of {BATCH} accepted: {answer[:2000]!r}"


def read(port: int, token: str, expected: int) -> None:
    """The other process: follows with all subscribers until each was told `expected` events."""

    async def follow(started: Callable[[], None]) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(
            b"GET /v1/events?kinds=plugin.ingress.accepted,plugin.ingress.handled HTTP/1.1\r\n"
            b"Host: 127.0.0.1:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Authorization: Bearer %s\r\n\r\n" % (port, token.encode())
        )
        seen, tail = 0, b""
        following = False
        async for part in stream:
            data = tail + part
            if not following and b'"live"' in data:
                following = True
                started()
            seen += data.count(b'"kind":"plugin.ingress.')
            # Whatever may be the beginning of the next one is looked at again, and never counted twice.
            cut = max(0, len(data) - 22)
            tail = data[cut:]
            seen -= tail.count(b'"kind":"plugin.ingress.')
            if seen >= expected:
                return

    async def all_of_them() -> None:
        left = SUBSCRIBERS

        def started() -> None:
            nonlocal left
            left -= 1
            if not left:
                print("following", flush=True)

        async with trio.open_nursery() as nursery:
            for _ in range(SUBSCRIBERS):
                nursery.start_soon(follow, started)
        print("done", flush=True)

    trio.run(all_of_them)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise NotInstalled("redis-server did not start")


def main() -> None:
    """Runs all four; `--check` makes a missed goal an error."""
    goals = Goals()
    with ExitStack() as stack:

        def fresh() -> Path:
            # Beside the working directory, not in a temporary one that may live in memory.
            return Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))

        bare, alone = [], []
        for _ in range(ROUNDS):
            streamed, rows = trio.run(_stream, fresh())
            bare.append(streamed / _bare(fresh(), rows, 1000))
            alone.append(streamed / _bare(fresh(), rows[:ALONE], 1))
        print(f"       streaming: {streamed:,.0f} events/s in the last round")
        goals.at_least("streaming / executemany by 1,000", median(bare), STREAMING_GOAL, "x")
        goals.at_least("streaming / a commit for each", median(alone), ALONE_GOAL, "x")
        try:
            ratios = [trio.run(_wait, fresh()) / _wait_redis(fresh()) for _ in range(ROUNDS)]
            goals.at_least("10 waiting / Redis, fsync always", median(ratios), REDIS_GOAL, "x")
        except NotInstalled as missing:
            goals.absent("10 waiting / Redis, fsync always", str(missing))
        filled = fresh()
        trio.run(_fill, filled)
        replays = [trio.run(_replay, filled) for _ in range(ROUNDS)]
        goals.at_most("replay, read and framed", median(replays), REPLAY_GOAL_US, "us an event")
        paths = [_path(fresh()) for _ in range(ROUNDS)]
        goals.at_most(f"path to {SUBSCRIBERS} subscribers", median(paths), PATH_GOAL_US, "us")
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"       memory of this process: {memory_mib:.0f} MiB at most")
    if "--check" in sys.argv and goals.missed:
        sys.exit(f"bench durable: missed: {', '.join(goals.missed)}")


if __name__ == "__main__" and sys.argv[1:2] == ["read"]:
    read(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
