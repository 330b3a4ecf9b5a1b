"""What every runtime holds, whichever implementation. A test asks for what the runtime says it can do."""

import json
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.cursor import decode_cursor
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.settings import RuntimeSettings
from yoi_daemon.model.states import WORKER_TERMINAL
from yoi_daemon.model.workers import (
    BUILTIN_ECHO,
    DEFAULT_PAGE_ITEMS,
    MAX_PAGE_BYTES,
    MAX_PAGE_ITEMS,
)
from yoi_daemon.registry.interface import Runtime
from yoi_daemon.registry.local_compat import LocalCompatRuntime
from yoi_daemon.runtime.embedded import open_embedded_runtime
from yoi_daemon.runtime.profiles import make_profiles


class EmbeddedSubject:
    """Makes workers by asking for them."""

    def __init__(self, event_log, ids, wall_clock) -> None:
        self._given = (event_log, ids)
        self._wall_clock = wall_clock

    def open(self, **settings) -> AbstractAsyncContextManager[Runtime]:
        return open_embedded_runtime(
            *self._given,
            make_profiles({}),
            RuntimeSettings(**settings),
            wall_clock=self._wall_clock,
        )

    async def make(self, runtime: Runtime, label: str = "", texts: tuple[str, ...] = ()) -> str:
        worker_id = await create(runtime, label=label)
        for number, text in enumerate(texts, 1):
            await runtime.send(worker_id, text)
            await idle(runtime, worker_id, 2 * number)
        return worker_id


class LocalCompatSubject:
    """Makes workers as something else on the machine does: by writing records."""

    def __init__(self, event_log, directory) -> None:
        self._event_log = event_log
        self._directory = directory
        self._made = 0

    @asynccontextmanager
    async def open(self):
        runtime = LocalCompatRuntime("recorded", str(self._directory), self._event_log)
        await runtime.refresh()
        yield runtime

    async def make(self, runtime: Runtime, label: str = "", texts: tuple[str, ...] = ()) -> str:
        self._made += 1
        worker_id = f"w{self._made:04}"
        items = [
            {"item_id": f"i{n}{role}", "role": role, "text": text, "time": "2026-01-01T00:00:00Z"}
            for n, text in enumerate(texts)
            for role in ("user", "assistant")
        ]
        record = {
            "state": "idle",
            "created_at": "2026-01-01T00:00:00Z",
            "label": label,
            "profile": BUILTIN_ECHO,
            "generation": len(texts),
            "items": items,
        }
        (self._directory / f"{worker_id}.json").write_text(json.dumps(record))
        return worker_id


KINDS = ["embedded", "local_compat"]
COMMANDING = ["embedded"]
"""Those with every command. `test_each_flag_is_what_the_call_does` holds the others to their word."""


@pytest.fixture
def subject(request, event_log, ids, wall_clock, tmp_path):
    match request.param:
        case "embedded":
            return EmbeddedSubject(event_log, ids, wall_clock)
        case "local_compat":
            return LocalCompatSubject(event_log, tmp_path)


@pytest.fixture
def opened(subject):
    return subject.open


@pytest.fixture
async def runtime(opened):
    async with opened() as runtime:
        yield runtime


every_runtime = pytest.mark.parametrize("subject", KINDS, indirect=True)
commanding = pytest.mark.parametrize("subject", COMMANDING, indirect=True)


async def create(runtime: Runtime, **fields) -> str:
    made = await runtime.create(**{"profile": BUILTIN_ECHO, "label": ""} | fields)
    return made.worker.worker_id


async def idle(runtime: Runtime, worker_id: str, items: int) -> None:
    """Waits, a turn of the loop at a time, until the worker has so many items and rests."""
    with trio.fail_after(10):
        while True:
            page = await runtime.transcript(worker_id, limit=MAX_PAGE_ITEMS)
            if len(page.items) >= items and (await runtime.worker(worker_id)).state == "idle":
                return
            await trio.lowlevel.checkpoint()


@every_runtime
async def test_it_says_what_it_is(runtime):
    summary = runtime.summary()
    assert summary.status == runtime.status() == "available"
    assert summary.capabilities == runtime.capabilities()
    assert summary.implementation_kind in ("embedded", "remote", "local_compat")
    assert summary.runtime_id
    assert summary.display_name


def kinds_after(event_log: EventLog, cursor: str, worker_id: str) -> list[str]:
    """The committed events of one worker after a cursor."""
    entries = event_log.read(decode_cursor(cursor).seq, 1 << 30)
    return [entry.kind for entry in entries if entry.worker and entry.worker[1] == worker_id]


