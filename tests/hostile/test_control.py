"""The negative control: the same clients end the stock servers' process, so they do prove something."""

import time

import pytest

from tests.hostile.clients import Client
from tests.hostile.heads import heads
from tests.hostile.http_clients import http_clients
from tests.hostile.process import Server
from tests.hostile.websocket_clients import websocket_clients

pytestmark = pytest.mark.prove

DEADLY = [
    "http: upgrade with bytes beyond ASCII in Connection",
    "http: upgrade with bytes beyond ASCII in Sec-WebSocket-Protocol",
    "http: HTTP/2 by prior knowledge, bad method",
    "http: HTTP/2 by prior knowledge, bad path",
    "websocket: upgrade with bytes beyond ASCII in Connection",
    "websocket: upgrade with bytes beyond ASCII in Sec-WebSocket-Protocol",
    "websocket: upgrade with bytes beyond ASCII in Host",
    "websocket: an IDNA name that is none",
    "websocket: a ping with the upgrade",
    "websocket: plain GET, then a reset",
    "websocket: upgrade, then a reset",
]
CLIENTS = {
    client.id: client for client in (*heads(), *http_clients(), *websocket_clients())
}


def _ends_stock(client: Client) -> bool:
    with Server("stock") as server:
        try:
            client.attack(server.port[client.listener])
        except (OSError, AssertionError):
            pass  # the attack may well see the end of it
        deadline = time.monotonic() + 1
        while server.alive and time.monotonic() < deadline:
            time.sleep(0.02)
        return not server.alive


def test_the_stock_servers_die() -> None:
    survived = [name for name in DEADLY if not _ends_stock(CLIENTS[name])]
    assert len(DEADLY) - len(survived) >= 5, survived
