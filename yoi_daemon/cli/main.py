"""`yoi-daemon`: the commands, each imported when it is called, and the exit code of each error."""

import importlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import click

from yoi_daemon.cli.exits import INTERRUPTED, USAGE, exit_code, explain, facts
from yoi_daemon.cli.printable import printable
from yoi_daemon.model.errors import YoiError

PROGRAM = "yoi-daemon"


class LazyCommand(NamedTuple):
    """Where a command lives, and the line that stands for it in the list of commands."""

    module: str
    attribute: str
    summary: str


COMMANDS: Mapping[str, LazyCommand] = {
    "run": LazyCommand("run", "run", "Run the daemon in the foreground."),
    "reload": LazyCommand("reload", "reload", "Reload the configuration and the plugins."),
    "check": LazyCommand("check", "check", "Check the configuration and the plugins."),
    "status": LazyCommand("status", "status", "Show the daemon's health."),
    "events": LazyCommand("events", "events", "Follow the event stream, across restarts too."),
    "ingress": LazyCommand("ingress", "ingress", "Send events to a plugin."),
    "plugin": LazyCommand("plugin", "plugin", "List, create and control plugins."),
    "dead": LazyCommand("dead", "dead", "Show, redeliver and discard dead letters."),
    "tool": LazyCommand("tool", "tool", "Call a plugin's tool, or list the tools."),
    "runtime": LazyCommand("runtime", "runtime", "Show the runtimes that run workers."),
    "worker": LazyCommand("worker", "worker", "List, create, command and stop workers."),
    "store": LazyCommand("store", "store", "Check, back up and measure the daemon's store."),
    "token": LazyCommand("token", "token", "Create, list and revoke API tokens."),
    "systemd": LazyCommand("systemd", "systemd", "Install the daemon as a systemd service."),
    "manual": LazyCommand("manual", "manual", "Show a page of the manual, or list the pages."),
}
"""Every command of `yoi-daemon`. The summaries stand here so that `--help` imports no command."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names, in the order a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns the command itself, imported now."""
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command = getattr(importlib.import_module(f"yoi_daemon.cli.{lazy.module}"), lazy.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in COMMANDS.items()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Exit codes: 0 success, 1 refused by the daemon, 2 usage error, 69 daemon not reachable, "
        "74 storage failure, 77 permission denied, 78 configuration error."
    ),
)
@click.version_option(package_name=PROGRAM, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """One supervised process for plugins, agent workers and a resumable event stream."""


def main() -> NoReturn:
    """The entry point of the `yoi-daemon` script."""
    for stream in (sys.stdout, sys.stderr):
        # Names and texts come from elsewhere; an encoding must not make a traceback of one.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Runs one command line and gives its exit code; errors are written to standard error.

    Faults of the program itself are not caught: their traceback is what a bug report needs.
    """
    try:
        result: Any = cli.main(list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except click.Abort:
        return INTERRUPTED
    except click.UsageError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except YoiError as error:
        return _report(error, as_json="--json" in arguments)
    except BaseExceptionGroup as group:
        # Not at the top: most commands need no Trio.
        from yoi_daemon.cancellation import found_in, is_only  # noqa: PLC0415

        # Nurseries wrap what ended them. A group with anything else in it is a fault, and shows.
        if is_only(group, KeyboardInterrupt):
            return INTERRUPTED
        known = found_in(group, YoiError)
        if known is None or not is_only(group, YoiError):
            raise
        return _report(known, as_json="--json" in arguments)
    return result if isinstance(result, int) else 0


def _report(error: YoiError, *, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"error": facts(error)}, default=str), err=True)
    else:
        shown = printable(explain(error), keep="\n")
        click.echo(f"{PROGRAM}: {shown}", err=True)
    return exit_code(error)
