"""Cancel, stop, crashes, retention: a worker always comes to where it was sent, whatever its engine does."""

import json
from contextlib import contextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.runtime.engines import (
    CrashingEngine,
    EndlessEngine,
    FailingEngine,
    HangingEngine,
    MirrorEngine,
    SpinningEngine,
    StubbornEngine,
)
from yoi_daemon.model.cursor import decode_cursor
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.workers import MAX_GRACE_S
from yoi_daemon.runtime.engines.echo import EchoEngine
from yoi_daemon.runtime.worker import MAX_GIVEN_UP_TURNS


@contextmanager
def refused(code: str, **fields):
    with pytest.raises(Refused) as caught:
        yield
    assert caught.value.code == code
    assert caught.value.fields | fields == caught.value.fields


async def create(runtime, **fields) -> str:
    return (await runtime.create(**{"profile": "it", "label": ""} | fields)).worker.worker_id


async def started(runtime, engine) -> str:
    worker_id = await create(runtime, input="long")
    await engine.hangs.wait()
    return worker_id


# -- cancel


async def test_cancel_ends_the_turn_and_the_worker_goes_on(open_runtime, seen):
    engine = HangingEngine()
    async with open_runtime({"it": engine}) as runtime:
        worker_id = await started(runtime, engine)
        receipt = await runtime.cancel(worker_id)
        assert (receipt.worker.state, receipt.worker.generation) == ("idle", 1)
        assert seen.outcomes(worker_id) == [("cancelled", "cancelled")]
        # The cursor is that of the event which shows it.
        at = decode_cursor(receipt.cursor).seq
        (shown,) = [event for event in seen.events("worker.state") if event["seq"] == at]
        assert shown["data"]["state"] == "idle"
        await runtime.send(worker_id, "quick")
        await seen.until("worker.turn.finished", 2)
        assert seen.outcomes(worker_id)[1] == ("completed", None)


async def test_cancel_takes_the_turn_alone_not_the_queue(open_runtime, seen):
    engine = HangingEngine()
    async with open_runtime({"it": engine}) as runtime:
        worker_id = await started(runtime, engine)
        await runtime.send(worker_id, "quick", when_busy="queue")
        await runtime.cancel(worker_id)
        await seen.until("worker.turn.finished", 2)
        assert [outcome for outcome, _ in seen.outcomes(worker_id)] == ["cancelled", "completed"]


async def test_cancel_right_after_an_input_ends_its_turn(open_runtime, seen):
    async with open_runtime({"it": HangingEngine()}) as runtime:
        worker_id = await create(runtime, input="long")
        receipt = await runtime.cancel(worker_id)
        assert (receipt.worker.state, receipt.worker.generation) == ("idle", 1)


async def test_cancel_without_a_turn_is_refused(open_runtime):
    async with open_runtime({"it": MirrorEngine()}) as runtime:
        worker_id = await create(runtime)
        with refused("invalid_state", state="idle"):
            await runtime.cancel(worker_id)


async def test_an_engine_that_swallows_its_cancellation_is_given_up(
    open_runtime, seen, event_log, autojump_clock
):
    engine = StubbornEngine()
    async with open_runtime({"it": engine}, cancel_grace_s=3) as runtime:
        worker_id = await started(runtime, engine)
        begun = trio.current_time()
        receipt = await runtime.cancel(worker_id)
        assert trio.current_time() - begun == pytest.approx(3)
        assert receipt.worker.state == "idle"
        (given_up,) = seen.events("worker.turn.given_up", worker_id)
        assert given_up["data"] == {"generation": 1, "waited_s": 3.0}
        assert runtime.wedged() == (worker_id,)
        (diagnostic,) = runtime.summary().diagnostics
        assert (diagnostic.code, diagnostic.since) == ("wedged_turns", given_up["time"])
        # The worker is free, and the one that was given up neither spins nor is heard.
        await runtime.send(worker_id, "quick")
        await seen.until("worker.turn.finished", 2)
        swallowed = engine.swallowed
        await trio.sleep(100)
        assert engine.swallowed == swallowed == 1
        before, appended = await runtime.transcript(worker_id), event_log.appended
        engine.may_end.set()
        await wait_all_tasks_blocked()
        assert len(engine.refused) == 1
        assert (await runtime.transcript(worker_id), event_log.appended) == (before, appended)
        assert runtime.wedged() == ()
        assert runtime.summary().diagnostics == ()
    assert "too late" not in json.dumps(seen.events())


