"""Thousands of subscribers open, resume and close: nothing of them stays in the daemon."""

import resource
import time

import pytest

from tests.e2e.conftest import start_daemon as start_daemon
from tests.proofs.stream.rig import PATIENCE_S, TICKS, Stream, burst, call, write_config

pytest.importorskip("trio_websocket")
pytestmark = pytest.mark.prove

SUBSCRIBERS, SAMPLE = 10_000, 500
AT_ONCE = 1000
"""Open together; each resumes once, so there are twice as many connections in all."""

WARM_UPS = 2
"""Waves before the base: what an allocator keeps for the next one is no leak."""

BLOCKS_EACH, BLOCKS_NOISE = 0.2, 4000
"""Python's allocated blocks: one kept object of each subscriber is more. Noise: deadlines that Trio prunes late."""

RESIDENT_GROWTH, RESIDENT_NOISE = 0.1, 2 << 20
"""What is resident moves with fragmentation; a subscriber costs some 22 KiB while it is there."""

TOML = "[observe]\nmax_subscribers = 12000\nmax_token_subscribers = 12000\n"


def settled(daemon) -> dict[str, int]:
    """The process when every subscriber has left it."""
    deadline = time.monotonic() + PATIENCE_S
    while daemon.request("GET", "/api/status")[1]["observe"]["subscribers"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    last: dict[str, int] = {}
    while (now := call(daemon, "process"))["tasks"] != last.get("tasks"):
        assert time.monotonic() < deadline
        last = now
        time.sleep(0.3)  # a connection's last steps, after its subscriber has left
    return now


def churn(daemon, count: int) -> int:
    """Opens `count` subscribers, cuts and resumes them all, and closes them; the most memory between."""
    first = [Stream(daemon, f"cursor=earliest&{TICKS}") for _ in range(count)]
    told = [[message["cursor"] for message in stream.until_live()] for stream in first]
    most = call(daemon, "process")["resident_bytes"]
    for number, stream in enumerate(first):
        # Half of them without a word.
        stream.reset() if number % 2 else stream.socket.close()
    second = []
    for number, cursors in enumerate(told):
        at = number % len(cursors)
        stream = Stream(daemon, f"cursor={cursors[at]}&{TICKS}")
        second.append(stream)
        messages = stream.until_live()
        assert messages[0]["resume"] == "exact"
        events = [message["cursor"] for message in messages if message["type"] == "event"]
        assert events == cursors[max(1, at + 1) : -1]
    for stream in second:
        stream.socket.close()
    return most


def kept(base: dict[str, int], after: dict[str, int], count: int) -> list[str]:
    """What of so many subscribers is still there."""
    allowed = {
        "tasks": 0.0,
        "descriptors": 0.0,
        "blocks": count * BLOCKS_EACH + BLOCKS_NOISE,
        "resident_bytes": base["resident_bytes"] * RESIDENT_GROWTH + RESIDENT_NOISE,
    }
    return [name for name, most in allowed.items() if after[name] - base[name] > most]


def prepare(start_daemon, tmp_path, **plugins: str):
    daemon = start_daemon(write_config(tmp_path / "config", TOML, **plugins))
    burst(daemon, 20, 100, wait=True)
    return daemon


def test_nothing_stays_of_thousands_that_opened_resumed_and_closed(
    start_daemon, tmp_path, full, capsys
):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 2 * AT_ONCE + 100, "needs more descriptors: ulimit -n"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    daemon = prepare(start_daemon, tmp_path)
    total = SUBSCRIBERS if full else SAMPLE
    at_once = min(AT_ONCE, total // 5)
    for _ in range(WARM_UPS):
        churn(daemon, at_once)
    base = settled(daemon)
    most = max(churn(daemon, at_once) for _ in range(total // at_once))
    after = settled(daemon)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with capsys.disabled():
        print(f"\n{total} subscribers, {at_once} at once: base {base}, most {most}, after {after}")
    assert kept(base, after, total) == []


LEAKS = """
import os
import trio
from yoi_daemon.front.websocket import _Session
from yoi_daemon.sdk import Plugin
plugin = Plugin("broken")
kept = []

@plugin.start
async def start(ctx):
    nursery = await ctx.enter(trio.open_nursery())
    run = _Session.run

    async def leaking(self, admitted, early):
        nursery.start_soon(trio.sleep_forever)
        os.dup(self._stream.socket.fileno())
        kept.append(bytearray(200_000))
        kept.extend(bytes(100) for _ in range(100))
        await run(self, admitted, early)

    _Session.run = leaking
"""


def test_control_a_daemon_that_keeps_something_of_each_is_caught(start_daemon, tmp_path):
    daemon = prepare(start_daemon, tmp_path, broken=LEAKS)
    churn(daemon, 50)
    base = settled(daemon)
    churn(daemon, 50)
    found = kept(base, settled(daemon), 50)
    assert found == ["tasks", "descriptors", "blocks", "resident_bytes"]
