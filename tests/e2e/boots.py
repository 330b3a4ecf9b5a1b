"""Daemons that die while they come up, and plugins to blame for it."""

import time

STEADY = """
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("steady")

@plugin.start
async def start(ctx: Context) -> None: ...

@plugin.ingress("take")
async def take(ctx: Context, event: IngressEvent) -> None:
    await ctx.emit("took", event.payload)
"""
AT_IMPORT = """
import os
os._exit(3)
"""
AT_START = """
import os, signal
from yoi_daemon.sdk import Context, Plugin
plugin = Plugin("bad")

@plugin.start
async def start(ctx: Context) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
"""
GOOD = STEADY.replace("steady", "bad")
LATER = """
import os, threading
from yoi_daemon.sdk import Context, Plugin
plugin = Plugin("bad")

@plugin.start
async def start(ctx: Context) -> None:
    threading.Timer(0.5, os._exit, [4]).start()
"""
HANGS = """
import time
from yoi_daemon.sdk import Context, Plugin
plugin = Plugin("bad")

@plugin.start
async def start(ctx: Context) -> None:
    time.sleep(600)
"""
PATIENCE_S = 20


def write(config, **plugins: str) -> None:
    for name, code in plugins.items():
        (config / "plugins" / f"{name}.py").write_text(code)


def die(start_daemon, config, times: int = 3, **environ: str) -> list[int]:
    """Starts so many daemons that end by themselves."""
    return [start_daemon(config, ready=False, **environ).wait(PATIENCE_S) for _ in range(times)]


def record(daemon, plugin_id: str, state: str) -> dict:
    """The plugin's record once it is in this state."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        _, told = daemon.request("GET", f"/api/plugins/{plugin_id}")
        if told["state"] == state:
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.02)


def journal(state) -> str:
    file = state / "boots.jsonl"
    return file.read_text() if file.exists() else ""


def wait_for_start(daemon, before: str = "") -> None:
    """Until the load of `bad` and its start are noted, in another journal than `before`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        text = journal(daemon.state)
        if text != before and text.count('"what":"enter","plugin_id":"bad"') >= 2:
            return
        assert time.monotonic() < deadline, text
        time.sleep(0.02)


def wait_until_well(daemon) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while '"what":"well"' not in journal(daemon.state):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def hold_back(start_daemon, config, code: str, status: int) -> None:
    """The story of a plugin that ends the process whenever it comes up, until it is corrected."""
    write(config, bad=code, steady=STEADY)
    assert die(start_daemon, config) == [status] * 3
    daemon = start_daemon(config)
    record(daemon, "steady", "running")
    told = record(daemon, "bad", "failed")
    assert told["reason"]["code"] == "quarantined"
    assert "died 3 times in a row" in told["reason"]["message"]
    assert "yoi-daemon plugin start bad" in told["reason"]["message"]
    assert daemon.request("POST", "/api/plugins/steady/ingress/take", 1)[0] == 202
    refused = daemon.request("POST", "/api/plugins/bad/ingress/take", 1)
    assert (refused[0], refused[1]["code"]) == (503, "service_failed")
    assert daemon.request("GET", "/readyz")[0] == 200

    # It outlives a clean stop, and a reload of everything passes it over.
    assert daemon.stop() == 0
    daemon = start_daemon(config)
    assert record(daemon, "bad", "failed")["reason"]["code"] == "quarantined"
    assert daemon.request("POST", "/api/reload")[1]["plugins"] == []

    # Corrected, a reload takes it, and the next start knows nothing of it.
    write(config, bad=GOOD)
    assert daemon.request("POST", "/api/reload")[1]["plugins"] == ["bad"]
    record(daemon, "bad", "running")
    assert daemon.stop() == 0
    daemon = start_daemon(config)
    record(daemon, "bad", "running")
    assert daemon.stop() == 0
