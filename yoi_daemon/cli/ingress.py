"""`yoi-daemon ingress`: sends events to a plugin, as a webhook or another program would."""

from io import RawIOBase
from typing import BinaryIO

import click
import msgspec
import trio

from yoi_daemon.cli.exits import REFUSED
from yoi_daemon.cli.options import Client, Command, client_options
from yoi_daemon.cli.output import json_text, note, write_json, write_record
from yoi_daemon.cli.payload import open_lines, read_payload
from yoi_daemon.cli.printable import printable
from yoi_daemon.cli.requests import run_requests
from yoi_daemon.cli.views import Answer, BatchAnswerView
from yoi_daemon.client.rest import DaemonClient, open_daemon_client, path_of
from yoi_daemon.model.errors import Unreachable

BATCH_BYTES = 65_536
"""About so much of a batch goes in one request: what is there is sent, a pipe's lines as they come."""


@click.command(cls=Command)
@click.argument("plugin")
@click.argument("name", required=False)
@click.option(
    "--data",
    metavar="JSON|@FILE|-",
    help="Payload: JSON, a file, or standard input. Default: {}.",
)
@click.option("--key", metavar="KEY", help="Idempotency key: one event is accepted for each key.")
@click.option(
    "--batch",
    metavar="@FILE|-",
    help='Send many events, one for each line: {"ingress": NAME, "payload": ANY, "key": OPTIONAL}.',
)
@client_options
def ingress(
    options: Client,
    plugin: str,
    name: str | None,
    data: str | None,
    key: str | None,
    batch: str | None,
) -> int:
    """Send events to a plugin.

    Sends one event to ingress NAME of PLUGIN, and prints the receipt once it is queued. 'yoi-daemon events --plugin PLUGIN'
    shows its outcome. With --batch each line is answered in order, and the exit code is 1 if any was refused.
    """
    if batch is not None:
        if name is not None or data is not None or key is not None:
            raise click.UsageError("each line of a batch has its own ingress, payload and key")
        path = path_of("plugins", plugin, "ingress")
        with open_lines(batch, "--batch") as lines:
            return IngressBatch(options, path).run(lines)
    if name is None:
        raise click.UsageError("name the ingress, or give --batch")
    payload = read_payload("{}" if data is None else data)
    path = path_of("plugins", plugin, "ingress", name)

    async def post(daemon: DaemonClient) -> Answer:
        return await daemon.post(path, Answer, content=payload, idempotency_key=key)

    receipt = run_requests(options, post)
    if options.as_json:
        write_json(receipt)
    else:
        write_record(receipt)
    return 0


class IngressBatch:
    """Sends lines while they come, and writes each answer when it arrives."""

    def __init__(self, options: Client, path: str) -> None:
        self._options = options
        self._path = path
        self._sent = 0
        self._answered = 0
        self._refused = 0
        self._alien = 0

    def run(self, lines: RawIOBase | BinaryIO) -> int:
        """Sends all of them and gives the exit code."""
        location = self._options.location()

        async def run() -> None:
            async with open_daemon_client(location) as daemon:
                await self._send_all(daemon, lines)

        trio.run(run)
        if self._refused:
            note(f"{self._refused} of {self._sent} events were refused")
        return REFUSED if self._refused else 0

    async def _send_all(self, daemon: DaemonClient, lines: RawIOBase | BinaryIO) -> None:
        rest = b""
        while chunk := await _read_some(lines):
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            await self._send(daemon, whole + newline)
        await self._send(daemon, rest)

    async def _send(self, daemon: DaemonClient, content: bytes) -> None:
        count = sum(1 for line in content.split(b"\n") if line.strip())
        if not count:
            return
        self._sent += count
        await daemon.post_lines(self._path, content, self._take)
        if self._alien:
            raise Unreachable(
                f"{self._alien} answers are none that this version understands; "
                "use the yoi-daemon command of the daemon's own version"
            )
        if self._answered != self._sent:
            raise Unreachable(
                f"{self._sent - self._answered} lines were not answered, from line "
                f"{self._answered + 1} on; send them again, with a key where twice would be wrong"
            )

    def _take(self, line: bytes) -> None:
        self._answered += 1
        try:
            shown = msgspec.json.decode(line, type=BatchAnswerView)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._alien += (
                1  # raised when all are read: what is read half cannot be closed in order
            )
            return
        good = 200 <= shown.status < 300
        self._refused += not good
        if self._options.as_json:
            click.echo(json_text(line, indented=False))
        elif good:
            click.echo(printable(f"{self._answered}  accepted  {shown.event_id}"))
        else:
            click.echo(printable(f"{self._answered}  refused  {shown.code}: {shown.detail}"))


async def _read_some(lines: RawIOBase | BinaryIO) -> bytes:
    # Abandoned when cancelled: a pipe may stay silent for ever, and Ctrl-C is to be heard.
    return (await trio.to_thread.run_sync(lines.read, BATCH_BYTES, abandon_on_cancel=True)) or b""
