"""Two client libraries that are not ours follow and resume: `websockets` in Python, `ws` in Node."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.e2e.conftest import start_daemon as start_daemon
from tests.proofs.stream.rig import PATIENCE_S, TICKS, call, write_config

pytest.importorskip("trio_websocket")
pytestmark = pytest.mark.prove

WS = "ws@8"
WS_CLIENT = Path(__file__).with_name("ws_client.js")
TOTAL, EACH = 800, 37
"""So many events while they follow, and so many on each connection before it is cut."""


@pytest.fixture
def daemon(start_daemon, tmp_path):
    """It publishes while they follow: each cut falls somewhere between replay and live."""
    daemon = start_daemon(write_config(tmp_path / "config"))
    call(daemon, "publish", rate=200, size=300, count=TOTAL)
    return daemon


async def follow(daemon, *, forgets: bool = False) -> dict[str, Any]:
    """As `ws_client.js`; a client that forgets resumes one event too early."""
    seen: dict[str, Any] = {"numbers": [], "connections": 0, "pongs": 0}
    cursors = ["earliest"]
    while TOTAL - 1 not in seen["numbers"]:
        seen["connections"] += 1
        cursor = cursors[max(0, len(cursors) - 2)] if forgets else cursors[-1]
        async with connect(
            f"{daemon.observe}/v1/events?{TICKS}&cursor={cursor}",
            additional_headers={"Authorization": f"Bearer {daemon.token}"},
        ) as stream:
            pong = await stream.ping()  # not waited for: it comes behind what is read below
            here = 0
            while here < EACH and TOTAL - 1 not in seen["numbers"]:
                message = json.loads(await stream.recv())
                cursors.append(message["cursor"])
                if message["type"] == "event":
                    here += 1
                    seen["numbers"].append(message["data"]["number"])
            seen["pongs"] += pong.done() and not pong.cancelled()
            stream.transport.abort()
    return seen


async def bounded(daemon, **options: bool) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        return await follow(daemon, **options)


def check_talk(seen: dict[str, Any]) -> None:
    assert seen["connections"] >= TOTAL // EACH
    assert seen["pongs"] >= seen["connections"] // 2  # a cut may overtake one


def test_websockets_follows_and_resumes(daemon):
    seen = asyncio.run(bounded(daemon))
    assert seen["numbers"] == list(range(TOTAL))
    check_talk(seen)


def test_control_a_client_that_forgets_its_last_cursor_sees_events_twice(daemon):
    seen = asyncio.run(bounded(daemon, forgets=True))
    assert seen["numbers"] != list(range(TOTAL))
    assert sorted(set(seen["numbers"])) == list(range(TOTAL))


@pytest.fixture
def ws_directory(tmp_path) -> Path:
    """Where npm has put `ws`, from its registry."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node or npm is not installed: ws was not tried")
    directory = tmp_path / "node"
    directory.mkdir()
    shutil.copy(WS_CLIENT, directory)
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", WS]
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=PATIENCE_S)
    return directory


def test_ws_follows_and_resumes(ws_directory, daemon):
    arguments = [daemon.observe, daemon.token, TICKS, str(TOTAL), str(EACH)]
    done = subprocess.run(
        ["node", WS_CLIENT.name, *arguments],
        cwd=ws_directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["numbers"] == list(range(TOTAL))
    check_talk(seen)
    assert (seen["types"][0], seen["code"]) == ("hello", 1000)
