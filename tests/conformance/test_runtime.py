"""What every runtime holds, whichever implementation; today there is the embedded one."""

from contextlib import AbstractAsyncContextManager

import pytest
import trio

from yoi_daemon.model.cursor import decode_cursor
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.settings import RuntimeSettings
from yoi_daemon.runtime.embedded import open_embedded_runtime
from yoi_daemon.runtime.interface import MAX_PAGE_BYTES, MAX_PAGE_ITEMS, Runtime
from yoi_daemon.runtime.profiles import BUILTIN_ECHO, make_profiles


@pytest.fixture(params=["embedded"])
def opened(request, event_log, ids, wall_clock):
    """Opens a runtime of the kind under test, in which `builtin:echo` can be made."""

    def open_embedded(**settings) -> AbstractAsyncContextManager[Runtime]:
        return open_embedded_runtime(
            event_log, ids, make_profiles({}), RuntimeSettings(**settings), wall_clock=wall_clock
        )

    return {"embedded": open_embedded}[request.param]


@pytest.fixture
async def runtime(opened):
    async with opened() as runtime:
        yield runtime


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


async def test_it_says_what_it_is(runtime, opened):
    summary = runtime.summary()
    assert summary.status == "available"
    assert summary.implementation_kind in ("embedded", "remote", "local_compat")
    assert summary.capabilities.create
    assert summary.capabilities.input
    assert summary.capabilities.transcript
    # What cannot be asked for is not there; what is there must be told.
    for command in ("cancel", "stop"):
        assert getattr(summary.capabilities, command) == hasattr(runtime, command)


async def test_a_worker_is_shown_as_it_was_made(runtime):
    made = await runtime.create(profile=BUILTIN_ECHO, label="my label")
    worker = made.worker
    assert (worker.label, worker.profile, worker.state) == ("my label", BUILTIN_ECHO, "idle")
    assert (worker.generation, worker.reason) == (0, None)
    assert worker.runtime_id == runtime.summary().runtime_id
    assert worker.implementation_kind == runtime.summary().implementation_kind
    assert await runtime.worker(worker.worker_id) == worker


async def test_a_receipt_tells_a_cursor_that_was_committed(runtime, event_log):
    made = await runtime.create(profile=BUILTIN_ECHO, label="", input="hello")
    assert decode_cursor(made.cursor).seq <= event_log.head
    sent = await runtime.send(made.worker.worker_id, "more", when_busy="queue")
    assert decode_cursor(made.cursor).seq < decode_cursor(sent.cursor).seq <= event_log.head


async def test_an_input_becomes_a_turn(runtime):
    worker_id = await create(runtime, input="hello")
    await idle(runtime, worker_id, 2)
    page = await runtime.transcript(worker_id)
    assert [(item.role, item.text) for item in page.items] == [
        ("user", "hello"),
        ("assistant", "hello"),
    ]
    assert (await runtime.worker(worker_id)).generation == 1


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


async def test_pages_are_bounded_and_can_be_walked(runtime):
    worker_id = await create(runtime)
    for number in range(4):
        await runtime.send(worker_id, f"n{number}", when_busy="queue")
    await idle(runtime, worker_id, 8)
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
async def test_a_page_nobody_can_give_is_refused(runtime, asked):
    worker_id = await create(runtime)
    with pytest.raises(Refused, match="invalid_request"):
        await runtime.transcript(worker_id, **asked)


async def test_workers_are_listed_in_pages_in_the_order_they_were_made(runtime):
    made = [await create(runtime, label=str(number)) for number in range(5)]
    listed, after = [], None
    while True:
        page = await runtime.workers(after=after, limit=2)
        listed += [worker.worker_id for worker in page.items]
        after = page.next
        if after is None:
            break
    assert listed == made
    assert (await runtime.workers(limit=5)).next is None


async def test_unknown_names_are_refused(runtime):
    for call in (
        runtime.worker("wrk_unknown"),
        runtime.send("wrk_unknown", "x"),
        runtime.transcript("wrk_unknown"),
    ):
        with pytest.raises(Refused, match="worker_not_found"):
            await call
    with pytest.raises(Refused, match="profile_not_found"):
        await create(runtime, profile="nope")


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


async def test_the_number_of_workers_is_bounded(opened):
    async with opened(max_workers=2) as runtime:
        await create(runtime)
        await create(runtime)
        with pytest.raises(Refused, match="limit_reached"):
            await create(runtime)


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
