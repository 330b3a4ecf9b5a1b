"""Turns of a worker, seen through its runtime and its events."""

import json

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.runtime.engines import (
    EndlessEngine,
    FailingEngine,
    HangingEngine,
    LateEngine,
    MirrorEngine,
    StreamingEngine,
)
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import CATALOGUE
from yoi_daemon.runtime.emitting import EVENT_TEXT_BYTES


def texts(page) -> list[tuple[str, str]]:
    return [(item.role, item.text) for item in page.items]


async def create(runtime, **fields) -> str:
    made = await runtime.create(profile="it", label="", **fields)
    return made.worker.worker_id


async def test_a_turn_step_by_step(open_runtime, seen):
    async with open_runtime({"it": MirrorEngine()}) as runtime:
        worker_id = await create(runtime, input="hello", correlation_id="cor_1")
        await seen.until("worker.state", 2)
        kinds = seen.kinds(worker_id)
    assert kinds == [
        "worker.created",
        "worker.input_accepted",
        "worker.state",
        "worker.turn.started",
        "worker.item",
        "worker.item",
        "worker.turn.finished",
        "worker.state",
    ]
    events = seen.events(worker_id=worker_id)[: len(kinds)]
    assert {event["correlation_id"] for event in events} == {"cor_1"}
    item_id = events[1]["data"]["item_id"]
    assert events[3]["data"] == {"generation": 1, "item_id": item_id}
    assert events[4]["data"]["item_id"] == item_id
    assert [event["data"].get("text") for event in events[4:6]] == ["hello", "hello"]
    assert events[6]["data"] == {"generation": 1, "outcome": "completed", "duration_ms": 0.0} | {
        "duration_ms": events[6]["data"]["duration_ms"]
    }


async def test_worker_numbers_are_contiguous_and_each_event_has_its_catalogue_shape(
    open_runtime, seen
):
    async with open_runtime({"it": MirrorEngine()}) as runtime:
        made = [await create(runtime, input=f"input {number}") for number in range(3)]
        for worker_id in made:
            await runtime.send(worker_id, "more", when_busy="queue")
        await seen.until("worker.turn.finished", 6)
    for worker_id in made:
        events = seen.events(worker_id=worker_id)
        assert [event["worker_seq"] for event in events] == list(range(1, len(events) + 1))
        assert {event["runtime_id"] for event in events} == {"backend-internal"}
        for event in events:
            shape = CATALOGUE[event["kind"]]
            converted = msgspec.convert(event["data"], shape)
            assert msgspec.to_builtins(converted) == event["data"]


async def test_inputs_are_worked_off_in_order(open_runtime, seen):
    async with open_runtime({"it": MirrorEngine()}) as runtime:
        worker_id = await create(runtime)
        for number in range(5):
            await runtime.send(worker_id, f"n{number}", when_busy="queue")
        await seen.until("worker.turn.finished", 5)
        page = await runtime.transcript(worker_id)
        assert [text for role, text in texts(page) if role == "user"] == [
            f"n{number}" for number in range(5)
        ]
        assert texts(page)[:4] == [
            ("user", "n0"),
            ("assistant", "n0"),
            ("user", "n1"),
            ("assistant", "n0|n0|n1"),
        ]
        assert (await runtime.worker(worker_id)).generation == 5


async def test_a_streamed_answer_is_seen_part_by_part(open_runtime, seen):
    engine = StreamingEngine()
    async with open_runtime({"it": engine}) as runtime:
        worker_id = await create(runtime, input="go")
        await engine.wrote_first.wait()
        await wait_all_tasks_blocked()
        assert [event["data"]["text"] for event in seen.events("worker.item")] == [
            "go",
            "go part 0",
        ]
        assert (await runtime.worker(worker_id)).state == "running"
        engine.may_go_on.set()
        await seen.until("worker.turn.finished")
        assert len((await runtime.transcript(worker_id)).items) == 4


