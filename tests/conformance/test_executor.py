"""What every executor holds, wherever the handlers run: messages in, an outcome out, and nothing raised."""

import msgspec
import pytest
import trio

from tests.conformance import executor_plugin
from tests.conformance.executors import EXECUTORS, Bench, make_bench, place


@pytest.fixture(params=EXECUTORS)
def bench(request, event_log) -> Bench:
    return make_bench(request.param, event_log)


async def test_an_executor_tells_what_its_plugin_declares(bench):
    assert bench.executor.manifest == executor_plugin.plugin.manifest()


@pytest.mark.parametrize(
    ("ingress", "payload", "why"),
    [
        ("handled", b"[1]", None),
        ("typed", b'{"x": 7}', None),
        ("typed", b'{"x": "no"}', "Expected `int`"),
        ("typed", b"[]", "Expected `object`"),
        ("odd", b'{"x": 1}', "LookupError"),
    ],
)
async def test_a_payload_is_checked_before_it_is_accepted(bench, ingress, payload, why):
    refused = bench.executor.check(ingress, payload)
    if why is None:
        assert refused is None
    else:
        assert refused.code == "invalid_event"
        assert refused.detail.startswith(f"the payload does not fit ingress {ingress}: {why}")


async def test_a_handler_that_returns_has_handled_and_was_given_the_event(bench):
    delivery = bench.delivery(
        "handled", b'{"a": [1, "\xc3\xa9"]}', headers={"x-a": "b"}, body=b"\0\xff"
    )
    assert await bench.handle(delivery) is None
    (seen,) = await bench.emitted("seen")
    assert bytes.fromhex(seen["body"]) == b"\0\xff"
    assert seen["event"] | {"body": ""} == {
        "id": "evt_1",
        "source": "api",
        "ingress": "handled",
        "payload": {"a": [1, "é"]},
        "created_at": "2027-01-15T08:00:00.000000Z",
        "attempt": 1,
        "correlation_id": "cor_1",
        "headers": {"x-a": "b"},
        "body": "",
    }


async def test_a_typed_payload_is_decoded_to_its_type(bench):
    assert await bench.run("typed", {"x": 7}) is None
    assert await bench.emitted("seen") == [{"type": "Point", "x": 7}]


@pytest.mark.parametrize("payload", [b'{"x": "no"}', b"{", b"", b"\xff", b"[" * 100_000])
async def test_a_payload_that_no_longer_decodes_is_an_invalid_event(bench, payload):
    failure = await bench.handle(bench.delivery("typed", payload))
    assert (failure.outcome, failure.code) == ("invalid_event", "invalid_event")
    assert failure.message


async def test_a_payload_type_that_raises_is_a_failure(bench):
    failure = await bench.run("odd", {"x": 1})
    assert failure.outcome == "handler_failed"
    assert "no such thing" in failure.message
    assert failure.where == place("odd")


async def test_an_ingress_that_is_gone_is_an_invalid_event(bench):
    failure = await bench.run("gone")
    assert (failure.outcome, failure.code) == ("invalid_event", "ingress_not_found")


async def test_a_mutated_payload_is_not_seen_by_the_next_attempt(bench):
    delivery = bench.delivery("mutates", b'{"list":[1]}')
    for _ in range(2):
        assert (await bench.handle(delivery)).outcome == "handler_failed"
    assert await bench.emitted("seen") == [{"list": [1]}, {"list": [1]}]
    assert delivery.payload == b'{"list":[1]}'


@pytest.mark.parametrize(
    ("payload", "after_s"),
    [("plain", None), (0, 0), (2.5, 2.5), ("5", 5), ("soon", None), ("nan", None), (10**400, None)],
    ids=lambda value: str(value)[:5],
)
async def test_retry_is_asked_for_with_and_without_a_time(bench, payload, after_s):
    """A time that is no number of seconds is left to the host."""
    encoded = str(payload).encode() if isinstance(payload, int) else msgspec.json.encode(payload)
    failure = await bench.handle(bench.delivery("retries", encoded))
    assert (failure.outcome, failure.code) == ("retry_scheduled", "retry")
    assert failure.retry_after_s == after_s
    assert failure.message == (
        "the handler asked for a retry" if payload == "plain" else "the upstream is busy"
    )


async def test_an_exception_is_a_failure_with_the_innermost_place_in_the_plugin(bench):
    failure = await bench.run("raises", "{")
    assert (failure.outcome, failure.code) == ("handler_failed", "handler_failed")
    assert failure.message.startswith("JSONDecodeError: Expecting")
    assert failure.where == place("deep")
    assert failure.outcome != "retry_scheduled"


