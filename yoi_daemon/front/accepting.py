"""The accept loop of both listeners; a fault stays within its connection."""

import errno
import ipaddress
import secrets
import socket
import struct
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import structlog
import trio

from yoi_daemon.cancellation import leaves_of
from yoi_daemon.front.head import problem_response
from yoi_daemon.front.tls import Certificate, TlsStream, spoke_plain_http
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.frames import Write

AcceptedStream = trio.SocketStream | TlsStream
ServeConnection = Callable[[AcceptedStream], Awaitable[None]]

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE_S = 0.1
"""As long as trio.serve_listeners pauses: time for a connection to end and free its descriptor."""

_LINGER_S = 1
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    b"content-length: 0\r\n\r\n"
)


def random_request_id() -> str:
    """Returns an id for a request that is refused before it has one."""
    return f"req_{secrets.token_hex(13)}"


def counted_address(peer: str) -> str | None:
    """Returns the key that connections from the IP address `peer` count for; None for this machine's own."""
    address = ipaddress.ip_address(peer)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif not address.is_loopback:
            return str(ipaddress.ip_network((int(address), 64), strict=False))
    return None if address.is_loopback else str(address)


async def serve_connections(
    sockets: Sequence[socket.socket],
    serve: ServeConnection,
    *,
    listener: str,
    most: int,
    most_by_address: int | None = None,
    counted: Callable[[str], str | None] = counted_address,
    certificate: Certificate | None = None,
    handshake_s: float = 10,
    draining: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs `serve` for each connection, `most` at a time, until `draining` is set.

    Then it accepts no more, closes `sockets`, and returns when the last connection has ended by
    itself; cancel it to end them. `listener` is its name in the log. `most_by_address` bounds each
    address beyond this machine, by the key that `counted` returns; of IPv6 that is a /64, the network
    of one customer. With a `certificate`, TCP speaks TLS, and the handshake has `handshake_s` seconds.
    """
    listening = [trio.socket.from_stdlib_socket(opened) for opened in sockets]
    try:
        async with trio.open_nursery() as connections:
            acceptor = _Acceptor(
                serve,
                connections,
                listener=listener,
                most=most,
                most_by_address=most_by_address,
                counted=counted,
                certificate=certificate,
                handshake_s=handshake_s,
            )
            async with trio.open_nursery() as accepting:
                for opened in listening:
                    accepting.start_soon(acceptor.accept, trio.SocketListener(opened))
                task_status.started()
                await draining.wait()
                accepting.cancel_scope.cancel()
            acceptor.end_handshakes()
            for opened in listening:
                opened.close()
    finally:
        for opened in listening:
            opened.close()


class _Acceptor:
    """The state that the accept loops of one listener share."""

    def __init__(
        self,
        serve: ServeConnection,
        connections: trio.Nursery,
        *,
        listener: str,
        most: int,
        most_by_address: int | None,
        counted: Callable[[str], str | None],
        certificate: Certificate | None,
        handshake_s: float,
    ) -> None:
        self._serve = serve
        self._connections = connections
        self._listener = listener
        self._name = f"{listener} connection"
        self._most = most
        self._most_by_address = most_by_address
        self._counted = counted
        self._certificate = certificate
        self._handshake_s = handshake_s
        self._by_address: Counter[str] = Counter()
        self._handshakes: set[trio.CancelScope] = set()

    async def accept(self, opened: trio.SocketListener) -> None:
        """Accepts connections, until cancelled."""
        exhausted = False
        while True:
            try:
                stream = await opened.accept()
            except OSError as error:
                # trio.serve_listeners waits too, but logs each time at ERROR.
                if error.errno not in _EXHAUSTED:
                    raise
                if not exhausted:
                    structlog.get_logger().warning(
                        "accept_failed",
                        listener=self._listener,
                        error=errno.errorcode[error.errno],
                    )
                exhausted = True
                await trio.sleep(_EXHAUSTED_PAUSE_S)
                continue
            exhausted = False
            self._take(stream)

    def _take(self, stream: trio.SocketStream) -> None:
        address = self._address_of(stream)
        if len(self._connections.child_tasks) >= self._most or (
            address is not None
            and self._most_by_address is not None
            and self._by_address[address] >= self._most_by_address
        ):
            # Refused, because in the backlog a healthy client would wait without an answer.
            self._turn_away(stream)
            return
        if address is not None:
            self._by_address[address] += 1
        self._connections.start_soon(self._contain, stream, address, name=self._name)

    def _address_of(self, stream: trio.SocketStream) -> str | None:
        if self._most_by_address is None or stream.socket.family == socket.AF_UNIX:
            return None
        try:
            return self._counted(stream.socket.getpeername()[0])
        except OSError:
            return None  # gone already

    def _speaks_tls(self, stream: trio.SocketStream) -> bool:
        return self._certificate is not None and stream.socket.family != socket.AF_UNIX

    def _turn_away(self, stream: trio.SocketStream) -> None:
        speaks_tls = self._speaks_tls(stream)
        with suppress(OSError), socket.socket(fileno=stream.socket.detach()) as detached:
            detached.setblocking(False)
            if not speaks_tls:
                detached.send(_FULL)

    async def _contain(self, stream: trio.SocketStream, address: str | None) -> None:
        """Keeps a fault in one connection from cancelling the others (hypercorn #225, trio-websocket #184)."""
        try:
            secured = await self._secure(stream)
            if secured is not None:
                await self._serve(secured)
        except* Exception as group:  # noqa: BLE001 - the last resort; logged
            log_faults("connection_failed", group, listener=self._listener)
        finally:
            stream.socket.close()
            if address is not None:
                self._by_address[address] -= 1
                if not self._by_address[address]:
                    del self._by_address[address]

    async def _secure(self, stream: trio.SocketStream) -> AcceptedStream | None:
        """Returns the stream to serve; None if the peer does not complete the handshake in time."""
        if self._certificate is None or not self._speaks_tls(stream):
            return stream
        secured = TlsStream(stream, self._certificate.context)
        with trio.move_on_after(self._handshake_s) as scope:
            self._handshakes.add(scope)
            try:
                await secured.do_handshake()
            except trio.BrokenResourceError as error:
                if spoke_plain_http(error):
                    await _say_tls(stream)
                return None
            finally:
                self._handshakes.discard(scope)
            return secured
        return None

    def end_handshakes(self) -> None:
        """Cancels the handshakes under way."""
        for scope in self._handshakes:
            scope.cancel()


async def _say_tls(stream: trio.SocketStream) -> None:
    refused = Refused("invalid_request", "this listener speaks TLS: use https:// or wss://")
    with suppress(trio.BrokenResourceError):
        await stream.send_all(problem_response(refused, random_request_id()))
        await close_gently(stream, _LINGER_S)


def log_faults(event: str, error: BaseException, **facts: str) -> None:
    """Logs one line for each exception: its type, and where it was raised.

    Not its message, locals or a traceback: all of them can quote the request.
    """
    for leaf in leaves_of(error):
        frames = traceback.extract_tb(leaf.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
        structlog.get_logger().warning(event, error=type(leaf).__qualname__, where=where, **facts)


def peer_name(stream: AcceptedStream) -> str:
    """Returns `ADDRESS:PORT`, `unix`, or `unknown` if the peer is gone already (which is no fault)."""
    try:
        name = stream.socket.getpeername()
    except OSError:
        return "unknown"
    if stream.socket.family == socket.AF_UNIX:
        return "unix"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def abort(stream: AcceptedStream) -> None:
    """Makes closing the socket drop what the kernel still holds for the peer."""
    with suppress(OSError, trio.ClosedResourceError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def close_gently(stream: AcceptedStream, linger_s: float) -> None:
    """Ends a connection so that its last bytes arrive.

    Closing while the peer still sends makes the kernel reset the connection, and the reset
    overtakes the response. So this ends our half, and drops what arrives until the peer ends its own, for
    `linger_s` at most (RFC 9112 section 9.6). Cancelled, it closes at once.
    """
    try:
        with trio.move_on_after(linger_s):
            await stream.send_eof()
            while await stream.receive_some():
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        stream.socket.close()


def plain_descriptor(stream: AcceptedStream) -> int | None:
    """Returns the descriptor that takes bytes as they are; None under TLS."""
    return None if isinstance(stream, TlsStream) else stream.socket.fileno()


def plain_send(stream: AcceptedStream) -> Write | None:
    """Returns the socket's own non-blocking `send`; None under TLS. Uses Trio's private name `_sock`."""
    if isinstance(stream, TlsStream):
        return None
    # The standard library's socket behind Trio's: it fails once that is closed, where the number of
    # its descriptor may be another connection's by then, and it is the cheapest way to the kernel.
    behind: socket.socket = cast("Any", stream.socket)._sock
    return behind.send
