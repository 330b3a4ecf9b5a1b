"""128 descriptors and 500 connections: nothing ends, health answers, and it is over when they are."""

import http.client
import os
import resource
import socket
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
    started = DaemonProcess(tmp_path / "config", tmp_path / "state").wait_ready()
    resource.prlimit(started.process.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
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
    known = http.client.HTTPConnection(
        urlsplit(daemon.api).hostname or "", urlsplit(daemon.api).port, timeout=10
    )
    known.request("GET", "/healthz")
    assert known.getresponse().read()
    before = descriptors(daemon)
    told: list[str] = []
    with ExitStack() as opened:
        opened.callback(known.close)
        for _ in range(CONNECTS):
            one = opened.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((at.hostname, at.port))
        deadline = time.monotonic() + 20
        while descriptors(daemon) < LIMIT - 8 and time.monotonic() < deadline:
            time.sleep(0.02)
        told.append(f"{descriptors(daemon)} descriptors")
        # While there is not one descriptor more: who is there is served, the store commits, and
        # somebody new is answered.
        begun = time.monotonic()
        try:
            known.request("GET", "/healthz")
            told.append(f"known {known.getresponse().status}")
        except OSError as error:
            told.append(f"known {error!r}")
        told.append(f"{time.monotonic() - begun:.3f} s")
        begun = time.monotonic()
        try:
            told.append(f"new {health(daemon, 20)}")
        except OSError as error:
            told.append(f"new {error!r}")
        told.append(f"{time.monotonic() - begun:.3f} s")
        assert daemon.process.poll() is None
    begun = time.monotonic()
    while True:
        try:
            if health(daemon, 5) == 200:
                break
        except OSError:
            pass
        assert time.monotonic() - begun < 20
    recovered_s = time.monotonic() - begun
    status, _ = daemon.request("POST", "/api/plugins/gen/ingress/take", {})
    assert status == 202
    with capsys.disabled():
        print(
            f"\n{listener}: {told}; before {before}; recovered in {recovered_s:.3f} s; load {os.getloadavg()[0]:.1f}"
        )
    assert daemon.stop() == 0