@every_runtime
async def test_each_flag_is_what_the_call_does(subject, runtime, event_log):
    flags = runtime.capabilities()
    seq = event_log.appended
    start = event_log.cursors.encode(seq)
    worker_id = await subject.make(runtime, texts=("x",))
    calls = {
        "create": lambda: create(runtime),
        "input": lambda: runtime.send(worker_id, "more"),
        "cancel": lambda: runtime.cancel(worker_id),
        "transcript": lambda: runtime.transcript(worker_id),
        "stop": lambda: runtime.stop(worker_id),
    }
    assert {*calls, "events"} == set(flags.__struct_fields__)
    await event_log.committed(event_log.appended)
    assert flags.events == bool(kinds_after(event_log, start, worker_id))
    for name, call in calls.items():
        if getattr(flags, name):
            await call()
        else:
            with pytest.raises(Refused) as caught:
                await call()
            assert (caught.value.code, caught.value.status) == ("unsupported_operation", 501), name


@every_runtime
async def test_a_worker_is_shown_as_it_was_made(subject, runtime):
    worker_id = await subject.make(runtime, label="my label")
    worker = await runtime.worker(worker_id)
    assert (worker.label, worker.profile, worker.state) == ("my label", BUILTIN_ECHO, "idle")
    assert (worker.generation, worker.reason) == (0, None)
    assert worker.runtime_id == runtime.summary().runtime_id
    assert worker.implementation_kind == runtime.summary().implementation_kind
    assert (await runtime.workers()).items == (worker,)


@every_runtime
async def test_what_is_known_now_is_what_was_asked_for(subject, runtime, event_log):
    made = [await subject.make(runtime, texts=(f"n{number}",)) for number in range(3)]
    asked = await runtime.workers()
    assert runtime.workers_now() == asked
    assert runtime.workers_now(limit=2) == await runtime.workers(limit=2)
    for worker_id, shown in zip(made, asked.items, strict=True):
        assert runtime.worker_now(worker_id) == shown == await runtime.worker(worker_id)
        assert runtime.transcript_now(worker_id) == await runtime.transcript(worker_id)


@every_runtime
async def test_a_worker_that_was_asked_for_is_known(subject, runtime):
    assert runtime.workers_now().items == ()
    worker_id = await subject.make(runtime, texts=("hello",))
    worker = await runtime.worker(worker_id)
    assert runtime.worker_now(worker_id) == worker
    page = runtime.transcript_now(worker_id)
    assert page is not None
    assert [item.text for item in page.items] == ["hello", "hello"]


