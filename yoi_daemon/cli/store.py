"""`yoi-daemon store …`: checks, copies and measures the store, whether the daemon runs or not."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
import msgspec
import trio

from yoi_daemon.cli.exits import STORAGE
from yoi_daemon.cli.options import Common, Group, common_options
from yoi_daemon.cli.output import duration, note, size, write_columns, write_json, write_table
from yoi_daemon.cli.printable import printable
from yoi_daemon.cli.requests import Progress, with_progress
from yoi_daemon.client.locate import RUNTIME_DIRECTORY, SYSTEM_STATE_DIRECTORY
from yoi_daemon.model.directories import DAEMON_FILE
from yoi_daemon.store.opening import FILE_NAME
from yoi_daemon.store.sqlite.backup import back_up
from yoi_daemon.store.sqlite.checking import find_faults
from yoi_daemon.store.sqlite.reading import open_for_reading
from yoi_daemon.store.sqlite.survey import Survey, survey

R = TypeVar("R")

_FILE = click.option(
    "--file", metavar="FILE", help="Store to read, such as a backup; the daemon's by default."
)


@click.group(cls=Group)
def store() -> None:
    """Check, back up and measure the daemon's store.

    The daemon may be running, and is not delayed.
    """


@store.command()
@_FILE
@common_options
def check(options: Common, file: str | None) -> int:
    """Check the store's integrity. Exits with 74 if it is damaged."""
    path = _path(options, file)

    def look() -> list[str]:
        with open_for_reading(path) as connection:
            return find_faults(connection)

    faults = _run(look, Progress("reading the whole store"), abandon=True)
    if options.as_json:
        write_json({"good": not faults, "faults": faults})
    elif faults:
        for fault in faults:
            click.echo(printable(fault))
        note(
            "this store is damaged: stop the daemon, move its store.sqlite3* away, and put a backup "
            "in their place"
        )
    else:
        click.echo(f"nothing is wrong with {printable(str(path))}")
    return STORAGE if faults else 0


@store.command()
@click.argument("target", metavar="FILE")
@common_options
def backup(options: Common, target: str) -> None:
    """Copy a snapshot of the store into a new FILE.

    To go back to it: stop the daemon, remove store.sqlite3* from its state directory, copy FILE
    there as store.sqlite3, start. What was accepted and not handled by then is handled; subscribers
    learn that a new log has begun.
    """
    path = _path(options, None)
    progress = Progress("copying the store")

    def tell(share: float) -> None:
        trio.from_thread.check_cancelled()  # Ctrl-C ends it here, and no half of a copy is left
        progress.say(f"copying the store: {share:.0%}")

    def copy() -> int:
        with open_for_reading(path, any_version=True) as connection:
            return back_up(connection, Path(target).absolute(), tell)

    made = _run(copy, progress, abandon=False)
    if options.as_json:
        write_json({"file": str(Path(target).absolute()), "bytes": made})
    else:
        click.echo(f"copied into {printable(target)}, {size(made)}")


@store.command()
@_FILE
@common_options
def stats(options: Common, file: str | None) -> None:
    """Show the store's tables, queued events, log and disk space."""
    path = _path(options, file)

    def count() -> Survey:
        with open_for_reading(path) as connection:
            return survey(connection, path)

    shown = _run(count, Progress("counting"), abandon=True)
    if options.as_json:
        write_json(msgspec.to_builtins(shown))
    else:
        _write(shown)


def _path(options: Common, file: str | None) -> Path:
    """Returns the store of the daemon that the other commands talk to, or would if it ran."""
    if file is not None:
        return Path(file)
    mine, service = options.directories().state / FILE_NAME, SYSTEM_STATE_DIRECTORY / FILE_NAME
    if options.state or os.environ.get("STATE_DIRECTORY"):
        return mine
    # os.path: a directory that this user may not look into is not theirs.
    runs = os.path.exists(RUNTIME_DIRECTORY / DAEMON_FILE)
    return service if os.path.exists(service) and (runs or not mine.exists()) else mine


def _run(work: Callable[[], R], progress: Progress, *, abandon: bool) -> R:
    """Runs `work` in a thread, so that a person can be told that it goes on; Ctrl-C may `abandon` it."""

    async def run() -> R:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=abandon)

    return trio.run(with_progress, run, progress)


def _write(shown: Survey) -> None:
    log = shown.log
    window = f"{log.events} events, {size(log.bytes)}, numbers {log.floor + 1} to {log.head}"
    oldest = "" if log.oldest_age_s is None else f", the oldest of {duration(log.oldest_age_s)} ago"
    unused = f"{size(shown.wal_bytes)} write-ahead log, {size(shown.unused_bytes)} unused"
    write_columns(
        [
            ("file", f"{size(shown.bytes)}, {unused}, schema {shown.schema}"),
            ("space", f"{size(shown.free_bytes)} free"),
            ("log", f"{window}{oldest}, epoch {log.epoch}" if log.events else "empty"),
        ]
    )
    click.echo()
    write_table(
        ("PLUGIN", "WAITING", "SIZE", "OLDEST", "TRIED", "IN HAND", "DEAD"),
        [
            (
                plugin.plugin_id,
                plugin.events,
                size(plugin.bytes),
                plugin.oldest,
                plugin.tried,
                plugin.claimed,
                plugin.dead,
            )
            for plugin in shown.plugins
        ],
        empty="no accepted events wait",
    )
    click.echo()
    write_table(
        ("TABLE", "ROWS", "SIZE"),
        [(name, table.rows, size(table.bytes)) for name, table in shown.tables.items()],
        empty="",
    )
