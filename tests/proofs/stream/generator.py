"""A plugin that makes events, and looks at the process it runs in. Copied into a daemon's configuration."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import msgspec
import trio

from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin


class Nothing(msgspec.Struct):
    pass


class Load(msgspec.Struct):
    rate: float
    size: int
    count: int


class Published(msgspec.Struct):
    """How late events were: from when each was due to when its `emit` had returned."""

    p50_ms: float
    p99_ms: float
    is_over: bool


class Process(msgspec.Struct):
    tasks: int
    descriptors: int
    resident_bytes: int
    blocks: int


plugin = Plugin("gen", config=Config)


@plugin.start
async def start(ctx: Context[Config]) -> None:
    ctx.local.emit = ctx.emit
    ctx.local.nursery = await ctx.enter(trio.open_nursery())
    ctx.local.late_ms = []
    ctx.local.is_over = True


@plugin.ingress("burst")
async def burst(ctx: Context[Config], event: IngressEvent) -> None:
    for number in range(event.payload["count"]):
        await ctx.emit("tick", {"number": number, "filler": "x" * event.payload["size"]})


@plugin.tool("publish")
async def publish(ctx: Context[Config], load: Load) -> Nothing:
    ctx.local.late_ms.clear()
    ctx.local.is_over = False
    ctx.local.nursery.start_soon(_publish, ctx.local, load)
    return Nothing()


async def _publish(local, load: Load) -> None:
    filler = "x" * load.size
    begun = trio.current_time()
    for number in range(load.count):
        due = begun + number / load.rate
        await trio.sleep_until(due)
        await local.emit("tick", {"number": number, "filler": filler})
        local.late_ms.append((trio.current_time() - due) * 1000)
    local.is_over = True


@plugin.tool("published")
async def published(ctx: Context[Config], arguments: Nothing) -> Published:
    late_ms = sorted(ctx.local.late_ms) or [0.0]
    return Published(
        p50_ms=round(late_ms[len(late_ms) // 2], 3),
        p99_ms=round(late_ms[len(late_ms) * 99 // 100], 3),
        is_over=ctx.local.is_over,
    )


@plugin.tool("process")
async def process(ctx: Context[Config], arguments: Nothing) -> Process:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240 - no disk
    return Process(
        tasks=trio.lowlevel.current_statistics().tasks_living,
        descriptors=len(os.listdir("/proc/self/fd")),
        resident_bytes=pages * os.sysconf("SC_PAGESIZE"),
        blocks=sys.getallocatedblocks(),
    )
