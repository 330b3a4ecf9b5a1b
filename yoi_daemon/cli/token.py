"""`yoi-daemon token …`: creates, lists and revokes API tokens."""

import re

import click

from yoi_daemon.cli.exits import REFUSED
from yoi_daemon.cli.listing import get_whole_list
from yoi_daemon.cli.options import Client, Group, client_options
from yoi_daemon.cli.output import note, write_json, write_table
from yoi_daemon.cli.printable import printable
from yoi_daemon.cli.requests import run_requests
from yoi_daemon.cli.views import Answer, CreatedTokenView, TokensView, view
from yoi_daemon.client.rest import DaemonClient, path_of
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.tokens import SCOPE_RULE, is_scope

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([1-9][0-9]{0,8})([smhd])")


@click.group(cls=Group)
def token() -> None:
    """Create, list and revoke API tokens."""


@token.command()
@click.option(
    "--scope",
    "scopes",
    metavar="SCOPE",
    multiple=True,
    required=True,
    help=f"Permission to grant; may be repeated: {SCOPE_RULE}.",
)
@click.option("--label", default="", metavar="TEXT", help="Label shown in lists.")
@click.option(
    "--expires-in", metavar="SPAN", help="Lifetime: 90s, 15m, 12h, 30d. Default: unlimited."
)
@client_options
def create(options: Client, scopes: tuple[str, ...], label: str, expires_in: str | None) -> None:
    """Create a token and print it. It cannot be shown again.

    Writes the token alone to standard output, and its description to standard error.
    """
    for scope in scopes:
        if not is_scope(scope):
            raise click.BadParameter(f"a scope is {SCOPE_RULE}", param_hint="--scope")
    body = {"scopes": scopes, "label": label, "expires_in_s": _seconds(expires_in)}

    async def post(daemon: DaemonClient) -> Answer:
        return await daemon.post(path_of("tokens"), Answer, body=body)

    answer = run_requests(options, post)
    if options.as_json:
        write_json(answer)
        return
    shown = view(answer, CreatedTokenView)
    until = "without end" if shown.token.expires_at is None else f"until {shown.token.expires_at}"
    note(f"{shown.token.token_id}: {', '.join(shown.token.scopes)}, {until}; it is not shown again")
    click.echo(printable(shown.secret or ""))


@token.command("list")
@client_options
def list_tokens(options: Client) -> None:
    """List every token but the admin's, without their secrets."""
    answer = run_requests(options, lambda daemon: get_whole_list(daemon, path_of("tokens")))
    if options.as_json:
        write_json(answer)
        return
    rows = [
        (
            row.token_id,
            row.label or None,
            ", ".join(row.scopes),
            row.created_at,
            "expired" if row.expired else row.expires_at,
            row.last_used_at,
        )
        for row in view(answer, TokensView).items
    ]
    headings = ("TOKEN", "LABEL", "SCOPES", "CREATED", "EXPIRES", "LAST USED")
    write_table(headings, rows, empty="no tokens but the admin's")


@token.command()
@click.argument("token_ids", metavar="TOKEN_ID...", nargs=-1, required=True)
@client_options
def revoke(options: Client, token_ids: tuple[str, ...]) -> int:
    """Revoke tokens, and close the streams that use them.

    Reports a token that does not exist, and goes on with the next.
    """
    revoked: list[Answer] = []
    missing: list[str] = []

    async def delete(daemon: DaemonClient) -> None:
        for token_id in token_ids:
            try:
                path = path_of("tokens", token_id)
                revoked.append(await daemon.request("DELETE", path, Answer))
            except Refused as refused:
                if refused.code != "token_not_found":
                    raise
                missing.append(token_id)

    try:
        run_requests(options, delete)
    finally:
        # Also where a later one failed: what is done is done, and nobody else says so.
        if options.as_json:
            write_json({"revoked": revoked, "missing": missing})
        else:
            for answer in revoked:
                click.echo(f"{printable(view(answer, CreatedTokenView).token.token_id)}  revoked")
            for token_id in missing:
                note(f"there is no token {token_id}; 'yoi-daemon token list' shows them")
    return REFUSED if missing else 0


def _seconds(span: str | None) -> int | None:
    if span is None:
        return None
    found = _SPAN.fullmatch(span)
    if found is None:
        raise click.BadParameter(
            "expected a number and s, m, h or d, such as 30d", param_hint="--expires-in"
        )
    return int(found[1]) * _UNIT_S[found[2]]
