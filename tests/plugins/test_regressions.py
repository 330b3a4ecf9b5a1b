"""What the proofs and the executor suite found, each told once more in a few lines."""

from datetime import timedelta

import msgspec
import pytest
import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.sdk import IngressEvent, Plugin, Retry


class Picky(msgspec.Struct):
    x: int

    def __post_init__(self) -> None:
        if self.x == 13:
            raise LookupError("not today")


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("what am I?")


async def never(ctx, event) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    "error",
    [
        UnspeakableError(),
        ValueError("a path: \udcff"),
        Retry("a path: \udcff"),
        Retry("later", after_s=timedelta(seconds=5)),
        Retry("later", after_s=10**400),
        Retry("later", after_s=float("nan")),
    ],
    ids=["no text", "surrogate", "retry surrogate", "timedelta", "huge", "nan"],
)
async def test_whatever_a_handler_raises_fails_one_attempt_and_not_the_service(
    autojump_clock, rig, error
):
    """These broke the judge, then the service, and one of them the daemon."""
    plugin = Plugin("p")

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        if event.payload == "bad" and event.attempt == 1:
            raise error

    service = rig.add(plugin)
    await rig.accept(service, "go", "bad")
    await rig.accept(service, "go", "good")
    await trio.sleep(50)
    assert service.lifecycle.state == "running"
    assert service.settlement.counters["handled"] == 2
    assert [state for state, _ in rig.states()] == ["starting", "running"]


async def test_a_retry_may_name_its_time_as_a_header_does(autojump_clock, rig):
    plugin = Plugin("p")

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        if event.attempt == 1:
            raise Retry(after_s="7")

    service = rig.add(plugin)
    await rig.accept(service, "go")
    await trio.sleep(10)
    (event,) = rig.events("plugin.ingress.retry_scheduled")
    assert event["data"]["retry_in_s"] == 7
    assert service.settlement.counters["handled"] == 1


async def test_a_payload_type_that_raises_later_fails_the_attempt(autojump_clock, rig):
    """A reload may bring a type that refuses what is queued, by an error of its own."""
    plugin = Plugin("p")

    @plugin.ingress("go")
    async def go(ctx, event: IngressEvent[Picky]) -> None:
        await trio.sleep(5)

    strict = plugin.ingresses["go"]
    plugin.ingresses["go"] = msgspec.structs.replace(strict, decoder=msgspec.json.Decoder())
    service = rig.add(plugin, attempts=1)
    await rig.accept(service, "go", {"x": 1})
    await rig.accept(service, "go", {"x": 13})
    plugin.ingresses["go"] = strict
    await trio.sleep(10)
    (letter,) = service.dead_letters.page(None, 10)[0]
    assert letter.attempts[0].message == "LookupError: not today"
    assert service.lifecycle.state == "running"


async def test_an_error_in_the_clean_up_of_a_stopped_handler_is_an_interruption(
    autojump_clock, rig
):
    plugin = Plugin("p")

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        if event.attempt == 1:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("while cleaning up")

    service = rig.add(plugin, attempts=1, dispatch_timeout_s=1000)
    await rig.accept(service, "go")
    await trio.sleep(1)
    await service.stop()
    await rig.settled()
    assert rig.outcomes() == ["interrupted"]
    await service.start()
    await trio.sleep(1)
    assert rig.outcomes() == ["interrupted", "handled"]


async def test_a_tick_for_which_there_is_no_room_is_skipped_not_dropped(autojump_clock, rig):
    """`dropped` counts accepted events, and each of those is reported."""
    plugin = Plugin("p")
    plugin.ingress("go")(never)

    @plugin.every(seconds=2)
    async def tick(ctx, event) -> None: ...

    service = rig.add(plugin, queue_events=1, dispatch_timeout_s=1000, dispatch_warn_s=999)
    await rig.accept(service, "go")
    await trio.sleep(7)
    assert service.settlement.counters["skipped"] == 3
    assert service.settlement.counters["dropped"] == 0


async def test_a_start_that_a_stop_overrules_returns(autojump_clock, rig):
    service = rig.add(plugin_of_nothing())
    await service.stop()
    with trio.fail_after(60):
        for _ in range(20):  # whichever of them comes first
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, service.start)
                nursery.start_soon(ask, service.stop)
    assert service.lifecycle.state in ("stopped", "starting", "running")


async def test_a_stop_right_after_the_start_is_no_error(autojump_clock, rig):
    """It came before the service's task had its first turn, and `stopping → running` is not in the table."""
    service = rig.add(plugin_of_nothing())
    for _ in range(20):
        await ask(service.start)
        await ask(service.stop)
        assert service.lifecycle.state == "stopped"
    assert service.settlement.last_error is None


async def test_a_wedged_handler_that_comes_back_is_followed_by_nothing(
    autojump_clock, rig, logged_errors
):
    begun = []
    plugin = Plugin("p")

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        begun.append(event.payload)
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    service = rig.add(plugin)
    for number in range(3):
        await rig.accept(service, "go", number)
    await trio.sleep(1000)
    assert begun == [0]
    assert service.lane.statistics().depth == 3
    logged_errors.expect("service failed")


async def test_who_waited_for_a_key_is_refused_by_a_service_that_stopped_meanwhile(
    autojump_clock, rig
):
    """The first with the key is refused room, and so the key is free: for nobody, by now."""
    plugin = Plugin("p")
    plugin.ingress("go", overflow="wait", wait_s=20)(never)
    service = rig.add(plugin, queue_events=1, dispatch_timeout_s=1000, dispatch_warn_s=999)
    await rig.accept(service, "go")
    await trio.sleep(1)
    codes = []

    async def accept_with_key() -> None:
        with pytest.raises(Refused) as refused:
            await rig.accept(service, "go", key="k")
        codes.append(refused.value.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_with_key)
        nursery.start_soon(accept_with_key)
        await trio.sleep(1)
        await service.stop()
    assert codes == ["service_unavailable"] * 2
    assert service.lane.statistics().depth == 1


def plugin_of_nothing() -> Plugin:
    plugin = Plugin("p")

    @plugin.ingress("go")
    async def go(ctx, event) -> None: ...

    return plugin


async def ask(command) -> None:
    try:
        await command()
    except Refused as refused:
        assert refused.code == "invalid_state"  # noqa: PT017 (it may as well be carried out)
