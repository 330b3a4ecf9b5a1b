"""The power fails between any two operations on the disk: what was acknowledged is there, and it fits together.

The whole path runs on a recording disk (`power.py`): accept with keys, claim, handle, retry, dead letter,
redeliver, worker turns, retention, stop and start. From every moment images are made of what could be
found, and the real store opens each with the standard sqlite3: its content is that of the last
acknowledged commit, or of the one that was under way. The controls take from SQLite what it needs for that.
"""

import sqlite3
from collections import Counter
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest
import trio

from tests.clocks import ManualClock
from tests.plugins.rig import Rig
from tests.proofs.books import Books
from tests.runtime.engines import StreamingEngine
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.cursor import decode_cursor
from yoi_daemon.model.errors import StorageFailed
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import ObserveSettings, RuntimeSettings
from yoi_daemon.plugins.lane.ledger import restore
from yoi_daemon.runtime.embedded import open_embedded_runtime
from yoi_daemon.runtime.engines.echo import EchoEngine
from yoi_daemon.runtime.profiles import Profiles
from yoi_daemon.sdk import Plugin, Retry
from yoi_daemon.store.interface import Batch
from yoi_daemon.store.sqlite import store as sqlite
from yoi_daemon.store.sqlite.checking import find_faults
from yoi_daemon.store.sqlite.reading import open_for_reading
from yoi_daemon.store.sqlite.segments import RETENTIONS
from yoi_daemon.store.sqlite.store import SqliteStore
from yoi_daemon.store.tables import FACT, TABLES, WATERMARK

pytest.importorskip("apsw", reason="the recording file system needs apsw")
from tests.proofs.power import Disk, RecordedConnection, Recorder, RecordingVfs

pytestmark = pytest.mark.prove

KEPT = [table for table in TABLES if table not in (*RETENTIONS.values(), WATERMARK, FACT)]
EPOCH = "00112233aabbccdd"


class Lax(RecordedConnection):
    """Syncs less than the store asks for, and says it did as told: `synchronous` is its own."""

    synchronous = "NORMAL"

    def execute(self, sql, parameters=()):
        if sql == "PRAGMA synchronous":
            return iter([(2,)])
        return super().execute(
            sql.replace("synchronous = FULL", f"synchronous = {self.synchronous}"), parameters
        )


class Laxer(Lax):
    synchronous = "OFF"


class Commit(NamedTuple):
    """One commit, and how many operations were recorded when it began and when it was acknowledged, if ever."""

    begun: int
    acknowledged: float
    batch: Batch


class Receipt(NamedTuple):
    """What a requester was told, and when."""

    position: int
    event_id: str
    seq: int
    key: str


class Witness(SqliteStore):
    """The store, and a note of each commit."""

    def __init__(self, path: Path, recorder: Recorder, commits: list[Commit], connect) -> None:
        super().__init__(
            path,
            low_bytes=1024,
            reserve_bytes=1024,
            new_epoch=lambda: EPOCH,
            make_connection=connect,
        )
        self._recorder = recorder
        self._witnessed = commits

    async def commit(self, batch: Batch) -> None:
        self._witnessed.append(Commit(self._recorder.position, inf, batch))
        await self._commit_really(batch)
        self._witnessed[-1] = self._witnessed[-1]._replace(acknowledged=self._recorder.position)

    async def _commit_really(self, batch: Batch) -> None:
        await super().commit(batch)


class Stubborn(Witness):
    """Tells that it was committed, whatever the disk says."""

    async def _commit_really(self, batch: Batch) -> None:
        with suppress(StorageFailed):
            await super()._commit_really(batch)


