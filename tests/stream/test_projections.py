"""Snapshots of workers, and the events after them."""

import json

import pytest
import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.settings import RuntimeSettings
from yoi_daemon.registry.local_compat import LocalCompatRuntime
from yoi_daemon.registry.registry import Registry
from yoi_daemon.runtime.embedded import open_embedded_runtime
from yoi_daemon.runtime.profiles import make_profiles
from yoi_daemon.stream.projections import WorkerScope, snapshot_workers
from yoi_daemon.stream.session import DatedSnapshot

RECORD = {"state": "idle", "created_at": "2026-01-01T00:00:00Z"}
RECORDS = 20


@pytest.fixture
async def runtimes(tmp_path, event_log, ids):
    """The embedded runtime, and one whose scan waits for a thread."""
    for number in range(RECORDS):
        (tmp_path / f"recorded{number:02}.json").write_text(json.dumps(RECORD))
    recorded = LocalCompatRuntime("recorded", str(tmp_path), event_log)
    await recorded.refresh()
    async with open_embedded_runtime(
        event_log, ids, make_profiles({}), RuntimeSettings()
    ) as embedded:
        yield {"backend-internal": embedded, "recorded": recorded}


async def taken_meanwhile(take, act) -> DatedSnapshot:
    """Takes a snapshot while `act` is called again and again, and once after it."""
    taken: list[DatedSnapshot] = []

    async def keep() -> None:
        taken.append(await take())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep)
            while not taken:
                await act()
                await trio.lowlevel.checkpoint()
    await act()
    return taken[0]


def workers_of(snapshot: DatedSnapshot, runtime_id: str) -> set[str]:
    workers = [shown.worker for shown in snapshot.snapshot.workers]
    return {worker.worker_id for worker in workers if worker.runtime_id == runtime_id}


def created_after(log: EventLog, position: int) -> set[str]:
    entries = log.read(position, 1 << 30)
    return {
        entry.worker[1]
        for entry in entries
        if entry.worker is not None and entry.kind == "worker.created"
    }


async def test_a_snapshot_and_the_events_after_it_lack_no_worker(runtimes, event_log):
    registry = Registry(runtimes)
    created = []

    async def create() -> None:
        if len(created) < 50:
            receipt = await runtimes["backend-internal"].create(profile="builtin:echo", label="")
            created.append(receipt.worker.worker_id)

    await create()
    snapshot = await taken_meanwhile(lambda: snapshot_workers(registry, event_log), create)
    await event_log.committed(event_log.appended)
    assert created_after(event_log, snapshot.position), "the control: an event follows"
    shown = workers_of(snapshot, "backend-internal")
    assert shown | created_after(event_log, snapshot.position) == set(created)
    assert not shown & created_after(event_log, snapshot.position)
    assert len(workers_of(snapshot, "recorded")) == RECORDS


async def test_a_workers_snapshot_and_the_events_after_it_lack_no_item(runtimes, event_log):
    registry = Registry(runtimes)
    embedded = runtimes["backend-internal"]
    worker_id = (await embedded.create(profile="builtin:echo", label="")).worker.worker_id
    scope = WorkerScope(registry, event_log, "backend-internal", worker_id)

    async def send() -> None:
        if len((await embedded.transcript(worker_id)).items) < 50:
            await embedded.send(worker_id, "hello", when_busy="interrupt")

    await send()
    snapshot = await taken_meanwhile(scope.snapshot, send)
    await embedded.stop(worker_id)
    (shown,) = snapshot.snapshot.workers
    assert shown.transcript is not None
    assert shown.transcript.as_of == snapshot.snapshot.cursor
    entries = event_log.read(snapshot.position, 1 << 30)
    later = [entry for entry in entries if entry.kind == "worker.item"]
    everything = (await embedded.transcript(worker_id)).items
    assert later, "the control: an item follows"
    assert len(shown.transcript.items) + len(later) == len(everything)


async def test_a_snapshot_shows_what_is_known_of_a_runtime_that_is_down(
    runtimes, event_log, tmp_path
):
    for record in tmp_path.iterdir():
        record.unlink()
    tmp_path.rmdir()
    await runtimes["recorded"].refresh()
    assert runtimes["recorded"].status() == "unavailable"
    snapshot = await snapshot_workers(Registry(runtimes), event_log)
    assert len(workers_of(snapshot, "recorded")) == RECORDS
    scope = WorkerScope(Registry(runtimes), event_log, "recorded", "recorded00")
    (shown,) = (await scope.snapshot()).snapshot.workers
    assert (shown.worker.worker_id, scope.final()) == ("recorded00", None)
