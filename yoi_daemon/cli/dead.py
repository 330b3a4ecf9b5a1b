"""`yoi-daemon dead …`: shows, redelivers and discards dead letters."""

import base64
import binascii
import sys
from collections.abc import Awaitable, Callable, Sequence

import click
import msgspec
import trio

from yoi_daemon.cli.exits import REFUSED, facts
from yoi_daemon.cli.listing import get_whole_list, write_diagnostics
from yoi_daemon.cli.options import Client, Group, client_options
from yoi_daemon.cli.output import json_text, note, size, write_json, write_record, write_table
from yoi_daemon.cli.printable import printable
from yoi_daemon.cli.requests import Progress, run_requests
from yoi_daemon.cli.views import Answer, DeadLettersView, DeadLetterView, view
from yoi_daemon.client.rest import DaemonClient, path_of
from yoi_daemon.model.errors import Refused

PATIENCE_S = 60.0
"""So long one event waits for its turn, in seconds, while the daemon says that it has too many of them."""

SHORTEST_WAIT_S = 0.05
_CROWDED = frozenset({"rate_limited", "queue_full"})


@click.group(cls=Group)
def dead() -> None:
    """Show, redeliver and discard dead letters.

    A dead letter is an event that every attempt failed to handle.
    """


@dead.command("list")
@click.argument("plugin_id", metavar="PLUGIN")
@client_options
def list_dead(options: Client, plugin_id: str) -> None:
    """List a plugin's dead letters, oldest first."""
    answer = run_requests(options, lambda daemon: get_whole_list(daemon, _letters(plugin_id)))
    if options.as_json:
        write_json(answer)
        return
    shown = view(answer, DeadLettersView)
    rows: list[tuple[object, ...]] = []
    for letter in shown.items:
        last = letter.attempts[-1] if letter.attempts else None
        outcome, why, where = (last.outcome, last.why, last.where) if last else (None, None, None)
        rows.append(
            (
                letter.event_id,
                letter.ingress,
                letter.died_at,
                len(letter.attempts),
                outcome,
                why,
                where,
            )
        )
    write_table(
        ("EVENT", "INGRESS", "DIED", "ATTEMPTS", "OUTCOME", "REASON", "WHERE"),
        rows,
        empty="no dead letters",
    )
    write_diagnostics(shown.diagnostics)


@dead.command()
@click.argument("plugin_id", metavar="PLUGIN")
@click.argument("event_id", metavar="EVENT_ID")
@client_options
def show(options: Client, plugin_id: str, event_id: str) -> None:
    """Show one dead letter, its attempts and its payload.

    With --json the exact bytes are in payload_base64.
    """

    async def get(daemon: DaemonClient) -> Answer:
        return await daemon.get(_letters(plugin_id, event_id), Answer)

    answer = run_requests(options, get)
    if options.as_json:
        write_json(answer)
        return
    shown = view(answer, DeadLetterView)
    apart = {"attempts", "payload", "payload_base64", "headers"}
    headers = answer.get("headers")
    write_record(
        {name: value for name, value in answer.items() if name not in apart}
        | ({"headers": headers} if headers else {})
    )
    click.echo()
    write_table(
        ("ATTEMPT", "OUTCOME", "STARTED", "MS", "REASON", "WHERE"),
        [
            (
                attempt.attempt,
                attempt.outcome,
                attempt.started_at,
                attempt.duration_ms,
                attempt.why,
                attempt.where,
            )
            for attempt in shown.attempts
        ],
        empty="no attempts",
    )
    click.echo()
    click.echo(_payload(shown))


@dead.command()
@click.argument("plugin_id", metavar="PLUGIN")
@click.argument("event_ids", metavar="EVENT_ID...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Redeliver every dead letter of the plugin.")
@client_options
def redeliver(options: Client, plugin_id: str, event_ids: tuple[str, ...], every: bool) -> int:
    """Put dead letters back on their plugin's queue.

    Each keeps its id. Waits while the queue is full; Ctrl-C leaves the rest as they are.
    """
    if every == bool(event_ids):
        raise click.UsageError("name the events, or give --all")

    async def post(daemon: DaemonClient, event_id: str) -> Answer:
        return await daemon.post(_letters(plugin_id, event_id, "redeliver"), Answer)

    return _run(options, plugin_id, event_ids, Many("redelivered", post))


