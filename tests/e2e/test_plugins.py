"""A plugin's record, its commands and reload, over the API of the real process."""

import time

MODULE = """
import trio
from yoi_daemon.sdk import Context, IngressEvent, Plugin, Retry
plugin = Plugin("p")

@plugin.start
async def start(ctx: Context) -> None:
    ctx.local.version = VERSION

@plugin.ingress("ok")
async def ok(ctx: Context, event: IngressEvent) -> None:
    await ctx.emit("version", ctx.local.version)

@plugin.ingress("fail")
async def fail(ctx: Context, event: IngressEvent) -> None:
    raise ValueError("no good")

@plugin.ingress("later")
async def later(ctx: Context, event: IngressEvent) -> None:
    if event.attempt == 1:
        raise Retry("not yet", after_s=0.05)

@plugin.ingress("hang")
async def hang(ctx: Context, event: IngressEvent) -> None:
    await trio.sleep_forever()

@plugin.ingress("newest", overflow="drop_oldest")
async def newest(ctx: Context, event: IngressEvent) -> None: ...

@plugin.status
async def status(ctx: Context) -> dict[str, int]:
    return {"version": ctx.local.version}
"""
CONFIG = """
[plugins.p]
queue_events = 4
dispatch_timeout_s = 0.5
dispatch_warn_s = 0.4
attempts = 2
retry_min_s = 0.01
"""
PATIENCE_S = 10


def write(config, version) -> None:
    (config / "plugins" / "p.py").write_text(MODULE.replace("VERSION", str(version)))


def wait_for(daemon, holds) -> dict:
    """The plugin's record once it is so; the bound is against hanging."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        _, record = daemon.request("GET", "/api/plugins/p")
        if holds(record):
            return record
        assert time.monotonic() < deadline, record


def send(daemon, ingress, payload=None):
    return daemon.request("POST", f"/api/plugins/p/ingress/{ingress}", payload or {})


def test_the_record_tells_what_happens(start_daemon, config):
    (config / "yoi-daemon.toml").write_text(CONFIG)
    write(config, 1)
    daemon = start_daemon(config)
    record = wait_for(daemon, lambda one: one["state"] == "running")
    assert record["detail"] == {"version": 1}
    assert (record["queue_depth"], record["queue_capacity"], record["counters"]) == (0, 4, {})
    assert record["oldest_waiting_s"] is None
    assert send(daemon, "ok")[0] == send(daemon, "later")[0] == 202
    counters = wait_for(daemon, lambda one: one["counters"].get("handled") == 2)["counters"]
    assert counters == {"accepted": 2, "handled": 2, "retry_scheduled": 1}

    send(daemon, "fail")
    record = wait_for(daemon, lambda one: one["counters"].get("dead_lettered") == 1)
    error = record["last_error"]
    assert (error["code"], error["message"]) == ("handler_failed", "ValueError: no good")
    line = MODULE.splitlines().index('    raise ValueError("no good")') + 1
    assert error["where"] == f"plugins/p.py:{line}"
    _, page = daemon.request("GET", "/api/plugins/p/dead-letters")
    event_id = page["items"][0]["event_id"]
    assert len(page["items"][0]["attempts"]) == 2

    # A handler hangs: the queue fills, refuses, drops where it may, and empties after the deadlines.
    send(daemon, "hang")
    wait_for(daemon, lambda one: one["oldest_waiting_s"] and one["oldest_waiting_s"] > 0)
    assert send(daemon, "newest")[0] == send(daemon, "ok")[0] == send(daemon, "ok")[0] == 202
    status, problem = send(daemon, "ok")
    assert (status, problem["code"]) == (429, "queue_full")
    assert (problem["queue_depth"], problem["queue_capacity"]) == (4, 4)
    assert send(daemon, "newest")[0] == 202
    record = wait_for(daemon, lambda one: one["queue_depth"] == 0)
    counters = record["counters"]
    assert counters["dispatch_timeout"] == 2
    assert counters["dropped"] == 1
    assert counters["dead_lettered"] == 2
    settled = sum(counters[name] for name in ("handled", "dead_lettered", "dropped"))
    assert counters["accepted"] == settled

    status, receipt = daemon.request("POST", f"/api/plugins/p/dead-letters/{event_id}/redeliver")
    assert (status, receipt["event_id"]) == (202, event_id)
    wait_for(daemon, lambda one: one["counters"]["dead_lettered"] == 3)
    status, gone = daemon.request("DELETE", f"/api/plugins/p/dead-letters/{event_id}")
    assert (status, gone["event_id"]) == (200, event_id)
    assert daemon.request("GET", f"/api/plugins/p/dead-letters/{event_id}")[0] == 404


def test_stop_start_restart_and_reload(start_daemon, config):
    write(config, 1)
    daemon = start_daemon(config)
    wait_for(daemon, lambda one: one["state"] == "running")
    status, answer = daemon.request("POST", "/api/plugins/p/stop")
    assert (status, answer["plugin"]["state"]) == (200, "stopped")
    status, problem = send(daemon, "ok")
    assert (status, problem["code"], problem["state"]) == (503, "service_unavailable", "stopped")
    assert daemon.request("POST", "/api/plugins/p/start")[0] == 200
    wait_for(daemon, lambda one: one["state"] == "running")

    # A bad module and a bad configuration are refused whole; the old goes on.
    (config / "plugins" / "p.py").write_text("def (:\n")
    for path in ("/api/plugins/p/reload", "/api/reload"):
        status, problem = daemon.request("POST", path)
        assert (status, problem["code"]) == (409, "invalid_state")
        assert "plugins/p.py:1" in problem["faults"][0]
    write(config, 2)
    (config / "yoi-daemon.toml").write_text("[plugins.p]\nattempts = 0\n")
    status, problem = daemon.request("POST", "/api/reload")
    assert (status, problem["code"]) == (409, "invalid_state")
    assert "plugins.p.attempts" in problem["faults"][0]
    record = wait_for(daemon, lambda one: one["state"] == "running")
    assert record["detail"] == {"version": 1}

    (config / "yoi-daemon.toml").write_text(
        "[plugins.p]\nqueue_events = 7\n[runtime]\nmax_workers = 5\n"
    )
    status, answer = daemon.request("POST", "/api/reload")
    assert (status, answer["plugins"], answer["needs_restart"]) == (200, ["p"], ["runtime"])
    record = wait_for(daemon, lambda one: one["state"] == "running")
    assert (record["detail"], record["queue_capacity"]) == ({"version": 2}, 7)
    assert send(daemon, "ok")[0] == 202

    (config / "plugins" / "p.py").rename(config / "plugins" / "p.txt")
    assert daemon.request("POST", "/api/reload")[1]["plugins"] == ["p"]
    assert daemon.request("GET", "/api/plugins/p")[0] == 404
    (config / "plugins" / "p.txt").rename(config / "plugins" / "p.py")
    assert daemon.request("POST", "/api/reload")[1]["plugins"] == ["p"]
    wait_for(daemon, lambda one: one["state"] == "running")
    assert daemon.stop() == 0


STUBBORN = """
import trio
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("stubborn")

