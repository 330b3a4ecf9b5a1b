"""Workers come back after a restart as they were, whether the daemon stopped or died."""

import json
import shutil
from contextlib import asynccontextmanager

import pytest
import trio

from tests.runtime.engines import HangingEngine
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.settings import ObserveSettings, RuntimeSettings, SqliteStoreSettings
from yoi_daemon.runtime.embedded import open_embedded_runtime
from yoi_daemon.runtime.engines.echo import EchoEngine
from yoi_daemon.runtime.profiles import Profiles
from yoi_daemon.store.opening import open_store

SMALL = SqliteStoreSettings(low_bytes=1024, reserve_bytes=1024)


class House:
    """A runtime on a durable log in one directory."""

    def __init__(self, log, runtime):
        self.log, self.runtime = log, runtime

    async def states(self) -> dict[str, tuple]:
        page = await self.runtime.workers()
        return {
            one.worker_id: (one.state, one.generation, one.reason and one.reason.code)
            for one in page.items
        }

    async def texts(self, worker_id: str) -> list[str]:
        return [item.text for item in (await self.runtime.transcript(worker_id)).items]

    async def until(self, kind: str, worker_id: str, count: int = 1) -> list[dict]:
        """The events of a worker up to the one that is awaited."""
        position, events = 0, []
        with trio.fail_after(30):
            while sum(event["kind"] == kind for event in events) < count:
                await self.log.wait_beyond(position)
                for entry in self.log.read(position, 1 << 30):
                    position = entry.seq
                    if entry.worker is not None and entry.worker[1] == worker_id:
                        events.append(json.loads(entry.message))
        return events


@pytest.fixture
def open_house(ids, wall_clock):
    @asynccontextmanager
    async def open_one(directory, profiles=("echo", "hanging"), **settings):
        engines = {"echo": EchoEngine(), "hanging": HangingEngine()}
        async with (
            open_store(SMALL, directory) as store,
            open_event_log(ObserveSettings(), store, wall_clock=wall_clock) as log,
            open_embedded_runtime(
                log,
                ids,
                Profiles({name: engines[name] for name in profiles}),
                RuntimeSettings(**settings),
                store=store,
                wall_clock=wall_clock,
            ) as runtime,
        ):
            yield House(log, runtime)

    return open_one


def image(directory, to):
    """What a crash would leave of a store that is open: the daemon's own last words are not in it."""
    to.mkdir()
    for file in directory.iterdir():
        if file.name.startswith("store.") and not file.name.endswith("-shm"):
            shutil.copy(file, to / file.name)
    return to


@pytest.mark.parametrize("end", ["stopped", "died"])
async def test_workers_come_back_as_they_were(open_house, tmp_path, end):
    first = tmp_path / "first"
    first.mkdir()
    async with open_house(first) as house:
        runtime = house.runtime
        made = {}
        for name, profile in [
            ("idle", "echo"),
            ("ended", "echo"),
            ("running", "hanging"),
            ("cancelled", "hanging"),
        ]:
            receipt = await runtime.create(profile=profile, label=name, input=f"to {name}")
            made[name] = receipt.worker.worker_id
        await house.until("worker.turn.finished", made["idle"])
        await house.until("worker.turn.finished", made["ended"])
        await house.until("worker.turn.started", made["running"])
        await house.until("worker.turn.started", made["cancelled"])
        await runtime.cancel(made["cancelled"])
        await runtime.stop(made["ended"])
        await runtime.send(made["running"], "queued behind", when_busy="queue")
        numbers = len(await house.until("worker.state", made["idle"], 2))
        if end == "died":
            second = image(first, tmp_path / "second")
    if end == "stopped":
        second = first
    async with open_house(second, profiles=("echo",)) as house:
        states = await house.states()
        events = await house.until("worker.turn.interrupted", made["running"])
        assert [event["worker_seq"] for event in events] == list(range(1, len(events) + 1))
        assert states[made["idle"]] == ("idle", 1, None)
        assert states[made["ended"]] == ("stopped", 1, "stopped")
        assert states[made["cancelled"]] == ("idle", 1, None)
        assert await house.texts(made["idle"]) == ["to idle", "to idle"]
        with pytest.raises(Refused) as refused:
            await house.runtime.send(made["ended"], "more")
        assert refused.value.code == "worker_gone"
        # Never run again by itself; what had not begun is. Its profile is gone, so that turn fails.
        assert (await house.texts(made["running"]))[0] == "to running"
        events = await house.until("worker.turn.finished", made["running"])
        turns = [event for event in events if "turn" in event["kind"]]
        assert [event["data"]["generation"] for event in turns] == [1, 1, 2, 2]
        assert turns[-1]["data"]["outcome"] == "failed"
        assert await house.texts(made["running"]) == ["to running", "queued behind"]
        await house.runtime.send(made["idle"], "again")
        events = await house.until("worker.turn.finished", made["idle"], 2)
        assert [event["worker_seq"] for event in events] == list(range(1, len(events) + 1))
        assert len(events) > numbers


async def test_ended_workers_are_forgotten_in_the_store_too(open_house, tmp_path):
    async with open_house(tmp_path, retained_workers=2) as house:
        made = []
        for number in range(4):
            receipt = await house.runtime.create(profile="echo", label=str(number), input="x")
            made.append(receipt.worker.worker_id)
            await house.until("worker.turn.finished", made[-1])
            await house.runtime.stop(made[-1])
        assert sorted(await house.states()) == made[2:]
    async with open_house(tmp_path) as house:
        assert sorted(await house.states()) == made[2:]
    async with open_house(tmp_path, retained_workers=1) as house:
        assert sorted(await house.states()) == made[3:]
    async with open_house(tmp_path) as house:
        assert sorted(await house.states()) == made[3:]
        assert await house.texts(made[3]) == ["x", "x"]


async def test_a_transcript_comes_back_as_bounded_as_it_was(open_house, tmp_path):
    async with open_house(tmp_path, transcript_items=3) as house:
        worker = (await house.runtime.create(profile="echo", label="")).worker.worker_id
        for number in range(3):
            await house.runtime.send(worker, str(number), when_busy="queue")
        await house.until("worker.turn.finished", worker, 3)
        page = await house.runtime.transcript(worker)
        assert ([item.text for item in page.items], page.let_go) == (["1", "2", "2"], 3)
    async with open_house(tmp_path, transcript_items=3) as house:
        again = await house.runtime.transcript(worker)
        assert (again.items, again.let_go) == (page.items, page.let_go)
