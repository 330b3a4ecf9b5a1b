"""A store of each schema there ever was is taken up whole: what waited is handled, what was kept is there.

`tests/data/stores/N.sql` is what a daemon of schema N left, as `python tests/e2e/test_earlier_stores.py`
makes it. A new schema gets a new file; the others are never made again.
"""

import json
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import pytest
from websockets.sync.client import connect

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.e2e.conftest import DaemonProcess
from yoi_daemon.store.sqlite.schema import APPLICATION_ID, VERSION

STORES = Path(__file__).parents[1] / "data" / "stores"
MODULE = """
import os
import trio
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("p")

@plugin.ingress("take")
async def take(ctx: Context, event: IngressEvent) -> None:
    if event.payload == "bad":
        raise ValueError("no good")
    if "HOLD" in os.environ:
        await trio.sleep_forever()
    taken = await ctx.state.get("taken") or []
    await ctx.state.set("taken", [*taken, event.payload])

@plugin.status
async def status(ctx: Context) -> list:
    return await ctx.state.get("taken")
"""
SETTINGS = "[plugins.p]\nattempts = 2\nretry_min_s = 0.01\n[daemon]\nstop_timeout_s = 1\n"
PATIENCE_S = 20
PAUSE_S = 0.05


def wait_for(holds):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(PAUSE_S)
    return found


def write(config: Path) -> None:
    (config / "plugins").mkdir(parents=True, exist_ok=True)
    (config / "plugins" / "p.py").write_text(MODULE)
    (config / "yoi-daemon.toml").write_text(SETTINGS)


def send(daemon: DaemonProcess, payload: str, key: str):
    status, answer = daemon.request(
        "POST", "/api/plugins/p/ingress/take", payload, {"Idempotency-Key": key}
    )
    assert status == 202, answer
    return answer["event_id"]


def record_of(daemon: DaemonProcess):
    return daemon.request("GET", "/api/plugins/p")[1]


def load(state: Path, version: int) -> None:
    state.mkdir(mode=0o700)
    connection = sqlite3.connect(state / "store.sqlite3")
    connection.executescript((STORES / f"{version}.sql").read_text("utf-8"))
    connection.close()


def test_there_is_one_of_each_schema():
    assert sorted(int(file.stem) for file in STORES.glob("*.sql")) == [*range(1, VERSION + 1)]


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_it_is_taken_up_whole(start_daemon, config, tmp_path, version):
    write(config)
    load(tmp_path / "state", version)
    daemon = start_daemon(config)
    record = wait_for(lambda: (one := record_of(daemon))["queue_depth"] == 0 and one)
    assert record["detail"] == ["first", "held", "queued"]
    # A key that was used before the upgrade gives the answer that it gave.
    told = json.loads(
        (STORES / f"{version}.sql").read_text("utf-8").splitlines()[0].removeprefix("-- ")
    )
    assert send(daemon, "queued", "k-queued") == told["queued"]
    letters = daemon.request("GET", "/api/plugins/p/dead-letters")[1]["items"]
    assert [one["event_id"] for one in letters] == [told["bad"]]
    (worker,) = daemon.request("GET", "/api/workers")[1]["items"]
    assert worker["label"] == "kept"
    path = f"/api/runtimes/backend-internal/workers/{worker['worker_id']}/transcript"
    assert [one["text"] for one in daemon.request("GET", path)[1]["items"]] == ["hello", "hello"]
    with connect(
        f"{daemon.observe}/v1/events?cursor={told['cursor']}",
        additional_headers={"Authorization": f"Bearer {daemon.token}"},
    ) as stream:
        hello = json.loads(stream.recv())
        assert (hello["type"], hello.get("resume")) == ("hello", "exact"), hello


def make(into: Path) -> None:
    """What a daemon of this version leaves when it is killed: one handled, one dead, one in hand, one queued."""
    with tempfile.TemporaryDirectory() as made:
        config, state = Path(made) / "config", Path(made) / "state"
        write(config)
        daemon = DaemonProcess(config, state).wait_ready()
        send(daemon, "first", "k-first")
        bad = send(daemon, "bad", "k-bad")
        body = {"profile": "builtin:echo", "label": "kept", "input": "hello"}
        daemon.request("POST", "/api/runtimes/backend-internal/workers", body)
        wait_for(lambda: record_of(daemon)["queue_depth"] == 0)
        wait_for(lambda: daemon.request("GET", "/api/workers")[1]["items"][0]["state"] == "idle")
        assert daemon.stop() == 0
        daemon.end()
        daemon = DaemonProcess(config, state, HOLD="1").wait_ready()
        send(daemon, "held", "k-held")
        queued = send(daemon, "queued", "k-queued")
        cursor = daemon.request("GET", "/api/status")[1]["log"]["head"]
        daemon.signal(signal.SIGKILL)
        daemon.end()
        connection = sqlite3.connect(state / "store.sqlite3")
        told = json.dumps({"queued": queued, "bad": bad, "cursor": cursor})
        pragmas = f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {VERSION};"
        dump = "\n".join(connection.iterdump())
        connection.close()
        into.write_text(f"-- {told}\n{pragmas}\n{dump}\n")


if __name__ == "__main__":
    made_file = STORES / f"{VERSION}.sql"
    if made_file.exists():
        sys.exit(f"{made_file} is there already: it is never made again")
    make(made_file)