async def test_a_long_item_is_cut_in_its_event_and_whole_in_the_transcript(open_runtime, seen):
    async with open_runtime({"it": MirrorEngine()}) as runtime:
        text = "€" * EVENT_TEXT_BYTES
        worker_id = await create(runtime, input=text)
        await seen.until("worker.turn.finished")
        data = seen.events("worker.item")[0]["data"]
        assert data["text"] == text[: EVENT_TEXT_BYTES // 3]
        assert (data["truncated"], data["full_bytes"]) == (True, 3 * EVENT_TEXT_BYTES)
        assert (await runtime.transcript(worker_id)).items[0].text == text


# -- failures


@pytest.mark.parametrize(
    "error",
    [ValueError("a secret"), ExceptionGroup("several", [KeyError("a"), OSError("b")])],
)
async def test_a_failing_engine_fails_the_turn_not_the_worker(open_runtime, seen, error):
    async with open_runtime({"it": FailingEngine(error)}) as runtime:
        worker_id = await create(runtime, input="bad")
        await runtime.send(worker_id, "fine", when_busy="queue")
        await seen.until("worker.turn.finished", 2)
        assert seen.outcomes(worker_id) == [("failed", "engine_failed"), ("completed", None)]
        assert "secret" not in json.dumps(seen.events())
        assert (await runtime.worker(worker_id)).state == "idle"
        assert [item.role for item in (await runtime.transcript(worker_id)).items] == [
            "user",
            "assistant",
        ] * 2


async def test_an_answer_that_is_no_text_fails_the_turn_and_leaves_no_trace(open_runtime, seen):
    class Engine:
        async def run(self, turn):
            await turn.append("assistant", "\ud800")

    async with open_runtime({"it": Engine()}) as runtime:
        worker_id = await create(runtime, input="x")
        await seen.until("worker.turn.finished")
        assert seen.outcomes(worker_id) == [("failed", "engine_failed")]
        assert len((await runtime.transcript(worker_id)).items) == 1


async def test_a_turn_has_a_deadline(open_runtime, seen, autojump_clock):
    async with open_runtime({"it": HangingEngine()}, turn_timeout_s=60) as runtime:
        worker_id = await create(runtime, input="x")
        await runtime.send(worker_id, "quick", when_busy="queue")
        await seen.until("worker.turn.finished", 2)
        assert trio.current_time() >= 60
        assert seen.outcomes(worker_id) == [("failed", "turn_timeout"), ("completed", None)]
        assert seen.events("worker.turn.finished")[0]["data"]["duration_ms"] == 60_000


# -- interruptions


async def test_another_input_takes_the_place_of_a_turn(open_runtime, seen):
    engine = HangingEngine()
    async with open_runtime({"it": engine}) as runtime:
        worker_id = await create(runtime, input="long")
        await engine.hangs.wait()
        await runtime.send(worker_id, "quick", when_busy="queue")
        await runtime.send(worker_id, "quick", when_busy="interrupt", correlation_id="cor_i")
        await seen.until("worker.turn.finished", 3)
        assert seen.outcomes(worker_id) == [
            ("cancelled", "interrupted"),
            ("completed", None),
            ("completed", None),
        ]
        # It came later and is handled first.
        assert seen.events("worker.turn.finished")[1]["correlation_id"] == "cor_i"
        assert (await runtime.worker(worker_id)).state == "idle"


async def test_an_engine_that_only_appends_can_be_interrupted(open_runtime, seen, event_log):
    async with open_runtime({"it": EndlessEngine()}, transcript_items=10) as runtime:
        worker_id = await create(runtime, input="go")
        await seen.until("worker.item", 3)
        assert event_log.statistics().pending < 10  # others had their turn
        await runtime.send(worker_id, "other", when_busy="interrupt")
        await seen.until("worker.turn.finished")
        assert seen.outcomes(worker_id)[0] == ("cancelled", "interrupted")


async def test_a_late_write_changes_nothing(open_runtime, seen, event_log):
    engine = LateEngine()
    async with open_runtime({"it": engine}) as runtime:
        worker_id = await create(runtime, input="hang")
        await engine.hangs.wait()
        await runtime.send(worker_id, "next", when_busy="interrupt")
        await seen.until("worker.turn.finished", 2)
        before = await runtime.transcript(worker_id)
        for turn in engine.turns:
            await engine.write_late(turn)
        assert len(engine.refused) == 2
        assert await runtime.transcript(worker_id) == before
        assert event_log.appended == event_log.head
        await runtime.send(worker_id, "third")
        await engine.write_late(engine.turns[0])
        await seen.until("worker.turn.finished", 3)
        assert "too late" not in json.dumps(seen.events())


# -- the inbox


async def test_a_busy_worker_refuses_queues_or_interrupts(open_runtime, seen):
    engine = HangingEngine()
    async with open_runtime({"it": engine}, inbox_inputs=2) as runtime:
        worker_id = await create(runtime, input="long")
        with pytest.raises(Refused, match="worker_busy") as caught:
            await runtime.send(worker_id, "x")
        assert caught.value.retry_after_s
        await engine.hangs.wait()
        with pytest.raises(Refused, match="worker_busy"):
            await runtime.send(worker_id, "x")
        await runtime.send(worker_id, "quick", when_busy="queue")
        await runtime.send(worker_id, "quick", when_busy="queue")
        for when_busy in ("queue", "interrupt"):
            with pytest.raises(Refused, match="limit_reached"):
                await runtime.send(worker_id, "quick", when_busy=when_busy)
        assert [e["data"]["inbox_depth"] for e in seen.events("worker.input_accepted")] == [1, 1, 2]


async def test_a_refused_input_leaves_no_trace(open_runtime, event_log):
    async with open_runtime({"it": HangingEngine()}, max_input_bytes=1024) as runtime:
        worker_id = await create(runtime)
        before = event_log.appended
        for text, code in (("€" * 342, "payload_too_large"), ("\ud800", "invalid_request")):
            with pytest.raises(Refused) as caught:
                await runtime.send(worker_id, text)
            assert caught.value.code == code
        assert event_log.appended == before
        await runtime.send(worker_id, "€" * 341)


# -- the end


async def test_stopping_the_runtime_leaves_every_worker_in_a_terminal_state(open_runtime, seen):
    hanging = HangingEngine()
    async with open_runtime({"it": hanging, "mirror": MirrorEngine()}) as runtime:
        idle = await create(runtime)
        running = await create(runtime, input="long")
        await runtime.send(running, "never handled", when_busy="queue")
        await hanging.hangs.wait()
        just_made = (await runtime.create(profile="mirror", label="", input="x")).worker.worker_id
    await seen._log.committed(seen._log.appended)
    assert seen.moves(idle) == [("idle", "stopped")]
    assert seen.moves(running) == [
        ("idle", "running"),
        ("running", "stopping"),
        ("stopping", "stopped"),
    ]
    assert seen.outcomes(running) == [("cancelled", "runtime_stopped")]
    assert seen.moves(just_made)[-1][1] == "stopped"
    for worker_id in (idle, running, just_made):
        summary = await runtime.worker(worker_id)
        assert (summary.state, summary.reason.code) == ("stopped", "runtime_stopped")
        last = seen.events(worker_id=worker_id)[-1]
        assert (last["kind"], last["data"]["state"]) == ("worker.state", "stopped")
        with pytest.raises(Refused, match="worker_gone"):
            await runtime.send(worker_id, "x")
    assert runtime.summary().status == "draining"
    with pytest.raises(Refused, match="draining"):
        await create(runtime)


async def test_a_worker_made_in_the_last_moment_is_stopped_too(open_runtime, seen, event_log):
    async with open_runtime({"it": MirrorEngine()}) as runtime:
        with trio.CancelScope() as scope:
            scope.cancel()
            await runtime.create(profile="it", label="", input="x")
        assert scope.cancelled_caught
        (worker,) = (await runtime.workers()).items
    await event_log.committed(event_log.appended)
    assert seen.moves(worker.worker_id)[-1][1] == "stopped"
    assert (await runtime.worker(worker.worker_id)).state == "stopped"


async def test_a_fault_around_the_runtime_stops_its_workers(open_runtime, seen, event_log):
    with pytest.RaisesGroup(KeyError):
        async with open_runtime({"it": MirrorEngine()}) as runtime:
            worker_id = await create(runtime)
            raise KeyError("a fault")
    await event_log.committed(event_log.appended)
    assert seen.moves(worker_id) == [("idle", "stopped")]
