"""128 descriptors and 500 connections: nothing ends, health answers, and it is over when they are."""

import http.client
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import DaemonProcess

pytestmark = pytest.mark.prove
LIMIT = 128
CONNECTS = 500
RECOVERY_S = 1.0
NOISE_S = 2.0
"""For what else the machine does."""
PLUGIN = """
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("gen")

@plugin.ingress("take")
async def take(ctx: Context, event: IngressEvent) -> None:
    await ctx.emit("took", event.payload)
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    (tmp_path / "config" / "plugins").mkdir(parents=True)
    (tmp_path / "config" / "plugins" / "gen.py").write_text(PLUGIN)
    limited = ("prlimit", f"--nofile={LIMIT}:{LIMIT}", sys.executable, "-m", "yoi_daemon")
    started = DaemonProcess(tmp_path / "config", tmp_path / "state", limited).wait_ready()
    yield started
    started.end()


def descriptors(daemon: DaemonProcess) -> int:
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def health(daemon: DaemonProcess, timeout_s: float) -> int:
    at = urlsplit(daemon.api)
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("listener", ["api", "observe"])
def test_more_connections_than_descriptors(
    daemon: DaemonProcess, listener: str, capsys: pytest.CaptureFixture[str]
) -> None:
    at = urlsplit(daemon.api if listener == "api" else daemon.observe)
    answered_s: list[float] = []
    with ExitStack() as opened:
        for _ in range(CONNECTS):
            one = opened.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((at.hostname, at.port))
        # Somebody new is answered while they are there, and accepts events: the store commits.
        until = time.monotonic() + 3
        while time.monotonic() < until:
            answered_s.append(answered(daemon))
        status, _ = daemon.request("POST", "/api/plugins/gen/ingress/take", {})
        assert status == 202
        assert daemon.process.poll() is None
        assert descriptors(daemon) < LIMIT
    recovered_s = answered(daemon)
    with capsys.disabled():
        print(
            f"\n{listener}: healthy after {max(answered_s):.3f} s at worst of {len(answered_s)}, "
            f"{recovered_s:.3f} s after they went; load {os.getloadavg()[0]:.1f}"
        )
    assert recovered_s < RECOVERY_S + NOISE_S
    assert daemon.stop() == 0
    assert not [line for line in daemon.lines if "Traceback" in line]


def answered(daemon: DaemonProcess) -> float:
    """How long it takes until a new client has its 200, however often it is turned away with a 503."""
    begun = time.monotonic()
    while True:
        try:
            if health(daemon, 5) == 200:
                return time.monotonic() - begun
        except OSError:
            pass
        assert time.monotonic() - begun < 10, "nobody new is answered"
        time.sleep(0.02)
