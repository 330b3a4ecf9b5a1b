"""Subscribers that never read cost the publisher and the others nothing, are cut in time, and resume."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.conftest import start_daemon as start_daemon
from tests.proofs.stream.rig import (
    PATIENCE_S,
    TICKS,
    Memory,
    Readers,
    Stream,
    call,
    slow_consumers,
    write_config,
)

pytest.importorskip("trio_websocket")
pytestmark = pytest.mark.prove

STALL_S = 10
"""`WebSocketLimits.stall_s`: without progress for so long a connection is cut."""

FILL_S = 4
"""For the buffers of a kernel on a busy machine to fill, and for us to look."""

EACH_BYTES = 192 * 1024
"""What one that never reads may hold: a joined write, the chunk of it that is being written, and its tasks."""


ATTEMPTS = 3
"""Pairs at most, each close in time: lateness is the machine's as well as the daemon's."""

NOISE_BYTES = 4 << 20


class Size(NamedTuple):
    healthy: int
    stalled: int
    rate: int
    seconds: int


FULL = Size(healthy=450, stalled=50, rate=500, seconds=20)
SAMPLE = Size(healthy=90, stalled=10, rate=300, seconds=12)
EVENT_BYTES = 1600


class Measured(NamedTuple):
    """How late the publisher's events were, what the process held at most, and when all stalled were cut."""

    p50_ms: float
    p99_ms: float
    most_bytes: int
    cut_s: float


def measure(
    start_daemon,
    directory: Path,
    size: Size,
    stalled: int,
    *,
    is_control: bool = False,
    **plugins: str,
) -> Measured:
    """Publishes to `size.healthy` readers beside `stalled` ones. What the healthy got must be the whole."""
    daemon = start_daemon(write_config(directory / "config", **plugins), directory / "state")
    count = size.rate * size.seconds
    with (
        ExitStack() as opened,
        Readers(daemon, size.healthy, TICKS, kept=3) as readers,
        Memory(daemon.process.pid) as memory,
    ):
        never_read = [
            opened.enter_context(Stream(daemon, TICKS, receive_buffer=4096)) for _ in range(stalled)
        ]
        told = [stream.until_live()[-1]["cursor"] for stream in never_read]
        begun = time.monotonic()
        call(daemon, "publish", rate=size.rate, size=EVENT_BYTES - 182, count=count)
        cut_s = 0.0
        while (seconds := time.monotonic() - begun) < size.seconds or (
            not is_control and stalled and not cut_s
        ):
            assert seconds < PATIENCE_S + size.seconds
            # Seldom, and in every run: asking is work for the daemon too.
            if slow_consumers(daemon) == stalled > 0 and not cut_s:
                cut_s = time.monotonic() - begun
            time.sleep(1)
        while not (published := call(daemon, "published"))["is_over"]:
            assert time.monotonic() - begun < PATIENCE_S + size.seconds
            time.sleep(1)
        if not is_control:
            check_healthy(readers, count)
            assert slow_consumers(daemon) == stalled
            for stream, cursor in zip(never_read, told, strict=True):
                check_resumed(daemon, stream, cursor, count)
    daemon.end()
    return Measured(published["p50_ms"], published["p99_ms"], memory.most, cut_s)


def check_healthy(readers: Readers, count: int) -> None:
    """Each got every event, and all of them the same bytes."""
    deadline = time.monotonic() + PATIENCE_S
    while readers.kept[0].count(b'"kind":"gen.tick"') < count:
        assert time.monotonic() < deadline, readers.kept[0].count(b'"kind":"gen.tick"')
        time.sleep(0.1)
    readers.wait_all(len(readers.kept[0]))
    assert len(set(readers.received)) == 1
    assert len({bytes(kept) for kept in readers.kept.values()}) == 1
    assert 0.9 * EVENT_BYTES < readers.received[0] / count < 1.1 * EVENT_BYTES


def check_resumed(daemon, stream: Stream, cursor: str, count: int) -> None:
    """It reads what still got through, and with its last cursor gets exactly the rest."""
    numbers = []
    for message in stream:
        if message["type"] == "event":
            numbers.append(message["data"]["number"])
            cursor = message["cursor"]
        else:
            assert (message["type"], message["code"]) == ("error", "slow_consumer")
    assert len(numbers) < count
    with Stream(daemon, f"cursor={cursor}&{TICKS}") as again:
        messages = again.until_live()
    assert messages[0]["resume"] == "exact"
    numbers += [message["data"]["number"] for message in messages if message["type"] == "event"]
    assert numbers == list(range(count))


def is_as_without(without: Measured, beside: Measured, stalled: int) -> bool:
    more_bytes = beside.most_bytes - without.most_bytes
    return (
        beside.p99_ms <= 2 * without.p99_ms + 25
        and more_bytes <= stalled * EACH_BYTES + NOISE_BYTES
    )


def test_those_that_never_read_cost_nobody_anything(start_daemon, tmp_path, full, capsys):
    size = FULL if full else SAMPLE
    for attempt in range(ATTEMPTS):
        without = measure(start_daemon, tmp_path / f"without{attempt}", size, 0)
        beside = measure(start_daemon, tmp_path / f"beside{attempt}", size, size.stalled)
        with capsys.disabled():
            print(f"\n{size}\nwithout {without}\nbeside  {beside}")
        assert STALL_S - 1 < beside.cut_s < STALL_S + FILL_S
        if is_as_without(without, beside, size.stalled):
            return
    pytest.fail("those that never read are felt")


WRITES_THAT_WAIT = """
import select
from yoi_daemon.front.outbox import Outbox
from yoi_daemon.sdk import Plugin
plugin = Plugin("broken")
put = Outbox.put

def waiting(self, data):
    if self._descriptor is not None:
        select.select([], [self._descriptor], [], 0.1)
    return put(self, data)

Outbox.put = waiting
Outbox.lend = lambda self, take_back: None
"""

A_QUEUE_FOR_EACH = """
import trio
from yoi_daemon.front.websocket import _Session
from yoi_daemon.sdk import Plugin
plugin = Plugin("broken")

put = _Session.offer

def offer(self, frames):
    put(self, bytes(bytearray(frames)))
    return True

async def drained(self):
    await trio.lowlevel.checkpoint()

_Session.offer = offer
_Session.lend = lambda self, take_back: None
_Session.drained = drained
"""

FEW = Size(healthy=20, stalled=20, rate=300, seconds=4)


def test_control_a_daemon_that_waits_or_queues_is_caught(start_daemon, tmp_path):
    without = measure(start_daemon, tmp_path / "without", FEW, 0, is_control=True)
    for name, broken in {"waits": WRITES_THAT_WAIT, "queues": A_QUEUE_FOR_EACH}.items():
        beside = measure(
            start_daemon, tmp_path / name, FEW, FEW.stalled, is_control=True, broken=broken
        )
        assert not is_as_without(without, beside, FEW.stalled), (without, beside)
