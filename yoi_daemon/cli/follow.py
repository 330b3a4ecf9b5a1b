"""Following the stream for a person: what is written, and what is said on standard error."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
import trio
from rich.console import Console
from rich.text import Text

from yoi_daemon.cli.addresses import WorkerAddress
from yoi_daemon.cli.options import Client
from yoi_daemon.cli.output import local_time, note
from yoi_daemon.cli.printable import printable
from yoi_daemon.cli.views import Answer, StatusView, view
from yoi_daemon.client.endings import Backoff, StreamRefused
from yoi_daemon.client.locate import Location
from yoi_daemon.client.messages import Cut, End, Gap, Hello
from yoi_daemon.client.rest import open_daemon_client
from yoi_daemon.client.stream import Message, plugin_path, subscribe, worker_path
from yoi_daemon.client.transport import client_context, open_stream
from yoi_daemon.model.errors import Unreachable
from yoi_daemon.model.events import ObservationEvent

BACKOFF = Backoff(first_s=0.25, cap_s=3.0)
"""A person waits: shorter than a program's, which keeps a thousand of them apart."""

_NEW_LOG = (
    "the daemon has begun a new log: events before its restart are gone; going on from the earliest"
)


def scope_path(worker: WorkerAddress | None, plugin_id: str | None) -> str:
    """Returns the stream's path for one worker, one plugin, or everything."""
    if worker is not None:
        return worker_path(worker.runtime_id, worker.worker_id)
    return "/v1/events" if plugin_id is None else plugin_path(plugin_id)


class Follow:
    """One `events` command: where it is connected, and what the person was told of it."""

    def __init__(
        self,
        options: Client,
        path: str,
        kinds: Sequence[str],
        write: Callable[[ObservationEvent], None],
    ) -> None:
        self._options = options
        self._path = path
        self._kinds = kinds
        self._write = write
        self._where = ("", "")
        self._location: Location | None = None
        self._greeted = False
        self._cut = False

    async def run(self, cursor: str) -> None:
        """Follows until `end`. Raises what ends it otherwise.

        Events that are gone before a position a person gave are their mistake; later they are told
        as a gap, and following goes on.
        """
        await self._find()
        on_gap = "earliest" if cursor in ("earliest", "latest") else "error"
        while True:
            try:
                async with subscribe(
                    *self._where,
                    cursor=cursor,
                    kinds=self._kinds,
                    path=self._path,
                    on_gap=on_gap,
                    relocate=self._find,
                    connect=self._connect,
                    patient=self._greeted,
                    backoff=BACKOFF,
                ) as subscription:
                    async for message in subscription:
                        self._handle(message)
                return
            except StreamRefused as refused:
                if not self._greeted:
                    raise
                match refused.code:
                    case "cursor_expired":
                        cursor = refused.cursor or "earliest"
                    case "cursor_unknown":
                        note(_NEW_LOG)
                        cursor = "earliest"
                    case _:
                        raise
                on_gap = "earliest"

    async def _find(self) -> tuple[str, str]:
        location = self._location = self._options.location()
        self._where = (location.observe or await _ask_for_stream(location), location.token)
        return self._where

    async def _connect(self, url: str) -> trio.abc.Stream:
        assert self._location is not None, "found before it is connected to"
        is_tls = url.startswith("wss:")
        return await open_stream(url, client_context(self._location) if is_tls else None)

    def _handle(self, message: Message) -> None:
        match message:
            case ObservationEvent():
                self._write(message)
            case Cut():
                if not self._cut:
                    note(f"cut off: {message.reason}; trying again")
                self._cut = True
            case Hello():
                if self._cut:
                    note("connected again")
                self._greeted, self._cut = True, False
            case Gap():
                note(_lost(message.body))
            case End():
                note(_ended(message.body))
            case _:
                pass  # bookmarks, and what a later version may say


def line_writer(*, as_json: bool) -> Callable[[ObservationEvent], None]:
    """Returns how an event becomes a line: JSON, coloured and cut to the terminal's width, or plain."""
    if as_json:
        return _write_json
    if not sys.stdout.isatty():
        return _write_plain
    console = Console(highlight=False)

    def write(event: ObservationEvent) -> None:
        line = Text.assemble(
            (local_time(event.time), "dim"),
            " ",
            (printable(event.kind), "bold cyan"),
            (_ids(event), "green"),
            " ",
            _data(event),
        )
        console.print(line, no_wrap=True, overflow="ellipsis", crop=True)

    return write


def _write_json(event: ObservationEvent) -> None:
    # The frame's own `type` is the envelope's, not the event's.
    fields = msgspec.structs.asdict(event)
    shown = {name: value for name, value in fields.items() if value is not None or name == "data"}
    click.echo(msgspec.json.encode(shown).decode())


def _write_plain(event: ObservationEvent) -> None:
    click.echo(f"{printable(event.time)} {printable(event.kind)}{_ids(event)} {_data(event)}")


def _ids(event: ObservationEvent) -> str:
    worker = None if event.worker_id is None else f"{event.runtime_id}/{event.worker_id}"
    named = {"plugin": event.plugin_id, "worker": worker, "correlation": event.correlation_id}
    return "".join(f" {name}={printable(value)}" for name, value in named.items() if value)


def _data(event: ObservationEvent) -> str:
    return printable(msgspec.json.encode(event.data).decode())


def _lost(gap: Mapping[str, Any]) -> str:
    if gap.get("reason") == "epoch_changed":
        return _NEW_LOG
    between = f"after {printable(str(gap.get('from')))} up to {printable(str(gap.get('to')))}"
    return f"events have left the log: those {between} are lost; going on from there"


def _ended(end: Mapping[str, Any]) -> str:
    match end:
        case {"worker": {"runtime_id": runtime_id, "worker_id": worker_id, "state": state}}:
            return f"the end: worker {printable(f'{runtime_id}/{worker_id}')} is {printable(str(state))}"
        case _:
            return "the end"


async def _ask_for_stream(location: Location) -> str:
    """Returns the stream's address, of which the daemon tells the port alone: it is where its API is."""
    async with open_daemon_client(location) as daemon:
        observe = view(await daemon.get("/api/status", Answer), StatusView).observe
    if not observe.enabled:
        raise Unreachable(
            f"the daemon at {location.api} offers no event stream; where it is installed run "
            "pip install 'yoi-daemon[observe]', see that [observe] enabled is not false, restart it"
        )
    if observe.port is None:
        raise Unreachable(
            "the daemon's event stream is on a unix socket; run this where it runs, with --state"
        )
    api = urlsplit(location.api)
    host = api.hostname or "127.0.0.1"
    name = f"[{host}]" if ":" in host else host
    return f"{'wss' if api.scheme == 'https' else 'ws'}://{name}:{observe.port}"