@plugin.ingress("stay")
async def stay(ctx: Context, event: IngressEvent) -> None:
    while True:
        try:
            await trio.sleep(60)
        except BaseException:
            pass
"""


def test_a_wedged_plugin_holds_neither_a_reload_nor_the_stop(start_daemon, config):
    (config / "yoi-daemon.toml").write_text(
        "[plugins.stubborn]\ndispatch_timeout_s = 0.3\ndispatch_grace_s = 0.3\n"
        "[daemon]\nstop_timeout_s = 3\n"
    )
    (config / "plugins" / "stubborn.py").write_text(STUBBORN)
    write(config, 1)
    daemon = start_daemon(config)
    wait_for(daemon, lambda one: one["state"] == "running")
    assert daemon.request("POST", "/api/plugins/stubborn/ingress/stay", {})[0] == 202
    deadline = time.monotonic() + PATIENCE_S
    while True:
        _, record = daemon.request("GET", "/api/plugins/stubborn")
        if record["reason"]["code"] == "wedged":
            break
        assert time.monotonic() < deadline, record
    assert record["counters"] == {"accepted": 1, "dispatch_timeout": 1}
    assert record["queue_depth"] == 1
    # Refused whole: the good change beside it is not taken either.
    write(config, 2)
    (config / "plugins" / "stubborn.py").write_text(STUBBORN + "# changed\n")
    status, problem = daemon.request("POST", "/api/reload")
    assert (status, "wedged" in problem["faults"][0]) == (409, True)
    assert wait_for(daemon, lambda one: one["state"] == "running")["detail"] == {"version": 1}
    # Removed, it is still known to run.
    (config / "plugins" / "stubborn.py").unlink()
    assert daemon.request("POST", "/api/reload")[0] == 200
    assert daemon.request("POST", "/api/plugins/stubborn/reload")[1]["code"] == "plugin_not_found"
    begun = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begun < 3
    assert not (daemon.state / "daemon.json").exists()
