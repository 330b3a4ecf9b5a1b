"""`yoi-daemon store`, on the store that a daemon left."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.conftest import Run
from tests.plugins.rig import open_rig
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.events import Draft
from yoi_daemon.sdk import Plugin


async def fill(state: Path) -> None:
    """Three events that wait, one that is dead, some that are handled, a worker's events."""

    async def take(ctx: Any, event: Any) -> None:
        if event.payload == "dead":
            raise ValueError
        if event.payload != "handled":
            await trio.sleep_forever()

    plugin = Plugin("gen")
    plugin.ingress("take", on_retry="hold")(take)
    async with open_rig(state) as rig:
        service = rig.add(plugin, attempts=2, retry_min_s=0.001, retry_max_s=0.001)
        for payload in ("handled", "dead", "waits", "waits", "waits"):
            await rig.accept(service, "take", payload, key=f"k{rig.ids.new('x')}")
        await rig.until("plugin.ingress.dead_lettered")
        append_of_worker(rig.event_log)
        await rig.settled()


def append_of_worker(log: EventLog) -> None:
    for number in range(3):
        log.append(Draft(kind="worker.output", runtime_id="r", worker_id="w", data=number))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("filled")
    trio.run(fill, state)
    return state


@pytest.fixture
def state(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "state"))


@pytest.fixture
def change(state: Path) -> Callable[[str], None]:
    """Changes the store behind the daemon's back."""

    def execute(sql: str) -> None:
        connection = sqlite3.connect(state / "store.sqlite3")
        connection.execute(sql)
        connection.commit()
        connection.close()

    return execute


def test_a_sound_store_is_said_to_be_sound(run: Run, state: Path) -> None:
    outcome = run("store", "check", "--state", str(state))
    assert (outcome.code, outcome.err) == (0, "")
    assert "nothing is wrong" in outcome.out
    assert run("store", "check", "--state", str(state), "--json").json == {
        "good": True,
        "faults": [],
    }