@dead.command()
@click.argument("plugin_id", metavar="PLUGIN")
@click.argument("event_ids", metavar="EVENT_ID...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@client_options
def discard(options: Client, plugin_id: str, event_ids: tuple[str, ...], yes: bool) -> int:
    """Delete dead letters.

    Asks for confirmation. Without a terminal --yes is required.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on: confirm with --yes")
        count = "1 event" if len(event_ids) == 1 else f"{len(event_ids)} events"
        if not click.confirm(f"Discard {count} of {plugin_id} for good?", err=True):
            note("nothing was discarded")
            return REFUSED

    async def delete(daemon: DaemonClient, event_id: str) -> Answer:
        return await daemon.request("DELETE", _letters(plugin_id, event_id), Answer)

    return _run(options, plugin_id, event_ids, Many("discarded", delete))


class Many:
    """The same for many dead letters, one after the other: what is done, and what was refused."""

    def __init__(self, done: str, act: Callable[[DaemonClient, str], Awaitable[Answer]]) -> None:
        self.done = done
        self.answers: list[Answer] = []
        self.refused: list[tuple[str, Refused]] = []
        self._act = act

    async def run(self, daemon: DaemonClient, event_ids: Sequence[str], progress: Progress) -> None:
        """Goes through all of them; past one that is not there, to the end at any other refusal."""
        for number, event_id in enumerate(event_ids):
            progress.say(f"{number} of {len(event_ids)} {self.done}")
            try:
                self.answers.append(await self._act_in_turn(daemon, event_id))
            except Refused as refused:
                if refused.code != "event_not_found":
                    raise
                self.refused.append((event_id, refused))

    async def _act_in_turn(self, daemon: DaemonClient, event_id: str) -> Answer:
        give_up_s = trio.current_time() + PATIENCE_S
        while True:
            try:
                return await self._act(daemon, event_id)
            except Refused as refused:
                wait_s = max(refused.retry_after_s or 0.0, SHORTEST_WAIT_S)
                if refused.code not in _CROWDED or trio.current_time() + wait_s > give_up_s:
                    raise
            await trio.sleep(wait_s)

    def write(self, *, as_json: bool) -> None:
        """Says what was done and what was refused, each of them."""
        if as_json:
            refused = [{"event_id": event_id, **facts(error)} for event_id, error in self.refused]
            write_json({self.done: self.answers, "refused": refused})
            return
        for answer in self.answers:
            click.echo(f"{printable(str(answer.get('event_id')))}  {self.done}")
        for _, error in self.refused:
            note(str(error))


def _run(options: Client, plugin_id: str, event_ids: Sequence[str], many: Many) -> int:
    progress = Progress()

    async def work(daemon: DaemonClient) -> None:
        chosen = event_ids
        if not chosen:
            letters = view(await get_whole_list(daemon, _letters(plugin_id)), DeadLettersView)
            chosen = [letter.event_id for letter in letters.items]
        await many.run(daemon, chosen, progress)

    try:
        run_requests(options, work, progress=progress)
    except BaseException:
        # Also after Ctrl-C: what is done is done, and nobody else says so.
        if many.answers or many.refused:
            many.write(as_json=options.as_json)
        raise
    many.write(as_json=options.as_json)
    if not options.as_json and not many.answers and not many.refused:
        click.echo("no dead letters")
    return REFUSED if many.refused else 0


def _letters(plugin_id: str, *rest: str) -> str:
    return path_of("plugins", plugin_id, "dead-letters", *rest)


def _payload(shown: DeadLetterView) -> str:
    try:
        exact = base64.b64decode(shown.payload_base64, validate=True)
    except binascii.Error:
        exact = b""
    try:
        return json_text(msgspec.json.format(exact, indent=2), indented=False)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"(the payload is no JSON, {size(len(exact))}; --json has it in base64)"