class Workload:
    """What happens on the disk, and what was told of it."""

    def __init__(self, connection: type[RecordedConnection], window_events: int) -> None:
        self.recorder = Recorder()
        self.commits: list[Commit] = []
        self.receipts: list[Receipt] = []
        self.closings: list[int] = []
        """When each store was about to be closed."""
        self._connect = partial(connection, vfs=RecordingVfs(self.recorder))
        self._ids = IdSource(ManualClock(), bytes)
        self._settings = ObserveSettings(window_events=window_events)

    def record(
        self, directory: Path, store_type: type[Witness] = Witness, *, lives: int = 2
    ) -> None:
        """Runs the lives of a daemon. Raises `StorageFailed`, in groups."""
        directory.mkdir()
        for number in range(lives):
            trio.run(self._live, directory, number, store_type)

    async def _live(self, directory: Path, number: int, store_type: type[Witness]) -> None:
        store = store_type(
            directory / "store.sqlite3", self.recorder, self.commits, connect=self._connect
        )
        await store.open()
        try:
            await self._live_on(store, number)
        finally:
            self.closings.append(self.recorder.position)
            with trio.CancelScope(shield=True):
                await store.close()

    async def _live_on(self, store: Witness, number: int) -> None:
        engine = StreamingEngine(parts=2)
        engine.may_go_on.set()
        with trio.fail_after(120):
            async with (
                open_event_log(self._settings, store, wall_clock=ManualClock()) as log,
                open_embedded_runtime(
                    log,
                    self._ids,
                    Profiles({"echo": EchoEngine(), "streaming": engine}),
                    RuntimeSettings(transcript_items=5, retained_workers=1),
                    store=store,
                    wall_clock=ManualClock(),
                ) as runtime,
                trio.open_nursery() as nursery,
            ):
                rig = Rig(store, log, nursery, ids=self._ids)
                restored = await restore(store, "p", 0)
                service = rig.add(
                    _plugin(), restored=restored, attempts=2, retry_min_s=0.01, redeliver_per_s=1000
                )
                await self._work(rig, service, runtime, number)
                # The first life ends amid its work, the second when all is done.
                while number and service.lane.statistics().depth:
                    await log.wait_beyond(log.head)
                nursery.cancel_scope.cancel()

    async def _work(self, rig: Rig, service, runtime, number: int) -> None:
        while service.lifecycle.state != "running":
            await rig.event_log.wait_beyond(rig.event_log.head)
        for letter in service.dead_letters.page(None, 2)[0]:
            await rig.admission.redeliver(service, letter.event_id)
        async with trio.open_nursery() as nursery:
            for requester in range(3):
                nursery.start_soon(self._request, rig, service, f"{number}.{requester}")
            for profile in ("echo", "streaming"):
                nursery.start_soon(self._converse, runtime, profile)

    async def _request(self, rig: Rig, service, name: str) -> None:
        for number in range(12):
            what = ("ok", "retry", "ok", "bad")[number % 4]
            key = f"{name}.{number}"
            receipt = await rig.accept(service, "go", {"do": what, "pad": "x" * 300}, key=key)
            seq = decode_cursor(receipt.cursor).seq
            self.receipts.append(Receipt(self.recorder.position, receipt.event_id, seq, key))
            assert (
                await rig.accept(service, "go", {"do": what, "pad": "x" * 300}, key=key) == receipt
            )

    async def _converse(self, runtime, profile: str) -> None:
        worker = (await runtime.create(profile=profile, label="")).worker.worker_id
        for number in range(4):
            await runtime.send(worker, f"input {number}", when_busy="queue")
        if profile == "echo":
            await runtime.stop(worker, grace_s=5)


def _plugin() -> Plugin:
    plugin = Plugin("p")

    @plugin.start
    async def start(ctx) -> None: ...

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        if event.payload["do"] == "retry" and event.attempt == 1:
            raise Retry(after_s=0.01)
        if event.payload["do"] == "bad" and event.source != "redelivery":
            raise ValueError("bad")
        await ctx.state.set("last", event.id)
        await ctx.emit("done", {"pad": "y" * 500})

    return plugin


