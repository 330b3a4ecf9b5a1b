"""Thousands of subscribers open, resume and close: nothing of them stays in the daemon."""

import resource
import time

import pytest

from tests.e2e.conftest import start_daemon as start_daemon
from tests.proofs.stream.rig import PATIENCE_S, TICKS, Stream, burst, call, write_config

pytest.importorskip("trio_websocket")
pytestmark = pytest.mark.prove

SUBSCRIBERS, SAMPLE = 10_000, 1000
AT_ONCE = 2000
"""Open together; each resumes once, so there are twice as many connections in all."""

EACH_BYTES = 400
"""What a subscriber that is gone may leave, which is noise: one costs some 22 KiB while it is there."""

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


def check(base: dict[str, int], after: dict[str, int], count: int) -> None:
    assert after["tasks"] <= base["tasks"], (base, after)
    assert after["descriptors"] <= base["descriptors"], (base, after)
    assert after["resident_bytes"] - base["resident_bytes"] <= count * EACH_BYTES + (1 << 20), (
        base,
        after,
    )


def prepare(start_daemon, tmp_path, **plugins: str):
    daemon = start_daemon(write_config(tmp_path / "config", TOML, **plugins))
    burst(daemon, 20, 100)
    return daemon


def test_nothing_stays_of_thousands_that_opened_resumed_and_closed(
    start_daemon, tmp_path, full, capsys
):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 2 * AT_ONCE + 100, "needs more descriptors: ulimit -n"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    daemon = prepare(start_daemon, tmp_path)
    total = SUBSCRIBERS if full else SAMPLE
    at_once = min(AT_ONCE, total // 4)
    churn(daemon, at_once)  # what an allocator keeps for the next wave is no leak
    base = settled(daemon)
    most = max(churn(daemon, at_once) for _ in range(total // at_once))
    after = settled(daemon)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with capsys.disabled():
        print(f"\n{total} subscribers, {at_once} at once: base {base}, most {most}, after {after}")
    check(base, after, total)


A_LEAK_OF_TASKS = """
import trio
from yoi_daemon.front.websocket import _Session
from yoi_daemon.sdk import Plugin
plugin = Plugin("broken")

@plugin.start
async def start(ctx):
    nursery = await ctx.enter(trio.open_nursery())
    run = _Session.run
    async def leaking(self, admitted, early):
        nursery.start_soon(trio.sleep_forever)
        await run(self, admitted, early)
    _Session.run = leaking
"""

A_LEAK_OF_MEMORY = """
from yoi_daemon.observe.session import Session
from yoi_daemon.sdk import Plugin
plugin = Plugin("broken")
kept = []
run = Session.run

async def leaking(self, scope, start):
    kept.append((self, bytearray(20_000)))
    await run(self, scope, start)

Session.run = leaking
"""

A_LEAK_OF_DESCRIPTORS = """
import os
from yoi_daemon.front.websocket import _Session
from yoi_daemon.sdk import Plugin
plugin = Plugin("broken")
run = _Session.run

async def leaking(self, admitted, early):
    os.dup(self._stream.socket.fileno())
    await run(self, admitted, early)

_Session.run = leaking
"""


@pytest.mark.parametrize(
    "broken",
    [A_LEAK_OF_TASKS, A_LEAK_OF_MEMORY, A_LEAK_OF_DESCRIPTORS],
    ids=["tasks", "memory", "descriptors"],
)
def test_control_a_daemon_that_keeps_something_of_each_is_caught(start_daemon, tmp_path, broken):
    daemon = prepare(start_daemon, tmp_path, broken=broken)
    churn(daemon, 50)
    base = settled(daemon)
    for _ in range(2):
        churn(daemon, 50)
    with pytest.raises(AssertionError):
        check(base, settled(daemon), 100)
