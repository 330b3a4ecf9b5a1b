"""A revoked token's streams end within a second: hundreds of them, and those that never read."""

import json
import socket
import time

import pytest
import trio

from tests.e2e.conftest import DaemonProcess
from tests.e2e.conftest import config as config
from tests.e2e.conftest import start_daemon as start_daemon
from yoi_daemon.front.connection import close_frame

pytest.importorskip("trio_websocket")
pytestmark = pytest.mark.prove

WITHIN_S = 1.0
FOLLOW = 300
NEVER_READ = 20
CLOSE = close_frame(4401, "unauthenticated")
FLOOD = """
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("gen")

@plugin.ingress("flood")
async def flood(ctx: Context, event: IngressEvent) -> None:
    for _ in range(40):
        await ctx.emit("noise", "x" * 100_000)
"""


async def follow(daemon: DaemonProcess, token: str, query: str, *, small: bool = False):
    """A socket on which the stream was begun; nothing was read of it but the answer."""
    host, port = daemon.observe.removeprefix("ws://").split(":")
    raw = trio.socket.socket()
    if small:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await raw.connect((host, int(port)))
    stream = trio.SocketStream(raw)
    await stream.send_all(
        f"GET /v1/events?{query} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
    )
    begun = await stream.receive_some(12)
    assert begun == b"HTTP/1.1 101"
    return stream


async def read_to_the_end(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    try:
        while data := await stream.receive_some():
            received += data
            if received.endswith(CLOSE):
                break
    except trio.BrokenResourceError:
        pass
    return bytes(received)


def subscribers(daemon: DaemonProcess) -> int:
    return daemon.request("GET", "/api/status")[1]["observe"]["subscribers"]


async def test_all_of_them_within_a_second(start_daemon, config):
    (config / "plugins" / "gen.py").write_text(FLOOD)
    daemon = start_daemon(config)
    made = daemon.request("POST", "/api/tokens", {"scopes": ["events:read"]})[1]
    token, token_id = made["secret"], made["token"]["token_id"]
    quiet = [await follow(daemon, token, "kinds=plugin.gave_up") for _ in range(FOLLOW)]
    deaf = [await follow(daemon, token, "", small=True) for _ in range(NEVER_READ)]
    ours = await follow(daemon, daemon.token, "kinds=daemon.")
    assert daemon.request("POST", "/api/plugins/gen/ingress/flood", {})[0] == 202
    while daemon.request("GET", "/api/plugins/gen")[1]["counters"].get("handled", 0) < 1:
        await trio.lowlevel.checkpoint()
    assert subscribers(daemon) == FOLLOW + NEVER_READ + 1
    begun = time.monotonic()
    assert daemon.request("DELETE", f"/api/tokens/{token_id}")[0] == 200
    answered_s = time.monotonic() - begun
    while (left := subscribers(daemon)) > 1 and time.monotonic() - begun < 10:
        await trio.lowlevel.checkpoint()
    ended_s = time.monotonic() - begun
    assert left == 1
    with trio.fail_after(10):
        for stream in quiet:
            told = await read_to_the_end(stream)
            assert b"token_ended" in told
            assert b"daemon.token.revoked" not in told
    print(f"{FOLLOW} and {NEVER_READ} deaf: answered {answered_s:.3f} s, ended {ended_s:.3f} s")
    assert ended_s < WITHIN_S
    for stream in [*quiet, *deaf, ours]:
        await trio.aclose_forcefully(stream)
    assert daemon.stop() == 0
    assert not [
        line for line in daemon.lines if "Traceback" in line or json.loads(line)["level"] == "error"
    ]