class Expected:
    """What the store holds after so many commits."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = {
            table.name: {} for table in KEPT
        }
        self.events: dict[int, tuple[str, bytes]] = {}
        self.floors: dict[str, int] = {}

    def copy(self) -> "Expected":
        copied = Expected()
        copied.rows = {name: dict(rows) for name, rows in self.rows.items()}
        copied.events, copied.floors = dict(self.events), dict(self.floors)
        return copied

    def commit(self, batch: Batch) -> None:
        for lane, events in batch.events.items():
            self.events |= {event.seq: (lane, event.message) for event in events}
        for table, key, row in batch.changes:
            if row is None:
                self.rows[table.name].pop(key, None)
            else:
                self.rows[table.name][key] = tuple(row)
        self.floors |= batch.floors

    def differences(self, found: "Found") -> list[str]:
        wrong = [name for name in self.rows if self.rows[name] != found.rows[name]]
        for seq, (lane, message) in self.events.items():
            # What was let go of may be deleted or not.
            if found.events.get(seq) != message and (
                seq in found.events or seq > self.floors.get(lane, 0)
            ):
                wrong.append(f"event {seq}")
        wrong += [f"event {seq}" for seq in found.events if seq not in self.events]
        if found.head != max(self.events, default=0):
            wrong.append("head")
        return wrong


class Found(NamedTuple):
    """What a store that was opened again gives."""

    rows: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]
    events: dict[int, bytes]
    head: int
    books: Books | None


async def look(image: Path, *, whole: bool) -> Found:
    """Opens an image as the daemon does. Raises `StorageFailed` or `AssertionError` where it is damaged.

    `whole`: no event was let go of, so that the books can be read from the log.
    """
    store = SqliteStore(image / "store.sqlite3", low_bytes=1024, reserve_bytes=1024)
    await store.open()
    try:
        with open_for_reading(image / "store.sqlite3") as connection:
            assert find_faults(connection) == []
        recovered = await store.recover_log()
        seqs = [event.seq for event in recovered.events]
        assert len(seqs) == len(set(seqs)), "a number twice"
        books = None
        restored = await restore(store, "p", 0)
        if whole:
            assert seqs == list(range(1, recovered.head + 1)), "a number is missing"
            books = Books()
            books.read(SimpleNamespace(read=lambda *_: recovered.events))
            waiting = [delivery.event_id for delivery, _ in restored.waiting]
            assert sorted(waiting) == sorted(books.at("waiting")), "the queue is another"
            dead = [delivery.event_id for delivery, _ in restored.dead]
            assert sorted(dead) == sorted(books.at("dead")), "the dead letters are others"
        answered = [msgspec.json.decode(row.answer)["event_id"] for row in restored.keys]
        assert len(answered) == len(set(answered)), "two keys for one event"
        if books:
            assert sorted(answered) == sorted(books.accepted), (
                "a key without an event, or none for one"
            )
        return Found(
            rows={
                table.name: {
                    tuple(row[: table.key_columns]): tuple(row) for row in await store.rows(table)
                }
                for table in KEPT
            },
            events={event.seq: event.message for event in recovered.events},
            head=recovered.head,
            books=books,
        )
    finally:
        await store.close()


class Tally:
    """Images by what was found."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.example: dict[str, str] = {}

    def add(self, verdict: str, which: str) -> None:
        name = verdict.partition(":")[0]
        self.count[name] += 1
        self.example.setdefault(name, f"{which}: {verdict}")


async def examine(
    workload: Workload, to: Path, *, wanted: int, seed: int, whole: bool, first: int = 0
) -> Tally:
    """Builds `wanted` images, spread over all moments from `first` on; each is `ok`, `lost` or `corrupt`."""
    random = Random(seed)
    tally = Tally()
    disk, expected = Disk(), Expected()
    commits = iter([*workload.commits, None])
    following = next(commits)
    operations = workload.recorder.operations
    for position, operation in enumerate(operations, 1):
        disk.do(operation)
        while following is not None and following.acknowledged <= position:
            expected.commit(following.batch)
            following = next(commits)
        for number in range(_share(position - first, wanted, len(operations) - first)):
            how = ("mix", "mix", "mix", "drop", "keep")[(position + number) % 5]
            sector = random.choice((512, 4096))
            disk.write_image(to, random, how, sector)
            candidates = [expected]
            if following is not None and following.begun < position:
                candidates.append(expected.copy())
                candidates[-1].commit(following.batch)
            verdict = await judge(to, candidates, workload.receipts, position, whole=whole)
            tally.add(verdict, f"after operation {position} of seed {seed}, {how}, {sector} B")
    return tally


def _share(position: int, wanted: int, moments: int) -> int:
    if position < 1:
        return 0
    return wanted * position // moments - wanted * (position - 1) // moments


async def judge(
    image: Path, candidates: list[Expected], receipts: list[Receipt], position: int, *, whole: bool
) -> str:
    try:
        found = await look(image, whole=whole)
    except (StorageFailed, sqlite3.Error, AssertionError, KeyError) as error:
        return f"corrupt: {type(error).__name__} {error} {error.__cause__ or ''}"
    told = [receipt for receipt in receipts if receipt.position <= position]
    if found.books is not None:
        seqs = found.books.seqs
        if lost := [one for one in told if seqs.get(one.event_id) != one.seq]:
            return f"lost: {len(lost)} of {len(told)} acknowledged events"
    differences = [candidate.differences(found) for candidate in candidates]
    return "ok" if [] in differences else f"lost: commits; differ in {differences}"


