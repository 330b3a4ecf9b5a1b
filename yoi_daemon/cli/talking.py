"""One conversation with the daemon, run to its end."""

import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from rich.console import Console

from yoi_daemon.cli.options import Client
from yoi_daemon.client.rest import Daemon, open_daemon_client

T = TypeVar("T")

PATIENCE_S = 1.0
"""After so long, in seconds, a person is told what is being waited for."""


def talk(options: Client, conversation: Callable[[Daemon], Awaitable[T]]) -> T:
    """Finds the daemon, runs `conversation` with a client for it, and gives its result."""
    location = options.location()

    async def run() -> T:
        async with open_daemon_client(location) as daemon:
            return await with_progress(lambda: conversation(daemon))

    return trio.run(run)


async def with_progress(work: Callable[[], Awaitable[T]]) -> T:
    """Runs `work`, and shows on a terminal that it goes on when it takes longer than a second."""
    if not sys.stderr.isatty():
        return await work()
    result: list[T] = []
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_show_progress)
        try:
            result.append(await work())
        except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result[0]


async def _show_progress() -> None:
    await trio.sleep(PATIENCE_S)
    with Console(stderr=True).status("waiting for the daemon"):
        await trio.sleep_forever()  # until the work is done: its requests have deadlines
