"""`yoi-daemon events`: follows the event stream, one line for each event, until Ctrl-C."""

import click
import trio

from yoi_daemon.cancellation import is_only
from yoi_daemon.cli.addresses import WorkerAddress, parse_worker
from yoi_daemon.cli.exits import ExtraMissing
from yoi_daemon.cli.options import Client, Command, client_options

_EXTRA = frozenset({"trio_websocket", "wsproto"})


@click.command(cls=Command)
@click.option(
    "--from",
    "cursor",
    metavar="CURSOR|earliest|latest",
    default="latest",
    show_default=True,
    help="Start after this cursor.",
)
@click.option(
    "--worker", metavar="[RUNTIME/]ID", callback=parse_worker, help="Only events of this worker."
)
@click.option("--plugin", metavar="ID", help="Only events of this plugin.")
@click.option(
    "--kind",
    "kinds",
    metavar="PREFIX",
    multiple=True,
    help="Only event kinds with this prefix; may be repeated.",
)
@client_options
def events(
    options: Client,
    cursor: str,
    worker: WorkerAddress | None,
    plugin: str | None,
    kinds: tuple[str, ...],
) -> None:
    """Follow the event stream, across restarts too.

    Prints one line for each event, and resumes by itself when the connection is lost. With --json each line is the event as the daemon sent it. Ctrl-C ends it with exit code 0.
    """
    if worker is not None and plugin is not None:
        raise click.UsageError("--worker and --plugin are two scopes: give one of them")
    try:
        # Not at the top: the package works without the extra, and so does this command's --help.
        from yoi_daemon.cli.follow import Follow, line_writer, scope_path  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise ExtraMissing(
            "following events needs an extra that is not installed; run "
            "pip install 'yoi-daemon[observe]'"
        ) from error
    follow = Follow(
        options, scope_path(worker, plugin), kinds, line_writer(as_json=options.as_json)
    )
    try:
        trio.run(follow.run, cursor)
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        if not is_only(error, KeyboardInterrupt):  # how following is meant to end
            raise
