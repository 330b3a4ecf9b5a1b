"""Who may come in: the name a request calls us by, and the page it comes from."""

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qsl, unquote

from yoi_daemon.front.principal import TOKEN_FORM
from yoi_daemon.model.addresses import Address, TcpAddress
from yoi_daemon.model.errors import Refused

DEFAULT_PORTS = (80, 443)
"""Of HTTP, without and with TLS: clients leave them out of Host."""
_ENDS_IN_PORT = re.compile(r":[0-9]+$")
_OWN_SITE = ("none", "same-origin")
"""`none` is a person who typed the address."""
_QUERY_NAMES = frozenset({"token", "access_token", "authorization", "api_key", "bearer"})
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Names:
    """The names one listener answers to, and the web pages that may ask it.

    Exact, with the port: a page whose own name was made to point here (DNS rebinding) calls us by
    that name, and is refused.
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
                "no page of this origin may ask; add it to origins if it should",
            )
        # A page of another site sends a GET without an Origin; every browser then says this instead.
        if origin is None and headers.get("sec-fetch-site", "none") not in _OWN_SITE:
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


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by name, those given twice joined by commas (RFC 9110): then no single value fits."""
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def refuse_token_in_query(query: str) -> None:
    """A token in a URL ends up in logs: refused even if it is valid. Raises `Refused`."""
    names = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    if names & _QUERY_NAMES or TOKEN_FORM.search(unquote(query)):
        raise Refused(
            "invalid_request",
            "a token does not belong in the URL; send it as Authorization: Bearer",
        )
