"""Workers that something else recorded: read, bounded, never trusted."""

import json
import os

import pytest
import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.registry.local_compat import MAX_DIAGNOSTICS, LocalCompatRuntime
from yoi_daemon.registry.recordings import MAX_RECORD_BYTES, MAX_RECORDS

GOOD = {"state": "idle", "created_at": "2026-01-01T00:00:00Z"}


def write(directory, name, record=GOOD) -> None:
    data = record if isinstance(record, bytes) else json.dumps(record).encode()
    (directory / name).write_bytes(data)


@pytest.fixture
def runtime(tmp_path, event_log):
    return LocalCompatRuntime("recorded", str(tmp_path), event_log)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("b.json", b""),
        ("b.json", b"{"),
        ("b.json", b"[]"),
        ("b.json", b"[" * 100_000),
        ("b.json", b"\xff"),
        ("b.json", {"state": "hunter2", "created_at": "t"}),
        ("b.json", {"state": "idle"}),
        ("b.json", GOOD | {"generation": "many"}),
        ("b.json", GOOD | {"items": [{}]}),
        (
            "b.json",
            GOOD | {"items": [{"item_id": "a", "role": "user", "text": "", "time": ""}] * 2},
        ),
        ("b.json", b" " * (MAX_RECORD_BYTES + 1)),
        ("b b.json", GOOD),
        (".json", GOOD),
        ("b.b.json", GOOD),
    ],
)
async def test_a_malformed_record_is_one_diagnostic_and_the_rest_is_listed(
    runtime, tmp_path, name, record
):
    write(tmp_path, "a.json")
    write(tmp_path, name, record)
    write(tmp_path, "c.json")
    page = await runtime.workers()
    assert [worker.worker_id for worker in page.items] == ["a", "c"]
    (diagnostic,) = runtime.summary().diagnostics
    assert (diagnostic.code, diagnostic.severity) == ("malformed_record", "warning")
    assert diagnostic.message.startswith(name)
    assert "hunter2" not in diagnostic.message
    assert str(tmp_path) not in diagnostic.message
    assert runtime.status() == "available"
    # It stands since it was first seen, and goes with its cause.
    await runtime.refresh()
    assert runtime.summary().diagnostics == (diagnostic,)
    (tmp_path / name).unlink()
    await runtime.refresh()
    assert runtime.summary().diagnostics == ()


@pytest.mark.parametrize("make", ["symlink", "fifo", "directory"])
async def test_what_is_no_regular_file_is_not_read(runtime, tmp_path, make):
    match make:
        case "symlink":
            (tmp_path / "x.json").symlink_to("/etc/passwd")
        case "fifo":
            os.mkfifo(tmp_path / "x.json")
        case "directory":
            (tmp_path / "x.json").mkdir()
    assert (await runtime.workers()).items == ()
    assert [one.code for one in runtime.summary().diagnostics] == ["malformed_record"]
    with pytest.raises(Refused, match="runtime_error"):
        await runtime.worker("x")


async def test_other_files_are_passed_over(runtime, tmp_path):
    write(tmp_path, "a.json")
    write(tmp_path, "a.json.tmp", b"half")
    (tmp_path / "sub").mkdir()
    assert len((await runtime.workers()).items) == 1
    assert runtime.summary().diagnostics == ()


async def test_reading_is_bounded_and_says_so(runtime, tmp_path):
    for number in range(MAX_RECORDS + 1):
        write(tmp_path, f"w{number:05}.json")
    for number in range(MAX_DIAGNOSTICS + 5):
        write(tmp_path, f"a{number:05}.json", b"bad")
    page = await runtime.workers(limit=5000)
    assert len(page.items) == MAX_RECORDS - MAX_DIAGNOSTICS - 5
    codes = [one.code for one in runtime.summary().diagnostics]
    assert len(codes) == MAX_DIAGNOSTICS + 1
    assert (codes[0], codes[-1]) == ("too_many_records", "more_diagnostics")


async def test_a_directory_that_is_not_there_is_unavailable_and_comes_back(tmp_path, event_log):
    directory = tmp_path / "later"
    runtime = LocalCompatRuntime("recorded", str(directory), event_log)
    await runtime.refresh()
    summary = runtime.summary()
    assert (summary.status, summary.diagnostics[0].code) == ("unavailable", "runtime_unavailable")
    assert str(tmp_path) not in str(summary)
    for call in (runtime.workers(), runtime.worker("a"), runtime.transcript("a")):
        with pytest.raises(Refused, match="runtime_unavailable") as caught:
            await call
        assert str(tmp_path) not in str(caught.value)
    directory.mkdir()
    await runtime.refresh()
    assert runtime.summary().status == "available"


async def test_a_directory_that_does_not_answer_is_a_timeout(tmp_path, event_log, monkeypatch):
    runtime = LocalCompatRuntime("recorded", str(tmp_path), event_log, deadline_s=0.01)
    # As a network's file system that hangs: its thread is held.
    await runtime._threads.acquire_on_behalf_of("the hanging one")
    for call in (runtime.workers(), runtime.worker("a")):
        with pytest.raises(Refused, match="runtime_timeout"):
            await call
    await runtime.refresh()
    assert runtime.status() == "unavailable"
    runtime._threads.release_on_behalf_of("the hanging one")
    with trio.fail_after(5):
        assert (await LocalCompatRuntime("r", str(tmp_path), event_log).workers()).items == ()
