"""What every executor holds of a service's own functions and its tools: start, status, stop, tool, kill."""

from contextlib import AsyncExitStack

import msgspec
import pytest
import trio

from tests.conformance import executor_plain
from tests.conformance.executors import EXECUTORS, Bench, a_call, make_bench, place
from yoi_daemon.plugins.execution.interface import Returned

KILLS = {"inline": False}
"""Which executors can end what ignores its cancellation."""


@pytest.fixture(params=EXECUTORS)
def make(request, event_log):
    """Makes a bench whose plugin behaves as the settings say."""
    return lambda **config: make_bench(request.param, event_log, **config)


@pytest.fixture(params=EXECUTORS)
def make_plain(request, event_log):
    """The same of the plugin of plain functions."""
    return lambda **config: make_bench(request.param, event_log, executor_plain, **config)


def json_of(returned):
    assert isinstance(returned, Returned)
    return msgspec.json.decode(returned.encoded)


# -- start and stop


async def test_what_start_enters_is_open_until_after_stop_and_closed_in_reverse(make):
    bench = make(start="enters")
    async with bench.started():
        assert await bench.emitted("closed") == []
    assert await bench.emitted("stopping") == [["entered", "start_context"]]
    assert await bench.emitted("closed") == ["second", "first"]


async def test_a_namespace_lasts_from_start_to_the_end_of_the_run(make):
    bench = make(start="enters", status="returns")
    for _ in range(2):
        async with bench.started():
            assert json_of(await bench.make(bench.executor.status)) == {
                "entered": ["first", "second"]
            }
            assert json_of(await bench.tool("behaves", "marks")) == {"marks": 2}
            assert json_of(await bench.tool("behaves", "marks")) == {"marks": 3}
        assert json_of(await bench.tool("behaves", "marks")) == {"marks": 0}
        assert json_of(await bench.tool("behaves", "marks")) == {"marks": 0}


async def test_resources_are_entered_by_start_alone(make):
    bench = make(start="enters", status="enters")
    async with bench.started():
        assert await bench.run("enters_late") is None
        assert len(await bench.emitted("seen")) == 2
        failure = await bench.make(bench.executor.status)
        assert failure.message.startswith("RuntimeError: ctx.enter is for start only")


@pytest.mark.parametrize(
    ("start", "message", "mark"),
    [
        ("fails", "ConnectionError: nobody answers", "fails"),
        ("fails_in_a_child", "KeyError: 'lost'", "child"),
        ("exits", "SystemExit: 3", None),
    ],
)
async def test_a_start_that_raises_has_failed(make, start, message, mark):
    failure = await make(start=start).start()
    assert (failure.code, failure.message) == ("start_failed", message)
    if mark is not None:
        assert failure.where == place(mark)


async def test_a_start_that_leaves_a_nursery_open_has_failed(make):
    bench, failures = make(start="leaves_a_nursery"), []

    async def run() -> None:
        async with AsyncExitStack() as resources:
            failures.append(await bench.executor.start(a_call(), resources))

    with pytest.RaisesGroup(RuntimeError):  # Trio ends a task whose nursery nobody closed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
    (failure,) = failures
    assert failure.code == "start_left_task"


async def test_a_stop_that_raises_has_failed(make):
    bench = make(stop="fails")
    async with bench.life() as (life, resources):
        assert await bench.executor.start(life, resources) is None
        failure = await bench.make(bench.executor.stop)
    assert (failure.code, failure.message) == ("stop_failed", "ConnectionError: nobody answers")
    assert failure.where == place("fails")


# -- status and tools


async def test_a_status_is_returned_as_json(make):
    bench = make()
    assert json_of(await bench.make(bench.executor.status)) == {"entered": []}


@pytest.mark.parametrize("behaviour", ["fails", "exits", "opaque"])
async def test_a_status_that_raises_or_is_not_json_has_failed(make, behaviour):
    bench = make(status=behaviour)
    failure = await bench.make(bench.executor.status)
    assert (failure.outcome, failure.code) == ("handler_failed", "handler_failed")
    assert failure.message


async def test_a_tool_takes_and_returns_its_types_as_json(make):
    assert json_of(await make().tool("add", {"x": 2})) == {"sum": 3}