async def test_an_engine_that_was_given_up_no_longer_spins(open_runtime):
    """On the real clock: what swallows a pending cancellation in a loop lets no test clock jump."""
    engine = SpinningEngine()
    async with open_runtime({"it": engine}) as runtime:
        worker_id = await started(runtime, engine)
        await runtime.stop(worker_id, grace_s=0)
        swallowed = engine.swallowed
        assert swallowed > 1  # it did
        await wait_all_tasks_blocked()
        assert engine.swallowed == swallowed
        engine.may_end.set()


async def test_too_many_given_up_turns_fail_the_worker(open_runtime, seen, autojump_clock):
    engine = StubbornEngine()
    async with open_runtime({"it": engine}) as runtime:
        worker_id = await create(runtime)
        for number in range(MAX_GIVEN_UP_TURNS):
            assert (await runtime.worker(worker_id)).state == "idle", number
            await runtime.send(worker_id, "long")
            receipt = await runtime.cancel(worker_id)
        assert (receipt.worker.state, receipt.worker.reason.code) == ("failed", "wedged")
        engine.may_end.set()


async def test_a_cancel_whose_caller_is_gone_ends_the_turn_all_the_same(open_runtime, seen):
    engine = StubbornEngine()
    async with open_runtime({"it": engine}) as runtime:
        worker_id = await started(runtime, engine)
        with trio.CancelScope() as scope:
            scope.cancel()
            await runtime.cancel(worker_id)
        engine.may_end.set()
        await seen.until("worker.turn.finished")
        assert seen.outcomes(worker_id) == [("cancelled", "cancelled")]


async def test_an_interrupting_input_waits_no_longer_than_the_grace(
    open_runtime, seen, autojump_clock
):
    engine = StubbornEngine()
    async with open_runtime({"it": engine}, cancel_grace_s=2) as runtime:
        worker_id = await started(runtime, engine)
        begun = trio.current_time()
        await runtime.send(worker_id, "quick", when_busy="interrupt")
        await seen.until("worker.turn.finished", 2)
        assert trio.current_time() - begun == pytest.approx(2)
        assert seen.outcomes(worker_id) == [("cancelled", "interrupted"), ("completed", None)]
        engine.may_end.set()


async def test_a_turn_over_its_time_is_given_up_too(open_runtime, seen, autojump_clock):
    engine = StubbornEngine()
    async with open_runtime({"it": engine}, turn_timeout_s=60, cancel_grace_s=2) as runtime:
        worker_id = await started(runtime, engine)
        await seen.until("worker.turn.finished")
        assert trio.current_time() == pytest.approx(62)
        assert seen.outcomes(worker_id) == [("failed", "turn_timeout")]
        assert seen.events("worker.turn.finished")[0]["data"]["duration_ms"] == 60_000
        engine.may_end.set()


# -- stop


@pytest.mark.parametrize(
    ("engine", "input"),
    [
        (MirrorEngine(), None),
        (MirrorEngine(), "x"),
        (HangingEngine(), "x"),
        (EndlessEngine(), "x"),
        (FailingEngine(), "x"),
    ],
)
async def test_stop_always_ends_in_a_terminal_state(open_runtime, seen, engine, input):
    async with open_runtime({"it": engine}, transcript_items=10) as runtime:
        worker_id = await create(runtime, input=input)
        receipt = await runtime.stop(worker_id)
        assert (receipt.worker.state, receipt.worker.reason.code) == ("stopped", "stopped")
        last = seen.events(worker_id=worker_id)[-1]
        assert last["seq"] == decode_cursor(receipt.cursor).seq
        assert seen.moves(worker_id)[-1][1] == "stopped"
        # Readable still; every command answers that it is gone, and how it ended.
        assert (await runtime.worker(worker_id)) == receipt.worker
        await runtime.transcript(worker_id)
        for command in (
            runtime.send(worker_id, "x"),
            runtime.cancel(worker_id),
            runtime.stop(worker_id),
        ):
            with refused("worker_gone", state="stopped"):
                await command