@pytest.mark.parametrize("ingress", ["exits", "exits_in_thread"])
@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
async def test_what_ends_a_program_is_a_failure(bench, ingress, kind):
    failure = await bench.run(ingress, kind)
    assert failure.outcome == "handler_failed"
    assert failure.message.startswith(kind)


async def test_generator_exit_is_a_failure(bench):
    assert (await bench.run("generator_exit")).message == "GeneratorExit"


async def test_an_exception_that_raises_where_it_is_read_is_a_failure(bench):
    failure = await bench.run("unreadable")
    assert (failure.outcome, failure.message) == ("handler_failed", "Unreadable: lost")
    assert failure.where == place("unreadable")


async def test_an_exception_group_tells_of_one_inside_it(bench):
    failure = await bench.run("group")
    assert failure.outcome == "handler_failed"
    assert failure.message == "KeyError: 'lost'"
    assert failure.where == place("child")
    assert (await bench.run("group_of_exits")).outcome == "handler_failed"


async def test_whatever_an_exception_says_the_failure_can_be_told(bench):
    unspeakable = await bench.run("unspeakable")
    assert unspeakable.message == "UnspeakableError"
    assert unspeakable.where == place("unspeakable")
    for ingress in ("unprintable", "unprintable_retry"):
        failure = await bench.run(ingress)
        assert failure.message.endswith("a path: \\udcff")
        msgspec.json.encode(failure)  # a process sends it, and the log writes it
    assert len((await bench.run("long")).message) <= 500


async def test_a_plain_def_runs_beside_the_loop(bench):
    assert await bench.run("thread", 5) is None
    assert await bench.emitted("seen") == [{"x": 5}]
    failure = await bench.run("thread_raises")
    assert (failure.outcome, failure.message) == ("handler_failed", "OSError: in a thread")
    assert failure.where == place("thread")


async def test_a_plain_def_that_gives_a_coroutine_has_not_handled(bench):
    assert (await bench.run("secretly_async")).outcome == "handler_failed"


@pytest.mark.parametrize(
    "ingress",
    [
        "sleeps",
        "cleans_up_badly",
        "cleans_up_badly_in_a_child",
        "cleans_up_unreadably",
        "emits_late",
    ],
)
async def test_a_cancellation_from_outside_comes_out_as_one(bench, ingress):
    """Also where the handler's clean-up raises: the cancellation came first."""
    outcomes = []
    with trio.CancelScope() as outside:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def run() -> None:
                outcomes.append(await bench.run(ingress))

            await bench.begun()
            outside.cancel()
    assert outside.cancelled_caught
    assert outcomes == []


@pytest.mark.parametrize(
    "ingress", ["sleeps", "cleans_up_badly", "cleans_up_badly_in_a_child", "cleans_up_unreadably"]
)
async def test_the_watchdogs_cancellation_comes_out_as_one(bench, ingress):
    async with trio.open_nursery() as nursery:
        over = trio.Event()

        @nursery.start_soon
        async def run() -> None:
            # The attempt's own scope takes it: nothing is returned, nothing raised.
            assert await bench.run(ingress) is None
            over.set()

        await bench.begun()
        bench.attempt.is_open = False
        bench.attempt.scope.cancel()
        with trio.fail_after(10):
            await over.wait()
    assert bench.attempt.scope.cancelled_caught


async def test_a_swallowed_cancellation_is_no_failure_of_the_executor(bench):
    async with trio.open_nursery() as nursery:
        outcomes = []

        @nursery.start_soon
        async def run() -> None:
            outcomes.append(await bench.run("swallows"))

        await bench.begun()
        bench.attempt.scope.cancel()
    assert outcomes == [None]  # the lane says that it was late


async def test_a_kept_cancelled_with_nothing_cancelled_is_a_failure(bench):
    failure = await bench.run("keeps_cancelled")
    assert failure.outcome == "handler_failed"


async def test_effects_of_a_judged_attempt_are_refused(bench):
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def run() -> None:
            await bench.run("emits_late")

        await bench.begun()
        bench.attempt.is_open = False
        bench.attempt.scope.cancel()
    assert await bench.emitted("late") == []
    assert bench.state.keys() == []
    # The control: the same handler, cancelled by somebody else while its attempt is open, may emit.
    with trio.CancelScope() as outside:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def run_again() -> None:
                await bench.run("emits_late")

            await trio.testing.wait_all_tasks_blocked()
            outside.cancel()
    assert len(await bench.emitted("late")) == 1
    assert bench.state.keys() == ["late"]


async def test_one_attempt_after_another_on_one_executor(bench):
    for number in range(100):
        assert await bench.run("at_once", number) is None
        assert (await bench.run("raises", "{")).where == place("deep")
