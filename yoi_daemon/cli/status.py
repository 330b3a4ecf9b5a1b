"""`yoi-daemon status`: the daemon's health on one screen, and what to do about it."""

from collections.abc import Sequence

import click
import msgspec

from yoi_daemon.cli.options import Client, Command, client_options
from yoi_daemon.cli.output import duration, json_text, size, write_json, write_state, write_table
from yoi_daemon.cli.printable import printable
from yoi_daemon.cli.requests import run_requests
from yoi_daemon.cli.views import Answer, DiagnosticView, LastBlockView, PluginView, StatusView, view
from yoi_daemon.cli.watch import DEADLINE_S, Rates, watch_status
from yoi_daemon.client.rest import DaemonClient

RECENT_S = 300.0
"""For so long a loop that stood still is told as what is not well; later it is a figure."""

_CALM_STATES = frozenset({"ready", "running", "stopped"})
_UNLOADED = frozenset(
    {
        "api_version",
        "configuration_error",
        "definition_error",
        "import_failed",
        "import_timeout",
        "not_trusted",
        "syntax_error",
        "unreadable",
    }
)
"""Reasons of a plugin whose module or settings could not be taken."""


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Refresh every two seconds, across restarts too.")
@client_options
def status(options: Client, watch: bool) -> None:
    """Show the daemon's health.

    The exit code says whether a daemon answered, not whether it is healthy. --watch refreshes until Ctrl-C, which
    exits with 0; with --json each answer is one line.
    """
    if watch:
        watch_status(options, _write_json_line if options.as_json else write_status)
        return

    async def get(daemon: DaemonClient) -> Answer:
        return await daemon.get("/api/status", Answer)

    answer = run_requests(options, get, deadline_s=DEADLINE_S)
    if options.as_json:
        write_json(answer)
    else:
        write_status(answer, None)


def write_status(answer: Answer, rates: Rates | None) -> None:
    """The screen: the verdict, the parts, and a line for each plugin, with its rate where that is known."""
    shown = view(answer, StatusView)
    _write_verdict(shown)
    _write_parts(shown)
    click.echo()
    columns = ["PLUGIN", "STATE", "QUEUE", "WAITING", "P99", "RESTARTS", "REASON"]
    rows = [
        [
            plugin.plugin_id,
            plugin.state,
            plugin.queue,
            None if plugin.oldest_waiting_s is None else duration(plugin.oldest_waiting_s),
            f"{plugin.dispatch.p99_ms:.1f} ms" if plugin.dispatch.count else None,
            plugin.restarts,
            plugin.why,
        ]
        for plugin in shown.plugins
    ]
    if rates is not None:
        columns.insert(3, "HANDLED/S")
        for row, plugin in zip(rows, shown.plugins, strict=True):
            row.insert(3, rates.handled_per_s(plugin))
    write_table(columns, rows, empty="no plugins; make one with 'yoi-daemon plugin new NAME'")


def _write_json_line(answer: Answer, _rates: Rates | None) -> None:
    click.echo(json_text(msgspec.json.encode(answer), indented=False))


def complaints(shown: StatusView) -> list[str]:
    """Returns what is not well, the worst first: for each part that is to blame one sentence, with what to do."""
    plugins = [_failing(plugin) for plugin in shown.plugins if plugin.state not in _CALM_STATES]
    ready = [] if shown.ready else [_not_ready(shown)]
    # Where a plugin keeps the daemon from being ready, it is the one to name.
    is_plugins = all(code.startswith("plugin_failed:") for code in shown.not_ready)
    found = [*plugins, *ready] if plugins and is_plugins else [*ready, *plugins]
    if shown.store.low:
        free = "" if shown.store.free_bytes is None else f" ({size(shown.store.free_bytes)} free)"
        found.append(
            f"the disk is nearly full{free}, and nothing new is accepted; make room, and it goes on by itself"
        )
    found += [
        f"plugin {plugin.plugin_id} refuses events: its queue is full ({plugin.queue}); "
        f"'yoi-daemon plugin show {plugin.plugin_id}' tells how long its handlers take"
        for plugin in shown.plugins
        if _is_full(plugin)
    ]
    if shown.loop.last is not None and (shown.loop.last_ago_s or 0) < RECENT_S:
        found.append(_blocked(shown.loop.last, shown.loop.last_ago_s or 0))
    for runtime in shown.runtimes:
        if runtime.status not in {"available", "?"}:
            found.append(
                f"runtime {runtime.runtime_id} is {runtime.status}; "
                f"see 'yoi-daemon runtime show {runtime.runtime_id}'"
            )
        found += [f"runtime {runtime.runtime_id}: {text}" for text in _grave(runtime.diagnostics)]
    return found + _grave(shown.diagnostics)


