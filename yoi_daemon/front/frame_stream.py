"""The stream between a socket and the WebSocket library, which never sees a client's request."""

from collections.abc import Callable

import trio

from yoi_daemon.front.accepting import AcceptedStream, abort, close_gently
from yoi_daemon.front.connection import close_frame
from yoi_daemon.front.fragments import FragmentCounter, TooManyFragments
from yoi_daemon.front.outbox import Outbox

_CLOSE_OPCODE = 0x8
_RECEIVE_BYTES = 4096

VIOLATIONS = frozenset({1002, 1007})
"""RFC 6455 section 7.4.1: a protocol error, and text that is not UTF-8."""


class FrameStream(trio.abc.Stream):
    """The stream that trio-websocket uses as its socket.

    trio-websocket reads a request composed by us with `key`, then `early` and all that the peer sends.
    So no byte of a client's head reaches it, and no extension (deflate) is ever offered to it.
    Its pongs and Close frames go through the same `outbox` as events, so that no frame cuts
    another in two. `close_s` and `linger_s` bound the end, in seconds; see `aclose`. `on_close` is
    called when a Close frame goes out: nothing may follow it.
    """

    __slots__ = (
        "_close_s",
        "_closed",
        "_early",
        "_fragments",
        "_head",
        "_linger_s",
        "_on_close",
        "_opened",
        "_outbox",
        "_stream",
        "close_sent",
        "violation",
    )

    def __init__(
        self,
        stream: AcceptedStream,
        outbox: Outbox,
        *,
        key: str,
        early: bytes,
        close_s: float,
        linger_s: float,
        on_close: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._outbox = outbox
        self._close_s = close_s
        self.violation: Callable[[], int | None] = _none
        self._linger_s = linger_s
        self._on_close = on_close
        self._head = (
            "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        ).encode("ascii")
        self._early = early
        self._opened = trio.Event()
        self._fragments = FragmentCounter()
        self._closed: trio.Event | None = None
        self.close_sent = False

    def opened(self) -> None:
        """Lets frames pass, once the 101 is sent. Earlier, wsproto would parse them as HTTP and fail."""
        self._opened.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._head:
            head, self._head = self._head, b""
            return head
        await self._opened.wait()
        if self._closed is not None:
            raise trio.ClosedResourceError
        data, self._early = self._early, b""
        if not data:
            if isinstance(self._stream, trio.SocketStream):
                # Not the stream's own method, which holds a kibibyte more while it waits.
                try:
                    data = await self._stream.socket.recv(max_bytes or _RECEIVE_BYTES)
                except OSError as error:
                    raise trio.BrokenResourceError from error
            else:
                data = await self._stream.receive_some(max_bytes)
        try:
            self._fragments.feed(data)
        except TooManyFragments:
            self._outbox.put(close_frame(1009, "too many fragments"))
            self._note_close()
            raise trio.BrokenResourceError from None
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._outbox.lost:
            raise trio.BrokenResourceError
        if self._closed is not None:
            raise trio.ClosedResourceError
        # wsproto writes one whole frame at a time; before the 101, `H` would look like a Close.
        if self._opened.is_set() and data[0] & 0x0F == _CLOSE_OPCODE:
            self._note_close()
        self._outbox.put(bytes(data))
        await self._outbox.room()
        if self._outbox.lost:
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        await self._outbox.room()

    async def aclose(self) -> None:
        """Writes what is unsent, then closes; at once if cancelled or the peer is lost."""
        if self._closed is not None:
            await self._closed.wait()
            return
        self._closed = trio.Event()
        # wsproto reports protocol violations, and trio-websocket then leaves without a Close.
        code = None if self.close_sent else self.violation()
        if code is not None and code in VIOLATIONS:
            self._outbox.put(close_frame(code, "protocol violation"))
            self._note_close()
        self._outbox.finish()
        try:
            with trio.move_on_after(self._close_s):
                await self._outbox.wait_ended()
                if self._outbox.phase in ("finished", "parted"):
                    # Only one task may read; from here on that is `close_gently`.
                    trio.lowlevel.notify_closing(self._stream.socket)
                    await close_gently(self._stream, self._linger_s)
        finally:
            if self._outbox.phase in ("parting", "stalled"):
                abort(self._stream)
            self._stream.socket.close()
            self._closed.set()

    def _note_close(self) -> None:
        self.close_sent = True
        self._on_close()


def _none() -> None:
    return None
