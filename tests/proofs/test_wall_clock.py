"""The wall clock goes ten years forth and back, in life and between lives: order, retries, keys and cursors do not care.

Needs libfaketime (Debian's package `libfaketime`); YOI_LIBFAKETIME names the library where it lies elsewhere.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.e2e.conftest import DaemonProcess

pytestmark = pytest.mark.prove
PLUGIN = """
import os, time
import trio
from yoi_daemon.sdk import Context, IngressEvent, Plugin, Retry

plugin = Plugin("{name}")
ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@plugin.ingress("take")
async def take(ctx: Context, event: IngressEvent) -> None:
    while not os.path.exists(os.environ["GATE"]):
        await trio.sleep(0.02)
    line = f"{name} {{event.payload}} {{event.attempt}} {{time.monotonic()}}\\n"
    os.write(ledger, line.encode())
    if event.payload == "dies":
        raise ValueError
    if event.payload == "again" and event.attempt == 1:
        raise Retry(after_s={retry_s})
"""
RETRY_S = 4.0
SLACK_S = 20.0
OFFSETS = ("+0", "+10y", "-10y")
YEARS = {"+0": 0, "+10y": 10, "-10y": -10}


def libfaketime() -> Path | None:
    named = os.environ.get("YOI_LIBFAKETIME")
    if named:
        return Path(named)
    found = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return next(found, None)


class Clock:
    """The daemon's wall clock: an offset that is read anew whenever it asks for the time."""

    def __init__(self, path: Path, library: Path) -> None:
        self._file = path / "faketime"
        self.set("+0")
        self.environ = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: str) -> None:
        partial = self._file.with_suffix(".new")
        partial.write_text(offset + "\n")
        partial.replace(self._file)
        self.offset = offset


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    library = libfaketime()
    if library is None or not library.exists():
        pytest.skip(
            "NOT PROVEN: the wall clock; install libfaketime, or name it in YOI_LIBFAKETIME"
        )
    return Clock(tmp_path, library)


@pytest.fixture
def start(tmp_path: Path, clock: Clock) -> Iterator[Any]:
    config, state = tmp_path / "config", tmp_path / "state"
    (config / "plugins").mkdir(parents=True)
    (config / "yoi-daemon.toml").write_text("[plugins.mortal]\nattempts = 1\n")
    for name in ("gen", "parks", "mortal"):
        code = PLUGIN.format(name=name, retry_s=RETRY_S)
        (config / "plugins" / f"{name}.py").write_text(code)
    started: list[DaemonProcess] = []
    environ = clock.environ | {
        "LEDGER": str(tmp_path / "ledger"),
        "GATE": str(tmp_path / "gate"),
    }

    def start_one() -> DaemonProcess:
        started.append(DaemonProcess(config, state, **environ))
        return started[-1].wait_ready()

    yield start_one
    for one in started:
        one.end()


def send(daemon: DaemonProcess, plugin: str, payload: Any, key: str) -> dict[str, Any]:
    status, receipt = daemon.request(
        "POST", f"/api/plugins/{plugin}/ingress/take", payload, {"Idempotency-Key": key}
    )
    assert status == 202, receipt
    return receipt


def lines(tmp_path: Path, plugin: str, count: int) -> list[list[str]]:
    """What a plugin's handler noted, once there are so many."""
    deadline = time.monotonic() + RETRY_S + SLACK_S
    while True:
        ledger = tmp_path / "ledger"
        noted = ledger.read_text().splitlines() if ledger.exists() else []
        of_it = [line.split()[1:] for line in noted if line.startswith(plugin + " ")]
        if len(of_it) >= count:
            return of_it
        assert time.monotonic() < deadline, of_it
        time.sleep(0.05)


def read_events(daemon: DaemonProcess, cursor: str) -> tuple[str, list[dict[str, Any]]]:
    """How it resumes, and every event after the cursor that there is now."""
    with connect(
        f"{daemon.observe}/v1/events?cursor={cursor}",
        additional_headers={"Authorization": f"Bearer {daemon.token}"},
        close_timeout=0.1,
    ) as stream:
        resume = json.loads(stream.recv(timeout=10))["resume"]
        told: list[dict[str, Any]] = []
        while (message := json.loads(stream.recv(timeout=10))).get("reason") != "live":
            told.append(message)
    return resume, told


def test_order_retries_keys_and_cursors_are_unchanged(
    tmp_path: Path, clock: Clock, start: Any
) -> None:
    daemon = start()
    year = time.gmtime().tm_year
    first: dict[str, str] = {}
    seen_years: set[int] = set()
    for number in range(9):  # accepted before any of them is handled, at three times of the world
        clock.set(OFFSETS[number % 3])
        first[f"k{number}"] = send(daemon, "gen", number, f"k{number}")["event_id"]
    send(daemon, "mortal", "dies", "d")
    send(daemon, "parks", "again", "p")
    _, told = read_events(daemon, "earliest")
    seen_years = {int(event["time"][:4]) - year for event in told}
    assert {years for years in seen_years if abs(years) > 5} == {10, -10}, "the clock did not move"

    clock.set("-10y")
    (tmp_path / "gate").touch()
    lines(tmp_path, "parks", 1)
    clock.set("+10y")  # a retry is not early for that
    time.sleep(1)
    clock.set("-10y")  # and not late
    tries = lines(tmp_path, "parks", 2)
    waited = float(tries[1][2]) - float(tries[0][2])
    assert RETRY_S - 0.1 <= waited <= RETRY_S + SLACK_S
    assert [payload for payload, *_ in lines(tmp_path, "gen", 9)] == [str(n) for n in range(9)]

    for offset in OFFSETS:
        clock.set(offset)
        again = {key: send(daemon, "gen", int(key[1:]), key)["event_id"] for key in first}
        assert again == first
    _, whole = read_events(daemon, "earliest")
    numbers = [event["seq"] for event in whole]
    assert numbers == [*range(1, len(numbers) + 1)]

    # Between lives: the same cursor, the same keys, the same dead letter, and new events after the old.
    middle = whole[len(whole) // 2]
    for offset in ("+10y", "-10y", "+0"):
        assert daemon.stop() == 0
        clock.set(offset)
        daemon = start()
        resume, rest = read_events(daemon, middle["cursor"])
        assert resume == "exact"
        assert [event["seq"] for event in rest] == [
            *range(middle["seq"] + 1, middle["seq"] + 1 + len(rest))
        ]
        assert rest[: len(whole) // 2 - 1] == whole[len(whole) // 2 + 1 :][: len(whole) // 2 - 1]
        assert {key: send(daemon, "gen", int(key[1:]), key)["event_id"] for key in first} == first
        (letter,) = daemon.request("GET", "/api/plugins/mortal/dead-letters")[1]["items"]
        assert letter["attempts"][-1]["code"] == "handler_failed"
    assert len(lines(tmp_path, "gen", 9)) == 9
    assert daemon.stop() == 0


@pytest.mark.parametrize("offset", ["+10y", "-10y"])
def test_what_waited_over_a_jump_is_handled_in_order(
    tmp_path: Path, clock: Clock, start: Any, offset: str
) -> None:
    daemon = start()
    for number in range(5):
        send(daemon, "gen", number, f"k{number}")
    daemon.process.kill()
    daemon.wait()
    clock.set(offset)
    daemon = start()
    for number in range(5, 10):
        send(daemon, "gen", number, f"k{number}")
    (tmp_path / "gate").touch()
    noted = lines(tmp_path, "gen", 10)
    assert [payload for payload, *_ in noted] == [str(number) for number in range(10)]
    assert daemon.stop() == 0
