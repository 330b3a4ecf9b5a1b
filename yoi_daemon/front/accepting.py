"""The accept loop of both listeners: what one connection does stays in that connection."""

import errno
import secrets
import socket
import struct
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import cast

import structlog
import trio

ServeConnection = Callable[[trio.SocketStream], Awaitable[None]]

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE_S = 0.1
"""trio.serve_listeners pauses as long: time for a connection to end and give its descriptor back."""

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    b"content-length: 0\r\n\r\n"
)


def random_request_id() -> str:
    """An id for a request that was refused before it had one."""
    return f"req_{secrets.token_hex(13)}"


async def serve_connections(
    sockets: Sequence[socket.socket],
    serve: ServeConnection,
    *,
    listener: str,
    most: int,
    draining: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run `serve` for each connection, `most` at a time, until `draining` is set.

    Then accepts no more, closes `sockets`, and returns when the last connection has ended by
    itself; cancel it to end them. `listener` names it in the log.
    """
    listening = [trio.socket.from_stdlib_socket(opened) for opened in sockets]
    try:
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for opened in listening:
                    accepting.start_soon(
                        _accept,
                        trio.SocketListener(opened),
                        serve,
                        connections,
                        listener,
                        most,
                    )
                task_status.started()
                await draining.wait()
                accepting.cancel_scope.cancel()
            for opened in listening:
                opened.close()
    finally:
        for opened in listening:
            opened.close()


async def _accept(
    opened: trio.SocketListener,
    serve: ServeConnection,
    connections: trio.Nursery,
    listener: str,
    most: int,
) -> None:
    exhausted = False
    while True:
        try:
            stream = await opened.accept()
        except OSError as error:
            # serve_listeners of trio waits this out too, but logs each time at ERROR.
            if error.errno not in _EXHAUSTED:
                raise
            if not exhausted:
                structlog.get_logger().warning(
                    "accept_failed",
                    listener=listener,
                    error=errno.errorcode[error.errno],
                )
            exhausted = True
            await trio.sleep(_EXHAUSTED_PAUSE_S)
            continue
        exhausted = False
        if len(connections.child_tasks) >= most:
            # Refused rather than left in the backlog, where a healthy client waits in silence.
            _turn_away(stream)
        else:
            connections.start_soon(_contain, serve, stream, listener)


def _turn_away(stream: trio.SocketStream) -> None:
    with suppress(OSError):
        socket_ = socket.socket(fileno=stream.socket.detach())
        with socket_:
            socket_.setblocking(False)
            socket_.send(_FULL)


async def _contain(serve: ServeConnection, stream: trio.SocketStream, listener: str) -> None:
    """A fault in one connection must not cancel the others (hypercorn #225, trio-websocket #184)."""
    try:
        await serve(stream)
    except* Exception as group:  # noqa: BLE001 - the last resort; logged
        log_faults("connection_failed", group, listener=listener)
    finally:
        stream.socket.close()


def log_faults(event: str, error: BaseException, **facts: str) -> None:
    """One line for each exception: its type and where it was raised.

    Never its message, a frame's locals or a traceback: all of them can quote the request.
    """
    for leaf in _leaves(error):
        frames = traceback.extract_tb(leaf.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
        structlog.get_logger().warning(event, error=type(leaf).__qualname__, where=where, **facts)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        for inner in group.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def peer_name(stream: trio.SocketStream) -> str:
    """`ADDRESS:PORT`, `unix`, or `unknown` if the peer has gone already (which is no fault)."""
    try:
        name = stream.socket.getpeername()
    except OSError:
        return "unknown"
    if stream.socket.family == socket.AF_UNIX:
        return "unix"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def abort(stream: trio.SocketStream) -> None:
    """Has the kernel drop what it still holds for a peer that does not take it, when the socket is closed."""
    with suppress(OSError, trio.ClosedResourceError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def close_gently(stream: trio.SocketStream, linger_s: float) -> None:
    """End a connection so that its last bytes arrive.

    Closing while the peer still sends makes the kernel reset the connection, and the reset
    overtakes the answer. So: end our half, and drop what comes until the peer ends its own, for
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
