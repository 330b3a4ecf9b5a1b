"""`kill -9` at random moments, under fifty clients: what was accepted is handled, in order and once known.

A kill alone loses nothing that was written: the kernel keeps the pages. So the control answers
before it writes. Power cuts are another proof's.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests.e2e.conftest import DaemonProcess
from yoi_daemon.store.sqlite.checking import find_faults
from yoi_daemon.store.sqlite.reading import open_for_reading
from yoi_daemon.store.sqlite.segments import RETENTIONS, events_of

pytestmark = pytest.mark.prove
HERE = Path(__file__).parent
PLUGIN = """
import os
import trio
from yoi_daemon.sdk import Context, IngressEvent, Plugin, Retry

plugin = Plugin("{name}")
ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(what: str, event: IngressEvent) -> None:
    line = f"{{what}} {name} {{event.id}} {{event.attempt}} {{event.payload['key']}}\\n"
    os.write(ledger, line.encode())

@plugin.ingress("take")
async def take(ctx: Context, event: IngressEvent) -> None:
    note("begun", event)
    {work}
    note("handled", event)
"""
WORK = {
    "quick": "pass",
    "slow": "await trio.sleep(0.02)",
    "shaky": """if event.attempt == 1 and event.payload["key"].endswith("3"):
        raise Retry(after_s=0.1)
    await ctx.emit("shaken", event.payload)""",
}
SETTINGS = """
[plugins.quick]
attempts = 100
[plugins.slow]
attempts = 100
[plugins.shaky]
attempts = 100
"""
READY_BOUND_S = 20.0
"""Against hanging: what is promised, 2 s at p99, is reported, for other work shares this machine."""


class Follower(threading.Thread):
    """Follows the whole stream over every cut, and keeps what it was told; resumes from its last cursor."""

    def __init__(self, state: Path) -> None:
        super().__init__(daemon=True)
        self.told: list[dict[str, Any]] = []
        self.resumed: Counter[str] = Counter()
        self.refused: list[str] = []
        """Codes of what it was told instead of what it asked for; then it asks no more."""
        self.stopped = threading.Event()
        self._state = state

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                self._follow()
            except (OSError, WebSocketException, ValueError, KeyError, TimeoutError):
                self.stopped.wait(0.05)

    def _follow(self) -> None:
        at = json.loads((self._state / "daemon.json").read_text())["observe"]
        token = (self._state / "admin.token").read_text().strip()
        cursor = self.told[-1]["cursor"] if self.told else "earliest"
        with connect(
            f"{at}/v1/events?cursor={cursor}",
            additional_headers={"Authorization": f"Bearer {token}"},
            close_timeout=0.1,
        ) as stream:
            if self._ends(hello := json.loads(stream.recv(timeout=10))):
                return
            self.resumed[hello["resume"]] += 1
            while not self.stopped.is_set():
                try:
                    message = json.loads(stream.recv(timeout=0.2))
                except TimeoutError:
                    continue
                if message["type"] == "event":
                    self.told.append(message)
                elif self._ends(message):
                    return
                else:
                    assert message["type"] == "bookmark", message

    def _ends(self, message: dict[str, Any]) -> bool:
        if message["type"] == "error" and message["code"] != "shutting_down":
            self.refused.append(message["code"])
            self.stopped.set()
        return message["type"] == "error"


class House:
    """A configuration, a state and what the handlers wrote down; one daemon at a time."""

    def __init__(self, path: Path, program: Sequence[str]) -> None:
        self.config, self.state = path / "config", path / "state"
        self.ledger, self.answers = path / "ledger", path / "answers"
        (self.config / "plugins").mkdir(parents=True)
        (self.config / "yoi-daemon.toml").write_text(SETTINGS)
        for name, work in WORK.items():
            code = PLUGIN.format(name=name, work=work)
            (self.config / "plugins" / f"{name}.py").write_text(code)
        self.ready_s: list[float] = []
        # An address of its own: on the common one another program may have the port between two lives,
        # and clients that still ask there would talk to that.
        number = os.getpid() % 65_536
        self._listen = f"127.77.{number // 256}.{number % 256}:0"
        self.program = program
        self.environ: dict[str, str] = {}
        """Of the next daemon."""
        self._daemon: DaemonProcess | None = None

    def start(self) -> DaemonProcess:
        begun = time.monotonic()
        self._daemon = DaemonProcess(
            self.config,
            self.state,
            self.program,
            **self.environ,
            LEDGER=str(self.ledger),
            YOI__API__LISTEN=self._listen,
            YOI__OBSERVE__LISTEN=self._listen,
        )
        self._daemon.begun_s = begun  # type: ignore[attr-defined]
        return self._daemon

    def ready(self, daemon: DaemonProcess) -> DaemonProcess:
        daemon.wait_ready()
        self.ready_s.append(time.monotonic() - daemon.begun_s)  # type: ignore[attr-defined]
        return daemon

    def end(self) -> None:
        if self._daemon is not None:
            self._daemon.end()

    def kill(self, daemon: DaemonProcess) -> None:
        daemon.signal(signal.SIGKILL)
        daemon.end()

    @contextmanager
    def clients(self) -> Iterator[None]:
        """Fifty of them, in a process of their own; each has its last answer when this ends."""
        command = [
            sys.executable,
            str(HERE / "kill_clients.py"),
            str(self.state),
            str(self.answers),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as clients:
            try:
                yield
                clients.send_signal(signal.SIGTERM)
                _, errors = clients.communicate(timeout=120)
                assert (clients.returncode, errors) == (0, ""), errors[-1500:]
            finally:
                clients.kill()

    def answered(self) -> list[dict[str, Any]]:
        if not self.answers.exists():
            return []
        return [json.loads(line) for line in self.answers.read_text().splitlines()]

    def noted(self) -> list[list[str]]:
        return [line.split() for line in self.ledger.read_text().splitlines()]

    def lost(self) -> set[str]:
        """Accepted events that were not handled."""
        handled = {event_id for what, _, event_id, *_ in self.noted() if what == "handled"}
        return {one["event_id"] for one in self.answered()} - handled


def settle(daemon: DaemonProcess, timeout_s: float = 120) -> dict[str, Any]:
    """Waits until nothing waits; gives the daemon's status then."""
    deadline = time.monotonic() + timeout_s
    while True:
        _, status = daemon.request("GET", "/api/status")
        depths = {one["plugin_id"]: one["queue_depth"] for one in status["plugins"]}
        if not any(depths.values()):
            return status
        assert time.monotonic() < deadline, f"stuck: {depths}"
        time.sleep(0.2)


