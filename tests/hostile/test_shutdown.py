"""SIGTERM ends the process in time, beside clients that never read, and asks those that do."""

import os
import signal
import time

import pytest

from tests.hostile.process import Server
from tests.hostile.raw import (
    close_code,
    connect,
    open_stream,
    read_all,
    read_head,
    request,
)

pytestmark = pytest.mark.prove


def test_it_ends_beside_clients_that_never_read() -> None:
    with Server("guarded") as server:
        held = [connect(server.port["http"], receive_buffer=4096) for _ in range(20)]
        for opened in held:
            opened.sendall(request(b"/flood"))
        held += [
            open_stream(server.port["websocket"], b"/flood", receive_buffer=4096) for _ in range(20)
        ]
        time.sleep(0.5)
        server.check_health()
        server.check_log(server.terminate())
        for opened in held:
            opened.close()


def test_the_stock_servers_hang_beside_a_client_that_never_reads() -> None:
    """The negative control: hypercorn's write is shielded and has no deadline."""
    with (
        Server("stock") as server,
        connect(server.port["http"], receive_buffer=4096) as opened,
    ):
        opened.sendall(request(b"/flood"))
        time.sleep(0.5)
        os.kill(server.pid, signal.SIGTERM)
        time.sleep(3)
        assert server.alive


def test_a_stream_that_watches_draining_ends_whole() -> None:
    with Server("guarded") as server, connect(server.port["http"]) as opened:
        opened.sendall(request(b"/stream"))
        read_head(opened)
        os.kill(server.pid, signal.SIGTERM)
        body = read_all(opened)
        assert b"data: begun" in body
        assert body.endswith(b"data: ended\n\n\r\n0\r\n\r\n")


def test_a_session_that_watches_draining_says_why_it_ends() -> None:
    with Server("guarded") as server, open_stream(server.port["websocket"]) as opened:
        os.kill(server.pid, signal.SIGTERM)
        assert close_code(read_all(opened)) == 1012


def test_an_idle_connection_does_not_hold_it() -> None:
    with Server("guarded") as server, connect(server.port["http"]) as opened:
        opened.sendall(request())
        read_head(opened)
        begun = time.monotonic()
        server.terminate()
        assert time.monotonic() - begun < 1
