"""The observation listener: trio-websocket on a stream of our own.

Our reader reads the client's head and the gate decides on it; only then trio-websocket starts, on a
request that we composed (`FrameStream`). It is used by its public names but for one, `_wsproto`.
"""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import cast

import h11
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.handshake import H11Handshake
from wsproto.utilities import LocalProtocolError

from yoi_daemon.front.accepting import (
    AcceptedStream,
    abort,
    close_gently,
    log_faults,
    peer_name,
    plain_descriptor,
    plain_send,
    random_request_id,
    serve_connections,
)
from yoi_daemon.front.connection import (
    ORDERLY_CLOSE_CODES,
    ConnectionGone,
    Gate,
    SessionHandler,
    close_frame,
)
from yoi_daemon.front.frame_stream import FrameStream
from yoi_daemon.front.head import (
    HEAD_BYTES,
    HeadReader,
    closing_response,
    problem_response,
)
from yoi_daemon.front.outbox import Outbox
from yoi_daemon.front.tls import Certificate
from yoi_daemon.front.upgrade import NoUpgrade, read_request, upgrade_key, upgrade_request
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.frames import Write, text_frame
from yoi_daemon.model.problem import internal_problem

_RECEIVE_BYTES = 4096
_DISCARD = "discard messages"
_GONE = "the connection is closed or closing"


@dataclass(frozen=True)
class WebSocketLimits:
    """Bounds of one WebSocket listener; seconds and bytes."""

    connections: int = 4096
    connections_by_address: int | None = None
    """Limit for each address beyond this machine."""
    head_bytes: int = HEAD_BYTES
    message_bytes: int = 4096
    """Limit of a client's message, which is read and dropped; a larger one is closed with 1009."""
    stall_s: float = 10
    """A write that makes no progress for so long ends the connection."""
    close_s: float = 2
    """Time for the peer's Close after ours."""
    linger_s: float = 1
    """Time for which a peer may go on sending after the end; see `close_gently`."""
    send_buffer_bytes: int = 64 * 1024
    """SO_SNDBUF (Linux doubles it). By default it grows to megabytes, in which events wait unseen, with
    every pong and Close behind them."""


