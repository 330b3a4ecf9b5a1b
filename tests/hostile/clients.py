"""The hostile clients as data: a name, whom it attacks, what it does, and what it is to see."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from tests.hostile.raw import connect, connecting_over_tls, read_all, send_quietly

Listener = Literal["http", "websocket", "https", "wss"]
Target = Literal["http", "websocket", "both", "https", "wss", "both tls"]
_LISTENERS: Mapping[Target, Sequence[Listener]] = {
    "both": ("http", "websocket"),
    "both tls": ("https", "wss"),
}
_OVER_TLS: Mapping[Target, Target] = {"http": "https", "websocket": "wss", "both": "both tls"}
Attack = Callable[[int], bytes | None]
"""Takes the port; gives what was received, for `expect`, or None."""


@dataclass(frozen=True)
class Client:
    """`expect` is what the received bytes must begin with; `options` go to the server process."""

    name: str
    target: Target
    attack: Attack
    expect: bytes = b""
    options: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def id(self) -> str:
        return f"{self.target}: {self.name}"

    @property
    def listeners(self) -> Sequence[Listener]:
        return _LISTENERS.get(self.target) or (cast("Listener", self.target),)


def over_tls(client: Client) -> Client:
    """The same attack, in a stream of TLS."""

    def attack(port: int) -> bytes | None:
        with connecting_over_tls():
            return client.attack(port)

    target = _OVER_TLS[client.target]
    return Client(client.name, target, attack, client.expect, client.options)


def says(payload: bytes, *, timeout: float = 1.5) -> Attack:
    """Sends `payload` at once and reads to the end."""

    def attack(port: int) -> bytes:
        with connect(port, timeout=timeout) as opened:
            send_quietly(opened, payload)
            return read_all(opened)

    return attack


REFUSED = b"HTTP/1.1 400 "
TOO_LARGE = b"HTTP/1.1 431 "
