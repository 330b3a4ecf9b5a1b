"""Commands to a plugin's service, followed until it has come to rest."""

import click
import trio

from yoi_daemon.cli.output import duration
from yoi_daemon.cli.requests import Progress
from yoi_daemon.cli.views import Answer, CommandedView, PluginView, ReasonView, view
from yoi_daemon.client.rest import DaemonClient, NoAnswerInTime, path_of
from yoi_daemon.model.errors import Refused, YoiError

TIMEOUT_S = 120.0
"""Longer than any of it takes with the daemon's defaults: a stop drains for 10 s, and gives the handler,
the hook and the resources 5 to 10 s each; a start has 30 s, and so has the import that a reload begins with."""

FIRST_LOOK_S = 0.05
LATER_LOOKS_S = 0.5
"""How long until a starting service is looked at again, in seconds: soon at first, then less often."""

timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True, max=86_400),
    metavar="SECONDS",
    default=TIMEOUT_S,
    show_default=True,
    help="Maximum time to wait.",
)
wait_option = click.option(
    "--wait/--no-wait",
    default=True,
    help="Wait until it runs or has failed. Default: wait.",
)


async def command(daemon: DaemonClient, plugin_id: str, verb: str) -> Answer:
    """Sends a command to one service; the answer comes when it is starting, or has stopped."""
    return await post_patiently(
        daemon, path_of("plugins", plugin_id, verb), f"plugin show {plugin_id}"
    )


async def post_patiently(daemon: DaemonClient, path: str, look: str) -> Answer:
    """Posts what may take long. `look` is the command that shows how far it is, if it takes too long."""
    try:
        return await daemon.post(path, Answer)
    except NoAnswerInTime as error:
        raise YoiError(
            f"the daemon is still at it and goes on; 'yoi-daemon {look}' shows how far it is, "
            "--timeout SECONDS waits longer"
        ) from error


async def follow_start(
    daemon: DaemonClient, record: Answer, *, timeout_s: float, progress: Progress
) -> Answer:
    """Looks at a service that is starting until it has come to rest, and gives its record.

    Raises `Refused` (`service_failed`) with the reason when it failed, also where the daemon is at the
    next try already, and `YoiError` when `timeout_s` have passed.
    """
    begun = shown = view(record, PluginView)
    began_s = trio.current_time()
    look_s = FIRST_LOOK_S
    while shown.state == "starting" and shown.restarts <= begun.restarts:
        elapsed_s = trio.current_time() - began_s
        if elapsed_s >= timeout_s:
            raise YoiError(
                f"{begun.plugin_id} is still starting after {duration(timeout_s)}; 'yoi-daemon plugin "
                f"show {begun.plugin_id}' shows what becomes of it, --timeout SECONDS waits longer"
            )
        progress.say(f"{begun.plugin_id} is starting, {duration(elapsed_s)}")
        await trio.sleep(min(look_s, timeout_s - elapsed_s))
        look_s = min(2 * look_s, LATER_LOOKS_S)
        record = await daemon.get(path_of("plugins", begun.plugin_id), Answer)
        shown = view(record, PluginView)
    if shown.state in {"starting", "failed"}:
        raise failed(shown)
    return record


async def follow_command(
    daemon: DaemonClient, answer: Answer, *, timeout_s: float, progress: Progress
) -> Answer:
    """Returns the answer to a start or a restart, with the record of the service once it runs.

    Raises as `follow_start` does, and `Refused` (`invalid_state`) when somebody stopped it meanwhile.
    """
    begun = view(answer, CommandedView).plugin
    record = await follow_start(daemon, answer["plugin"], timeout_s=timeout_s, progress=progress)
    shown = view(record, PluginView)
    if shown.state != "running":
        raise Refused(
            "invalid_state",
            f"{begun.plugin_id} was started and is {shown.state} now: somebody else commands it too",
            state=shown.state,
        )
    return {**answer, "plugin": record}


def failed(shown: PluginView) -> Refused:
    """Returns why a service does not run, as the error that says so."""
    reason, error = shown.reason, shown.last_error
    if error is not None and (shown.state != "failed" or reason is None):
        reason = ReasonView(code=error.code, message=error.message)
    reason = reason or ReasonView(code="unknown", message="the daemon gave no reason")
    again = "" if shown.retry_at is None else f"; it is tried again at {shown.retry_at}"
    if reason.code == "wedged":
        again = "; only a restart of the daemon frees it"
    refused = Refused(
        "service_failed",
        f"{shown.plugin_id} failed: {reason}{again}",
        state=shown.state,
        reason={"code": reason.code, "message": reason.message},
        retry_at=shown.retry_at,
    )
    if (
        error is not None
        and error.code == reason.code
        and (error.where or "") not in reason.message
    ):
        refused.fields["where"] = error.where
    return refused
