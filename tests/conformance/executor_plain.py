"""The executor suite's plugin whose functions are all plain `def`: each runs in a thread."""

import trio

from tests.conformance.executor_plugin import Point
from yoi_daemon.sdk import Config, Context, Plugin


class Settings(Config):
    fails: bool = False


plugin = Plugin("executor_plain", config=Settings)


@plugin.start
def start(ctx: Context[Settings]) -> None:
    ctx.local.started = True
    fail(ctx)


@plugin.stop
def stop(ctx: Context[Settings]) -> None:
    trio.from_thread.run(ctx.emit, "stopping", ctx.local.started)
    fail(ctx)


@plugin.status
def status(ctx: Context[Settings]) -> dict[str, bool]:
    fail(ctx)
    return {"started": ctx.local.started}


@plugin.tool("add")
def add(ctx: Context[Settings], point: Point) -> int:
    """Adds one."""
    fail(ctx)
    return point.x + 1


def fail(ctx: Context[Settings]) -> None:
    if ctx.config.fails:
        raise OSError("in a thread")  # mark: fail
