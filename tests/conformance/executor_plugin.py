"""The plugin that the executor suite runs: it shares no object with the tests, and tells what it sees by events."""

import json
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import msgspec
import trio

from yoi_daemon.sdk import Config, Context, Plugin, Retry
from yoi_daemon.sdk.context import AttemptClosedError, IngressEvent


class Settings(Config):
    """Which behaviour each of the service's own functions has."""

    start: str = "returns"
    stop: str = "returns"
    status: str = "returns"


plugin = Plugin("executor_plugin", config=Settings)


class Point(msgspec.Struct):
    x: int
    name: str = "?"


class Odd(msgspec.Struct):
    x: int

    def __post_init__(self) -> None:
        raise LookupError("no such thing")  # mark: odd


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("what am I?")


@plugin.ingress("handled")
async def handled(ctx, event) -> None:
    await ctx.emit("seen", {"event": msgspec.to_builtins(event), "body": event.body.hex()})


@plugin.ingress("at_once")
async def at_once(ctx, event) -> None: ...


@plugin.ingress("typed")
async def typed(ctx, event: IngressEvent[Point]) -> None:
    await ctx.emit("seen", {"type": type(event.payload).__name__, "x": event.payload.x})


@plugin.ingress("odd")
async def odd(ctx, event: IngressEvent[Odd]) -> None:
    raise AssertionError("the payload cannot be made")


@plugin.ingress("mutates")
async def mutates(ctx, event) -> None:
    await ctx.emit("seen", event.payload)
    event.payload["list"].append("more")
    event.payload.clear()
    raise ValueError("again")


@plugin.ingress("retries")
async def retries(ctx, event) -> None:
    if event.payload == "plain":
        raise Retry
    if event.payload in ("nan", "inf"):
        raise Retry("the upstream is busy", after_s=float(event.payload))
    raise Retry("the upstream is busy", after_s=event.payload)


@plugin.ingress("raises")
async def raises(ctx, event) -> None:
    deep(event.payload)


def deep(payload) -> None:
    json.loads(payload)  # mark: deep


@plugin.ingress("exits")
async def exits(ctx, event) -> None:
    raise {"SystemExit": SystemExit(3), "KeyboardInterrupt": KeyboardInterrupt()}[event.payload]


@plugin.ingress("exits_in_thread")
def exits_in_thread(ctx, event) -> None:
    raise {"SystemExit": SystemExit(3), "KeyboardInterrupt": KeyboardInterrupt()}[event.payload]


@plugin.ingress("generator_exit")
async def generator_exit(ctx, event) -> None:
    raise GeneratorExit


@plugin.ingress("unspeakable")
async def unspeakable(ctx, event) -> None:
    raise UnspeakableError  # mark: unspeakable


@plugin.ingress("unprintable")
async def unprintable(ctx, event) -> None:
    raise ValueError("a path: \udcff")


@plugin.ingress("unprintable_retry")
async def unprintable_retry(ctx, event) -> None:
    raise Retry("a path: \udcff")


@plugin.ingress("long")
async def long(ctx, event) -> None:
    raise ValueError("x" * 100_000)


@plugin.ingress("group")
async def group(ctx, event) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        nursery.start_soon(child)


async def sleeper() -> None:
    await trio.sleep_forever()


async def child() -> None:
    raise KeyError("lost")  # mark: child


@plugin.ingress("group_of_exits")
async def group_of_exits(ctx, event) -> None:
    raise BaseExceptionGroup("two", [SystemExit(1), KeyboardInterrupt()])


class Unreadable(Exception):
    """Raises where somebody reads what it came from."""

    @property
    def __context__(self):
        raise RuntimeError("no such thing")

    @property
    def __cause__(self):
        raise RuntimeError("no such thing")


@plugin.ingress("unreadable")
async def unreadable(ctx, event) -> None:
    raise Unreadable("lost")  # mark: unreadable


@plugin.ingress("cleans_up_unreadably")
async def cleans_up_unreadably(ctx, event) -> None:
    await ctx.emit("begun", {"x": 1})
    try:
        await trio.sleep_forever()
    finally:
        raise Unreadable


@plugin.ingress("thread")
def thread(ctx, event) -> None:
    trio.from_thread.run(ctx.emit, "seen", {"x": event.payload})


@plugin.ingress("thread_raises")
def thread_raises(ctx, event) -> None:
    raise OSError("in a thread")  # mark: thread