@pytest.mark.parametrize("grace_s", [0, 1.5, 20])
async def test_stop_forces_an_engine_that_does_not_answer(
    open_runtime, seen, autojump_clock, grace_s
):
    engine = StubbornEngine()
    async with open_runtime({"it": engine}) as runtime:
        worker_id = await started(runtime, engine)
        await runtime.send(worker_id, "never", when_busy="queue")
        begun = trio.current_time()
        receipt = await runtime.stop(worker_id, grace_s=grace_s)
        assert trio.current_time() - begun == pytest.approx(max(grace_s, 0.1))
        assert engine.swallowed == 1  # it was asked, also with no grace at all
        assert receipt.worker.state == "stopped"
        assert seen.moves(worker_id)[-2:] == [("running", "stopping"), ("stopping", "stopped")]
        assert seen.events("worker.state", worker_id)[-1]["data"]["inputs_dropped"] == 1
        engine.may_end.set()


async def test_a_second_stop_may_be_shorter_and_has_the_same_answer(
    open_runtime, seen, autojump_clock
):
    engine = StubbornEngine()
    receipts = []
    async with open_runtime({"it": engine}) as runtime:
        worker_id = await started(runtime, engine)

        async def stop(grace_s):
            receipts.append(await runtime.stop(worker_id, grace_s=grace_s))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop, 20)
            await wait_all_tasks_blocked(0.01)
            with refused("worker_gone", state="stopping"):
                await runtime.send(worker_id, "x")
            nursery.start_soon(stop, 1)
        assert trio.current_time() < 2
        assert receipts[0] == receipts[1]
        engine.may_end.set()


@pytest.mark.parametrize("grace_s", [-1, MAX_GRACE_S + 1, float("nan")])
async def test_a_grace_nobody_can_mean_is_refused(open_runtime, grace_s):
    async with open_runtime({"it": MirrorEngine()}) as runtime:
        worker_id = await create(runtime)
        with refused("invalid_request"):
            await runtime.stop(worker_id, grace_s=grace_s)
        assert (await runtime.worker(worker_id)).state == "idle"


# -- crashes


async def test_a_worker_that_crashes_is_failed_and_the_rest_go_on(open_runtime, seen):
    async with open_runtime({"it": CrashingEngine()}) as runtime:
        other = await create(runtime)
        worker_id = await create(runtime, input="crash")
        await seen.until("worker.state", 2, worker_id)
        worker = await runtime.worker(worker_id)
        assert (worker.state, worker.reason.code, worker.reason.message) == (
            "failed",
            "crashed",
            "SystemExit",
        )
        with refused(
            "worker_gone", state="failed", reason={"code": "crashed", "message": "SystemExit"}
        ):
            await runtime.send(worker_id, "fine")
        await runtime.send(other, "fine")
        await seen.until("worker.turn.finished", 1, other)
        assert seen.outcomes(other) == [("completed", None)]


async def test_a_fault_of_our_own_fails_one_worker_and_is_logged(
    open_runtime, seen, logged_errors, monkeypatch
):
    async with open_runtime({"it": MirrorEngine()}) as runtime:
        other = await create(runtime)
        worker_id = await create(runtime)

        def broken(*_args, **_kwargs):
            raise KeyError("a fault")

        monkeypatch.setattr(runtime._workers[worker_id]._conversation, "add_item", broken)
        await runtime.send(worker_id, "x")
        await seen.until("worker.state", 2, worker_id)
        assert (await runtime.worker(worker_id)).state == "failed"
        await runtime.send(other, "x")
        await seen.until("worker.turn.finished", 1, other)
    logged_errors.expect("worker crashed")


