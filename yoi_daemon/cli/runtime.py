"""`yoi-daemon runtime …`: what runs workers, and how it is."""

from collections.abc import Mapping

import click

from yoi_daemon.cli.listing import get_whole_list, write_diagnostics
from yoi_daemon.cli.options import Client, Group, client_options
from yoi_daemon.cli.output import note, write_json, write_record, write_table
from yoi_daemon.cli.requests import run_requests
from yoi_daemon.cli.views import Answer, RuntimesView, RuntimeView, view
from yoi_daemon.client.rest import DaemonClient, path_of


@click.group(cls=Group)
def runtime() -> None:
    """Show the runtimes that run workers."""


@runtime.command("list")
@client_options
def list_runtimes(options: Client) -> None:
    """List the runtimes with their status and capabilities."""
    answer = run_requests(options, lambda daemon: get_whole_list(daemon, path_of("runtimes")))
    if options.as_json:
        write_json(answer)
        return
    shown = view(answer, RuntimesView)
    write_table(
        ("RUNTIME", "KIND", "STATUS", "CAN", "NAME"),
        [
            (
                row.runtime_id,
                row.implementation_kind,
                row.status,
                abilities(row.capabilities),
                row.display_name,
            )
            for row in shown.items
        ],
        empty="no runtimes",
    )
    for row in shown.items:
        for found in row.diagnostics:
            note(f"{found.severity}: runtime {row.runtime_id}: {found.message or found.code}")


@runtime.command()
@click.argument("runtime_id", metavar="RUNTIME")
@client_options
def show(options: Client, runtime_id: str) -> None:
    """Show everything about one runtime."""

    async def get(daemon: DaemonClient) -> Answer:
        return await daemon.get(path_of("runtimes", runtime_id), Answer)

    answer = run_requests(options, get)
    if options.as_json:
        write_json(answer)
        return
    shown = view(answer, RuntimeView)
    plain = {name: value for name, value in answer.items() if name != "diagnostics"}
    write_record({**plain, "capabilities": abilities(shown.capabilities)})
    write_diagnostics(shown.diagnostics)


def abilities(capabilities: Mapping[str, bool]) -> str:
    """Returns the names of what it can do."""
    return ", ".join(name for name, can in capabilities.items() if can) or "nothing"
