"""Who may come in and what each path follows, on a whole daemon without listeners."""

from collections.abc import AsyncGenerator, Callable
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

pytest.importorskip("trio_websocket")

from tests.stream.transport import MemoryTransport
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.front.access import names_of
from yoi_daemon.front.connection import UpgradeRequest
from yoi_daemon.front.principal import ADMIN
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.addresses import TcpAddress
from yoi_daemon.model.cursor import CursorCodec, decode_cursor
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import Draft
from yoi_daemon.model.ids import EMBEDDED_RUNTIME_ID
from yoi_daemon.model.settings import (
    MemoryStoreSettings,
    ObserveSettings,
    RuntimeSettings,
    Settings,
)
from yoi_daemon.model.workers import TranscriptPage
from yoi_daemon.observe.server import ObserveServer

TOKEN = "yoi_admin"
BEFORE = "feedfeedfeedfeed"
NAMES = names_of([TcpAddress("127.0.0.1", 7421)], [], [])


class Rig:
    """The server, and clients that are held in memory."""

    def __init__(self, daemon: Daemon, nursery: trio.Nursery) -> None:
        self.daemon = daemon
        self.runtime = daemon.registry.runtime(EMBEDDED_RUNTIME_ID)
        self.server = ObserveServer(daemon, NAMES, uniform=lambda low, _: low)
        self.nursery = nursery

    async def open(self, path: str = "/v1/events", query: str = "", token: str = TOKEN):
        headers = [("host", "127.0.0.1:7421"), ("authorization", f"Bearer {token}")]
        handler = await self.server.admit(UpgradeRequest(path, query, headers, "test"))
        transport = MemoryTransport()
        self.nursery.start_soon(handler, transport)
        await wait_all_tasks_blocked()
        return transport

    async def make_worker(self, text: str | None = None) -> str:
        receipt = await self.runtime.create(profile="builtin:echo", label="", input=text)
        await wait_all_tasks_blocked()
        return receipt.worker.worker_id

    async def stop_workers(self) -> None:
        for worker in (await self.runtime.workers()).items:
            if worker.state not in ("stopped", "failed"):
                await self.runtime.stop(worker.worker_id)
        await wait_all_tasks_blocked()


@pytest.fixture
def settings() -> ObserveSettings:
    return ObserveSettings()


@pytest.fixture
def runtime_settings() -> RuntimeSettings:
    return RuntimeSettings()


@pytest.fixture
async def rig(tmp_path, settings, runtime_settings, nursery, wall_clock) -> AsyncGenerator[Rig]:
    directories = Directories(tmp_path / "config", tmp_path / "state", tmp_path / "secrets")
    directories.state.mkdir()
    (directories.state / "epochs").write_text(BEFORE)
    async with (
        open_daemon(
            directories,
            Settings(observe=settings, runtime=runtime_settings, store=MemoryStoreSettings()),
            Tokens(TOKEN, wall_clock=wall_clock),
            environ={},
        ) as daemon,
        trio.open_nursery() as inner,
    ):
        rig = Rig(daemon, inner)
        inner.start_soon(rig.server._fanout.run)
        inner.start_soon(rig.server._fanout.wake_all_at, daemon.draining)
        yield rig
        inner.cancel_scope.cancel()


def path_of(worker_id: str) -> str:
    return f"/v1/workers/{worker_id}/events"


async def test_a_workers_stream_ends_after_its_last_event(rig):
    worker_id = await rig.make_worker("hello")
    live = await rig.open(path_of(worker_id), "cursor=earliest")
    narrow = await rig.open(path_of(worker_id), "cursor=earliest&kinds=worker.item")
    everything = await rig.open()
    await rig.stop_workers()
    for transport in (live, narrow):
        assert transport.types[-1] == "end"
        assert transport.messages[-1]["worker"]["state"] == "stopped"
        assert transport.closed == (1000, "end")
    assert live.of("event")[-1]["data"]["state"] == "stopped"
    assert [one["worker_seq"] for one in live.of("event")] == [*range(1, len(live.numbers) + 1)]
    assert everything.closed is None


