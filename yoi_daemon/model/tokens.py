"""Tokens: permissions, scopes, and the stored record."""

import re
from collections.abc import Collection
from typing import Literal, get_args

import msgspec

from yoi_daemon.model.events import format_time

Permission = Literal[
    "status:read",
    "events:read",
    "ingress:write",
    "plugins:admin",
    "tools:call",
    "workers:read",
    "workers:command",
    "tokens:admin",
]
PERMISSIONS: frozenset[Permission] = frozenset(get_args(Permission))
PER_PLUGIN: frozenset[Permission] = frozenset({"ingress:write", "tools:call"})
"""Permissions that a scope may narrow to one plugin: `ingress:write:github_watch`."""

SCOPE_RULE = (
    f"one of {', '.join(sorted(PERMISSIONS))}; "
    f"{' and '.join(sorted(PER_PLUGIN))} may end in :PLUGIN for that plugin alone"
)
SCOPE_PATTERN = (
    f"({'|'.join(sorted(PERMISSIONS))}|({'|'.join(sorted(PER_PLUGIN))}):[a-z][a-z0-9_]{{0,31}})"
)
_SCOPE = re.compile(SCOPE_PATTERN)
MAX_LABEL_CHARS = 100
ADMIN_ID = "admin"
"""Id of the token in `<state>/admin.token`, which has every permission and no record."""


def is_scope(text: str) -> bool:
    """True if `text` is a scope (`SCOPE_RULE`); its plugin need not exist."""
    return _SCOPE.fullmatch(text) is not None


def allows(scopes: Collection[str], permission: Permission, plugin_id: str | None = None) -> bool:
    """True if `scopes` allow `permission`, for one plugin if `plugin_id` is given.

    Without a `plugin_id`, a scope narrowed to any plugin suffices: the caller must then narrow the
    result too.
    """
    if permission in scopes:
        return True
    if permission not in PER_PLUGIN:
        return False
    if plugin_id is None:
        return any(scope.startswith(f"{permission}:") for scope in scopes)
    return f"{permission}:{plugin_id}" in scopes


def may_grant(scopes: Collection[str], scope: str) -> bool:
    """True if a token with `scopes` may grant `scope`: a token grants nothing that it lacks."""
    return scope in scopes or (scope not in PERMISSIONS and scope.rpartition(":")[0] in scopes)


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The stored record of a token. `sha256` is the digest of the secret in hex; times are Unix seconds.

    A slow hash would protect a secret that can be guessed; 256 random bits cannot, and every
    request hashes one.
    """

    token_id: str
    sha256: str
    label: str
    scopes: tuple[str, ...]
    created_by: str
    created_s: float
    expires_s: float | None = None
    last_used_s: float | None = None


class TokenInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A token as the API shows it, without secret and digest. `last_used_at` is true to the minute."""

    token_id: str
    label: str
    scopes: tuple[str, ...]
    created_by: str
    created_at: str
    expires_at: str | None
    expired: bool
    last_used_at: str | None


def info_of(record: TokenRecord, now_s: float) -> TokenInfo:
    """Returns the public view of a record at `now_s`, in Unix seconds."""
    return TokenInfo(
        token_id=record.token_id,
        label=record.label,
        scopes=record.scopes,
        created_by=record.created_by,
        created_at=format_time(record.created_s),
        expires_at=None if record.expires_s is None else format_time(record.expires_s),
        expired=record.expires_s is not None and record.expires_s <= now_s,
        last_used_at=None if record.last_used_s is None else format_time(record.last_used_s),
    )