async def test_a_thousand_workers_are_made_driven_and_stopped_and_two_hundred_crash(
    open_runtime, seen, event_log
):
    engines = {"echo": EchoEngine(), "crash": CrashingEngine(), "hang": HangingEngine()}
    async with open_runtime(engines, retained_workers=2000) as runtime:
        made: dict[str, list[str]] = {"echo": [], "crash": [], "hang": []}
        for number in range(1000):
            profile = "crash" if number % 5 == 0 else "hang" if number % 5 == 1 else "echo"
            receipt = await runtime.create(profile=profile, label=str(number), input="go")
            made[profile].append(receipt.worker.worker_id)
        with refused("limit_reached"):
            for _ in range(201):  # the crashed ones made room
                await runtime.create(profile="echo", label="more")
        for worker_id in made["echo"]:
            await runtime.send(worker_id, "again", when_busy="queue")
        async with trio.open_nursery() as nursery:
            for worker_id in made["echo"] + made["hang"]:
                nursery.start_soon(runtime.stop, worker_id)
        states = {
            kind: {(await runtime.worker(worker_id)).state for worker_id in ids}
            for kind, ids in made.items()
        }
        assert states == {"echo": {"stopped"}, "crash": {"failed"}, "hang": {"stopped"}}
        assert [len(ids) for ids in made.values()] == [600, 200, 200]
        for ids in made.values():
            for worker_id in ids[::50]:
                numbers = [event["worker_seq"] for event in seen.events(worker_id=worker_id)]
                assert numbers == list(range(1, len(numbers) + 1))


# -- retention


async def test_ended_workers_are_kept_up_to_a_number(open_runtime, seen):
    async with open_runtime({"it": MirrorEngine()}, retained_workers=2, max_workers=3) as runtime:
        made = [await create(runtime) for _ in range(3)]
        with refused("limit_reached"):
            await create(runtime)
        for worker_id in made:
            await runtime.stop(worker_id)
        with refused("worker_not_found"):
            await runtime.worker(made[0])
        assert [worker.worker_id for worker in (await runtime.workers()).items] == made[1:]
        await create(runtime)


# -- the end of the runtime


async def test_shutdown_keeps_its_budget_beside_a_stubborn_engine(
    open_runtime, seen, autojump_clock
):
    stubborn, hanging = StubbornEngine(), HangingEngine()
    async with open_runtime({"it": stubborn, "hang": hanging}, cancel_grace_s=600) as runtime:
        first = await started(runtime, stubborn)
        second = await create(runtime, profile="hang", input="x")
        begun = trio.current_time()
        await runtime.shutdown(4)
        assert trio.current_time() - begun == pytest.approx(4)
        for worker_id in (first, second):
            assert (await runtime.worker(worker_id)).state == "stopped"
        assert runtime.wedged() == (first,)
        stubborn.may_end.set()
    assert runtime.wedged() == ()


async def test_whoever_cancels_around_the_runtime_leaves_nothing_running(
    open_runtime, seen, autojump_clock
):
    stubborn = StubbornEngine()
    with trio.CancelScope() as scope:
        async with open_runtime({"it": stubborn}) as runtime:
            worker_id = await started(runtime, stubborn)

            async def end_engine():
                await trio.sleep(30)
                stubborn.may_end.set()

            trio.lowlevel.spawn_system_task(end_engine)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert (await runtime.worker(worker_id)).state == "stopped"
    assert stubborn.swallowed == 1


# -- transcripts


async def test_a_transcript_counts_what_it_evicted(open_runtime, seen):
    async with open_runtime({"it": MirrorEngine()}, transcript_items=3) as runtime:
        worker_id = await create(runtime, input="a")
        await runtime.send(worker_id, "b", when_busy="queue")
        await seen.until("worker.turn.finished", 2)
        page = await runtime.transcript(worker_id)
        assert (len(page.items), page.let_go) == (3, 1)
