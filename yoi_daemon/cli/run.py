"""`yoi-daemon run`: the daemon itself, in the foreground."""

import os

import click

from yoi_daemon import serve
from yoi_daemon.cli.options import Command, Common, common_options
from yoi_daemon.cli.output import write_json


@click.command(cls=Command)
@click.option("--safe", is_flag=True, help="Load no plugin; accepted events wait.")
@common_options
def run(options: Common, safe: bool) -> None:
    """Run the daemon in the foreground.

    Prints one line when it is ready. SIGTERM or Ctrl-C stops it gracefully, a second Ctrl-C at once.
    """

    def announce(line: str) -> None:
        if options.as_json:
            write_json(read_ready_line(line))
        else:
            click.echo(line)

    serve.run(options.directories(), os.environ, announce, safe=safe)


def read_ready_line(line: str) -> dict[str, str | bool | None]:
    """Returns the ready line, `ready api=URL observe=URL|off`, as an object; what is off is null."""
    parts = dict(part.split("=", 1) for part in line.split()[1:])
    return {"ready": True} | {name: None if at == "off" else at for name, at in parts.items()}
