"""Watches a repository: every push is announced, and told to a worker that keeps count of them.

GitHub is to send push events to /hooks/github_watch/push, signed with the secret in the Settings.
"""

from typing import Any

import msgspec

from yoi_daemon.sdk import Config, Context, IngressEvent, Plugin, Refused, Secret


class Settings(Config):
    repo: str
    secret: Secret
    profile: str = "builtin:echo"


class Repository(msgspec.Struct):
    full_name: str


class Push(msgspec.Struct):
    ref: str
    before: str
    after: str
    repository: Repository


plugin = Plugin("github_watch", config=Settings)


@plugin.start
async def start(ctx: Context[Settings]) -> None:
    ctx.local.worker_id = None
    ctx.local.pushes = 0


@plugin.ingress("push", verify="github")
async def on_push(ctx: Context[Settings], event: IngressEvent[Push]) -> None:
    push = event.payload
    if push.repository.full_name != ctx.config.repo:
        await ctx.emit("ignored", {"repo": push.repository.full_name})
        return
    await ctx.emit("pushed", {"ref": push.ref, "before": push.before, "after": push.after})
    await tell_worker(ctx, f"push to {push.ref}: {push.before[:7]} -> {push.after[:7]}")
    ctx.local.pushes += 1


async def tell_worker(ctx: Context[Settings], text: str) -> None:
    """Sends to this repository's worker; makes one where there is none (any more)."""
    if ctx.local.worker_id is not None:
        try:
            await ctx.workers.send(ctx.local.worker_id, text)
        except Refused as refused:
            if refused.code not in ("worker_gone", "worker_not_found"):
                raise
        else:
            return
    made = await ctx.workers.create(profile=ctx.config.profile, label=ctx.config.repo)
    ctx.local.worker_id = made.worker.worker_id
    await ctx.workers.send(ctx.local.worker_id, text)


@plugin.status
async def status(ctx: Context[Settings]) -> dict[str, Any]:
    return {"pushes": ctx.local.pushes, "worker_id": ctx.local.worker_id}
