"""Who may come in: the name a request calls us by, the page it comes from, the token it shows."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args
from urllib.parse import parse_qsl

import msgspec

from yoi_daemon.model.addresses import Address, TcpAddress
from yoi_daemon.model.errors import Refused

Scope = Literal[
    "status:read",
    "events:read",
    "ingress:write",
    "plugins:read",
    "plugins:admin",
    "tools:call",
    "workers:read",
    "workers:command",
]
ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))

DEFAULT_PORTS = (80, 443)
"""Of HTTP, without and with TLS: clients leave them out of Host."""
_ENDS_IN_PORT = re.compile(r":[0-9]+$")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Principal(msgspec.Struct, frozen=True):
    """Whose token a request showed, and what it may do."""

    token_id: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raises `Refused` (`forbidden`) without the scope."""
        if scope not in self.scopes:
            raise Refused("forbidden", f"this token lacks the scope {scope}", scope=scope)


class Tokens:
    """The tokens there are, kept as SHA-256: 256 random bits need no slower hash."""

    def __init__(self, admin_token: str) -> None:
        self._digests = {_digest(admin_token): Principal("admin", ALL_SCOPES)}

    def authenticate(self, authorization: str | None) -> Principal:
        """The owner of the bearer token in an `Authorization` header. Raises `Refused` (`unauthenticated`)."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refused("unauthenticated", "send a token: Authorization: Bearer TOKEN")
        given = _digest(token.strip())
        found: Principal | None = None
        for digest, principal in self._digests.items():
            if hmac.compare_digest(digest, given):
                found = principal
        if found is None:
            raise Refused(
                "unauthenticated",
                "this token is not known; the admin's is in <state>/admin.token",
            )
        return found


class Names:
    """The names one listener answers to, and the web pages that may ask it.

    Exact, with the port: a page whose own name was made to point here (DNS rebinding) calls us by
    that name, and is refused.
    """

    def __init__(self, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)

    def check(self, host: str | None, origin: str | None, fetch_site: str | None) -> None:
        """Raises `Refused`: `host_not_allowed`, `origin_not_allowed`."""
        if (host or "").lower() not in self._hosts:
            raise Refused(
                "host_not_allowed",
                "this name is not served here; use the listen address, or add the name to hosts",
            )
        if origin is not None and origin not in self._origins:
            raise Refused(
                "origin_not_allowed",
                "no page of this origin may ask; add it to origins if it should",
            )
        if origin is None and fetch_site in ("cross-site", "same-site"):
            raise Refused("origin_not_allowed", "a browser sent this for another site's page")


def names_of(addresses: Sequence[Address], hosts: Iterable[str], origins: Iterable[str]) -> Names:
    """The names of a listener: its addresses as bound, their loopback names, and the configured ones.

    A configured name without a port is taken with each port that is listened on.
    """
    names: set[str] = set()
    ports = [address.port for address in addresses if isinstance(address, TcpAddress)]
    for address in addresses:
        if isinstance(address, TcpAddress):
            names.add(str(address))
            names.update(f"{name}:{address.port}" for name in LOOPBACK_NAMES)
            if address.port in DEFAULT_PORTS:
                names.add(str(address).removesuffix(f":{address.port}"))
                names.update(LOOPBACK_NAMES)
        else:
            names.add("localhost")  # over a unix socket the name tells nothing
    for host in hosts:
        names.add(host)
        if not _ENDS_IN_PORT.search(host):
            names.update(f"{host}:{port}" for port in ports)
    return Names(names, origins)


def refuse_token_in_query(query: str) -> None:
    """A token in a URL ends up in logs: refused even if it is valid. Raises `Refused`."""
    for name, _ in parse_qsl(query, keep_blank_values=True):
        if name.lower() in ("token", "access_token", "authorization"):
            raise Refused(
                "invalid_request",
                "a token does not belong in the URL; send it as Authorization: Bearer",
            )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
