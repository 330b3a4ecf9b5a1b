"""Checks of a request's Host and Origin."""

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qsl, unquote

from yoi_daemon.front.principal import TOKEN_FORM
from yoi_daemon.model.addresses import Address, TcpAddress
from yoi_daemon.model.errors import Refused

DEFAULT_PORTS = (80, 443)
"""The ports of http and https, which clients omit in Host."""
_ENDS_IN_PORT = re.compile(r":[0-9]+$")
_OWN_SITE = ("none", "same-origin")
"""Values of Sec-Fetch-Site that are allowed; `none` is an address that a person typed."""
_QUERY_NAMES = frozenset({"token", "access_token", "authorization", "api_key", "bearer"})
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Names:
    """The names that a listener answers to, and the origins that may send requests to it.

    Names are exact, with the port: after DNS rebinding, a page's requests carry its own name, and are
    refused.
    """

    def __init__(self, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)

    def check(self, headers: Mapping[str, str]) -> None:
        """`headers` are in lower case. Raises `Refused`: `host_not_allowed`, `origin_not_allowed`."""
        origin = headers.get("origin")
        if headers.get("host", "").lower() not in self._hosts:
            raise Refused(
                "host_not_allowed",
                "this name is not served here; use the listen address, or add the name to hosts",
            )
        if origin is not None and origin not in self._origins:
            raise Refused(
                "origin_not_allowed",
                "pages of this origin are not allowed; add it to origins to allow them",
            )
        # A page of another site sends a GET without an Origin; every browser then says this instead.
        if origin is None and headers.get("sec-fetch-site", "none") not in _OWN_SITE:
            raise Refused("origin_not_allowed", "a browser sent this for another site's page")


def names_of(addresses: Sequence[Address], hosts: Iterable[str], origins: Iterable[str]) -> Names:
    """Returns a listener's names: its bound addresses, their loopback names, and the configured ones.

    A configured name without a port stands for that name with each port of the listener.
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
            names.add("localhost")  # over a unix socket the name means nothing
    for host in hosts:
        names.add(host)
        if not _ENDS_IN_PORT.search(host):
            names.update(f"{host}:{port}" for port in ports)
    return Names(names, origins)


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns headers by name; repeated ones are joined by commas (RFC 9110), and match no single value."""
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def refuse_token_in_query(query: str) -> None:
    """Refuses a token in a URL, even a valid one, because URLs end up in logs. Raises `Refused`."""
    names = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    if names & _QUERY_NAMES or TOKEN_FORM.search(unquote(query)):
        raise Refused(
            "invalid_request",
            "a token does not belong in the URL; send it as Authorization: Bearer",
        )