async def serve_websocket(
    sockets: Sequence[socket.socket],
    gate: Gate,
    *,
    draining: trio.Event,
    close_codes: Mapping[str, int] = ORDERLY_CLOSE_CODES,
    handshake_s: float = 5,
    limits: WebSocketLimits | None = None,
    certificate: Certificate | None = None,
    new_request_id: Callable[[], str] = random_request_id,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves streams on `sockets` (listening, non-blocking; TCP or unix), which it closes.

    With a `certificate`, TCP speaks TLS; its handshake has `handshake_s` seconds too.

    For each well-formed upgrade request `gate` returns the handler of the session, or raises
    `Refused`, which is the response instead of the 101. The handler is cancelled when its peer goes
    away; when it returns the connection is closed with 1000, when it raises with 1011. Request and
    gate together have `handshake_s` seconds.

    `close_codes` are the Close codes of the reasons that handlers close with.

    Once `draining` is set it accepts no more, and returns when every handler has: they watch
    `draining` themselves. Cancelled, it ends them by force, with a Close 1012 if that can be
    written at once. Raises nothing that a client or a handler caused.
    """
    listener = _Listener(
        gate, handshake_s, limits or WebSocketLimits(), close_codes, new_request_id
    )
    await serve_connections(
        sockets,
        listener.serve,
        listener="observe",
        most=listener.limits.connections,
        most_by_address=listener.limits.connections_by_address,
        certificate=certificate,
        handshake_s=handshake_s,
        draining=draining,
        task_status=task_status,
    )


class _Listener:
    """The state that the connections of one listener share."""

    def __init__(
        self,
        gate: Gate,
        handshake_s: float,
        limits: WebSocketLimits,
        close_codes: Mapping[str, int],
        new_request_id: Callable[[], str],
    ) -> None:
        self.limits = limits
        self._close_codes = close_codes
        self._gate = gate
        self._handshake_s = handshake_s
        self._new_request_id = new_request_id

    async def serve(self, stream: AcceptedStream) -> None:
        with suppress(OSError):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.send_buffer_bytes)
        peer = peer_name(stream)
        admitted = await self._open(stream, peer)
        if isinstance(admitted, _Admitted):
            await _Session(stream, self.limits, self._close_codes).run(admitted)
        elif admitted:
            await self._answer(stream, admitted)

    async def _open(self, stream: AcceptedStream, peer: str) -> "_Admitted | bytes":
        reader = HeadReader(self.limits.head_bytes, websocket=True)
        with trio.move_on_after(self._handshake_s):
            return await self._admit(stream, reader, peer)
        late = Refused("request_timeout", f"not opened within {self._handshake_s:g} s")
        return problem_response(late, self._new_request_id())

    async def _admit(
        self, stream: AcceptedStream, reader: HeadReader, peer: str
    ) -> "_Admitted | bytes":
        """Returns the session to open, or the response instead; an empty one if the peer is gone."""
        try:
            request = await read_request(stream, reader)
            if request is None:
                return b""
            key = upgrade_key(request)
            handler = await self._gate(upgrade_request(request, peer))
        except h11.RemoteProtocolError:
            refused = reader.refused or Refused("invalid_request", "unreadable")
            return problem_response(refused, self._new_request_id())
        except NoUpgrade as error:
            extra = (("sec-websocket-version", "13"),)
            return problem_response(error.refused, self._new_request_id(), extra)
        except Refused as refused:
            return problem_response(refused, self._new_request_id())
        except Exception as error:  # noqa: BLE001 - logged, and answered
            request_id = self._new_request_id()
            log_faults("gate_failed", error, listener="observe", request_id=request_id)
            return closing_response(500, internal_problem(request_id))
        # Bytes that arrived early behind the head: they must be frames.
        return _Admitted(key, handler, early=reader.trailing_data[0])

    async def _answer(self, stream: AcceptedStream, answer: bytes) -> None:
        with (
            trio.move_on_after(self.limits.close_s),
            suppress(trio.BrokenResourceError),
        ):
            await stream.send_all(answer)
            await close_gently(stream, self.limits.linger_s)


@dataclass(frozen=True, slots=True)
class _Admitted:
    key: str
    handler: SessionHandler
    early: bytes


class _HandshakeOver:
    """The part of a handshake that wsproto's `WSConnection` needs once the connection is open."""

    def events(self) -> tuple[()]:
        return ()


_OVER = _HandshakeOver()


class _Session:
    """An open connection: trio-websocket's reader, our writer, a drain, and the handler."""

    __slots__ = (
        "_close_codes",
        "_closing",
        "_frames",
        "_handling",
        "_is_gone",
        "_is_shut",
        "_limits",
        "_outbox",
        "_stream",
        "_waits_gone",
        "_websocket",
    )
    _frames: FrameStream
    _websocket: WebSocketConnection

    def __init__(
        self, stream: AcceptedStream, limits: WebSocketLimits, close_codes: Mapping[str, int]
    ) -> None:
        self._close_codes = close_codes
        self._stream = stream
        self._limits = limits
        self._outbox = Outbox(
            stream,
            stall_s=limits.stall_s,
            on_lost=self._peer_gone,
            descriptor=plain_descriptor(stream),
            send=plain_send(stream),
        )
        self._handling = trio.CancelScope()
        self._closing = False
        self._is_shut = False
        self._is_gone = False
        self._waits_gone: trio.Event | None = None

    async def run(self, admitted: _Admitted) -> None:
        self._frames = FrameStream(
            self._stream,
            self._outbox,
            key=admitted.key,
            early=admitted.early,
            close_s=self._limits.close_s,
            linger_s=self._limits.linger_s,
            on_close=self._shut,
        )
        # If the peer pings after our Close, wsproto fails (LocalProtocolError).
        try:
            async with trio.open_nursery() as nursery:
                self._outbox.run_when_needed(nursery)
                # Nothing here waits for the peer: the request is ours, and the 101 fits the kernel's buffer.
                request = await wrap_server_stream(
                    nursery,
                    self._frames,
                    max_message_size=self._limits.message_bytes,
                    receive_buffer_size=_RECEIVE_BYTES,
                )
                self._websocket = await request.accept()
                del request
                self._forget_handshake()
                self._frames.violation = self._closing_code
                self._frames.opened()
                nursery.start_soon(self._discard_messages, name=_DISCARD)
                await self._handle(admitted.handler)
                await self._frames.aclose()
                nursery.cancel_scope.cancel()
        except* (ConnectionClosed, LocalProtocolError):
            pass
        except* BaseException:
            self._write_shutting_down()
            raise
        finally:
            self._shut()
            self._outbox.end()
            self._note_gone()

    def _forget_handshake(self) -> None:
        # It keeps an HTTP parser and the request, 2 KiB, and only its `events` is called again.
        wsproto = self._websocket._wsproto  # pyright: ignore[reportPrivateUsage]
        wsproto.handshake = cast("H11Handshake", _OVER)

    def _closing_code(self) -> int | None:
        closed = self._websocket.closed
        return None if closed is None else closed.code

    def _write_shutting_down(self) -> None:
        """Writes a Close if it fits at once: the end by force waits for nothing."""
        descriptor = plain_descriptor(self._stream)
        if descriptor is not None and not (self._outbox.dropped or self._frames.close_sent):
            with suppress(OSError):
                os.write(descriptor, close_frame(1012, "shutting_down"))

    async def _handle(self, handler: SessionHandler) -> None:
        """Runs the handler, then closes with the code of its outcome."""
        ended = 1000, ""
        try:
            with self._handling:
                await handler(self)
        except* ConnectionGone:
            pass
        except* Exception as group:  # noqa: BLE001 - logged, and answered
            log_faults("session_failed", group, listener="observe")
            ended = 1011, "internal"
        await self._close(*ended)

    async def _discard_messages(self) -> None:
        """Reads every message, or trio-websocket stops reading, pings and Close included."""
        try:
            while True:
                await self._websocket.get_message()
        except ConnectionClosed:
            self._peer_gone()

    def _shut(self) -> None:
        """Ends `offer`: a Close is being sent, or the peer is gone."""
        self._is_shut = True
        self._outbox.take_back()

    def _peer_gone(self) -> None:
        self._shut()
        self._note_gone()
        if not self._closing:
            self._handling.cancel()

    @property
    def unsent(self) -> int:
        return self._outbox.unsent

    @property
    def stalled(self) -> bool:
        return self._outbox.stalled

    def when_stalled(self, message: Callable[[], bytes], reason: str) -> None:
        self._outbox.farewell = partial(_farewell, message, self._close_codes[reason], reason)

    def offer(self, frames: bytes) -> bool:
        if self._is_shut:
            raise ConnectionGone(_GONE)
        return self._outbox.put(frames)

    def lend(self, take_back: Callable[[], None]) -> Write | None:
        return None if self._is_shut else self._outbox.lend(take_back)

    def keep(self, frames: bytes, taken: int) -> None:
        self._outbox.keep(frames, taken)

    async def drained(self) -> None:
        await trio.lowlevel.checkpoint()
        await self._outbox.room(1)
        if self._is_shut:
            raise ConnectionGone(_GONE)

    async def close(self, reason: str) -> None:
        await self._close(self._close_codes[reason], reason)

    async def _close(self, code: int, reason: str) -> None:
        if self._closing:
            await self.wait_gone()
            return
        self._closing = True
        self._shut()
        try:
            with trio.move_on_after(self._limits.close_s), suppress(ConnectionClosed):
                await self._websocket.aclose(code, reason)
        finally:
            self._note_gone()

    def abort(self) -> None:
        if self._outbox.unsent:
            abort(self._stream)
        self._outbox.lose()
        with suppress(OSError):
            self._stream.socket.shutdown(socket.SHUT_RDWR)

    async def wait_gone(self) -> None:
        if self._waits_gone is None:
            self._waits_gone = trio.Event()
            if self._is_gone:
                self._waits_gone.set()
        await self._waits_gone.wait()

    def _note_gone(self) -> None:
        self._is_gone = True
        if self._waits_gone is not None:
            self._waits_gone.set()


def _farewell(message: Callable[[], bytes], code: int, reason: str) -> bytes:
    return text_frame(message()) + close_frame(code, reason)
