"""`status --watch`: asked again and again, on one screen, also while there is no daemon."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import click
import trio
from rich.console import Console

from yoi_daemon.cancellation import is_only
from yoi_daemon.cli.exits import explain
from yoi_daemon.cli.options import Client
from yoi_daemon.cli.output import note
from yoi_daemon.cli.printable import printable
from yoi_daemon.cli.views import Answer, PluginView, StatusView, view
from yoi_daemon.client.rest import open_daemon_client
from yoi_daemon.model.errors import YoiError

INTERVAL_S = 2.0
DEADLINE_S = 5.0
"""A daemon that takes longer to answer is one to be told of."""


class Rates:
    """What was counted between two answers, by plugin."""

    def __init__(self, before: Mapping[str, int], elapsed_s: float) -> None:
        self._before = before
        self._elapsed_s = elapsed_s

    def handled_per_s(self, plugin: PluginView) -> str | None:
        """None for a plugin that was not there before, or has begun again with the daemon."""
        before = self._before.get(plugin.plugin_id)
        now = plugin.counters.get("handled", 0)
        if before is None or now < before:
            return None
        return f"{(now - before) / self._elapsed_s:.1f}"


Write = Callable[[Answer, Rates | None], None]


def watch_status(options: Client, write: Write) -> None:
    """Shows the status with `write`, on a screen of its own on a terminal, until Ctrl-C.

    Raises what keeps the first answer from coming.
    """
    is_screen = sys.stdout.isatty() and not options.as_json
    with ExitStack() as stack:
        if is_screen:
            stack.enter_context(Console().screen(hide_cursor=True))
        watch = Watch(options, write, is_screen=is_screen)
        try:
            trio.run(watch.run)
        except (KeyboardInterrupt, BaseExceptionGroup) as error:
            if not is_only(error, KeyboardInterrupt):  # how watching is meant to end
                raise


class Watch:
    """One watching. A daemon that goes away is waited for; it may come back elsewhere."""

    def __init__(
        self,
        options: Client,
        write: Write,
        *,
        is_screen: bool,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._write = write
        self._is_screen = is_screen
        self._interval_s = interval_s
        self._clock = clock
        self._counted: tuple[float, Mapping[str, int]] | None = None

    async def run(self) -> None:
        """Asks and shows until cancelled. Raises `YoiError` before the first answer only."""
        while True:
            try:
                await self._ask()
            except YoiError as error:
                if self._counted is None:
                    raise
                self._show_absence(error)
            await trio.sleep(self._interval_s)

    async def _ask(self) -> None:
        location = self._options.location()
        async with open_daemon_client(location, deadline_s=DEADLINE_S) as daemon:
            while True:
                self._show(await daemon.get("/api/status", Answer))
                await trio.sleep(self._interval_s)

    def _show(self, answer: Answer) -> None:
        now, shown = self._clock(), view(answer, StatusView)
        rates = None
        if self._counted is not None:
            then, before = self._counted
            rates = Rates(before, max(now - then, 0.001))
        handled = {plugin.plugin_id: plugin.counters.get("handled", 0) for plugin in shown.plugins}
        self._counted = (now, handled)
        self._begin()
        self._write(answer, rates)

    def _show_absence(self, error: YoiError) -> None:
        if not self._is_screen:
            note(f"{explain(error)}; waiting for it")
            return
        self._begin()
        click.echo(click.style("no answer", fg="red", bold=True))
        click.echo(f"  {printable(explain(error))}\n\nwaiting for it; Ctrl-C ends")

    def _begin(self) -> None:
        if self._is_screen:
            click.clear()
