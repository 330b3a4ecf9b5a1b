"""Whose token a request shows, and the form of a token."""

import re
import secrets

import msgspec

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.tokens import ADMIN_ID, PERMISSIONS, Permission, allows

TOKEN_PREFIX = "yoi_"
"""So that a person, and a scanner of leaked secrets, can tell what it is."""
TOKEN_BYTES = 32
TOKEN_FORM = re.compile(TOKEN_PREFIX + "[A-Za-z0-9_-]{43}")


def make_secret() -> str:
    """A new token: the prefix and 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


class Principal(msgspec.Struct, frozen=True):
    """Whose token a request showed, what it may do, and until when (Unix seconds)."""

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