async def test_a_worker_that_is_gone_is_replayed_and_ended_only_latest_is_refused(rig):
    worker_id = await rig.make_worker("hello")
    await rig.stop_workers()
    for cursor in ("earliest", rig.daemon.event_log.cursors.encode(2)):
        transport = await rig.open(path_of(worker_id), f"cursor={cursor}")
        assert transport.types[0] == "hello"
        assert transport.types[-1] == "end"
        assert transport.of("event")
    told = transport.messages[-1]["cursor"]
    again = await rig.open(path_of(worker_id), f"cursor={told}")
    assert again.types == ["hello", "bookmark live", "end"]
    late = await rig.open(path_of(worker_id))
    assert late.types == ["error"]
    assert late.messages[0]["code"] == "worker_gone"
    assert late.messages[0]["worker"]["state"] == "stopped"
    assert late.closed == (4404, "worker_gone")


async def test_a_worker_not_yet_made_can_be_awaited(rig):
    refused = await rig.open(path_of("wrk_later"))
    assert refused.closed == (4404, "worker_not_found")
    awaited = await rig.open(path_of("wrk_later"), "await=1")
    assert awaited.types == ["hello", "bookmark live"]
    nowhere = await rig.open("/v1/runtimes/none/workers/w/events", "await=1")
    assert nowhere.closed == (4404, "runtime_not_found")
    draft = Draft(
        kind="worker.state", data={}, runtime_id=EMBEDDED_RUNTIME_ID, worker_id="wrk_later"
    )
    rig.daemon.event_log.append(draft)
    await wait_all_tasks_blocked()
    assert awaited.types[-1] == "event"


async def test_a_snapshot_of_a_worker_not_yet_made_is_empty(rig):
    awaited = await rig.open(path_of("wrk_later"), "await=1&snapshot=1")
    assert awaited.types == ["hello", "snapshot", "bookmark live"]
    assert awaited.of("snapshot")[0]["workers"] == []


class TestForgotten:
    """A worker that its runtime no longer keeps: its stream is still finished by `end`."""

    @pytest.fixture
    def runtime_settings(self) -> RuntimeSettings:
        return RuntimeSettings(retained_workers=0)

    async def test_an_evicted_workers_end_is_read_from_the_log(self, rig):
        worker_id = await rig.make_worker("hello")
        live = await rig.open(path_of(worker_id))
        before = await rig.runtime.worker(worker_id)
        await rig.stop_workers()
        with pytest.raises(Refused, match="worker_not_found"):
            await rig.runtime.worker(worker_id)
        cursor = rig.daemon.event_log.cursors.encode(2)
        resumed = await rig.open(path_of(worker_id), f"cursor={cursor}")
        for transport in (live, resumed):
            assert transport.closed == (1000, "end")
            told = transport.messages[-1]["worker"]
            assert (told["state"], told["reason"]["code"]) == ("stopped", "stopped")
            assert told["generation"] == 1
            for name in ("worker_id", "profile", "label", "implementation_kind"):
                assert told[name] == getattr(before, name)
        late = await rig.open(path_of(worker_id))
        assert late.closed == (4404, "worker_gone")
        assert late.messages[0]["worker"] == told

    async def test_a_worker_that_the_log_evicted_too_is_not_found(self, rig):
        worker_id = await rig.make_worker("hello")
        await rig.stop_workers()
        for _ in range(rig.daemon.settings.observe.window_events):
            rig.daemon.event_log.append(Draft(kind="plugin.state", data={}))
        await rig.daemon.event_log.committed(rig.daemon.event_log.appended)
        gone = await rig.open(path_of(worker_id), "cursor=earliest")
        assert gone.closed == (4404, "worker_not_found")

    @pytest.fixture
    def settings(self) -> ObserveSettings:
        return ObserveSettings(window_events=200)


async def test_a_worker_streams_snapshot_joins_the_events_after_it(rig):
    worker_id = await rig.make_worker("hello")
    transport = await rig.open(path_of(worker_id), "snapshot=1")
    assert transport.types == ["hello", "snapshot", "bookmark live"]
    (shown,) = transport.of("snapshot")[0]["workers"]
    assert shown["worker"]["worker_id"] == worker_id
    texts = [item["text"] for item in shown["transcript"]["items"]]
    await rig.runtime.send(worker_id, "more")
    await wait_all_tasks_blocked()
    texts += [one["data"]["text"] for one in transport.of("event") if one["kind"] == "worker.item"]
    page = await rig.runtime.transcript(worker_id)
    assert texts == [item.text for item in page.items]
    assert len(texts) == 4


