"""The REST listener: hypercorn's HTTP/1.1 protocol and task group, under a connection of our own.

hypercorn's own `TCPServer` is not used. It shields each write without a deadline, keeps its books in
the application's task, where quart-trio cancels them (#106), lets an unexpected exception of one
connection cancel the process (#225), and reaches HTTP/2 and WebSocket by what a client sends.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState

from yoi_daemon.front.accepting import (
    AcceptedStream,
    close_gently,
    log_faults,
    random_request_id,
    serve_connections,
)
from yoi_daemon.front.head import HEAD_BYTES, HeadReader, problem_response
from yoi_daemon.front.outbox import Outbox
from yoi_daemon.front.tls import Certificate, TlsStream
from yoi_daemon.model.errors import Refused

RECEIVE_BYTES = 64 * 1024
CROWDED = 0.75
"""Share of `connections` from which each new one replaces an idle one, so that idle clients never
shut out a client that sends a request."""
PIPELINED_BYTES = 128 * 1024
"""Limit of requests behind the current one; a client that sends more without reading is cut off."""


@dataclass(frozen=True)
class HttpLimits:
    """Bounds of one HTTP listener; seconds and bytes."""

    connections: int = 2048
    connections_by_address: int | None = None
    """Limit for each address beyond this machine."""
    head_s: float = 10
    """Time from the first byte of a request (for the first one: from the accept) to the end of its head.
    The TLS handshake has as long again."""
    head_bytes: int = HEAD_BYTES
    idle_s: float = 15
    """Time between two requests on one connection."""
    stall_s: float = 10
    """A write that makes no progress for so long ends the connection."""
    linger_s: float = 1
    """Time for which a peer may go on sending after its response; see `close_gently`."""
    abandon_s: float = 5
    """Time for which an application may run on after its client has gone."""


async def serve_http(
    app: ASGIFramework,
    sockets: Sequence[socket.socket],
    *,
    draining: trio.Event,
    graceful_s: float,
    limits: HttpLimits | None = None,
    certificate: Certificate | None = None,
    new_request_id: Callable[[], str] = random_request_id,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` over HTTP/1.1 on `sockets` (listening, non-blocking), which it closes.

    With a `certificate` TLS is spoken on those that are not unix sockets.

    Returns after `draining` was set and every connection has ended: idle ones at once, busy ones
    with their response (which has `Connection: close`), and all others after `graceful_s`
    seconds by force. A long response must watch `draining` itself. Cancelled, it ends all by force.

    The ASGI lifespan protocol is not spoken: set up in a nursery of your own. Raises nothing that
    a client caused.
    """
    listener = _Listener(app, limits or HttpLimits(), new_request_id)
    with trio.CancelScope() as force:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.end_when, draining, graceful_s, force)
            await serve_connections(
                sockets,
                listener.serve,
                listener="api",
                most=listener.limits.connections,
                most_by_address=listener.limits.connections_by_address,
                certificate=certificate,
                handshake_s=listener.limits.head_s,
                draining=draining,
                task_status=task_status,
            )
    if force.cancelled_caught:
        structlog.get_logger().warning("connections_cut", listener="api", after_s=graceful_s)


class _Listener:
    """The state that the connections of one listener share."""

    def __init__(
        self, app: ASGIFramework, limits: HttpLimits, new_request_id: Callable[[], str]
    ) -> None:
        self.app = _Contained(app)
        self.limits = limits
        self.new_request_id = new_request_id
        self.context = WorkerContext(None)
        self.config = Config()
        # No logs: hypercorn would quote requests in them, through the logging module.
        self.config.accesslog = None
        self.config.errorlog = None
        self.config.include_server_header = False
        self._connections: dict[_Connection, None] = {}
        """In order of their accept."""

    async def serve(self, stream: AcceptedStream) -> None:
        if self.context.terminated.is_set():
            return  # accepted in the same moment
        connection = _Connection(self, stream)
        if len(self._connections) >= self.limits.connections * CROWDED:
            self._make_room()
        self._connections[connection] = None
        try:
            await connection.run()
        finally:
            del self._connections[connection]

    def _make_room(self) -> None:
        """Ends an idle connection, first of all one that never sent a request."""
        idle = [connection for connection in self._connections if connection.is_idle]
        oldest = next(
            (connection for connection in idle if not connection.was_answered),
            idle[0] if idle else None,
        )
        if oldest is not None:
            oldest.end_if_idle()

    async def end_when(
        self, draining: trio.Event, graceful_s: float, force: trio.CancelScope
    ) -> None:
        await draining.wait()
        await self.context.terminated.set()
        for connection in tuple(self._connections):
            connection.end_if_idle()
        force.deadline = trio.current_time() + graceful_s


class _Contained:
    """The application, with its faults logged as ours; the client then gets a 500, or a cut body."""

    def __init__(self, app: ASGIFramework) -> None:
        self._app = app

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
        sync_spawn: object,
        call_soon: object,
    ) -> None:
        without_body = scope["type"] == "http" and scope["method"] == "HEAD"
        answered = trio.CancelScope()

        async def send_fairly(message: Any) -> None:
            # A body that is not sent never waits for the client, so nothing else would make an
            # eager generator give way: one HEAD to such a route and the process stands still.
            await trio.lowlevel.checkpoint()
            if without_body and message["type"] == "http.response.body":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                answered.cancel()
                await trio.lowlevel.checkpoint()
            else:
                await send(message)

        try:
            with answered:
                await self._app(scope, receive, send_fairly)
        except* Exception as group:  # noqa: BLE001 - logged, and the client gets a 500
            log_faults("answer_failed", group, listener="api")


