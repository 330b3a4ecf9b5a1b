"""The store of the real daemon: looked at while it runs, gone back to, and refused."""

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from websockets.sync.client import connect

from yoi_daemon.store.sqlite.schema import APPLICATION_ID

PLUGIN = """
import os
import trio
from yoi_daemon.sdk import Context, IngressEvent, Plugin
plugin = Plugin("gen")

@plugin.ingress("take")
async def take(ctx: Context, event: IngressEvent) -> None:
    await ctx.emit("took", event.payload)

@plugin.ingress("wait")
async def wait(ctx: Context, event: IngressEvent) -> None:
    while not os.path.exists(os.environ["GATE"]):
        await trio.sleep(0.05)
    await ctx.emit("took", event.payload)
"""


@pytest.fixture
def config(config: Path) -> Path:
    (config / "plugins" / "gen.py").write_text(PLUGIN)
    (config / "plugins" / "other.py").write_text(PLUGIN.replace('"gen"', '"other"'))
    return config


def store(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "yoi_daemon", "store", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def first_message(daemon, cursor: str) -> dict:
    with connect(
        f"{daemon.observe}/v1/events?cursor={cursor}",
        additional_headers={"Authorization": f"Bearer {daemon.token}"},
        close_timeout=0.1,
    ) as stream:
        return json.loads(stream.recv(timeout=10))


def wait_took(daemon, count: int) -> list:
    """The payloads that the plugin told of, once there are so many."""
    with connect(
        f"{daemon.observe}/v1/plugins/gen/events?cursor=earliest&kinds=gen.took",
        additional_headers={"Authorization": f"Bearer {daemon.token}"},
        close_timeout=0.1,
    ) as stream:
        told: list = []
        while len(told) < count:
            message = json.loads(stream.recv(timeout=10))
            told += [message["data"]] if message["type"] == "event" else []
        return told


@pytest.mark.prove
def test_a_copy_of_a_busy_daemon_is_sound_and_can_be_gone_back_to(
    start_daemon, config: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    daemon = start_daemon(config, GATE=str(gate))
    for number in range(5):
        daemon.request("POST", "/api/plugins/gen/ingress/wait", {"waited": number})
    _, receipt = daemon.request("POST", "/api/plugins/other/ingress/take", {})
    stopped = threading.Event()

    def write() -> None:
        while not stopped.wait(0.005):
            daemon.request("POST", "/api/plugins/other/ingress/take", {"text": "x" * 1000})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copy = tmp_path / "copy.sqlite3"
        for arguments in (("check",), ("stats",), ("backup", copy)):
            done = store(*arguments, "--state", daemon.state)
            assert (done.returncode, done.stderr) == (0, ""), done
    finally:
        stopped.set()
        writer.join()
    told = json.loads(store("stats", "--file", copy, "--json").stdout)
    assert told["plugins"][0]["events"] == 5
    assert store("check", "--file", copy).returncode == 0
    later, _ = daemon.request("POST", "/api/plugins/gen/ingress/take", {"after": "the copy"})
    assert later == 202
    assert daemon.stop() == 0
    assert store("check", "--state", daemon.state).returncode == 0

    gate.touch()
    # Here, and on another machine, where nothing but the copy is.
    for file in daemon.state.glob("store.sqlite3*"):
        file.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for state in (daemon.state, elsewhere):
        shutil.copy(copy, state / "store.sqlite3")
        again = start_daemon(config, state, GATE=str(gate))
        assert wait_took(again, 5) == [{"waited": number} for number in range(5)]
        error = first_message(again, receipt["cursor"])
        assert (error["code"], error["reason"]) == ("cursor_expired", "epoch_changed")
        latest = again.request("POST", "/api/plugins/other/ingress/take", {})[1]["cursor"]
        assert first_message(again, latest)["resume"] == "exact"
        assert again.stop() == 0
        assert store("check", "--state", state).returncode == 0


def damaged(file: Path) -> None:
    file.write_bytes(b"this is no database" * 1000)


def newer(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def foreign(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "code", "told"),
    [(damaged, 74, "store check"), (newer, 78, "newer"), (foreign, 78, "move this one away")],
)
def test_what_it_cannot_use_it_does_not_start_on(
    start_daemon, config: Path, tmp_path: Path, make, code: int, told: str
) -> None:
    file = tmp_path / "state" / "store.sqlite3"
    file.parent.mkdir()
    make(file)
    before = file.read_bytes()
    daemon = start_daemon(config, ready=False)
    assert daemon.wait() == code
    said = "".join(daemon.lines)
    assert told in said
    assert "Traceback" not in said
    assert file.read_bytes() == before