async def join_under_load(rig: Rig, cursor_of: Callable[[TranscriptPage], str]) -> None:
    """Reads the transcript and follows from there, again and again, while the worker and others write."""
    worker_id = await rig.make_worker()
    path = path_of(worker_id)

    async def load(done: trio.Event) -> None:
        for number in range(60):
            await rig.runtime.send(worker_id, f"input {number}", when_busy="queue")
            for _ in range(20):
                rig.daemon.event_log.append(Draft(kind="gen.noise", data=number))
            while len((await rig.runtime.transcript(worker_id, limit=256)).items) < 2 * number:
                await trio.lowlevel.checkpoint()
        done.set()

    done = trio.Event()
    joins = []
    rig.nursery.start_soon(load, done)
    while not done.is_set():
        for _ in range(7):
            await trio.lowlevel.checkpoint()
        page = await rig.runtime.transcript(worker_id, limit=256)
        headers = [("host", "127.0.0.1:7421"), ("authorization", f"Bearer {TOKEN}")]
        query = f"cursor={cursor_of(page)}&kinds=worker.item"
        transport = MemoryTransport()
        handler = await rig.server.admit(UpgradeRequest(path, query, headers, "test"))
        rig.nursery.start_soon(handler, transport)
        joins.append((page, transport))
    await wait_all_tasks_blocked()
    whole = [item.item_id for item in (await rig.runtime.transcript(worker_id, limit=256)).items]
    assert len(whole) == 120
    assert len(joins) > 20
    for page, transport in joins:
        seen = [item.item_id for item in page.items]
        assert seen + [one["data"]["item_id"] for one in transport.of("event")] == whole


async def test_a_transcript_and_the_stream_from_its_cursor_are_the_whole_under_load(rig):
    await join_under_load(rig, lambda page: page.as_of)


@pytest.mark.parametrize("off", [-2, "latest"])
async def test_control_a_cursor_that_is_not_the_transcripts_own_does_not_join(rig, off):
    def another(page: TranscriptPage) -> str:
        if isinstance(off, str):
            return off
        log = rig.daemon.event_log
        return log.cursors.encode(max(0, min(log.head, decode_cursor(page.as_of).seq + off)))

    with pytest.raises(AssertionError):
        await join_under_load(rig, another)


async def test_all_workers_in_a_snapshot_past_a_hole(rig):
    worker_id = await rig.make_worker("hello")
    cursor = CursorCodec(BEFORE).encode(7)
    transport = await rig.open(query=f"cursor={cursor}&on_gap=snapshot")
    assert transport.types == ["hello", "gap", "snapshot", "bookmark live"]
    assert transport.messages[0]["resume"] == "snapshot"
    gap, snapshot = transport.messages[1:3]
    assert (gap["from"], gap["reason"]) == (cursor, "epoch_changed")
    assert (
        gap["to"]
        == snapshot["cursor"]
        == rig.daemon.event_log.cursors.encode(rig.daemon.event_log.head)
    )
    assert [one["worker"]["worker_id"] for one in snapshot["workers"]] == [worker_id]


@pytest.mark.parametrize(
    ("epoch", "closed"), [(BEFORE, (4410, "cursor_expired")), ("0" * 16, (4422, "cursor_unknown"))]
)
async def test_an_earlier_log_of_ours_is_known_from_a_foreign_one(rig, epoch, closed):
    transport = await rig.open(query=f"cursor={CursorCodec(epoch).encode(1)}")
    assert transport.types == ["error"]
    assert transport.closed == closed


async def test_a_token_is_checked_at_every_resume(rig):
    first = await rig.open()
    cursor = first.messages[-1]["cursor"]
    assert (await rig.open(query=f"cursor={cursor}")).types == ["hello", "bookmark live"]
    rig.daemon.tokens = Tokens("another")
    with pytest.raises(Refused, match="unauthenticated"):
        await rig.open(query=f"cursor={cursor}")


async def make_token(rig, **fields) -> tuple[str, str]:
    secret, info = await rig.daemon.tokens.create(ADMIN, scopes=["events:read"], **fields)
    return secret, info.token_id


