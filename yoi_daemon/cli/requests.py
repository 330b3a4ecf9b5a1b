"""A command's requests to the daemon, with progress on a terminal."""

import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from yoi_daemon.cli.options import Client
from yoi_daemon.cli.printable import printable
from yoi_daemon.client.rest import DEFAULT_DEADLINE_S, DaemonClient, open_daemon_client

T = TypeVar("T")

PATIENCE_S = 1.0
"""Delay before progress is shown."""


class Progress:
    """A line on a terminal that says what is being waited for. It may change while it is shown."""

    def __init__(self, sentence: str = "waiting for the daemon") -> None:
        self._spinner = Spinner("dots")
        self.say(sentence)

    def say(self, sentence: str) -> None:
        """Replaces the line."""
        self._spinner.update(text=Text(printable(sentence)))

    async def show(self) -> None:
        """Shows the line after `PATIENCE_S`, until cancelled."""
        await trio.sleep(PATIENCE_S)
        # Standard output stays as it is: it may go elsewhere than this terminal.
        with Live(
            self._spinner,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            await trio.sleep_forever()  # until the work is done: its requests have deadlines


def run_requests(
    options: Client,
    work: Callable[[DaemonClient], Awaitable[T]],
    *,
    deadline_s: float = DEFAULT_DEADLINE_S,
    progress: Progress | None = None,
) -> T:
    """Finds the daemon, runs `work` with a client for it, and returns its result.

    `deadline_s` bounds each request, in seconds.
    """
    location = options.location()

    async def run() -> T:
        async with open_daemon_client(location, deadline_s=deadline_s) as daemon:
            return await with_progress(lambda: work(daemon), progress or Progress())

    return trio.run(run)


async def with_progress(work: Callable[[], Awaitable[T]], progress: Progress) -> T:
    """Runs `work`, and shows `progress` on a terminal meanwhile."""
    if not sys.stderr.isatty():
        return await work()
    result: list[T] = []
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(progress.show)
        try:
            result.append(await work())
        except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result[0]
