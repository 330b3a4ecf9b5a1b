"""`yoi-daemon plugin …`: lists plugins, controls their services, and creates new ones."""

import sys
from pathlib import Path

import click

from yoi_daemon.cli import templates
from yoi_daemon.cli.listing import get_whole_list, write_diagnostics
from yoi_daemon.cli.options import Client, Common, Group, client_options, common_options
from yoi_daemon.cli.output import write_json, write_state, write_table
from yoi_daemon.cli.printable import printable
from yoi_daemon.cli.record import write_plugin
from yoi_daemon.cli.reload import run_reload
from yoi_daemon.cli.requests import Progress, run_requests
from yoi_daemon.cli.service import command, failed, follow_command, timeout_option, wait_option
from yoi_daemon.cli.views import Answer, CommandedView, PluginsView, view
from yoi_daemon.client.rest import DaemonClient, path_of
from yoi_daemon.model.errors import NotAllowed
from yoi_daemon.model.ids import PLUGIN_ID_RULE, is_plugin_id


@click.group(cls=Group)
def plugin() -> None:
    """List, create and control plugins."""


@plugin.command("list")
@client_options
def list_plugins(options: Client) -> None:
    """List the plugins with their state and queue."""
    answer = run_requests(options, lambda daemon: get_whole_list(daemon, path_of("plugins")))
    if options.as_json:
        write_json(answer)
        return
    shown = view(answer, PluginsView)
    write_table(
        ("PLUGIN", "STATE", "SINCE", "QUEUE", "RESTARTS", "REASON"),
        [
            (
                row.plugin_id,
                row.state,
                row.since,
                row.queue,
                row.restarts,
                row.why,
            )
            for row in shown.items
        ],
        empty="no plugins; make one with 'yoi-daemon plugin new NAME'",
    )
    write_diagnostics(shown.diagnostics)


@plugin.command()
@click.argument("plugin_id", metavar="PLUGIN")
@client_options
def show(options: Client, plugin_id: str) -> None:
    """Show everything about one plugin."""

    async def get(daemon: DaemonClient) -> Answer:
        return await daemon.get(path_of("plugins", plugin_id), Answer)

    answer = run_requests(options, get)
    if options.as_json:
        write_json(answer)
    else:
        write_plugin(answer)


@plugin.command()
@click.argument("plugin_id", metavar="PLUGIN")
@wait_option
@timeout_option
@client_options
def start(options: Client, plugin_id: str, wait: bool, timeout_s: float) -> None:
    """Start a plugin's service, and reset its restart count.

    Waits until it runs; exits with 1 and the reason if it fails.
    """
    _start(options, plugin_id, "start", wait=wait, timeout_s=timeout_s)


@plugin.command()
@click.argument("plugin_id", metavar="PLUGIN")
@wait_option
@timeout_option
@client_options
def restart(options: Client, plugin_id: str, wait: bool, timeout_s: float) -> None:
    """Stop a plugin's service gracefully, and start it again.

    Waits until it runs; exits with 1 and the reason if it fails.
    """
    _start(options, plugin_id, "restart", wait=wait, timeout_s=timeout_s)


@plugin.command()
@click.argument("plugin_id", metavar="PLUGIN")
@timeout_option
@client_options
def stop(options: Client, plugin_id: str, timeout_s: float) -> None:
    """Stop a plugin's service.

    New events are refused. Queued events are handled for as long as its drain time lasts; the rest stay queued. Waits until it has stopped.
    """
    progress = Progress(f"{plugin_id} is stopping")
    answer = run_requests(
        options,
        lambda daemon: command(daemon, plugin_id, "stop"),
        deadline_s=timeout_s,
        progress=progress,
    )
    shown = view(answer, CommandedView).plugin
    if shown.state == "failed":
        raise failed(shown)  # what is wedged cannot be stopped
    _write_commanded(options, answer)


@plugin.command("reload")
@click.argument("plugin_id", metavar="PLUGIN")
@wait_option
@timeout_option
@client_options
def reload_plugin(options: Client, plugin_id: str, wait: bool, timeout_s: float) -> int:
    """Reload one plugin's code and settings.

    A faulty version is refused, and the current one goes on. Waits until the new service runs; exits with 1 and the reason if it fails.
    """
    return run_reload(options, plugin_id, wait=wait, timeout_s=timeout_s)


def _start(options: Client, plugin_id: str, verb: str, *, wait: bool, timeout_s: float) -> None:
    progress = Progress(f"{plugin_id} is {'stopping' if verb == 'restart' else 'starting'}")

    async def run(daemon: DaemonClient) -> Answer:
        answer = await command(daemon, plugin_id, verb)
        if not wait:
            return answer
        return await follow_command(daemon, answer, timeout_s=timeout_s, progress=progress)

    _write_commanded(options, run_requests(options, run, deadline_s=timeout_s, progress=progress))


def _write_commanded(options: Client, answer: Answer) -> None:
    if options.as_json:
        write_json(answer)
        return
    shown = view(answer, CommandedView).plugin
    waiting = f", {shown.queue_depth} events stay on its queue" if shown.queue_depth else ""
    rest = waiting if shown.state == "stopped" else ""
    why = "" if shown.why is None else f" ({shown.why})"
    click.echo(
        printable(f"{shown.plugin_id} is ") + write_state(shown.state) + printable(why + rest)
    )


@plugin.command()
@click.argument("name")
@common_options
def new(options: Common, name: str) -> None:
    """Create a plugin and a test for it.

    Writes plugins/NAME.py and tests/test_NAME.py in the configuration directory.
    """
    if not is_plugin_id(name):
        raise click.BadParameter(
            f"{name!r} is no name for a plugin: it is {PLUGIN_ID_RULE}", param_hint="NAME"
        )
    config = options.directories().config
    module, test = config / "plugins" / f"{name}.py", config / "tests" / f"test_{name}.py"
    for taken in (module, config / "plugins" / name, test):
        if taken.exists() or taken.is_symlink():
            raise click.ClickException(f"{taken} is there already; choose another name, or move it")
    _write_new(module, templates.fill(templates.MODULE, name))
    _write_new(test, templates.fill(templates.TEST, name))
    if options.as_json:
        write_json({"plugin_id": name, "module": str(module), "test": str(test)})
        return
    click.echo(f"wrote {module}\nwrote {test}")
    click.echo(
        f"try it: {sys.executable} -m pytest {test}\nthen, where the daemon runs already: yoi-daemon reload"
    )


def _write_new(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except PermissionError as error:
        raise NotAllowed(
            f"{file} may not be written; give a directory of yours with --config DIR"
        ) from error
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from error
