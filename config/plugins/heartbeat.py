"""Shows life: one event at the start, then one every five seconds."""

from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin


class Settings(Config):
    greeting: str = "alive"


plugin = Plugin("heartbeat", config=Settings)


@plugin.start
async def start(ctx: Context[Settings]) -> None:
    ctx.local.beats = 0
    await ctx.emit("started", {"greeting": ctx.config.greeting})


@plugin.every(seconds=5)
async def beat(ctx: Context[Settings], event: IngressEvent) -> None:
    ctx.local.beats += 1
    await ctx.emit("beat", {"number": ctx.local.beats})


@plugin.status
async def status(ctx: Context[Settings]) -> dict[str, int]:
    return {"beats": ctx.local.beats}