PATHS = ["/v1/events", f"/v1/runtimes/{EMBEDDED_RUNTIME_ID}/workers/wrk_later/events"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_revoked_token_ends_its_streams_and_no_others(rig, path):
    secret, token_id = await make_token(rig)
    theirs = [await rig.open(path, "await=1", token=secret) for _ in range(3)]
    ours = await rig.open(path, "await=1")
    last = rig.daemon.event_log.appended
    await rig.daemon.tokens.revoke(token_id)
    rig.daemon.event_log.append(Draft(kind="gen.secret", data="after the end"))
    await wait_all_tasks_blocked()
    for one in theirs:
        assert one.closed == (4401, "unauthenticated")
        assert one.messages[-1]["code"] == "unauthenticated"
        assert one.messages[-1]["reason"] == "token_ended"
        assert all(number <= last for number in one.numbers)
    assert ours.closed is None
    assert rig.daemon.observed.subscribers == 1
    with pytest.raises(Refused, match="unauthenticated"):
        await rig.open(path, token=secret)


async def test_the_control_a_server_that_never_checks_again_keeps_delivering(rig, monkeypatch):
    secret, token_id = await make_token(rig)
    monkeypatch.setattr(rig.daemon.tokens, "while_valid", lambda _: trio.CancelScope())
    theirs = await rig.open(token=secret)
    await rig.daemon.tokens.revoke(token_id)
    rig.daemon.event_log.append(Draft(kind="gen.secret", data="after the end"))
    await wait_all_tasks_blocked()
    assert theirs.closed is None
    assert theirs.of("event")[-1]["kind"] == "gen.secret"


async def test_an_expired_token_ends_its_streams_within_a_second(rig, wall_clock, mock_clock):
    secret, _ = await make_token(rig, expires_in_s=100)
    rig.nursery.start_soon(rig.daemon.tokens.tend)
    theirs = await rig.open(token=secret)
    wall_clock.advance(99.9)
    mock_clock.jump(1)
    await wait_all_tasks_blocked()
    assert theirs.closed is None
    wall_clock.advance(0.1)
    mock_clock.jump(1)
    await wait_all_tasks_blocked()
    assert theirs.closed == (4401, "unauthenticated")


async def test_a_token_that_ends_during_the_handshake_opens_nothing(rig):
    secret, token_id = await make_token(rig)
    headers = [("host", "127.0.0.1:7421"), ("authorization", f"Bearer {secret}")]
    handler = await rig.server.admit(UpgradeRequest("/v1/events", "cursor=earliest", headers, "t"))
    await rig.daemon.tokens.revoke(token_id)
    transport = MemoryTransport()
    with trio.fail_after(5):
        await handler(transport)
    assert transport.types == ["error"]
    assert transport.closed == (4401, "unauthenticated")


async def test_a_subscriber_that_does_not_read_is_cut_off_within_a_second(rig, mock_clock):
    secret, token_id = await make_token(rig)
    slow = await rig.open(token=secret)
    slow.may_take = trio.Event()
    rig.daemon.event_log.append(Draft(kind="gen.noise", data=1))
    await wait_all_tasks_blocked()
    await rig.daemon.tokens.revoke(token_id)
    await wait_all_tasks_blocked()
    assert not slow.aborted
    mock_clock.jump(1)
    await wait_all_tasks_blocked()
    assert slow.aborted
    assert rig.daemon.observed.subscribers == 0


class TestCaps:
    @pytest.fixture(params=["max_subscribers", "max_token_subscribers"])
    def settings(self, request) -> ObserveSettings:
        return ObserveSettings(**{request.param: 2})

    async def test_one_subscriber_too_many_is_refused_and_admitted_after_another_left(self, rig):
        scopes = []
        for _ in range(2):
            scope = trio.CancelScope()
            scopes.append(scope)
            await rig.nursery.start(partial(hold, rig, scope))
        refused = await rig.open()
        assert refused.types == ["error"]
        assert refused.messages[0]["code"] == "too_many_subscribers"
        assert refused.messages[0]["retry"]["after_s"] == 1.0
        assert refused.closed == (1013, "too_many_subscribers")
        scopes[0].cancel()
        await wait_all_tasks_blocked()
        assert (await rig.open()).types == ["hello", "bookmark live"]


async def hold(rig: Rig, scope: trio.CancelScope, task_status=trio.TASK_STATUS_IGNORED) -> None:
    headers = [("host", "127.0.0.1:7421"), ("authorization", f"Bearer {TOKEN}")]
    handler = await rig.server.admit(UpgradeRequest("/v1/events", "", headers, "test"))
    with scope:
        task_status.started()
        await handler(MemoryTransport())


async def test_a_slow_subscriber_is_counted(rig):
    slow = MemoryTransport()
    slow.stalled, slow.cut_after = True, 1
    headers = [("host", "127.0.0.1:7421"), ("authorization", f"Bearer {TOKEN}")]
    handler = await rig.server.admit(UpgradeRequest("/v1/events", "", headers, "test"))
    with pytest.raises(trio.BrokenResourceError):
        await handler(slow)
    assert rig.daemon.status().observe.slow_consumers == 1
