"""`yoi-daemon plugin …`: the plugins of a daemon, and making a new one."""

from pathlib import Path

import click

from yoi_daemon.cli import templates
from yoi_daemon.cli.listing import get_whole_list, write_diagnostics
from yoi_daemon.cli.options import Client, Common, client_options, common_options
from yoi_daemon.cli.output import write_json, write_record, write_table
from yoi_daemon.cli.talking import talk
from yoi_daemon.cli.views import Answer, Plugins, view
from yoi_daemon.client.rest import Daemon, path_of
from yoi_daemon.model.errors import NotAllowed
from yoi_daemon.model.ids import PLUGIN_ID_RULE, is_plugin_id


@click.group()
def plugin() -> None:
    """List, show and make plugins."""


@plugin.command("list")
@client_options
def list_plugins(options: Client) -> None:
    """List the plugins, each with its state and its queue."""
    answer = talk(options, lambda daemon: get_whole_list(daemon, path_of("plugins")))
    if options.as_json:
        write_json(answer)
        return
    told = view(answer, Plugins)
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
            for row in told.items
        ],
        empty="no plugins; make one with 'yoi-daemon plugin new NAME'",
    )
    write_diagnostics(told.diagnostics)


@plugin.command()
@click.argument("plugin_id", metavar="PLUGIN")
@client_options
def show(options: Client, plugin_id: str) -> None:
    """Show everything the daemon knows of one plugin."""

    async def get(daemon: Daemon) -> Answer:
        return await daemon.get(path_of("plugins", plugin_id), Answer)

    answer = talk(options, get)
    if options.as_json:
        write_json(answer)
    else:
        write_record(answer)


@plugin.command()
@click.argument("name")
@common_options
def new(options: Common, name: str) -> None:
    """Write a plugin and a test of it.

    They are plugins/NAME.py and tests/test_NAME.py in the configuration directory.
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
    click.echo(f"try it: python -m pytest {test}\nthen: restart the daemon, which finds it there")


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
