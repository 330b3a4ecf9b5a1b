import os
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

pytest.importorskip("trio_websocket")

import trio_websocket
from trio_websocket import WebSocketConnection, wrap_client_stream

from tests.stream.transport import send
from yoi_daemon.front.connection import (
    ORDERLY_CLOSE_CODES,
    Connection,
    ConnectionGone,
    Gate,
    SessionHandler,
    UpgradeRequest,
    close_frame,
)
from yoi_daemon.front.sockets import open_sockets
from yoi_daemon.front.tls import Certificate
from yoi_daemon.front.websocket import WebSocketLimits, serve_websocket
from yoi_daemon.model.addresses import Address, TcpAddress, UnixAddress
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.frames import text_frame

LIMITS = WebSocketLimits(linger_s=0.1, close_s=0.5)
ANY = TcpAddress("127.0.0.1", 0)


class Served:
    def __init__(self, address: Address, draining: trio.Event, nursery: trio.Nursery) -> None:
        self.address = address
        self.draining = draining
        self.nursery = nursery

    async def connect(self) -> trio.SocketStream:
        if isinstance(self.address, UnixAddress):
            return await trio.open_unix_socket(self.address.path)
        return await trio.open_tcp_stream(self.address.host, self.address.port)

    @asynccontextmanager
    async def open(self, target: str = "/") -> AsyncGenerator[WebSocketConnection]:
        stream = await self.connect()
        async with trio.open_nursery() as nursery:
            with suppress(trio_websocket.ConnectionClosed):
                connection = await wrap_client_stream(nursery, stream, "localhost", target)
                yield connection
                with trio.move_on_after(1):
                    await connection.aclose()
            nursery.cancel_scope.cancel()
        await stream.aclose()


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve() -> Serve:
    @asynccontextmanager
    async def serving(
        gate: Gate,
        *,
        address: Address = ANY,
        handshake_s: float = 5,
        limits: WebSocketLimits = LIMITS,
    ) -> AsyncGenerator[Served]:
        (listening,) = open_sockets([address])
        draining = trio.Event()
        run = partial(
            serve_websocket,
            [listening.socket],
            gate,
            draining=draining,
            close_codes={**ORDERLY_CLOSE_CODES, "slow_consumer": 4008},
            handshake_s=handshake_s,
            limits=limits,
            new_request_id=lambda: "req_test",
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(run)
                yield Served(listening.address, draining, nursery)
                draining.set()
        finally:
            listening.close()

    return serving


def admits(handler: SessionHandler) -> Gate:
    async def gate(request: UpgradeRequest) -> SessionHandler:
        return handler

    return gate


@pytest.fixture
def unix_address() -> Iterator[UnixAddress]:
    path = Path("/tmp") / f"yoi-{os.getpid()}-{os.urandom(4).hex()}"
    yield UnixAddress(str(path))
    path.unlink(missing_ok=True)


async def closed_with(connection: WebSocketConnection) -> int:
    with suppress(trio_websocket.ConnectionClosed):
        while True:
            await connection.get_message()
    assert connection.closed is not None
    return connection.closed.code


async def test_the_gate_sees_the_request_and_the_session_sends_text(
    serve: Serve, unix_address: UnixAddress
) -> None:
    seen: list[UpgradeRequest] = []

    async def gate(request: UpgradeRequest) -> SessionHandler:
        seen.append(request)

        async def handler(connection: Connection) -> None:
            await send(connection, b"a")
            await send(connection, b"b" * 300)
            connection.offer(text_frame(b"c") + text_frame(b"d" * 70000))
            await connection.drained()
            assert connection.offer(text_frame(b"e")) or connection.unsent
            await connection.drained()
            lent = connection.lend(partial(taken_back.append, True))
            assert lent is not None
            assert lent(text_frame(b"f")) == len(text_frame(b"f"))
            assert not taken_back

        return handler

    taken_back: list[bool] = []

    for address in (ANY, unix_address):
        async with serve(gate, address=address) as served, served.open("/v1/e%41?x=%20") as client:
            got = [await client.get_message() for _ in range(6)]
            assert got == ["a", "b" * 300, "c", "d" * 70000, "e", "f"]
            assert await closed_with(client) == 1000
        assert taken_back == [True]
        taken_back.clear()
    tcp, unix = seen
    assert (tcp.path, tcp.query) == ("/v1/e%41", "x=%20")
    assert ("host", "localhost") in tcp.headers
    assert tcp.peer.startswith("127.0.0.1:")
    assert unix.peer == "unix"


async def test_a_refusal_is_answered_before_the_101(serve: Serve) -> None:
    async def gate(request: UpgradeRequest) -> SessionHandler:
        raise Refused("unauthenticated", "give a token")

    async with serve(gate) as served:
        with pytest.RaisesGroup(trio_websocket.ConnectionRejected) as rejected:
            async with await served.connect() as stream, trio.open_nursery() as nursery:
                await wrap_client_stream(nursery, stream, "localhost", "/")
        (error,) = rejected.value.exceptions
        assert isinstance(error, trio_websocket.ConnectionRejected)
        assert error.status_code == 401
        assert (b"content-type", b"application/problem+json") in error.headers
        assert error.body is not None
        assert b'"code":"unauthenticated"' in error.body
        assert b'"request_id":"req_test"' in error.body


async def test_a_late_handshake_is_refused(serve: Serve) -> None:
    async def gate(request: UpgradeRequest) -> SessionHandler:
        await trio.sleep_forever()
        raise AssertionError

    async with serve(gate, handshake_s=0.05) as served, await served.connect() as stream:
        answer = b"".join([part async for part in stream])
        assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("way", ["close", "eof", "reset"])
async def test_the_handler_is_cancelled_when_its_peer_goes(serve: Serve, way: str) -> None:
    began, ended = trio.Event(), trio.Event()

    async def handler(connection: Connection) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serve(admits(handler)) as served:
        stream = await served.connect()
        async with trio.open_nursery() as nursery:
            client = await wrap_client_stream(nursery, stream, "localhost", "/")
            await began.wait()
            if way == "close":
                await client.aclose()
            elif way == "eof":
                await stream.send_eof()
            else:
                linger = b"\1\0\0\0\0\0\0\0"
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                stream.socket.close()
            await ended.wait()
            nursery.cancel_scope.cancel()
        await stream.aclose()


async def test_pings_are_answered_beside_a_handler_that_only_sends(serve: Serve) -> None:
    """trio-websocket alone stops reading after two messages nobody took."""

    async def handler(connection: Connection) -> None:
        await connection.wait_gone()

    async with serve(admits(handler)) as served, served.open() as client:
        for _ in range(10):
            await client.send_message("ignored")
        with trio.fail_after(5):
            await client.ping()


async def test_a_message_too_large_closes(serve: Serve) -> None:
    gate = admits(lambda connection: connection.wait_gone())
    async with serve(gate) as served, served.open() as client:
        await client.send_message("x" * 4097)
        assert await closed_with(client) == 1009


async def test_nothing_is_sent_on_a_closed_connection(serve: Serve) -> None:
    refused: list[type[Exception]] = []

    async def handler(connection: Connection) -> None:
        await connection.close("slow_consumer")
        with pytest.raises(ConnectionGone):
            await connection.drained()
        refused.append(ConnectionGone)
        with pytest.raises(ConnectionGone):
            connection.offer(text_frame(b"x"))
        refused.append(ConnectionGone)
        await connection.close("end")
        await connection.wait_gone()
        refused.append(ConnectionGone)

    async with serve(admits(handler)) as served, served.open() as client:
        assert await closed_with(client) == 4008
    assert len(refused) == 3


async def test_a_handler_that_fails_is_logged_without_its_words(serve: Serve) -> None:
    async def handler(connection: Connection) -> None:
        raise RuntimeError("secret")

    with capture_logs() as logs:
        async with serve(admits(handler)) as served, served.open() as client:
            assert await closed_with(client) == 1011
    assert [(entry["event"], entry["error"]) for entry in logs] == [
        ("session_failed", "RuntimeError")
    ]
    assert "secret" not in repr(logs)


async def test_draining_lets_sessions_end_themselves(serve: Serve) -> None:
    draining = trio.Event()

    async def handler(connection: Connection) -> None:
        await send(connection, b"begun")
        await draining.wait()
        await send(connection, b"bookmark")
        await connection.close("shutting_down")

    async with serve(admits(handler)) as served, served.open() as client:
        assert await client.get_message() == "begun"
        served.draining.set()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="all attempts to connect"):
            await served.connect()
        draining.set()
        assert await client.get_message() == "bookmark"
        assert await closed_with(client) == 1012


