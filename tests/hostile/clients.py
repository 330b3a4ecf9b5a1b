"""The hostile clients as data: a name, whom it attacks, what it does, and what it is to see."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.hostile.raw import connect, read_all, send_quietly

Listener = Literal["http", "websocket"]
Target = Literal["http", "websocket", "both"]
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
        return ("http", "websocket") if self.target == "both" else (self.target,)


def says(payload: bytes, *, timeout: float = 1.5) -> Attack:
    """Sends `payload` at once and reads to the end."""

    def attack(port: int) -> bytes:
        with connect(port, timeout=timeout) as opened:
            send_quietly(opened, payload)
            return read_all(opened)

    return attack


REFUSED = b"HTTP/1.1 400 "
TOO_LARGE = b"HTTP/1.1 431 "
