"""`yoi-daemon status`: one screen that says whether it is well, and if not, who."""

from collections.abc import Sequence

import click
import msgspec

from yoi_daemon.cli.options import Client, client_options
from yoi_daemon.cli.output import duration, json_text, size, write_json, write_state, write_table
from yoi_daemon.cli.printable import printable
from yoi_daemon.cli.talking import talk
from yoi_daemon.cli.views import Answer, Diagnostic, Plugin, Status, view
from yoi_daemon.cli.watch import Rates, watch_status
from yoi_daemon.client.rest import Daemon

_CALM_STATES = frozenset({"ready", "running", "stopped"})


@click.command()
@click.option("--watch", is_flag=True, help="Keep it up to date, also across restarts.")
@client_options
def status(options: Client, watch: bool) -> None:
    """Say whether the daemon is well, and if not, who.

    The exit code says whether a daemon answered, not whether it is well. With --watch it is asked again every two
    seconds until Ctrl-C, with exit code 0; with --json each answer is a line.
    """
    if watch:
        watch_status(options, _write_json_line if options.as_json else write_status)
        return

    async def get(daemon: Daemon) -> Answer:
        return await daemon.get("/api/status", Answer)

    answer = talk(options, get)
    if options.as_json:
        write_json(answer)
    else:
        write_status(answer, None)


def write_status(answer: Answer, rates: Rates | None) -> None:
    """The screen: the verdict, the parts, and a line for each plugin, with its rate where that is known."""
    told = view(answer, Status)
    _write_verdict(told)
    _write_parts(told)
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
        for plugin in told.plugins
    ]
    if rates is not None:
        columns.insert(3, "HANDLED/S")
        for row, plugin in zip(rows, told.plugins, strict=True):
            row.insert(3, rates.handled_per_s(plugin))
    write_table(columns, rows, empty="no plugins; make one with 'yoi-daemon plugin new NAME'")


def _write_json_line(answer: Answer, _rates: Rates | None) -> None:
    click.echo(json_text(msgspec.json.encode(answer), indented=False))


def complaints(told: Status) -> list[str]:
    """What is not well, the worst first; one sentence for each part that is to blame."""
    found: list[str] = []
    if not told.ready:
        codes = f" ({', '.join(told.not_ready)})" if told.not_ready else ""
        found.append(f"the daemon is not ready{codes}")
    found += [
        f"plugin {plugin.plugin_id} is {plugin.state}"
        + (f" ({plugin.reason})" if plugin.reason else "")
        + (f", tried again at {plugin.retry_at}" if plugin.retry_at else "")
        for plugin in told.plugins
        if plugin.state not in _CALM_STATES
    ]
    found += [
        f"plugin {plugin.plugin_id} refuses events: its queue is full ({plugin.queue})"
        for plugin in told.plugins
        if _is_full(plugin)
    ]
    for runtime in told.runtimes:
        if runtime.status not in {"available", "?"}:
            found.append(f"runtime {runtime.runtime_id} is {runtime.status}")
        found += [f"runtime {runtime.runtime_id}: {text}" for text in _grave(runtime.diagnostics)]
    return found + _grave(told.diagnostics)


def _grave(diagnostics: Sequence[Diagnostic]) -> list[str]:
    return [found.message or found.code for found in diagnostics if found.severity != "info"]


def _is_full(plugin: Plugin) -> bool:
    return plugin.queue_capacity is not None and 0 < plugin.queue_capacity <= plugin.queue_depth


def _write_verdict(told: Status) -> None:
    found = complaints(told)
    if not found:
        click.echo(click.style("well", fg="green", bold=True))
        return
    click.echo(click.style("not well", fg="red", bold=True))
    for complaint in found:
        click.echo(f"  {printable(complaint)}")


def _write_parts(told: Status) -> None:
    pid = "" if told.pid is None else f", process {told.pid}"
    click.echo(f"daemon    {told.version}{pid}, up {duration(told.uptime_s)}")
    durable = "durable" if told.store.durable else "not durable"
    note = f": {told.store.note}" if told.store.note else ""
    click.echo(f"store     {told.store.kind}, {durable}{note}")
    log = [
        "" if told.log.events is None else f"{told.log.events} events",
        "" if told.log.bytes is None else size(told.log.bytes),
        f"epoch {told.log.epoch}" if told.log.epoch else "",
    ]
    click.echo(f"log       {', '.join(filter(None, log)) or '-'}")
    where = "on" if told.observe.port is None else f"port {told.observe.port}"
    stream = f"{where}, {told.observe.subscribers} subscribers"
    click.echo(f"observe   {stream if told.observe.enabled else 'off'}")
    for runtime in told.runtimes:
        kind, state = runtime.implementation_kind, write_state(runtime.status)
        click.echo(f"runtime   {printable(runtime.runtime_id)} ({kind}) {state}")
