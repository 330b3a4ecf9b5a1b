"""One conversation with the daemon, run to its end."""

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
"""After so long, in seconds, a person is told what is being waited for."""


class Progress:
    """What a person who waits is told on a terminal. It may change while it is shown."""

    def __init__(self, sentence: str = "waiting for the daemon") -> None:
        self._spinner = Spinner("dots")
        self.say(sentence)

    def say(self, sentence: str) -> None:
        """Tells something else from now on."""
        self._spinner.update(text=Text(printable(sentence)))

    async def show(self) -> None:
        """Shows it from the second on, until cancelled."""
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


def talk(
    options: Client,
    conversation: Callable[[DaemonClient], Awaitable[T]],
    *,
    deadline_s: float = DEFAULT_DEADLINE_S,
    progress: Progress | None = None,
) -> T:
    """Finds the daemon, runs `conversation` with a client for it, and gives its result.

    `deadline_s` is for each of its requests, in seconds.
    """
    location = options.location()

    async def run() -> T:
        async with open_daemon_client(location, deadline_s=deadline_s) as daemon:
            return await with_progress(lambda: conversation(daemon), progress or Progress())

    return trio.run(run)


async def with_progress(work: Callable[[], Awaitable[T]], progress: Progress) -> T:
    """Runs `work`, and shows on a terminal that it goes on when it takes longer than a second."""
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
