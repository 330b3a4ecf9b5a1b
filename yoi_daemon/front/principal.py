"""The principal of a request, and the form of tokens."""

import re
import secrets

import msgspec

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.tokens import ADMIN_ID, PERMISSIONS, Permission, allows

TOKEN_PREFIX = "yoi_"
"""Lets people, and scanners for leaked secrets, recognise a token."""
TOKEN_BYTES = 32
TOKEN_FORM = re.compile(TOKEN_PREFIX + "[A-Za-z0-9_-]{43}")


def make_secret() -> str:
    """Returns a new token: the prefix and 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


class Principal(msgspec.Struct, frozen=True):
    """The token that a request presented, its scopes, and its expiry in Unix seconds."""

    token_id: str
    scopes: frozenset[str]
    expires_s: float | None = None

    def may(self, permission: Permission, plugin_id: str | None = None) -> bool:
        """See `model.tokens.allows`."""
        return allows(self.scopes, permission, plugin_id)

    def require(self, permission: Permission, plugin_id: str | None = None) -> None:
        """Raises `Refused` (`forbidden`) without the permission."""
        if not self.may(permission, plugin_id):
            raise Refused("forbidden", f"this token lacks the scope {permission}", scope=permission)


ADMIN = Principal(ADMIN_ID, PERMISSIONS)