DAMAGE = {
    "a payload is gone": (
        "DELETE FROM ingress_event WHERE rowid = (SELECT min(rowid) FROM ingress_event)",
        "is missing, its progress",
    ),
    "another plugin's claim": (
        "INSERT INTO claimed SELECT 'other', 0, json_array(max(number)) FROM ingress_event",
        "is claimed by another plugin",
    ),
    "a dead letter is gone": (
        "DELETE FROM progress WHERE number IN (SELECT number FROM dead_letter)",
        "the dead letter",
    ),
    "another plugin's": ("UPDATE dead_letter SET plugin_id = 'other'", "two plugins"),
    "the same place twice": (
        "UPDATE progress SET position = (SELECT max(number) FROM ingress_event)",
        "shares its place",
    ),
    "the same number twice": (
        "INSERT INTO volume_segment SELECT * FROM lifecycle_segment WHERE last_seq = 4",
        "number 4 was given to two events",
    ),
    "a hole": ("DELETE FROM lifecycle_segment WHERE last_seq IN (5, 6)", "2 events between"),
    "half a segment": (
        "UPDATE lifecycle_segment SET content = substr(content, 1, 300) WHERE last_seq = 4",
        "lifecycle events up to number 4",
    ),
    "another segment's events": (
        "UPDATE lifecycle_segment SET last_seq = 1000 WHERE last_seq = 4",
        "lifecycle events up to number 1000 do not match",
    ),
    "no end": (
        "UPDATE fact SET value = 100000 WHERE name = 'floor.lifecycle'",
        "lifecycle events are",
    ),
    "a mark ahead": ("INSERT INTO watermark VALUES ('volume', '\"p\"', 7)", "watermarks"),
    "a number of the future": (
        "UPDATE progress SET position = position + 100000",
        "above the last one",
    ),
    "a worker's number": ("UPDATE worker_number SET worker_seq = 2", "has event 3, but counts 2"),
    "an item of no worker": (
        "INSERT INTO transcript_item VALUES ('r', 'gone', 1, 'itm', 'user', 'x', 'now')",
        "worker gone is missing, items",
    ),
    "an input to no worker": (
        "INSERT INTO inbox_input VALUES ('r', 'gone', 'itm', 1, 'x', NULL)",
        "worker gone is missing, inputs",
    ),
    "a worker in no state": (
        "INSERT INTO worker VALUES ('r', 'odd', 'p', '', 'now', 'dreaming', 0, NULL, 0, 1)",
        "worker odd is in an unknown state",
    ),
    "a log without a name": ("DELETE FROM fact WHERE name = 'epoch'", "no epoch"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_must_hold_is_looked_at(
    run: Run, state: Path, change: Callable[[str], None], damage: str
) -> None:
    statement, told = DAMAGE[damage]
    change(statement)
    outcome = run("store", "check", "--state", str(state))
    assert outcome.code == 74
    assert told in outcome.out
    assert "backup" in outcome.err
    answer = run("store", "check", "--state", str(state), "--json")
    assert (answer.code, answer.json["good"]) == (74, False)


def test_what_sqlite_finds_is_told(run: Run, state: Path) -> None:
    file = state / "store.sqlite3"
    content = bytearray(file.read_bytes())
    content[4096 * 5 : 4096 * 6] = b"\xa5" * 4096
    file.write_bytes(content)
    outcome = run("store", "check", "--state", str(state))
    assert outcome.code == 74
    assert "Traceback" not in outcome.err


def test_stats_count_what_is_there(run: Run, state: Path) -> None:
    told = run("store", "stats", "--state", str(state), "--json").json
    (plugin,) = told["plugins"]
    assert (plugin["plugin_id"], plugin["events"], plugin["dead"]) == ("gen", 3, 1)
    assert plugin["bytes"] == 3 * len('"waits"')
    assert plugin["oldest"] == "2027-01-15T08:00:00.000000Z"
    assert told["tables"]["idempotency_key"]["rows"] == 5
    assert told["tables"]["ingress_event"]["rows"] == 4
    assert told["tables"]["progress"]["rows"] == 2, "the dead one, and the one that was in hand"
    assert told["tables"]["ingress_event"]["bytes"] > 4 * 40
    assert told["log"]["events"] == told["log"]["head"] > 10
    assert told["log"]["epoch"] == "00112233aabbccdd"
    assert told["bytes"] == (state / "store.sqlite3").stat().st_size
    assert told["free_bytes"] > 0
    table = run("store", "stats", "--state", str(state))
    assert table.code == 0
    assert "gen" in table.out
    assert "idempotency_key" in table.out
    assert str(state) not in table.out


def test_a_backup_is_a_store_and_the_store_is_left_as_it_was(
    run: Run, state: Path, tmp_path: Path
) -> None:
    target = tmp_path / "copy.sqlite3"
    outcome = run("store", "backup", str(target), "--state", str(state))
    assert (outcome.code, outcome.err) == (0, "")
    assert target.stat().st_mode & 0o777 == 0o600
    assert run("store", "check", "--file", str(target)).code == 0
    before = run("store", "stats", "--state", str(state), "--json").json
    after = run("store", "stats", "--file", str(target), "--json").json
    assert after["plugins"] == before["plugins"]
    assert after["log"] == before["log"]
    again = run("store", "backup", str(target), "--state", str(state))
    assert again.code == 77
    assert "exists already" in again.err


@pytest.mark.parametrize("command", ["check", "stats", "backup"])
def test_what_is_no_store_is_told(run: Run, tmp_path: Path, command: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    arguments = ["store", command, "--state", str(state)]
    arguments += [str(tmp_path / "copy")] * (command == "backup")
    outcome = run(*arguments)
    assert outcome.code == 78
    assert "--state DIR" in outcome.err
    connection = sqlite3.connect(state / "store.sqlite3")
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    assert run(*arguments).code == 78
    (state / "store.sqlite3").write_bytes(b"no database" * 1000)
    outcome = run(*arguments)
    assert outcome.code == 74
    assert "not a database" in outcome.err
    assert not (tmp_path / "copy").exists()


def test_a_newer_store_is_for_its_own_command(
    run: Run, state: Path, change: Callable[[str], None]
) -> None:
    change("PRAGMA user_version = 99")
    outcome = run("store", "stats", "--state", str(state))
    assert outcome.code == 78
    assert "newer" in outcome.err


def test_an_older_store_can_be_copied_before_it_is_brought_here(
    run: Run, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yoi_daemon.store.sqlite import reading

    monkeypatch.setattr(reading, "VERSION", reading.VERSION + 1)
    assert run("store", "check", "--state", str(state)).code == 78
    assert run("store", "backup", str(tmp_path / "copy"), "--state", str(state)).code == 0


@pytest.mark.parametrize("runs", [False, True])
def test_as_root_the_services_store_is_found(
    run: Run, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    runtime, mine = tmp_path / "run", tmp_path / "home" / ".local" / "state" / "yoi-daemon"
    monkeypatch.setattr("yoi_daemon.cli.store.SYSTEM_STATE_DIRECTORY", state)
    monkeypatch.setattr("yoi_daemon.cli.store.RUNTIME_DIRECTORY", runtime)
    if runs:  # then it is the one, though this user has one too
        runtime.mkdir()
        (runtime / "daemon.json").touch()
        mine.mkdir(parents=True)
        (mine / "store.sqlite3").touch()
    assert str(state / "store.sqlite3") in run("store", "check").out
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "other"))
    assert str(tmp_path / "other") in run("store", "check").err
