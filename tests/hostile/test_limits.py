"""Too many connections, and too few descriptors, end neither the listener nor the process."""

import resource
import socket
import time
from contextlib import ExitStack

import pytest

from tests.hostile.process import Server
from tests.hostile.raw import connect, read_all, read_head, request, upgrade

pytestmark = pytest.mark.prove


@pytest.mark.parametrize("listener", ["http", "websocket"])
def test_a_connection_too_many_is_turned_away(listener: str) -> None:
    with Server("guarded", {"connections": 8}) as server, ExitStack() as held:
        for _ in range(8):
            opened = held.enter_context(connect(server.port[listener]))
            if listener == "http":  # its answer is under way, so that it is not ended for another
                opened.sendall(request(b"/stream"))
                assert read_head(opened).startswith(b"HTTP/1.1 200 ")
        with connect(server.port[listener]) as turned_away:
            assert read_all(turned_away).startswith(b"HTTP/1.1 503 ")
        held.close()
        server.check_descriptors()
        server.check_health()
        server.check_log(server.terminate())


def test_who_asks_is_answered_beside_many_who_do_not() -> None:
    """Who never asked is ended first, who asked and is answered last, who is being answered never."""
    with Server("guarded", {"connections": 8}) as server, ExitStack() as held:

        def hold() -> socket.socket:
            return held.enter_context(connect(server.port["http"]))

        busy, asked = hold(), hold()
        busy.sendall(request(b"/stream"))
        assert read_head(busy).startswith(b"HTTP/1.1 200 ")
        asked.sendall(request())
        assert read_head(asked).startswith(b"HTTP/1.1 200 ")
        silent = [hold() for _ in range(4)]
        for _ in range(10):
            silent.append(hold())
            time.sleep(0.05)  # so that the one before it has gone
        server.check_health()
        assert silent[0].recv(1) == b""
        busy.setblocking(False)
        assert b"begun" in busy.recv(4096)
        with pytest.raises(BlockingIOError):  # not ended
            busy.recv(4096)
        server.check_log(server.terminate())


@pytest.mark.parametrize("listener", ["http", "websocket"])
def test_from_this_machine_2048_are_served_at_once(listener: str) -> None:
    """And beyond them one is turned away at once, while those that are in go on being served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Server("guarded", {"connections": 2048, "head_s": 60}) as server, ExitStack() as held:
        port = server.port[listener]
        opened = [held.enter_context(connect(port, timeout=30)) for _ in range(2048)]
        with connect(port, timeout=30) as one_more:
            assert read_all(one_more).startswith(b"HTTP/1.1 503 ")
        ask, said = (request(), b"200") if listener == "http" else (upgrade(), b"101")
        for one in opened:
            one.sendall(ask)
        for one in opened:
            assert read_head(one).startswith(b"HTTP/1.1 " + said)
        held.close()
        server.check_descriptors(settle_s=30)
        server.check_health()
        server.check_log(server.terminate())
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("listener", ["http", "websocket"])
def test_running_out_of_descriptors_is_waited_out(listener: str) -> None:
    with Server("guarded") as server:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (40, 40))
        held = [connect(server.port[listener]) for _ in range(60)]
        time.sleep(0.5)  # so that it has come as far as to accept more than it can
        for opened in held:
            opened.close()
        server.check_descriptors()
        server.check_health()
        log = server.terminate()
        server.check_log(log)
        assert log.count("accept_failed") == 1