class _Protocol(H11Protocol):
    """hypercorn's HTTP/1.1, with our head reader and our response to bad heads.

    Uses one private name of hypercorn 0.18: `_send_error_response` is overridden.
    """

    def __init__(self, owner: "_Connection", listener: _Listener, apps: TaskGroup) -> None:
        accepted = owner.stream.socket
        super().__init__(
            listener.app,
            listener.config,
            listener.context,
            apps,
            ConnectionState({}),
            isinstance(owner.stream, TlsStream),
            _internet_name(accepted.family, accepted.getpeername),
            _internet_name(accepted.family, accepted.getsockname),
            owner.send,
        )
        self._owner = owner
        # hypercorn replaces `connection` for a WebSocket, which never gets past this reader.
        self.connection = self.reader = HeadReader(listener.limits.head_bytes)
        self.can_read = _Pause(owner, self.reader)

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and self.context.terminated.is_set():
            headers = [*event.headers, (b"connection", b"close")]
            event = Response(event.stream_id, headers, event.status_code)
        try:
            await super().stream_send(event)
        except BaseException:
            # Failed or cancelled half-way (quart-trio cancels when a response takes too long):
            # the connection's state cannot be trusted for another request.
            self._owner.end()
            raise

    async def _send_error_response(self, status_code: int) -> None:
        # hypercorn's has no body; ours says what was wrong.
        self._owner.refuse(self.reader.refused or Refused("invalid_request", str(status_code)))


class _Pause:
    """hypercorn's event for "continue reading", which still notices that the client has gone.

    hypercorn reads nothing while a request waits behind another, so a client that pipelined and left
    kept a quiet stream, and its descriptor, for ever.
    """

    def __init__(self, owner: "_Connection", reader: HeadReader) -> None:
        self._owner = owner
        self._reader = reader
        self._over = trio.Event()

    async def clear(self) -> None:
        self._over = trio.Event()

    async def set(self) -> None:
        self._over.set()

    def is_set(self) -> bool:
        return self._over.is_set()

    async def wait(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_on)
            await self._over.wait()
            nursery.cancel_scope.cancel()

    async def _read_on(self) -> None:
        while len(self._reader.trailing_data[0]) <= PIPELINED_BYTES:
            try:
                data = await self._owner.stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                break
            if not data:
                break
            self._reader.receive_data(data)
        self._owner.end()


class _Connection:
    """One connection: a reader, a writer, and the application's tasks."""

    def __init__(self, listener: _Listener, stream: AcceptedStream) -> None:
        self.stream = stream
        self._listener = listener
        self._limits = listener.limits
        self._outbox = Outbox(stream, stall_s=self._limits.stall_s, on_lost=self.end)
        self._reading = trio.CancelScope()
        self._ending = False
        self._spoke = False
        self._idle = True
        self._head_timed = True
        self.was_answered = False

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._outbox.run)
            with trio.CancelScope() as answering:
                async with TaskGroup() as apps:
                    protocol = _Protocol(self, self._listener, apps)
                    await self._read(protocol)
                    # No more is read, so the application is told that its client has gone (a
                    # finished answer has no application left). quart-trio then cancels it.
                    answering.deadline = trio.current_time() + self._limits.abandon_s
                    await protocol.handle(Closed())
            self._outbox.finish()
        if not self._outbox.lost and self._spoke:
            await close_gently(self.stream, self._limits.linger_s)

    async def _read(self, protocol: _Protocol) -> None:
        self._reading.deadline = trio.current_time() + self._limits.head_s
        with self._reading:
            while not self._ending:
                try:
                    data = await self.stream.receive_some(RECEIVE_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                if not data:
                    return
                self._spoke = True
                await protocol.handle(RawData(data))
                self._time_head(protocol)
        if not self._ending and protocol.reader.head_begun:
            seconds = f"{self._limits.head_s:g} s"
            self.refuse(Refused("request_timeout", f"the head did not arrive within {seconds}"))

    def _time_head(self, protocol: _Protocol) -> None:
        """Starts the head's deadline once the first bytes of the next request are here."""
        if self._idle and not self._head_timed and protocol.reader.head_begun:
            self._head_timed = True
            self._reading.deadline = trio.current_time() + self._limits.head_s

    async def send(self, event: Event) -> None:
        """Handles an event of the protocol. Only a write may wait, for the writer.

        The rest is synchronous, because it runs in the application's task, which quart-trio
        cancels as soon as the response is complete: idle connections then stayed open for ever and
        `Connection: close` was not honoured (hypercorn #106).
        """
        if isinstance(event, RawData):
            self._outbox.put(event.data)
            await self._outbox.room()
        elif isinstance(event, Closed):
            self.end()
        elif isinstance(event, Updated):
            self._idle = event.idle
            self.was_answered = True
            self._head_timed = False
            allowed = self._limits.idle_s if event.idle else inf
            self._reading.deadline = trio.current_time() + allowed

    def refuse(self, refused: Refused) -> None:
        """Sends a problem response, the last on this connection."""
        self._outbox.put(problem_response(refused, self._listener.new_request_id()))
        self._outbox.finish()
        self.end()

    @property
    def is_idle(self) -> bool:
        """True if no request is being answered and the connection continues."""
        return self._idle and not self._ending

    def end_if_idle(self) -> None:
        """Ends the connection, unless a request is being answered; then it ends by itself."""
        if self._idle:
            self.end()

    def end(self) -> None:
        """Reads no more; `run` then writes what is unsent, and closes."""
        self._ending = True
        self._reading.cancel()


def _internet_name(family: int, name: Callable[[], Any]) -> tuple[str, int] | None:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        return name()[:2]
    except OSError:
        return None  # reset since the accept; reading will fail