def run_and_kill(house: House, kills: int, chance: random.Random) -> DaemonProcess:
    """Kills a daemon again and again, some before they are ready; the last one lives."""
    daemon = house.ready(house.start())
    with house.clients():
        while not house.answered():
            time.sleep(0.05)
        for _ in range(kills):
            time.sleep(chance.uniform(0.05, 1.5))
            house.kill(daemon)
            daemon = house.start()
            if chance.random() < 0.2:  # in the middle of finding what the last one left
                time.sleep(chance.uniform(0.1, 1.2))
                house.kill(daemon)
                daemon = house.start()
            house.ready(daemon)
    return daemon


@pytest.fixture
def house(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[House]:
    made = House(tmp_path, getattr(request, "param", (sys.executable, "-m", "yoi_daemon")))
    # So many deaths in a row are this proof's own work, no plugin's.
    made.environ = {"YOI__DAEMON__BOOT_ATTEMPTS": "0"}
    yield made
    made.end()


def weak(fault: str) -> Sequence[str]:
    return (sys.executable, str(HERE / "weak_daemon.py"), fault)


def test_kills_lose_nothing(house: House, full: bool, capsys: pytest.CaptureFixture[str]) -> None:
    kills = 50 if full else 5
    followers = [Follower(house.state) for _ in range(3)]
    for follower in followers:
        follower.start()
    daemon = run_and_kill(house, kills, random.Random(9))
    head = end(daemon, followers)
    attempts = check_books(house)
    check_streams(house, followers)
    answers = house.answered()
    cut = quantiles(house.ready_s, n=100, method="inclusive")
    with capsys.disabled():
        print(
            f"\nkills {kills}, starts {len(house.ready_s)}; events {len(attempts)}, of which "
            f"{sum(len(tries) > 1 for tries in attempts.values())} were tried again, "
            f"{sum(one['tries'] > 1 for one in answers)} asked for again; ready after "
            f"{cut[49]:.2f} s p50, {cut[98]:.2f} s p99; stream {head} events, resumes "
            f"{[dict(one.resumed) for one in followers]}; load {os.getloadavg()[0]:.1f}"
        )
    assert cut[98] < READY_BOUND_S


def end(daemon: DaemonProcess, followers: Sequence[Follower]) -> int:
    """Nothing waits, nothing is dead, and everybody was told everything; gives the last event's number."""
    status = settle(daemon)
    assert [one["counters"].get("dead_lettered", 0) for one in status["plugins"]] == [0, 0, 0]
    head: int = daemon.request("GET", "/api/status")[1]["log"]["head_seq"]
    deadline = time.monotonic() + 30
    while any(not one.told or one.told[-1]["seq"] < head for one in followers):
        assert time.monotonic() < deadline, [len(one.told) for one in followers]
        time.sleep(0.1)
    for follower in followers:
        follower.stopped.set()
        follower.join(10)
    assert daemon.stop() == 0
    return head


def check_books(house: House) -> dict[str, list[int]]:
    """What was accepted was handled, under one id for a key, its attempts numbered; gives these."""
    assert house.lost() == set()
    by_key: defaultdict[str, set[str]] = defaultdict(set)
    for one in house.answered():
        by_key[one["key"]].add(one["event_id"])
    attempts: defaultdict[str, list[int]] = defaultdict(list)
    for what, _, event_id, attempt, key in house.noted():
        by_key[key].add(event_id)
        if what == "begun":
            attempts[event_id].append(int(attempt))
    assert {key: ids for key, ids in by_key.items() if len(ids) > 1} == {}
    assert all(tries == sorted(set(tries)) for tries in attempts.values())
    return attempts


def check_streams(house: House, followers: Sequence[Follower]) -> None:
    """Each was told every event, once, in order, and what it was told is what is kept."""
    with open_for_reading(house.state / "store.sqlite3") as store:
        assert find_faults(store) == []
        kept = {
            event.seq: event.message
            for table in RETENTIONS.values()
            for (content,) in store.execute(f"SELECT content FROM {table.name}")
            for event in events_of(content)
        }
    for follower in followers:
        numbers = [event["seq"] for event in follower.told]
        assert numbers == [*range(1, len(numbers) + 1)]
        assert [json.loads(kept[event["seq"]]) for event in follower.told] == follower.told
        assert set(follower.resumed) <= {"earliest", "exact"}
        assert follower.resumed["earliest"] == 1
        assert follower.refused == []


@pytest.mark.parametrize("house", [weak("slow")], indirect=True)
def test_a_slow_disk_loses_nothing_either(house: House) -> None:
    """What the control is held against: the same delay, and the answer after it."""
    daemon = run_and_kill(house, 4, random.Random(3))
    settle(daemon)
    assert daemon.stop() == 0
    assert house.lost() == set()


@pytest.mark.parametrize("house", [weak("early")], indirect=True)
def test_the_negative_control_answering_before_the_commit_loses_some(house: House) -> None:
    daemon = run_and_kill(house, 4, random.Random(3))
    settle(daemon)
    assert daemon.stop() == 0
    assert house.lost()