@every_runtime
async def test_the_page_known_now_is_bounded_and_names_the_one_before(subject, runtime):
    texts = tuple(f"n{number}" for number in range(DEFAULT_PAGE_ITEMS // 2 + 1))
    worker_id = await subject.make(runtime, texts=texts)
    await runtime.worker(worker_id)
    page = runtime.transcript_now(worker_id)
    assert page == await runtime.transcript(worker_id)
    assert (len(page.items), page.before) == (DEFAULT_PAGE_ITEMS, page.items[0].item_id)


@every_runtime
async def test_nothing_is_known_of_an_unknown_worker(runtime):
    for worker_id in ("wrk_unknown", "..", ""):
        assert runtime.worker_now(worker_id) is None
        assert runtime.transcript_now(worker_id) is None


@commanding
async def test_a_receipt_tells_a_cursor_that_was_committed(runtime, event_log):
    made = await runtime.create(profile=BUILTIN_ECHO, label="", input="hello")
    assert decode_cursor(made.cursor).seq <= event_log.head
    sent = await runtime.send(made.worker.worker_id, "more", when_busy="queue")
    assert decode_cursor(made.cursor).seq < decode_cursor(sent.cursor).seq <= event_log.head


@every_runtime
async def test_an_input_is_a_turn(subject, runtime):
    worker_id = await subject.make(runtime, texts=("hello",))
    page = await runtime.transcript(worker_id)
    assert [(item.role, item.text) for item in page.items] == [
        ("user", "hello"),
        ("assistant", "hello"),
    ]
    assert (await runtime.worker(worker_id)).generation == 1


@commanding
async def test_a_page_is_true_at_its_cursor(runtime, event_log):
    """`as_of` joins the stream: what the page lacks comes after it, and nothing it has."""
    worker_id = await create(runtime)
    for number in range(3):
        await runtime.send(worker_id, f"n{number}", when_busy="queue")
        page = await runtime.transcript(worker_id)
        at = decode_cursor(page.as_of).seq
        shown = {item.item_id for item in page.items}
        earlier = set()
        for entry in event_log.read(0, 1 << 30):
            if entry.kind == "worker.item" and entry.seq <= at:
                earlier.add(entry.seq)
        assert len(shown) == len(earlier)


@every_runtime
async def test_pages_are_bounded_and_can_be_walked(subject, runtime, event_log):
    worker_id = await subject.make(runtime, texts=("n0", "n1", "n2", "n3"))
    as_of = decode_cursor((await runtime.transcript(worker_id)).as_of)
    assert (as_of.epoch, as_of.seq) == (event_log.cursors.epoch, event_log.head)
    seen, before = [], None
    while True:
        page = await runtime.transcript(worker_id, before=before, limit=3)
        assert len(page.items) <= 3
        seen = [item.text for item in page.items] + seen
        before = page.before
        if before is None:
            break
    assert seen == ["n0", "n0", "n1", "n1", "n2", "n2", "n3", "n3"]
    (item,) = (await runtime.transcript(worker_id, max_bytes=1)).items
    assert (item.text, item.truncated, item.full_bytes) == ("n", True, 2)


@pytest.mark.parametrize(
    "asked",
    [
        {"limit": 0},
        {"limit": MAX_PAGE_ITEMS + 1},
        {"max_bytes": 0},
        {"max_bytes": MAX_PAGE_BYTES + 1},
        {"after": "itm_unknown"},
        {"before": "itm_unknown"},
        {"after": "x", "before": "x"},
    ],
)
@every_runtime
async def test_a_page_nobody_can_give_is_refused(subject, runtime, asked):
    worker_id = await subject.make(runtime)
    with pytest.raises(Refused, match="invalid_request"):
        await runtime.transcript(worker_id, **asked)


@every_runtime
async def test_workers_are_listed_in_pages_in_order(subject, runtime):
    made = [await subject.make(runtime, label=str(number)) for number in range(5)]
    listed, after = [], None
    while True:
        page = await runtime.workers(after=after, limit=2)
        listed += [worker.worker_id for worker in page.items]
        after = page.next
        if after is None:
            break
    assert listed == made
    assert (await runtime.workers(limit=5)).next is None


@every_runtime
async def test_unknown_workers_are_refused(runtime):
    for worker_id in ("wrk_unknown", "..", "../x", "x/y", "", "x\0", "é"):
        for call in (runtime.worker(worker_id), runtime.transcript(worker_id)):
            with pytest.raises(Refused, match="worker_not_found"):
                await call


@commanding
async def test_unknown_names_are_refused(runtime):
    for call in (
        runtime.send("wrk_unknown", "x"),
        runtime.cancel("wrk_unknown"),
        runtime.stop("wrk_unknown"),
    ):
        with pytest.raises(Refused, match="worker_not_found"):
            await call
    with pytest.raises(Refused, match="profile_not_found"):
        await create(runtime, profile="nope")


@commanding
async def test_a_stopped_worker_is_readable_and_gone(subject, runtime):
    worker_id = await subject.make(runtime, texts=("x",))
    before = await runtime.transcript(worker_id)
    receipt = await runtime.stop(worker_id)
    assert receipt.worker.state in WORKER_TERMINAL
    assert await runtime.worker(worker_id) == receipt.worker
    assert (await runtime.transcript(worker_id)).items == before.items
    for call in (
        runtime.send(worker_id, "x"),
        runtime.cancel(worker_id),
        runtime.stop(worker_id),
    ):
        with pytest.raises(Refused, match="worker_gone") as caught:
            await call
        assert caught.value.fields["state"] == receipt.worker.state


@commanding
async def test_events_join_a_receipt_exactly(subject, runtime, event_log):
    worker_id = await subject.make(runtime)
    receipt = await runtime.send(worker_id, "x")
    await idle(runtime, worker_id, 2)
    await event_log.committed(event_log.appended)
    assert kinds_after(event_log, receipt.cursor, worker_id) == [
        "worker.state",
        "worker.turn.started",
        "worker.item",
        "worker.item",
        "worker.turn.finished",
        "worker.state",
    ]


@commanding
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"label": "x" * 201}, "invalid_request"),
        ({"label": "\ud800"}, "invalid_event"),
        ({"input": "x" * 2000}, "payload_too_large"),
        ({"input": "\ud800"}, "invalid_request"),
    ],
)
async def test_a_worker_that_is_refused_was_never_made(opened, event_log, fields, code):
    async with opened(max_input_bytes=1024) as runtime:
        with pytest.raises(Refused) as caught:
            await create(runtime, **fields)
        assert caught.value.code == code
        assert (await runtime.workers()).items == ()
        assert event_log.appended == 0


@commanding
async def test_the_number_of_workers_is_bounded(opened):
    async with opened(max_workers=2) as runtime:
        await create(runtime)
        await create(runtime)
        with pytest.raises(Refused, match="limit_reached"):
            await create(runtime)


@commanding
async def test_leaving_ends_every_worker(opened):
    async with opened() as runtime:
        made = [await create(runtime), await create(runtime, input="hello")]
    for worker_id in made:
        assert (await runtime.worker(worker_id)).state == "stopped"
        with pytest.raises(Refused, match="worker_gone"):
            await runtime.send(worker_id, "x")
        await runtime.transcript(worker_id)
    with pytest.raises(Refused, match="draining"):
        await create(runtime)
