"""The negative control: the same clients end the stock servers' process, so they do prove something."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.hostile.heads import heads
from tests.hostile.http_clients import http_clients
from tests.hostile.process import Server
from tests.hostile.websocket_clients import websocket_clients

pytestmark = pytest.mark.prove

DEADLY = [
    "http: upgrade with bytes beyond ASCII in Sec-WebSocket-Protocol",
    "http: upgrade with bytes beyond ASCII in Sec-WebSocket-Extensions",
    "http: HTTP/2 by prior knowledge, bad method",
    "http: HTTP/2 by prior knowledge, bad path",
    "websocket: upgrade with bytes beyond ASCII in Connection",
    "websocket: upgrade with bytes beyond ASCII in Sec-WebSocket-Protocol",
    "websocket: upgrade with bytes beyond ASCII in Sec-WebSocket-Extensions",
    "websocket: upgrade with bytes beyond ASCII in Host",
    "websocket: an IDNA name that is none",
    "websocket: a ping with the upgrade",
    "websocket: 200 plain GETs and resets",
    "websocket: 200 upgrades and resets",
    "websocket: 100 resets right after the handshake",
    "websocket: a ping after Close",
]
CLIENTS = {client.id: client for client in (*heads(), *http_clients(), *websocket_clients())}


def _ends_stock(name: str) -> bool:
    client = CLIENTS[name]
    with Server("stock") as server:
        with suppress(OSError, AssertionError):  # the attack may well see the end of it
            client.attack(server.port[client.listener])
        deadline = time.monotonic() + 1
        while server.alive and time.monotonic() < deadline:
            time.sleep(0.02)
        return not server.alive


def test_the_stock_servers_die() -> None:
    with ThreadPoolExecutor(6) as pool:
        ended = list(pool.map(_ends_stock, DEADLY))
    survived = [name for name, dead in zip(DEADLY, ended, strict=True) if not dead]
    assert len(DEADLY) - len(survived) >= 8, survived