def _failing(plugin: PluginView) -> str:
    code = "" if plugin.reason is None else plugin.reason.code
    why = f" ({plugin.reason})" if plugin.reason else ""
    again = f", tried again at {plugin.retry_at}" if plugin.retry_at else ""
    if code == "wedged":
        step = "its lane is sealed until the daemon restarts"
    elif code in _UNLOADED:
        step = "mend it, then 'yoi-daemon reload'"
    else:
        step = f"see 'yoi-daemon plugin show {plugin.plugin_id}'"
    return f"plugin {plugin.plugin_id} is {plugin.state}{why}{again}; {step}"


def _not_ready(shown: StatusView) -> str:
    codes = f" ({', '.join(shown.not_ready)})" if shown.not_ready else ""
    return f"the daemon is not ready{codes}"


def _blocked(last: LastBlockView, ago_s: float) -> str:
    who = f"plugin {last.plugin_id}" if last.plugin_id else "the daemon itself"
    place = f" at {last.where}" if last.where else ""
    step = (
        "write that as a plain def, which runs in a thread"
        if last.plugin_id
        else "please report it, with its line"
    )
    return (
        f"{who} held the event loop for {duration(last.blocked_s)}{place}, "
        f"{duration(ago_s)} ago; {step}"
    )


def _grave(diagnostics: Sequence[DiagnosticView]) -> list[str]:
    steps = {"reload_refused": "; mend it, then 'yoi-daemon reload'"}
    return [
        (found.message or found.code) + steps.get(found.code, "")
        for found in diagnostics
        if found.severity != "info"
    ]


def _is_full(plugin: PluginView) -> bool:
    return plugin.queue_capacity is not None and 0 < plugin.queue_capacity <= plugin.queue_depth


def _write_verdict(shown: StatusView) -> None:
    found = complaints(shown)
    if not found:
        click.echo(click.style("well", fg="green", bold=True))
        return
    first, *others = found
    click.echo(f"{click.style('not well', fg='red', bold=True)}: {printable(first)}")
    for complaint in others:
        click.echo(f"     also: {printable(complaint)}")


def _write_parts(shown: StatusView) -> None:
    pid = "" if shown.pid is None else f", process {shown.pid}"
    click.echo(f"daemon    {shown.version}{pid}, up {duration(shown.uptime_s)}")
    durable = "durable" if shown.store.durable else "not durable"
    note = f": {shown.store.note}" if shown.store.note else ""
    click.echo(f"store     {shown.store.kind}, {durable}{note}")
    log = [
        "" if shown.log.events is None else f"{shown.log.events} events",
        "" if shown.log.bytes is None else size(shown.log.bytes),
        f"epoch {shown.log.epoch}" if shown.log.epoch else "",
    ]
    click.echo(f"log       {', '.join(filter(None, log)) or '-'}")
    where = "on" if shown.observe.port is None else f"port {shown.observe.port}"
    stream = f"{where}, {shown.observe.subscribers} subscribers"
    click.echo(f"observe   {stream if shown.observe.enabled else 'off'}")
    if shown.loop.count:
        longest = duration(shown.loop.longest_s)
        click.echo(f"loop      stood still {shown.loop.count} times, {longest} at most")
    for runtime in shown.runtimes:
        kind, state = runtime.implementation_kind, write_state(runtime.status)
        click.echo(f"runtime   {printable(runtime.runtime_id)} ({kind}) {state}")
