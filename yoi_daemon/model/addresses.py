"""Listen addresses: as text, as a value, and as a client's URL."""

import ipaddress
from typing import Literal

import msgspec

EXPECTED = (
    "expected HOST:PORT, [IPV6]:PORT, :PORT (on 127.0.0.1) or unix:PATH, "
    "with PORT from 0 (the kernel chooses) to 65535"
)


class TcpAddress(msgspec.Struct, frozen=True):
    """A TCP address. `host` is an IPv4 address, a bare IPv6 address or a name; `port` 0 is any."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class UnixAddress(msgspec.Struct, frozen=True):
    """A unix socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_listen(text: str) -> Address:
    """Parses a listen address.

    Raises `ValueError` with a sentence that says what is expected, without `text`.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise ValueError(EXPECTED)
        return UnixAddress(path)
    host, colon, digits = text.rpartition(":")
    if not colon or not (digits.isascii() and digits.isdecimal()) or int(digits[:6]) > 65535:
        raise ValueError(EXPECTED)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError(EXPECTED)
    elif ":" in host or "[" in host or "]" in host:
        raise ValueError(f"{EXPECTED}; an IPv6 address stands in brackets")
    if any(character.isspace() or character in "/@?#" for character in host):
        raise ValueError(EXPECTED)
    return TcpAddress(host or "127.0.0.1", int(digits))


def is_loopback(host: str) -> bool:
    """True if only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url(address: Address, scheme: Literal["http", "https", "ws", "wss"]) -> str:
    """Returns the URL for a client on this machine: `http://127.0.0.1:7420`, or `unix:PATH`."""
    return str(address) if isinstance(address, UnixAddress) else f"{scheme}://{address}"