@pytest.fixture
def proof(tmp_path, monkeypatch):
    """Records a workload and examines its images; in `lives` the log lets nothing go, or much."""
    # Small, so that the log is copied into the database often.
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 65_536)

    def run(connection, *, wanted, window_events=100_000, seed=0) -> Tally:
        workload = Workload(connection, window_events)
        workload.record(tmp_path / f"recorded-{seed}-{window_events}")
        whole = window_events == 100_000
        examined = partial(examine, wanted=wanted, seed=seed, whole=whole)
        tally = trio.run(examined, workload, tmp_path / "image")
        kinds = Counter(operation.kind for operation in workload.recorder.operations)
        print(
            f"{connection.__name__}: {tally.count} of {len(workload.commits)} commits, "
            f"{len(workload.receipts)} receipts, operations {dict(kinds)}"
        )
        return tally

    return run


def fail_a_sync(
    directory: Path, number: int, store_type: type[Witness] = Witness
) -> tuple[str, Tally]:
    """The disk fails at a sync of the first life; how that ended, and what is found on it then."""
    workload = Workload(RecordedConnection, 100_000)
    workload.recorder.syncs_until_error = number
    ended = "well"
    try:
        workload.record(directory / f"recorded-{number}", store_type, lives=1)
    except* StorageFailed:
        ended = "failed"
    kinds = [operation.kind for operation in workload.recorder.operations]
    if "lose" not in kinds:
        return "never", Tally()
    first = kinds.index("lose")
    if workload.closings and first >= workload.closings[0]:
        ended = "closing"  # what that would tidy up is safe where it is
    examined = partial(examine, wanted=5, seed=number, whole=True, first=first)
    return ended, trio.run(examined, workload, directory / "image")


def test_a_sync_that_fails_ends_the_store_and_loses_nothing(tmp_path, full, monkeypatch, quiet):
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 65_536)
    found, ends = Counter[str](), Counter[str]()
    for number in range(0, 200, 1 if full else 9):
        ended, tally = fail_a_sync(tmp_path, number)
        if ended == "never":
            break  # it had no more of them
        found += tally.count
        ends[ended] += 1
        assert tally.count == {"ok": 5}, (number, tally.example)
    print(f"{ends}, {found}")
    assert set(ends) <= {"failed", "closing"}
    assert ends["failed"] >= 4


def test_control_a_store_that_goes_on_after_a_failed_sync_loses_some(tmp_path, quiet):
    found = Counter[str]()
    for number in range(15, 45, 5):
        found += fail_a_sync(tmp_path, number, Stubborn)[1].count
    print(found)
    assert found["ok"] < found.total()


@pytest.mark.parametrize("window_events", [100_000, 50])
def test_a_power_cut_loses_nothing_acknowledged(proof, full, window_events, quiet):
    wanted = 1500 if full else 60
    tally = proof(RecordedConnection, wanted=wanted, window_events=window_events)
    assert tally.count == {"ok": wanted}, tally.example


def test_control_synchronous_normal_loses_some(proof, quiet):
    tally = proof(Lax, wanted=40)
    assert tally.count["lost"] > 0
    assert "corrupt" not in tally.count, tally.example


def test_control_no_sync_at_all_corrupts_some(proof, full, quiet):
    tally = proof(Laxer, wanted=400 if full else 150)
    assert tally.count["corrupt"] > 0


async def test_a_connection_that_does_not_sync_is_refused(tmp_path):
    class Honest(Lax):
        def execute(self, sql, parameters=()):
            if sql == "PRAGMA synchronous":
                return RecordedConnection.execute(self, sql)
            return super().execute(sql, parameters)

    connect = partial(Honest, vfs=RecordingVfs(Recorder()))
    store = SqliteStore(
        tmp_path / "store.sqlite3", low_bytes=1024, reserve_bytes=1024, make_connection=connect
    )
    with pytest.raises(StorageFailed, match="synchronous = FULL"):
        await store.open()