async def test_force_still_says_1012(serve: Serve) -> None:
    async def handler(connection: Connection) -> None:
        await send(connection, b"begun")
        await trio.sleep_forever()

    async with (
        serve(admits(handler)) as served,
        await served.connect() as stream,
        trio.open_nursery() as nursery,
    ):
        client = await wrap_client_stream(nursery, stream, "localhost", "/")
        assert await client.get_message() == "begun"
        served.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert await closed_with(client) == 1012
        nursery.cancel_scope.cancel()


async def test_a_reader_that_stalls_is_cut_off(serve: Serve) -> None:
    ended = trio.Event()

    async def handler(connection: Connection) -> None:
        try:
            while True:
                await send(connection, b"x" * 10000)
        finally:
            ended.set()

    limits = WebSocketLimits(stall_s=0.1, linger_s=0.1, close_s=0.1)
    async with serve(admits(handler), limits=limits) as served, await served.connect() as stream:
        await stream.send_all(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        with trio.fail_after(5):
            await ended.wait()


@pytest.mark.parametrize("reads", [True, False])
async def test_a_stalled_peer_gets_the_reason_if_it_still_reads(serve: Serve, reads: bool) -> None:
    stalled = trio.Event()

    async def handler(connection: Connection) -> None:
        connection.when_stalled(lambda: b"too slow", "slow_consumer")
        try:
            while True:
                await send(connection, b"x" * 10_000)
        finally:
            assert connection.stalled
            stalled.set()

    limits = WebSocketLimits(stall_s=0.1, linger_s=0.1, close_s=1 if reads else 0.1)
    async with serve(admits(handler), limits=limits) as served:
        stream = await served.connect()
        await stream.send_all(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        await stalled.wait()
        if reads:
            received, was_aborted = await read_to_the_end(stream)
    # Here every connection has ended.
    if not reads:
        received, was_aborted = await read_to_the_end(stream)
    await stream.aclose()
    farewell = text_frame(b"too slow") + close_frame(4008, "slow_consumer")
    assert received.endswith(farewell) is reads
    assert was_aborted is not reads  # the kernel keeps nothing for it


async def read_to_the_end(stream: trio.SocketStream) -> tuple[bytes, bool]:
    """What comes, and whether it ended by a reset."""
    received = bytearray()
    try:
        async for part in stream:
            received += part
    except trio.BrokenResourceError:
        return bytes(received), True
    return bytes(received), False


async def test_an_aborted_connection_is_closed_at_once_though_its_peer_does_not_read(
    serve: Serve,
) -> None:
    aborted = trio.Event()
    unsent: list[int] = []

    async def handler(connection: Connection) -> None:
        while connection.offer(text_frame(b"x" * 10_000)):
            pass
        unsent.append(connection.unsent)
        connection.abort()
        unsent.append(connection.unsent)
        with pytest.raises(ConnectionGone):
            connection.offer(text_frame(b"after the end"))
        aborted.set()
        await trio.sleep_forever()

    # Neither the stall nor the wait for the peer's Close is what ends it.
    limits = WebSocketLimits(stall_s=60, linger_s=60, close_s=60)
    with trio.fail_after(5):
        async with serve(admits(handler), limits=limits) as served:
            stream = await served.connect()
            await stream.send_all(
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            await aborted.wait()
        # Here every connection has ended.
        received, was_aborted = await read_to_the_end(stream)
    await stream.aclose()
    assert unsent[0] > 0
    assert unsent[1] == 0
    assert was_aborted  # the kernel keeps nothing for it
    assert b"after the end" not in received


async def test_bytes_over_tls_are_read_as_frames(nursery) -> None:
    files = Path(__file__).parents[1] / "data" / "tls"
    (listening,) = open_sockets([ANY])
    assert isinstance(listening.address, TcpAddress)

    async def handler(connection: Connection) -> None:
        assert connection.lend(never) is None
        await connection.wait_gone()

    def never() -> None:
        raise AssertionError("nothing was lent")

    async def gate(_request: UpgradeRequest) -> SessionHandler:
        return handler

    await nursery.start(
        partial(
            serve_websocket,
            [listening.socket],
            gate,
            draining=trio.Event(),
            limits=LIMITS,
            certificate=Certificate(files / "server.pem", files / "server.key"),
        )
    )
    context = ssl.create_default_context(cafile=files / "ca.pem")
    raw = await trio.open_tcp_stream("127.0.0.1", listening.address.port)
    stream = trio.SSLStream(raw, context, server_hostname="127.0.0.1")
    with trio.fail_after(5):
        connection = await wrap_client_stream(nursery, stream, "localhost", "/")
        await connection.ping(b"there?")
        await connection.aclose(1000)
    assert connection.closed is not None
    assert connection.closed.code == 1000
    nursery.cancel_scope.cancel()
