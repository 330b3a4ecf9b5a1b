"""The store on the disk: whole commits, what it finds again, and what it will not start on."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.clocks import ManualClock
from tests.conformance.test_store import event
from yoi_daemon.eventlog.filter import EVERYTHING, Filter
from yoi_daemon.model.errors import ConfigurationError, StorageFailed
from yoi_daemon.model.events import Draft
from yoi_daemon.model.settings import SqliteStoreSettings
from yoi_daemon.plugins.lane.ledger import restore
from yoi_daemon.store.interface import Batch, Store
from yoi_daemon.store.opening import FILE_NAME, open_store
from yoi_daemon.store.sqlite import schema
from yoi_daemon.store.sqlite.checking import find_faults
from yoi_daemon.store.sqlite.connection import connect
from yoi_daemon.store.sqlite.reading import open_for_reading
from yoi_daemon.store.sqlite.segments import (
    CLEAN_EVENTS,
    SEGMENT_BYTES,
    SEGMENT_EVENTS,
    segments_of,
)
from yoi_daemon.store.sqlite.store import AGE_EVERY_S, SqliteStore
from yoi_daemon.store.tables import (
    FACT,
    INGRESS_EVENT,
    PLUGIN_VALUE,
    TABLES,
    WATERMARK,
    WORKER_NUMBER,
    PluginValueRow,
)

SMALL = SqliteStoreSettings(low_bytes=1024, reserve_bytes=4096)
NO_FLOORS = {"lifecycle": 0, "volume": 0}
EPOCHS = iter(f"{number:016x}" for number in range(1, 1000))
Open = Callable[..., AbstractAsyncContextManager[Store]]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_one(**options: Any) -> AbstractAsyncContextManager[Store]:
        return open_store(SMALL, tmp_path, **{"new_epoch": lambda: next(EPOCHS)} | options)

    return open_one


class Between:
    """A connection that a test stands between: `before` sees each statement, and may raise."""

    def __init__(self, path: Path, before: Callable[[str], None]) -> None:
        self._connection = connect(path)
        self._before = before

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Iterator[Any]:
        self._before(sql)
        return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> object:
        self._before(sql)
        return self._connection.executemany(sql, parameters)

    def close(self) -> None:
        self._connection.close()


def value(key: str, content: bytes) -> Any:
    return PLUGIN_VALUE.put(PluginValueRow("p", key, content))


async def values(store: Store) -> dict[str, bytes]:
    return {row.key: row.value for row in await store.rows(PLUGIN_VALUE)}


# -- a commit


async def test_committed_data_is_recovered(opened: Open) -> None:
    async with opened() as store:
        epoch = store.epoch
        events = {"lifecycle": [event(1), event(3)], "volume": [event(2, plugin_id="p")]}
        await store.commit(Batch(events, [value("a", b"1"), value("b", b"2")], NO_FLOORS))
    async with opened() as store:
        assert store.epoch == epoch
        recovered = await store.recover_log()
        assert [one.seq for one in recovered.events] == [1, 2, 3]
        assert recovered.events[1] == event(2, plugin_id="p")
        assert recovered.head == 3
        assert await values(store) == {"a": b"1", "b": b"2"}
        assert await store.rows(PLUGIN_VALUE, plugin_id="other") == []
        assert len(await store.rows(PLUGIN_VALUE, plugin_id="p", key="a")) == 1


async def test_the_last_change_of_a_row_is_the_one_that_counts(opened: Open) -> None:
    async with opened() as store:
        changes = [
            value("put twice", b"1"),
            value("put twice", b"2"),
            value("put and dropped", b"1"),
            PLUGIN_VALUE.drop("p", "put and dropped"),
            PLUGIN_VALUE.drop("p", "dropped and put"),
            value("dropped and put", b"3"),
        ]
        await store.commit(Batch({}, changes, NO_FLOORS))
        assert await values(store) == {"put twice": b"2", "dropped and put": b"3"}
        await store.commit(Batch({}, [PLUGIN_VALUE.drop("p", "put twice")], NO_FLOORS))
        assert await values(store) == {"dropped and put": b"3"}


async def test_a_commit_is_whole_or_not_at_all(opened: Open) -> None:
    """Whichever of its statements fails, nothing of it is there, and the store is as it was before."""
    countdown = 1 << 30

    def before(sql: str) -> None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            raise sqlite3.OperationalError("disk I/O error")

    def failing(path: Path) -> Between:
        return Between(path, before)

    def batch(number: int) -> Batch:
        events = {"lifecycle": [event(2 * number)], "volume": [event(2 * number + 1)]}
        changes = [value("number", b"%d" % number), WORKER_NUMBER.put(("r", "w", number))]
        floors = {"lifecycle": 2 * number - 2, "volume": 0}
        return Batch(events, changes, floors)  # type: ignore[arg-type]

    async with opened(make_connection=failing) as store:
        await store.commit(batch(1))
    failures = 0
    while True:
        countdown = 1 << 30
        async with opened(make_connection=failing) as store:
            countdown = failures + 1
            try:
                await store.commit(batch(2))
            except StorageFailed:
                failures += 1
            else:
                break
            finally:
                countdown = 1 << 30
        async with opened() as store:
            assert await values(store) == {"number": b"1"}
            assert [one.seq for one in (await store.recover_log()).events] == [2, 3]
            assert await store.rows(WORKER_NUMBER) == [("r", "w", 1)]
            assert (await store.recover_log()).floors == NO_FLOORS
    assert failures >= 8
    async with opened() as store:
        assert await values(store) == {"number": b"2"}
        assert [one.seq for one in (await store.recover_log()).events] == [3, 4, 5]
        assert (await store.recover_log()).floors == {"lifecycle": 2, "volume": 0}


async def test_a_full_disk_releases_the_reserve_and_commits(opened: Open, tmp_path: Path) -> None:
    is_full = False

    def before(sql: str) -> None:
        if is_full and sql == "COMMIT" and (tmp_path / "reserve").exists():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL  # type: ignore[misc]
            raise error

    async with opened(make_connection=lambda path: Between(path, before)) as store:
        assert (tmp_path / "reserve").stat().st_size == SMALL.reserve_bytes
        is_full = True
        await store.commit(Batch({}, [value("a", b"1")], NO_FLOORS))
        assert await values(store) == {"a": b"1"}


async def test_a_full_disk_without_a_reserve_is_the_end(opened: Open, tmp_path: Path) -> None:
    is_full = False

    def before(sql: str) -> None:
        if is_full and sql == "COMMIT":
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL  # type: ignore[misc]
            raise error

    async with opened(make_connection=lambda path: Between(path, before)) as store:
        is_full = True
        with pytest.raises(StorageFailed, match="full"):
            await store.commit(Batch({}, [value("a", b"1")], NO_FLOORS))
        is_full = False
        assert await values(store) == {}


# -- retention


async def test_evicted_events_are_deleted_in_small_steps(opened: Open) -> None:
    """Segments whole: the one that an event is left of stays."""
    left_over = SEGMENT_EVENTS - 10
    count = 2 * CLEAN_EVENTS + SEGMENT_EVENTS + left_over
    deleted: list[int] = []
    async with opened() as store:
        events = [event(seq, plugin_id=f"p{seq % 3}") for seq in range(1, count + 1)]
        await store.commit(Batch({"volume": events}, (), NO_FLOORS))
        assert not store.is_behind
        floors = {"lifecycle": 0, "volume": count - 1}
        left = count
        for _ in range(10):
            await store.commit(Batch({}, (), floors))  # type: ignore[arg-type]
            now = len((await store.recover_log()).events)
            deleted.append(left - now)
            left = now
            if not store.is_behind:
                break
    assert deleted == [CLEAN_EVENTS, CLEAN_EVENTS, SEGMENT_EVENTS]
    async with opened() as store:
        recovered = await store.recover_log()
        last = count - left_over
        assert [one.seq for one in recovered.events] == list(range(last + 1, count + 1))
        assert recovered.floors["volume"] == last
        assert set(recovered.watermarks["volume"].values()) == {last - 2, last - 1, last}
        await store.commit(Batch({}, (), {"lifecycle": 0, "volume": count}))
        recovered = await store.recover_log()
        assert (recovered.events, recovered.floors["volume"]) == ([], count)
        assert set(recovered.watermarks["volume"].values()) == {count - 2, count - 1, count}
        assert not store.is_behind


async def test_a_step_deletes_few_large_segments(opened: Open) -> None:
    """By their bytes: what is deleted in one commit holds the writer for some milliseconds, however large."""
    async with opened() as store:
        frame = bytes(SEGMENT_BYTES)
        events = [event(seq, frame=frame) for seq in range(1, 11)]
        await store.commit(Batch({"volume": events}, (), NO_FLOORS))
        await store.commit(Batch({}, (), {"lifecycle": 0, "volume": 9}))
        assert [one.seq for one in (await store.recover_log()).events] == [5, 6, 7, 8, 9, 10]
        assert store.is_behind


def test_a_segment_is_bounded_by_count_and_by_bytes() -> None:
    small = [event(seq) for seq in range(1, 2 * SEGMENT_EVENTS + 2)]
    assert [row.events for row in segments_of(small)] == [SEGMENT_EVENTS, SEGMENT_EVENTS, 1]
    third = bytes(SEGMENT_BYTES // 3 + 1)
    large = [event(seq, frame=third) for seq in range(1, 8)]
    assert [(row.last_seq, row.events) for row in segments_of(large)] == [(3, 3), (6, 3), (7, 1)]
    assert list(segments_of([])) == []


async def test_the_oldest_segment_is_known_after_a_commit_that_failed(opened: Open) -> None:
    """What a rollback took back neither hides what is to be deleted, nor makes it look for ever."""
    fails = False

    def before(sql: str) -> None:
        if fails and sql == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")

    async with opened(make_connection=lambda path: Between(path, before)) as store:
        fails = True
        with pytest.raises(StorageFailed):
            await store.commit(Batch({"volume": [event(1)]}, (), NO_FLOORS))
        fails = False
        await store.commit(Batch({"volume": [event(2), event(3)]}, (), NO_FLOORS))
        await store.commit(Batch({"volume": [event(4)]}, (), {"lifecycle": 0, "volume": 2}))
        assert not store.is_behind
        await store.commit(Batch({}, (), {"lifecycle": 0, "volume": 3}))
        assert [one.seq for one in (await store.recover_log()).events] == [4]


async def test_a_restart_in_the_middle_of_it_goes_on_where_it_was(opened: Open) -> None:
    async with opened() as store:
        events = [event(seq) for seq in range(1, 2 * CLEAN_EVENTS + 1)]
        await store.commit(Batch({"volume": events}, (), NO_FLOORS))
        await store.commit(Batch({}, (), {"lifecycle": 0, "volume": 2 * CLEAN_EVENTS - 1}))
        assert store.is_behind
    async with opened() as store:
        recovered = await store.recover_log()
        assert recovered.floors["volume"] == CLEAN_EVENTS == recovered.events[0].seq - 1
        assert len(recovered.events) == CLEAN_EVENTS


async def test_watermarks_outlive_restarts(open_sqlite_log) -> None:
    """An emptied window never says "caught up": what a plugin or worker lost is lost after a restart too."""
    quiet, worker = Filter(plugin_id="quiet"), Filter(worker=("r", "w"))

    def floors(log: Any) -> list[int]:
        return [log.floor_of(EVERYTHING), log.floor_of(quiet), log.floor_of(worker)]

    async with open_sqlite_log(window_events=10) as log:
        log.append(Draft(kind="quiet.a", plugin_id="quiet", data=1))
        log.append(Draft(kind="worker.delta", runtime_id="r", worker_id="w", data=1))
        for number in range(50):
            log.append(Draft(kind="noisy.a", plugin_id="noisy", data=number))
        await log.committed(52)
        await log.recorded(log.record(()))
        before = floors(log)
        assert before == [42, 1, 2]
    for _ in range(2):
        async with open_sqlite_log(window_events=10) as log:
            assert floors(log) == before


async def test_worker_numbers_go_on(open_sqlite_log) -> None:
    def numbers(log: Any, position: int) -> list[int]:
        import json

        entries = log.read(position, 1 << 30)
        return [json.loads(entry.message)["worker_seq"] for entry in entries]

    def of(worker: str) -> Draft:
        return Draft(kind="worker.output", runtime_id="r", worker_id=worker, data=1)

    async with open_sqlite_log() as log:
        for worker in "aab":
            log.append(of(worker))
        await log.committed(3)
    async with open_sqlite_log() as log:
        for worker in "ab":
            log.append(of(worker))
        await log.committed(5)
        assert numbers(log, 3) == [3, 2]
        log.forget_worker("r", "a")
    async with open_sqlite_log() as log:
        for worker in "ab":
            log.append(of(worker))
        await log.committed(7)
        assert numbers(log, 5) == [1, 3]


# -- time


async def test_age_goes_on_over_restarts_and_stands_still_in_between(opened: Open) -> None:
    clock = ManualClock(1000)
    async with opened(clock=clock) as store:
        assert store.age_s() == 0
        clock.advance(100)
    clock = ManualClock(77)  # another boot: the clock begins anew
    async with opened(clock=clock) as store:
        assert store.age_s() == pytest.approx(100)
        clock.advance(5)
        assert store.age_s() == pytest.approx(105)


async def test_a_crash_forgets_little_of_the_age(opened: Open, tmp_path: Path) -> None:
    import shutil

    clock = ManualClock(0)
    copied = tmp_path.with_name(tmp_path.name + ".copied")
    async with opened(clock=clock) as store:
        for _ in range(100):
            clock.advance(1)
            await store.commit(Batch({}, (), NO_FLOORS))
        shutil.copytree(tmp_path, copied)
    async with open_store(SMALL, copied, clock=ManualClock(0)) as store:
        assert 100 - AGE_EVERY_S <= store.age_s() <= 100


# -- what it does not start on


@pytest.mark.parametrize(
    ("pragma", "answer"), [("synchronous", 1), ("synchronous", 0), ("journal_mode", "delete")]
)
async def test_without_full_synchronous_and_a_log_it_does_not_start(
    opened: Open, pragma: str, answer: Any
) -> None:
    class Weak(Between):
        def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Iterator[Any]:
            if sql == f"PRAGMA {pragma}":
                return iter([(answer,)])
            return super().execute(sql, parameters)

    with pytest.raises(StorageFailed, match=pragma) as failed:
        async with opened(make_connection=lambda path: Weak(path, lambda _: None)):
            pass
    assert "local disk" in str(failed.value)


async def test_every_connection_is_full(opened: Open, tmp_path: Path) -> None:
    made: list[sqlite3.Connection] = []

    def noting(path: Path) -> sqlite3.Connection:
        made.append(connect(path))
        return made[-1]

    async with opened(make_connection=noting):
        assert len(made) == 2
        for connection in made:
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_newer_schema_is_refused_and_left_alone(opened: Open, tmp_path: Path) -> None:
    async with opened() as store:
        await store.commit(Batch({}, [value("a", b"1")], NO_FLOORS))
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ConfigurationError, match="newer"):
        async with opened():
            pass
    assert (tmp_path / FILE_NAME).read_bytes() == before


async def test_another_programs_database_is_left_alone(opened: Open, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ConfigurationError, match="move this one away"):
        async with opened():
            pass
    assert (tmp_path / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize("damage", ["all", "page"])
async def test_a_damaged_file_is_reported_in_words(
    opened: Open, tmp_path: Path, damage: str
) -> None:
    file = tmp_path / FILE_NAME
    async with opened() as store:
        events = [event(seq) for seq in range(1, 2000)]
        await store.commit(Batch({"volume": events}, (), NO_FLOORS))
    content = bytearray(file.read_bytes())
    if damage == "all":
        content = bytearray(b"no database at all" * 1000)
    else:
        content[4096 * 3 :] = bytes(b"\xa5" * (len(content) - 4096 * 3))
    file.write_bytes(content)
    with pytest.raises(StorageFailed, match=r"cannot be (opened|read)") as failed:
        async with opened() as store:
            await store.recover_log()
    assert "Traceback" not in str(failed.value)
    if damage == "all":
        assert "store check" in str(failed.value)


async def test_the_file_is_its_owners_alone(opened: Open, tmp_path: Path) -> None:
    async with opened() as store:
        await store.commit(Batch({}, [value("a", b"1")], NO_FLOORS))
        for end in ("", "-wal", "-shm"):
            file = tmp_path / f"{FILE_NAME}{end}"
            assert file.stat().st_mode & 0o777 == 0o600


# -- migrations


def fake(version: int) -> tuple[str, ...]:
    return (f"CREATE TABLE of_{version} (x)", f"INSERT INTO of_{version} VALUES ({version})")


MIGRATIONS = {version: fake(version) for version in range(1, 6)}


@pytest.mark.parametrize("found", range(6))
def test_every_earlier_schema_is_brought_here(tmp_path: Path, found: int) -> None:
    connection = connect(tmp_path / "db")
    earlier = {version: MIGRATIONS[version] for version in range(1, found + 1)}
    if earlier:
        schema.migrate(connection, "db", earlier)
    schema.migrate(connection, "db", MIGRATIONS)
    schema.migrate(connection, "db", MIGRATIONS)  # once more changes nothing
    for version in MIGRATIONS:
        assert connection.execute(f"SELECT x FROM of_{version}").fetchall() == [(version,)]
    assert connection.execute("PRAGMA user_version").fetchone() == (5,)
    connection.close()


@pytest.mark.parametrize("bad", range(1, 6))
def test_a_step_that_fails_leaves_the_schema_before_it(tmp_path: Path, bad: int) -> None:
    connection = connect(tmp_path / "db")
    broken = MIGRATIONS | {bad: (*MIGRATIONS[bad], "INSERT INTO nowhere VALUES (1)")}
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(connection, "db", broken)
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema ORDER BY name")]
    assert names == [f"of_{version}" for version in range(1, bad)]
    assert connection.execute("PRAGMA user_version").fetchone() == (bad - 1,)
    schema.migrate(connection, "db", MIGRATIONS)  # and a corrected one goes on from there
    assert connection.execute("PRAGMA user_version").fetchone() == (5,)
    connection.close()


async def test_a_log_of_schema_1_is_read_as_it_was(opened: Open, tmp_path: Path) -> None:
    """A row for each event was gathered into segments; marks and all else are where they were."""
    connection = connect(tmp_path / FILE_NAME)
    schema.migrate(connection, "db", {1: schema.MIGRATIONS[1]})
    message = b'{"text":"' + b"x" * 200 + b'"}'
    rows = [
        (
            seq,
            "a.b",
            "r" if seq % 5 == 0 else None,
            "w" if seq % 5 == 0 else None,
            "p" if seq % 2 else None,
            seq == 150,
            seq / 8,
            b"{}" if seq % 3 else message,
        )
        for seq in range(3, 203)
    ]
    for retention, part in (("lifecycle", rows[::2]), ("volume", rows[1::2])):
        sql = f"INSERT INTO {retention}_event VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        connection.executemany(sql, part)
    facts = [("epoch", "00112233aabbccdd"), ("floor.lifecycle", 1), ("floor.volume", 2)]
    connection.executemany("INSERT INTO fact VALUES (?, ?)", facts)
    connection.execute("INSERT INTO watermark VALUES ('volume', '\"p\"', 2)")
    connection.close()
    async with opened() as store:
        recovered = await store.recover_log()
        assert [
            (
                one.seq,
                one.kind,
                *(one.worker or (None, None)),
                one.plugin_id,
                one.is_last,
                one.monotonic_s,
                one.message,
            )
            for one in recovered.events
        ] == rows
        assert (store.epoch, recovered.head) == ("00112233aabbccdd", 202)
        assert recovered.floors == {"lifecycle": 1, "volume": 2}
        assert recovered.watermarks["volume"] == {'"p"': 2}
        await store.commit(Batch({"volume": [event(203)]}, (), {"lifecycle": 100, "volume": 203}))
    with open_for_reading(tmp_path / FILE_NAME) as reading:
        assert find_faults(reading) == []


async def test_waiting_events_of_schema_1_wait_unchanged(opened: Open, tmp_path: Path) -> None:
    connection = connect(tmp_path / FILE_NAME)
    schema.migrate(connection, "db", {1: schema.MIGRATIONS[1]})
    for number, source, attempt, claim in ((5, "hook", 0, 0), (6, "api", 1, 1), (7, "timer", 3, 2)):
        event = (number, "p", f"evt_{number}", "in", "cor_1", "2027", b"1", None, b"{}")
        connection.execute("INSERT INTO ingress_event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", event)
        connection.execute(
            "INSERT INTO progress VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (number, "p", number, source, None, attempt, 0, claim, b"[]"),
        )
    connection.close()
    async with opened() as store:
        restored = await restore(store, "p", 0)
        assert [
            (one.number, one.position, one.source, one.attempt, claim)
            for one, claim in restored.waiting
        ] == [(5, 5, "hook", 0, 0), (6, 6, "api", 1, 1), (7, 7, "timer", 3, 2)]
        assert restored.tried == {5, 6, 7}
        assert [row.source for row in await store.rows(INGRESS_EVENT)] == ["hook", "api", "timer"]


async def test_the_tables_are_those_of_the_schema(opened: Open, tmp_path: Path) -> None:
    async with opened():
        pass
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    for table in TABLES:
        columns = connection.execute(f"PRAGMA table_info({table.name})").fetchall()
        assert tuple(column[1] for column in columns) == table.columns
        key = sorted((column[5], column[1]) for column in columns if column[5])
        assert tuple(name for _, name in key) == table.columns[: table.key_columns]
    connection.close()


# -- going back to a copy


async def test_a_copy_begins_another_log_where_the_numbers_go_on(
    opened: Open, tmp_path: Path
) -> None:
    async with opened() as store:
        first = store.epoch
        events = [event(seq, plugin_id="p") for seq in range(1, 8)]
        await store.commit(Batch({"volume": events}, [value("a", b"1")], NO_FLOORS))
        await store.commit(Batch({}, [FACT.put(("restored", 1))], NO_FLOORS))  # type: ignore[arg-type]
    async with opened() as store:
        second = store.epoch
        assert (second != first, store.earlier_epochs) == (True, (first,))
        recovered = await store.recover_log()
        assert (recovered.head, recovered.events) == (7, [])
        assert recovered.floors == recovered.shared_marks == {"lifecycle": 7, "volume": 7}
        assert await store.rows(WATERMARK) == []
        assert await values(store) == {"a": b"1"}
        await store.commit(Batch({"lifecycle": [event(8)]}, (), recovered.floors))
    async with opened() as store:  # only once
        assert (store.epoch, store.earlier_epochs) == (second, (first,))
        assert [one.seq for one in (await store.recover_log()).events] == [8]
    assert isinstance(store, SqliteStore)
