"""`yoi-daemon reload`: the configuration and the plugins, read again while the daemon runs."""

from collections.abc import Sequence

import click
import msgspec
import trio

from yoi_daemon.cli.exits import REFUSED
from yoi_daemon.cli.listing import get_whole_list
from yoi_daemon.cli.options import Client, Command, client_options
from yoi_daemon.cli.output import note, write_json, write_table
from yoi_daemon.cli.requests import Progress, run_requests
from yoi_daemon.cli.service import follow_start, post_patiently, timeout_option, wait_option
from yoi_daemon.cli.views import Answer, PluginsView, PluginView, ReloadedView, view
from yoi_daemon.client.rest import DaemonClient, path_of
from yoi_daemon.model.errors import Refused, YoiError


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one plugin: its record, and what kept it from running. Without a record it is gone."""

    plugin_id: str
    record: Answer | None
    error: YoiError | None = None


@click.command(cls=Command)
@wait_option
@timeout_option
@client_options
def reload(options: Client, wait: bool, timeout_s: float) -> int:
    """Reload the configuration and the plugins.

    If anything is faulty the whole reload is refused, and everything goes on as before. Waits until the changed services run; exits with 1 if one fails.
    """
    return run_reload(options, None, wait=wait, timeout_s=timeout_s)


def run_reload(options: Client, only: str | None, *, wait: bool, timeout_s: float) -> int:
    """Reloads all plugins or `only` one, reports the outcome, and returns the exit code."""
    path = path_of("reload") if only is None else path_of("plugins", only, "reload")
    progress = Progress("loading what changed")

    async def run(daemon: DaemonClient) -> tuple[Answer, list[Taken], list[PluginView]]:
        look = "plugin list" if only is None else f"plugin show {only}"
        answer = await post_patiently(daemon, path, look)
        changed = view(answer, ReloadedView).plugins
        # One that was named is looked at in any case: it may be as bad as it was before.
        names = changed if only is None or only in changed else [*changed, only]
        deadline_s = trio.current_time() + (timeout_s if wait else 0)
        taken = [
            await _take(daemon, name, changed, wait=wait, deadline_s=deadline_s, progress=progress)
            for name in names
        ]
        others: list[PluginView] = []
        if only is None:
            plugins = view(await get_whole_list(daemon, path_of("plugins")), PluginsView).items
            others = [p for p in plugins if p.state == "failed" and p.plugin_id not in changed]
        return answer, taken, others

    answer, taken, others = run_requests(options, run, deadline_s=timeout_s, progress=progress)
    if options.as_json:
        records = [change.record for change in taken if change.record is not None]
        write_json({**answer, "items": records})
    else:
        _write(taken, view(answer, ReloadedView).plugins)
        if runtimes := view(answer, ReloadedView).runtimes:
            note(f"runtimes that changed: {', '.join(runtimes)}")
        for section in view(answer, ReloadedView).needs_restart:
            note(f"[{section}] has changed: it is read when the daemon starts, so restart it")
        for other in others:
            note(f"{other.plugin_id} is failed as before ({other.reason or 'no reason given'})")
    errors = [change.error for change in taken if change.error is not None]
    if only is not None and errors:
        raise errors[0]
    for error in errors:
        note(str(error))
    return REFUSED if errors else 0


async def _take(
    daemon: DaemonClient,
    plugin_id: str,
    changed: Sequence[str],
    *,
    wait: bool,
    deadline_s: float,
    progress: Progress,
) -> Taken:
    path = path_of("plugins", plugin_id)
    try:
        record = await daemon.get(path, Answer)
    except Refused as refused:
        if refused.code != "plugin_not_found" or plugin_id not in changed:
            raise
        return Taken(plugin_id=plugin_id, record=None)
    if not wait:
        return Taken(plugin_id=plugin_id, record=record)
    left_s = max(0.0, deadline_s - trio.current_time())
    try:
        record = await follow_start(daemon, record, timeout_s=left_s, progress=progress)
    except YoiError as error:
        return Taken(plugin_id=plugin_id, record=await daemon.get(path, Answer), error=error)
    return Taken(plugin_id=plugin_id, record=record)


def _write(taken: Sequence[Taken], changed: Sequence[str]) -> None:
    if not changed:
        click.echo("no plugin has changed")
        return
    rows: list[tuple[str, str, str | None]] = []
    for change in taken:
        if change.record is None:
            rows.append((change.plugin_id, "removed", None))
        else:
            shown = view(change.record, PluginView)
            rows.append((change.plugin_id, shown.state, shown.why))
    write_table(("PLUGIN", "STATE", "REASON"), rows, empty="")
