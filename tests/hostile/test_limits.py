"""Too many connections, and too few descriptors, end neither the listener nor the process."""

import resource
import time

import pytest

from tests.hostile.process import Server
from tests.hostile.raw import connect, read_all

pytestmark = pytest.mark.prove


@pytest.mark.parametrize("listener", ["http", "websocket"])
def test_a_connection_too_many_is_turned_away(listener: str) -> None:
    with Server("guarded", {"connections": 8}) as server:
        held = [connect(server.port[listener]) for _ in range(8)]
        with connect(server.port[listener]) as turned_away:
            assert read_all(turned_away).startswith(b"HTTP/1.1 503 ")
        for opened in held:
            opened.close()
        server.check_descriptors()
        server.check_health()
        server.check_log(server.terminate())


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
