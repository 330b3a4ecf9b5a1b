"""Tools: answered at once, beside the queue, whatever the service does."""

import msgspec
import pytest
import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.plugins.tools import call_tool
from yoi_daemon.sdk import Context, Plugin


class Numbers(msgspec.Struct):
    a: int
    b: int


class Sum(msgspec.Struct):
    sum: int


async def add(ctx: Context, numbers: Numbers) -> Sum:
    """Adds."""
    if numbers.a == 666:
        raise ValueError("no")
    if numbers.a == 777:
        await trio.sleep_forever()
    return Sum(numbers.a + numbers.b)


def body(a: int) -> bytes:
    return msgspec.json.encode(Numbers(a, 1))


async def refusal(call) -> Refused:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value


async def test_a_tool_answers_while_the_lane_is_full_and_a_handler_hangs(autojump_clock, rig):
    plugin = Plugin("p")
    plugin.tool("add")(add)

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        await trio.sleep_forever()

    service = rig.add(plugin, queue_events=2)
    await rig.accept(service, "go")
    await rig.accept(service, "go")
    await trio.sleep(1)
    assert (await refusal(rig.accept(service, "go"))).code == "queue_full"
    before = trio.current_time()
    assert await call_tool(service, "add", body(1)) == b'{"sum":2}'
    assert trio.current_time() == before


async def test_each_failure_has_its_code(autojump_clock, rig):
    plugin = Plugin("p")
    plugin.tool("add")(add)
    service = rig.add(plugin, tool_timeout_s=7, tool_concurrency=2)
    await trio.sleep(1)
    assert service.lifecycle.state == "ready"
    assert (await refusal(call_tool(service, "no", b"{}"))).code == "tool_not_found"
    wrong = await refusal(call_tool(service, "add", b'{"a": 1}'))
    assert (wrong.code, "b" in wrong.detail) == ("invalid_request", True)
    failed = await refusal(call_tool(service, "add", body(666)))
    assert (failed.code, failed.detail) == ("tool_failed", "ValueError: no")
    assert failed.fields["where"].startswith("plugins/test_tools.py:")
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(refusal, call_tool(service, "add", body(777)))
        await trio.sleep(1)
        assert (await refusal(call_tool(service, "add", body(1)))).code == "limit_reached"
        before = trio.current_time()
    assert 5 <= trio.current_time() - before <= 7
    late = await refusal(call_tool(service, "add", body(777)))
    assert late.code == "tool_timeout"
    assert await call_tool(service, "add", body(1)) == b'{"sum":2}'
    assert dict(service.settlement.counters) == {"tool_calls": 1, "tool_failures": 4}


async def test_a_tool_that_needs_its_service_says_so(autojump_clock, rig):
    plugin = Plugin("p")
    plugin.tool("add")(add)
    plugin.tool("alone", needs_service=False)(add)

    @plugin.start
    async def start(ctx) -> None: ...

    service = rig.add(plugin)
    await trio.sleep(1)
    assert await call_tool(service, "add", body(1)) == b'{"sum":2}'
    await service.stop()
    stopped = await refusal(call_tool(service, "add", body(1)))
    assert (stopped.code, stopped.fields) == ("service_unavailable", {"state": "stopped"})
    assert await call_tool(service, "alone", body(1)) == b'{"sum":2}'


async def test_a_caller_who_leaves_ends_its_call(autojump_clock, rig):
    plugin = Plugin("p")
    plugin.tool("add")(add)
    service = rig.add(plugin)
    await trio.sleep(1)
    with trio.move_on_after(1):
        await call_tool(service, "add", body(777))
    await trio.sleep(1)
    assert not tuple(service.calls())


async def test_a_stubborn_tool_is_given_up_and_takes_only_its_place(autojump_clock, rig):
    released = trio.Event()
    plugin = Plugin("p")
    plugin.tool("add")(add)

    async def stay(ctx: Context, numbers: Numbers) -> Sum:
        while not released.is_set():
            with trio.CancelScope(shield=True):
                await released.wait()
        return Sum(0)

    plugin.tool("stay")(stay)
    service = rig.add(plugin, tool_timeout_s=5, tool_concurrency=1)
    await trio.sleep(1)
    assert (await refusal(call_tool(service, "stay", body(1)))).code == "tool_timeout"
    await trio.sleep(20)
    assert service.has_unended
    assert (await refusal(call_tool(service, "stay", body(1)))).code == "limit_reached"
    assert await call_tool(service, "add", body(1)) == b'{"sum":2}'
    released.set()
    await trio.sleep(1)
    assert not service.has_unended


async def test_a_tool_of_a_plugin_that_is_removed_is_refused(autojump_clock, rig):
    """Whoever found the plugin before it was removed meets its closed nursery."""
    plugin = Plugin("p")
    plugin.tool("add")(add)
    service = rig.add(plugin)
    await trio.sleep(1)
    calls = service.supervisor.calls
    await service.retire().outcome()
    await trio.sleep(1)
    assert (await refusal(call_tool(service, "add", body(1)))).code == "plugin_not_found"
    # The control: in the nursery that the earlier calls ran in, none can begin.
    executor = service.installed.executor
    with pytest.raises(RuntimeError, match="closed"):
        await calls.run(
            "add", lambda call: executor.tool(call, "add", body(1)), timeout_s=1, grace_s=1
        )


async def test_a_tool_is_refused_while_its_plugin_is_being_removed(autojump_clock, rig):
    plugin = Plugin("p")
    plugin.tool("add")(add)

    @plugin.tool("lingers")
    async def lingers(ctx: Context, numbers: Numbers) -> Sum:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)

    service = rig.add(plugin)
    await trio.sleep(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refusal, call_tool(service, "lingers", body(1)))
        await trio.sleep(1)
        retirement = service.retire()
        await trio.sleep(1)
        assert not retirement.done.is_set()
        assert (await refusal(call_tool(service, "add", body(1)))).code == "plugin_not_found"
        await retirement.outcome()


async def test_a_tool_is_refused_once_the_daemon_stops(autojump_clock, rig):
    plugin = Plugin("p")
    plugin.tool("add")(add)
    service = rig.add(plugin)
    await trio.sleep(1)
    await service.end(6.0)
    assert (await refusal(call_tool(service, "add", body(1)))).code == "draining"
