"""What every store holds: the one that keeps nothing too."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.clocks import ManualClock
from yoi_daemon.model.frames import text_frame
from yoi_daemon.model.settings import MemoryStoreSettings, SqliteStoreSettings
from yoi_daemon.store.interface import Batch, Store
from yoi_daemon.store.opening import open_store
from yoi_daemon.store.tables import PLUGIN_VALUE, TABLES, LogEvent, PluginValueRow

EPOCH = "00112233aabbccdd"


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path):
    """Opens a store of the kind under test, in the same directory each time."""

    def open_one(**options: Any) -> AbstractAsyncContextManager[Store]:
        kinds = {"memory": MemoryStoreSettings, "sqlite": SqliteStoreSettings}
        settings = kinds[request.param](low_bytes=1024, reserve_bytes=1024)
        return open_store(settings, tmp_path, **{"new_epoch": lambda: EPOCH} | options)

    return open_one


def event(seq: int, **fields: Any) -> LogEvent:
    told = {"worker": None, "plugin_id": None, "frame": text_frame(b"{}")} | fields
    return LogEvent(seq=seq, kind="a.b", monotonic_s=0.0, **told)


def test_the_memory_store_does_not_promise_what_it_cannot_hold(tmp_path: Path) -> None:
    from yoi_daemon.store.memory import MemoryStore
    from yoi_daemon.store.sqlite.store import SqliteStore

    assert (MemoryStore.kind, MemoryStore.durable) == ("memory", False)
    assert (SqliteStore.kind, SqliteStore.durable) == ("sqlite", True)


async def test_a_new_store_is_empty_and_has_a_name(opened) -> None:
    async with opened() as store:
        assert (store.epoch, store.earlier_epochs) == (EPOCH, ())
        recovered = await store.recover_log()
        assert (recovered.head, recovered.events) == (0, [])
        assert recovered.floors == recovered.shared_marks == {"lifecycle": 0, "volume": 0}
        assert recovered.watermarks == {"lifecycle": {}, "volume": {}}
        assert not store.is_low
        assert not store.is_behind
        assert [await store.rows(table) for table in TABLES if table.name != "fact"] == [
            [] for _ in TABLES[1:]
        ]


async def test_commits_are_counted(opened) -> None:
    async with opened() as store:
        for number in range(1, 4):
            change = PLUGIN_VALUE.put(PluginValueRow("p", "k", b"%d" % number))
            floors = {"lifecycle": 0, "volume": 0}
            await store.commit(Batch({"lifecycle": [event(number)]}, [change], floors))
            assert store.statistics().commits == number
        statistics = store.statistics()
        assert statistics.commit_p50_ms <= statistics.commit_p99_ms <= statistics.commit_max_ms
        assert not statistics.low


async def test_age_is_by_the_clock_that_runs_and_by_no_other(opened) -> None:
    clock = ManualClock(5000)
    async with opened(clock=clock) as store:
        begun = store.age_s()
        clock.advance(7.5)
        assert store.age_s() - begun == 7.5
