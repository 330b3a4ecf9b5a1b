"""The negative control: the same clients end the stock servers' process, so they do prove something."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.hostile.clients import Listener
from tests.hostile.heads import heads
from tests.hostile.http_clients import http_clients
from tests.hostile.process import Server
from tests.hostile.websocket_clients import websocket_clients

pytestmark = pytest.mark.prove

DEADLY: list[tuple[Listener, str]] = [
    ("http", "both: upgrade with bytes beyond ASCII in Sec-WebSocket-Protocol"),
    ("http", "both: upgrade with bytes beyond ASCII in Sec-WebSocket-Extensions"),
    ("http", "http: HTTP/2 by prior knowledge, bad method"),
    ("http", "http: HTTP/2 by prior knowledge, bad path"),
    ("websocket", "both: upgrade with bytes beyond ASCII in Connection"),
    ("websocket", "both: upgrade with bytes beyond ASCII in Sec-WebSocket-Protocol"),
    ("websocket", "both: upgrade with bytes beyond ASCII in Sec-WebSocket-Extensions"),
    ("websocket", "both: upgrade with bytes beyond ASCII in Host"),
    ("websocket", "websocket: an IDNA name that is none"),
    ("websocket", "websocket: a ping with the upgrade"),
    ("websocket", "websocket: 200 plain GETs and resets"),
    ("websocket", "websocket: 200 upgrades and resets"),
    ("websocket", "websocket: 100 resets right after the handshake"),
    ("websocket", "websocket: a ping after Close"),
]
CLIENTS = {client.id: client for client in (*heads(), *http_clients(), *websocket_clients())}


def _ends_stock(deadly: tuple[Listener, str]) -> bool:
    listener, name = deadly
    with Server("stock") as server:
        with suppress(OSError, AssertionError):  # the attack may well see the end of it
            CLIENTS[name].attack(server.port[listener])
        deadline = time.monotonic() + 3
        while server.alive and time.monotonic() < deadline:
            time.sleep(0.02)
        return not server.alive


def test_the_stock_servers_die() -> None:
    with ThreadPoolExecutor(6) as pool:
        ended = list(pool.map(_ends_stock, DEADLY))
    survived = [name for name, dead in zip(DEADLY, ended, strict=True) if not dead]
    assert len(DEADLY) - len(survived) >= 8, survived