@plugin.ingress("secretly_async")
def secretly_async(ctx, event):
    return sleeper()


@plugin.ingress("sleeps")
async def sleeps(ctx, event) -> None:
    await ctx.emit("begun")
    await trio.sleep_forever()


@plugin.ingress("keeps_cancelled")
async def keeps_cancelled(ctx, event) -> None:
    kept = None
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            kept = cancelled
            raise
    raise kept


@plugin.ingress("cleans_up_badly")
async def cleans_up_badly(ctx, event) -> None:
    await ctx.emit("begun")
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("while cleaning up")


@plugin.ingress("cleans_up_badly_in_a_child")
async def cleans_up_badly_in_a_child(ctx, event) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cleans_up_badly, ctx, event)
        nursery.start_soon(sleeper)


@plugin.ingress("emits_late")
async def emits_late(ctx, event) -> None:
    await ctx.emit("begun")
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            for effect in (partial(ctx.emit, "late"), partial(ctx.state.set, "late", 1)):
                with suppress(AttemptClosedError):
                    await effect()


@plugin.ingress("swallows")
async def swallows(ctx, event) -> None:
    await ctx.emit("begun")
    with suppress(trio.Cancelled):
        await trio.sleep_forever()


# -- the service's own functions, each as its setting says


@plugin.start
async def start(ctx: Context[Settings]) -> None:
    await STARTS[ctx.config.start](ctx)


async def returns(ctx) -> None: ...


async def enters(ctx) -> None:
    ctx.local.entered = [await ctx.enter(resource(ctx, name)) for name in ("first", "second")]
    ctx.local.start_context = ctx


@asynccontextmanager
async def resource(ctx, name):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        yield name
        nursery.cancel_scope.cancel()
    await ctx.emit("closed", name)


async def fails(ctx) -> None:
    raise ConnectionError("nobody answers")  # mark: fails


async def fails_in_a_child(ctx) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)
        nursery.start_soon(child)


async def leaves_a_nursery(ctx) -> None:
    await trio.open_nursery().__aenter__()


async def exits_at_start(ctx) -> None:
    raise SystemExit(3)


async def hangs(ctx) -> None:
    await ctx.emit("begun")
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True), suppress(AttemptClosedError):
            await ctx.emit("late")


async def swallows_its_cancellation(ctx) -> None:
    await ctx.emit("begun")
    with suppress(trio.Cancelled):
        await trio.sleep_forever()


STARTS = {
    "returns": returns,
    "enters": enters,
    "fails": fails,
    "fails_in_a_child": fails_in_a_child,
    "leaves_a_nursery": leaves_a_nursery,
    "exits": exits_at_start,
    "hangs": hangs,
    "swallows": swallows_its_cancellation,
}


@plugin.stop
async def stop(ctx: Context[Settings]) -> None:
    await ctx.emit("stopping", sorted(vars(ctx.local)))
    await STARTS[ctx.config.stop](ctx)


@plugin.status
async def status(ctx: Context[Settings]) -> dict:
    match ctx.config.status:
        case "opaque":
            return {"object": object()}
        case "enters":
            await ctx.enter(resource(ctx, "status"))
        case other:
            await STARTS[other](ctx)
    return {"entered": getattr(ctx.local, "entered", [])}


@plugin.ingress("enters_late")
async def enters_late(ctx, event) -> None:
    """By its own context, and by the one that `start` kept."""
    for context in (ctx, ctx.local.start_context):
        try:
            await context.enter(resource(ctx, "late"))
        except RuntimeError as error:
            await ctx.emit("seen", str(error))


# -- tools


class Sum(msgspec.Struct):
    sum: int


@plugin.tool("add")
async def add(ctx, point: Point) -> Sum:
    """Adds one."""
    return Sum(point.x + 1)


@plugin.tool("behaves", needs_service=False)
async def behaves(ctx, behaviour: str) -> dict[str, Any]:
    """Behaves as it is told."""
    if behaviour == "opaque":
        return {"object": object()}
    if behaviour == "marks":
        marks = len(vars(ctx.local))
        ctx.local.marked = True
        return {"marks": marks}
    await STARTS[behaviour](ctx)
    return {}


@plugin.tool("takes_odd")
async def takes_odd(ctx, odd: Odd) -> dict[str, Any]:
    """Takes what cannot be made."""
    raise AssertionError("the arguments cannot be made")
