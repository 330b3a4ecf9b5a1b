"""A plugin that holds the event loop is named while it does, and afterwards: over the real process."""

import json
import os
import time

import pytest
from websockets.sync.client import connect

from yoi_daemon.cli.main import run_command

MODULE = """
import os
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("p")

@plugin.ingress("block")
async def block(ctx: Context, event: IngressEvent) -> None:
    wait(event.payload)

def wait(pipe: str) -> None:
    open(pipe).close()  # until somebody opens the other end
"""
LINE = "plugins/p.py:11"
PATIENCE_S = 20


def wait_for(holds):
    """The bound is against hanging."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.fixture
def pipe(tmp_path):
    made = tmp_path / "pipe"
    os.mkfifo(made)
    return made


def logged(daemon, event):
    return [line for line in map(_decode, list(daemon.lines)) if line.get("event") == event]


def _decode(line):
    try:
        return json.loads(line)
    except ValueError:
        return {}


def test_who_holds_the_loop_is_named(start_daemon, config, tmp_path, pipe, capsys):
    (config / "plugins" / "p.py").write_text(MODULE)
    daemon = start_daemon(config)
    state = tmp_path / "state"
    daemon.request("POST", "/api/plugins/p/ingress/block", str(pipe))
    (noticed,) = wait_for(lambda: logged(daemon, "the event loop stands still"))
    assert (noticed["plugin_id"], noticed["where"], noticed["level"]) == ("p", LINE, "warning")
    assert "in wait" in noticed["stack"]
    wait_for((state / "blocked.json").exists)

    # It cannot answer, and the operator is told who it is all the same.
    assert run_command(["status", "--state", str(state)]) == 69
    assert f"held by plugin p, at {LINE}" in capsys.readouterr().err

    with open(pipe, "w"):
        pass
    (ended,) = wait_for(lambda: logged(daemon, "the event loop turns again"))
    assert ended["where"] == LINE
    wait_for(lambda: not (state / "blocked.json").exists())
    assert run_command(["status", "--state", str(state)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("not well: plugin p held the event loop for ")
    assert f" at {LINE}, " in out

    with connect(
        f"{daemon.observe}/v1/plugins/p/events?cursor=earliest&kinds=daemon.loop_blocked",
        additional_headers={"Authorization": f"Bearer {daemon.token}"},
    ) as stream:
        stream.recv()
        event = json.loads(stream.recv(timeout=PATIENCE_S))
    assert event["plugin_id"] == "p"
    assert event["data"]["where"] == LINE
    assert event["data"]["blocked_s"] >= 0.5
    _, status = daemon.request("GET", "/api/status")
    assert (status["loop"]["count"], status["loop"]["last"]["plugin_id"]) == (1, "p")
    assert daemon.stop() == 0
    assert len(logged(daemon, "the event loop stands still")) == 1
