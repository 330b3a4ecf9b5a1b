"""Tokens: made, listed, revoked. The secret is in one answer and nowhere else."""

from typing import Annotated

import msgspec
from msgspec import Meta

from yoi_daemon.api.routing import Answer, Request, Route
from yoi_daemon.api.shapes import Listing
from yoi_daemon.model.events import TokenChanged
from yoi_daemon.model.tokens import MAX_LABEL_CHARS, SCOPE_PATTERN, SCOPE_RULE, TokenInfo

MAX_SCOPES = 32
MAX_LIFE_S = 100 * 365 * 86_400


ScopeText = Annotated[str, Meta(pattern=f"^{SCOPE_PATTERN}$", description=SCOPE_RULE)]


class CreateToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a token may do, and for how many seconds; without end unless given."""

    scopes: Annotated[list[ScopeText], Meta(min_length=1, max_length=MAX_SCOPES)]
    label: Annotated[str, Meta(max_length=MAX_LABEL_CHARS)] = ""
    expires_in_s: Annotated[float, Meta(gt=0, le=MAX_LIFE_S)] | None = None


class CreatedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new token. `secret` is null where the answer is a repeated one."""

    token: TokenInfo
    secret: str | None
    cursor: str


class RevokedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that ended."""

    token: TokenInfo
    cursor: str


async def list_tokens(request: Request) -> Answer:
    """List every token but the admin's."""
    return Answer({"items": request.daemon.tokens.infos()})


async def create_token(request: Request) -> Answer:
    """Create a token that may do at most what this one may; answer 201 when it is kept."""
    asked = await request.json(CreateToken)
    secret, info = await request.daemon.tokens.create(
        request.principal, scopes=asked.scopes, label=asked.label, expires_in_s=asked.expires_in_s
    )
    cursor = await _announce(request, "daemon.token.created", info)
    made = CreatedToken(token=info, secret=secret, cursor=cursor)
    return Answer(made, status=201, kept=msgspec.structs.replace(made, secret=None))


async def revoke_token(request: Request) -> Answer:
    """Revoke a token and end every stream that it opened."""
    info = await request.daemon.tokens.revoke(request.params["token_id"])
    cursor = await _announce(request, "daemon.token.revoked", info)
    return Answer(RevokedToken(token=info, cursor=cursor))


async def _announce(request: Request, kind: str, info: TokenInfo) -> str:
    log = request.daemon.event_log
    data = TokenChanged(token_id=info.token_id, scopes=info.scopes, by=request.principal.token_id)
    seq = request.daemon.append(kind, data)
    await log.committed(seq)
    return log.cursors.encode(seq)


_TOKENS = "/api/tokens"
ROUTES = (
    Route("GET", _TOKENS, "tokens:admin", list_tokens, gives=Listing[TokenInfo]),
    Route(
        "POST",
        _TOKENS,
        "tokens:admin",
        create_token,
        gives=CreatedToken,
        status=201,
        refuses=("limit_reached", "invalid_state", "storage_low"),
        takes=CreateToken,
        is_keyed=True,
    ),
    Route(
        "DELETE",
        f"{_TOKENS}/<token_id>",
        "tokens:admin",
        revoke_token,
        gives=RevokedToken,
        refuses=("token_not_found", "invalid_state", "storage_low"),
        is_keyed=True,
    ),
)
