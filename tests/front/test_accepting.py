import socket
from functools import partial

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from yoi_daemon.front.accepting import (
    ServeConnection,
    counted_address,
    log_faults,
    serve_connections,
)
from yoi_daemon.front.sockets import open_sockets
from yoi_daemon.model.addresses import TcpAddress


def _listen() -> tuple[socket.socket, int]:
    (listening,) = open_sockets([TcpAddress("127.0.0.1", 0)])
    assert isinstance(listening.address, TcpAddress)
    return listening.socket, listening.address.port


async def _answers(stream: trio.SocketStream) -> None:
    request = await stream.receive_some()
    if request == b"fail":
        raise ExceptionGroup("many", [ValueError("secret"), ExceptionGroup("", [KeyError("x")])])
    await stream.send_all(request)


async def _ask(port: int, request: bytes) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        return await stream.receive_some()


async def test_a_fault_stays_in_its_connection_and_is_logged_without_its_message() -> None:
    listening, port = _listen()
    draining = trio.Event()
    serve = partial(
        serve_connections, [listening], _answers, listener="x", most=10, draining=draining
    )
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            async with await trio.open_tcp_stream("127.0.0.1", port) as healthy:
                assert await _ask(port, b"fail") == b""
                await healthy.send_all(b"well?")
                assert await healthy.receive_some() == b"well?"
            draining.set()
    assert [entry["error"] for entry in logs] == ["ValueError", "KeyError"]
    assert {entry["event"] for entry in logs} == {"connection_failed"}
    assert {entry["log_level"] for entry in logs} == {"warning"}
    assert "secret" not in repr(logs)


async def test_trio_alone_ends_them_all() -> None:
    """The negative control: `trio.serve_listeners` without containment."""
    listening, port = _listen()
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    with pytest.RaisesGroup(ValueError, KeyError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, _answers, [listener])
            await _ask(port, b"fail")
            await trio.sleep_forever()


async def test_the_port_is_free_once_draining_and_busy_connections_end_by_themselves() -> None:
    listening, port = _listen()
    draining, finish = trio.Event(), trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        draining.set()
        await finish.wait()
        await stream.send_all(b"bye")

    serving: ServeConnection = serve
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                serve_connections, [listening], serving, listener="x", most=10, draining=draining
            )
        )
        async with await trio.open_tcp_stream("127.0.0.1", port) as busy:
            await busy.send_all(b"x")
            await draining.wait()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream("127.0.0.1", port)
            finish.set()
            assert await busy.receive_some() == b"bye"


async def test_cancelling_ends_connections_and_closes_the_listener() -> None:
    listening, port = _listen()

    async def serve(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                serve_connections, [listening], serve, listener="x", most=10, draining=trio.Event()
            )
        )
        async with await trio.open_tcp_stream("127.0.0.1", port) as open_still:
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await open_still.receive_some() == b""
    assert listening.fileno() == -1


def test_a_fault_is_one_line_of_facts() -> None:
    with capture_logs() as logs:
        log_faults("x_failed", ValueError("secret"), listener="y")
    assert logs == [
        {
            "event": "x_failed",
            "error": "ValueError",
            "where": "unknown",
            "listener": "y",
            "log_level": "warning",
        }
    ]


@pytest.mark.parametrize(
    ("peer", "counts_for"),
    [
        ("127.0.0.1", None),
        ("127.9.9.9", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_whom_a_connection_counts_for(peer: str, counts_for: str | None) -> None:
    assert counted_address(peer) == counts_for


async def test_one_address_has_its_share_and_no_more() -> None:
    listening, port = _listen()
    serve = partial(
        serve_connections,
        [listening],
        _answers,
        listener="x",
        most=10,
        most_by_address=2,
        counted=lambda peer: peer,  # as if of another machine
        draining=trio.Event(),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        first = await trio.open_tcp_stream("127.0.0.1", port)
        second = await trio.open_tcp_stream("127.0.0.1", port)
        async with await trio.open_tcp_stream("127.0.0.1", port) as third:
            assert (await third.receive_some()).startswith(b"HTTP/1.1 503 ")
        await first.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert await _ask(port, b"well?") == b"well?"
        await second.aclose()
        nursery.cancel_scope.cancel()


async def test_this_machine_has_all_there_are() -> None:
    listening, port = _listen()
    serve = partial(
        serve_connections,
        [listening],
        _answers,
        listener="x",
        most=10,
        most_by_address=1,
        draining=trio.Event(),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        async with (
            await trio.open_tcp_stream("127.0.0.1", port),
            await trio.open_tcp_stream("127.0.0.1", port),
        ):
            assert await _ask(port, b"well?") == b"well?"
        nursery.cancel_scope.cancel()
