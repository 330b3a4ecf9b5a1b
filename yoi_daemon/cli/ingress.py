"""`yoi-daemon ingress`: feed one event to a plugin, as a webhook or another program would."""

import sys
from pathlib import Path

import click
import msgspec

from yoi_daemon.cli.options import Client, client_options
from yoi_daemon.cli.output import write_json, write_record
from yoi_daemon.cli.talking import talk
from yoi_daemon.cli.views import Answer
from yoi_daemon.client.rest import Daemon, path_of


@click.command()
@click.argument("plugin")
@click.argument("name")
@click.option(
    "--data",
    metavar="JSON|@FILE|-",
    default="{}",
    help="The payload: JSON, a file that holds it, or standard input. Default: {}.",
)
@click.option("--key", metavar="KEY", help="Idempotency key: the same key is accepted once.")
@client_options
def ingress(options: Client, plugin: str, name: str, data: str, key: str | None) -> None:
    """Feed an event to a plugin.

    The event goes to ingress NAME of PLUGIN. The receipt that is printed says that the event is on the plugin's queue; 'yoi-daemon events --plugin PLUGIN'
    shows what becomes of it.
    """
    payload = read_payload(data)

    async def post(daemon: Daemon) -> Answer:
        path = path_of("plugins", plugin, "ingress", name)
        return await daemon.post(path, Answer, content=payload, idempotency_key=key)

    receipt = talk(options, post)
    if options.as_json:
        write_json(receipt)
    else:
        write_record(receipt)


def read_payload(data: str) -> bytes:
    """The bytes `--data` names, as they are. Raises `click.BadParameter` unless they are JSON."""
    try:
        if data == "-":
            where, payload = "standard input", sys.stdin.buffer.read()
        elif data.startswith("@"):
            where, payload = data[1:], Path(data[1:]).read_bytes()
        else:
            where, payload = "the value", data.encode("utf-8", "surrogateescape")
    except OSError as error:
        raise click.BadParameter(
            f"{data[1:]} cannot be read: {error.strerror}", param_hint="--data"
        ) from error
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(
            f"{where} is not JSON: {error}; a text is written '\"text\"'", param_hint="--data"
        ) from error
    return payload