@pytest.mark.parametrize(
    ("tool", "arguments", "why"),
    [
        ("add", {"x": "no"}, "Expected `int`, got `str` - at `$.x`"),
        ("add", None, "Expected `object`, got `null`"),
        ("takes_odd", {"x": 1}, "no such thing"),
    ],
)
async def test_arguments_that_do_not_fit_are_told_apart_from_a_failed_tool(
    make, tool, arguments, why
):
    failure = await make().tool(tool, arguments)
    assert (failure.outcome, failure.code) == ("invalid_event", "invalid_arguments")
    assert failure.message.startswith("the arguments do not fit: ")
    assert why in failure.message


@pytest.mark.parametrize("behaviour", ["fails", "fails_in_a_child", "exits", "opaque"])
async def test_a_tool_that_raises_or_returns_what_is_not_json_has_failed(make, behaviour):
    failure = await make().tool("behaves", behaviour)
    assert (failure.outcome, failure.code) == ("handler_failed", "handler_failed")
    assert failure.message


# -- plain functions


async def test_plain_functions_run_in_threads(make_plain):
    bench = make_plain()
    async with bench.started():
        assert json_of(await bench.make(bench.executor.status)) == {"started": True}
        assert json_of(await bench.tool("add", {"x": 2})) == 3
    assert await bench.emitted("stopping") == [True]


async def test_plain_functions_that_raise_have_failed_with_their_place(make_plain):
    bench = make_plain(fails=True)
    async with AsyncExitStack() as resources:
        failures = [
            await bench.make(lambda call: bench.executor.start(call, resources)),
            await bench.make(bench.executor.status),
            await bench.tool("add", {"x": 2}),
            await bench.make(bench.executor.stop),
        ]
    codes = [failure.code for failure in failures]
    assert codes == ["start_failed", "handler_failed", "handler_failed", "stop_failed"]
    for failure in failures:
        assert failure.message == "OSError: in a thread"
        assert failure.where == place("fail", executor_plain)


# -- cancellation

CALLS = ["start", "status", "stop", "tool"]


async def call(bench: Bench, function: str):
    if function == "start":
        return await bench.start()
    if function == "tool":
        return await bench.tool("behaves", bench.behaviour)
    return await bench.make(getattr(bench.executor, function))


def behaving(make, function: str, behaviour: str) -> Bench:
    bench = make() if function == "tool" else make(**{function: behaviour})
    bench.behaviour = behaviour
    return bench


@pytest.mark.parametrize("function", CALLS)
async def test_the_watchdogs_cancellation_of_any_function_comes_out_as_one(make, function):
    bench, outcomes = behaving(make, function, "hangs"), []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def run() -> None:
            outcomes.append(await call(bench, function))

        await bench.begun()
        bench.call.cancel(trio.current_time())
    assert bench.call.scope.cancelled_caught
    assert outcomes == [None]  # the scope took the cancellation: nothing was returned
    assert await bench.emitted("late") == []


@pytest.mark.parametrize("function", CALLS)
async def test_a_cancellation_of_any_function_from_outside_comes_out_as_one(make, function):
    bench, outcomes = behaving(make, function, "hangs"), []
    with trio.CancelScope() as outside:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def run() -> None:
                outcomes.append(await call(bench, function))

            await bench.begun()
            outside.cancel()
    assert outside.cancelled_caught
    assert outcomes == []
    # The control: the call was open, so the same effect counts.
    assert len(await bench.emitted("late")) == 1


@pytest.mark.parametrize("function", CALLS)
async def test_a_function_that_swallows_its_cancellation_has_not_failed(make, function):
    """That it was late the caller says."""
    bench, outcomes = behaving(make, function, "swallows"), []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def run() -> None:
            outcomes.append(await call(bench, function))

        await bench.begun()
        bench.call.cancel(trio.current_time())
    (outcome,) = outcomes
    assert outcome is None or isinstance(outcome, Returned)


# -- kill


async def test_kill_ends_what_runs_or_says_that_it_cannot(make, request):
    kind = request.node.callspec.params["make"]
    bench, over = make(), trio.Event()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def run() -> None:
            await bench.tool("behaves", "hangs")
            over.set()

        await bench.begun()
        assert bench.executor.kill() is KILLS[kind]
        if KILLS[kind]:
            with trio.fail_after(10):
                await over.wait()
        nursery.cancel_scope.cancel()
