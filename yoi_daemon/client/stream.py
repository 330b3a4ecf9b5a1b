"""Following the observation stream across cuts and restarts, without a hole and without a double.

A subscription is one background task that holds at most one connection. Whatever moves the cursor,
an event or a bookmark, moves where the next connection resumes. Only `end`, a refusal or leaving
the block ends it; everything else is a cut, and a cut is tried again.
"""

import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, Self, cast
from urllib.parse import quote, urlencode, urlsplit

import h11
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, wrap_client_stream
from wsproto.utilities import ProtocolError as WebSocketProtocolError

from yoi_daemon.cancellation import leaf_of
from yoi_daemon.client.endings import (
    Again,
    Backoff,
    Ending,
    Over,
    ending_of_close,
    ending_of_rejection,
)
from yoi_daemon.client.messages import (
    Bookmark,
    Cut,
    End,
    Hello,
    ProtocolError,
    Received,
    Snapshot,
    StreamFailure,
    cursor_of,
    decode_message,
)
from yoi_daemon.client.transport import OpeningStream, open_stream
from yoi_daemon.model.errors import Unreachable, YoiError
from yoi_daemon.model.events import ObservationEvent

CONNECT_S = 10.0
"""From the first packet to `hello`, in seconds. The daemon gives its own handshake 5."""

SILENT_HEARTBEATS = 3
"""So many heartbeats without a word and the connection is taken for dead."""

DEFAULT_HEARTBEAT_S = 15.0
"""Where `hello` tells none that makes sense; the daemon's own default."""

MAX_MESSAGE_CHARS = 8 * 1024 * 1024
"""An event is at most 256 KiB; the rest is left for snapshots, which are bounded projections."""

PREFETCH = 64
"""Messages read ahead of the consumer, so that it and the socket need not take turns."""

GOODBYE_S = 0.1
"""How long leaving may take to hand a close frame to the kernel; nothing waits for the answer."""

_RECEIVE_BYTES = 65_536

Message = Received | Cut
Relocate = Callable[[], Awaitable[tuple[str, str]]]
Connect = Callable[[str], Awaitable[trio.abc.Stream]]


class Subscription:
    """The messages of one subscription, in order; iterate over it inside `subscribe`'s block.

    Iteration stops after `end`. It raises `StreamRefused` (or another `Refused`) when the daemon
    will not go on, `Unreachable` when there is no stream to begin with, and what `relocate` raised.
    """

    def __init__(
        self, messages: trio.MemoryReceiveChannel[Message], follower: "_Follower", cursor: str
    ) -> None:
        self._messages = messages
        self._follower = follower
        self.cursor = cursor
        """Where to resume after the last message that was taken from here."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        try:
            message = await self._messages.receive()
        except trio.EndOfChannel:
            if self._follower.error is not None:
                raise self._follower.error from self._follower.error.__cause__
            raise StopAsyncIteration from None
        self.cursor = cursor_of(message) or self.cursor
        return message


@asynccontextmanager
async def subscribe(
    url: str,
    token: str,
    *,
    cursor: str = "latest",
    kinds: Sequence[str] = (),
    path: str = "/v1/events",
    on_gap: str | None = None,
    snapshot: bool = False,
    await_worker: bool = False,
    relocate: Relocate | None = None,
    patient: bool = False,
    backoff: Backoff | None = None,
    chance: Callable[[], float] = random.random,
    connect: Connect | None = None,
) -> AsyncGenerator[Subscription]:
    """Follows the stream at `url` (`ws://HOST:PORT`, `wss://…` or `unix:PATH`) with `token`.

    `cursor` is where to begin: a cursor (what came after it), `earliest` or `latest`. `kinds` are
    prefixes; `path` is the scope, see `worker_path` and `plugin_path`. `on_gap`, `snapshot` and
    `await_worker` are the protocol's own parameters; a snapshot is asked for once, not at every
    reconnection.

    `relocate` is asked for address and token before each reconnection, for a daemon that comes back
    elsewhere; `Unreachable` from it counts as one more cut. A daemon that cannot be reached at all
    is `Unreachable` at the first step, unless `patient`; after the first `hello` it is tried for
    ever. Each attempt has a deadline, and a connection silent for three heartbeats is cut. `chance`
    gives numbers in [0, 1) for the jitter; `connect` opens the byte stream:
    `partial(open_stream, tls=context)` where the system does not trust the daemon's certificate.

    Messages read ahead wait in a buffer of `PREFETCH`; when it is full the socket is not read, and
    the daemon may end the connection as `slow_consumer`, which is a cut like others. Cancelling or
    leaving the block closes the connection within `GOODBYE_S`.
    """
    send, receive = trio.open_memory_channel[Message](PREFETCH)
    follower = _Follower(
        _Target(url, token),
        path,
        _query(kinds, on_gap, await_worker=await_worker),
        cursor,
        snapshot=snapshot,
        relocate=relocate,
        patient=patient,
        backoff=backoff or Backoff(),
        chance=chance,
        connect=connect or open_stream,
    )
    raised: Exception | None = None
    with receive:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run, send)
            try:
                yield Subscription(receive, follower, cursor)
            except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery
                raised = error
            nursery.cancel_scope.cancel()
    if raised is not None:
        # Not through the nursery: it would reach the caller inside an exception group.
        raise raised


def _query(kinds: Sequence[str], on_gap: str | None, *, await_worker: bool) -> Mapping[str, str]:
    wanted = {
        "kinds": ",".join(kinds),
        "on_gap": on_gap or "",
        "await": "1" if await_worker else "",
    }
    return {name: value for name, value in wanted.items() if value}


def worker_path(runtime_id: str, worker_id: str) -> str:
    """Returns the scope of one worker's events."""
    return f"/v1/runtimes/{quote(runtime_id, safe='')}/workers/{quote(worker_id, safe='')}/events"


def plugin_path(plugin_id: str) -> str:
    """Returns the scope of one plugin's events."""
    return f"/v1/plugins/{quote(plugin_id, safe='')}/events"


class _Target(NamedTuple):
    url: str
    token: str

    @property
    def host(self) -> str:
        if self.url.startswith("unix:"):
            return "localhost"
        return urlsplit(self.url).netloc


class _Follower:
    """The background task: connect, relay, wait, again."""

    def __init__(
        self,
        target: _Target,
        path: str,
        query: Mapping[str, str],
        cursor: str,
        *,
        snapshot: bool,
        relocate: Relocate | None,
        patient: bool,
        backoff: Backoff,
        chance: Callable[[], float],
        connect: Connect,
    ) -> None:
        self.error: Exception | None = None
        self._target = target
        self._path = path
        self._query = query
        self._cursor = cursor
        self._snapshot = snapshot
        self._relocate = relocate
        self._patient = patient
        self._backoff = backoff
        self._chance = chance
        self._connect = connect
        self._greeted = False
        self._failures = 0
        self._last_failure: StreamFailure | None = None

    async def run(self, messages: trio.MemorySendChannel[Message]) -> None:
        """Relays messages until the subscription is over; `error` then says why."""
        with messages:
            ending = await self._attempt(messages)
            while isinstance(ending, Again):
                wait_s = self._backoff.wait_s(self._failures, self._chance(), ending.after_s)
                self._failures += 1
                await messages.send(Cut(reason=ending.reason, wait_s=wait_s, code=ending.code))
                await trio.sleep(wait_s)
                ending = await self._moved_target() or await self._attempt(messages)
            self.error = ending.error

    async def _moved_target(self) -> Ending | None:
        if self._relocate is None:
            return None
        try:
            with trio.fail_after(CONNECT_S):
                self._target = _Target(*await self._relocate())
        except trio.TooSlowError:
            return Again("the daemon's address could not be told in time")
        except Unreachable as error:
            return Again(str(error))
        except YoiError as error:
            return Over(error)
        return None

    async def _attempt(self, messages: trio.MemorySendChannel[Message]) -> Ending:
        self._last_failure = None
        ending: Ending = Over()
        try:
            ending = await self._connection(messages)
        except* Exception as group:  # noqa: BLE001 - a fault of the program is handed on as it is
            ending = self._ending_of(leaf_of(group))
        return ending

    async def _connection(self, messages: trio.MemorySendChannel[Message]) -> Ending:
        ending: Ending = Over()
        with trio.fail_after(CONNECT_S) as opening:
            stream = OpeningStream(await self._connect(self._target.url))
            try:
                # The reader's nursery: what trio-websocket raises in it ends this attempt alone.
                async with trio.open_nursery() as reader:
                    connection = await wrap_client_stream(
                        reader,
                        cast("trio.SocketStream", stream),  # any Stream serves
                        self._target.host,
                        self._resource(),
                        extra_headers=[(b"authorization", f"Bearer {self._target.token}".encode())],
                        message_queue_size=PREFETCH,
                        max_message_size=MAX_MESSAGE_CHARS,
                        receive_buffer_size=_RECEIVE_BYTES,
                    )
                    stream.opened = True
                    try:
                        ending = await self._relay(connection.get_message, messages, opening)
                    finally:
                        with trio.move_on_after(GOODBYE_S, shield=True):
                            await connection.aclose()
                    reader.cancel_scope.cancel()
            finally:
                # The library leaves the socket open when the peer closed first. Forceful: no wait.
                with trio.move_on_after(GOODBYE_S, shield=True):
                    await trio.aclose_forcefully(stream)
        return ending

    async def _relay(
        self,
        get_frame: Callable[[], Awaitable[str | bytes]],
        messages: trio.MemorySendChannel[Message],
        opening: trio.CancelScope,
    ) -> Ending:
        silence_s = math.inf  # until hello the whole opening has its deadline
        while True:
            try:
                with trio.fail_after(silence_s):
                    frame = await get_frame()
            except ConnectionClosed as closed:
                return self._closed(closed)
            message = decode_message(frame)
            if isinstance(message, Hello):
                opening.deadline = math.inf
                silence_s = SILENT_HEARTBEATS * _sane_heartbeat_s(message.heartbeat_s)
            self._take(message)
            await messages.send(message)  # waits for the consumer, as long as it likes
            if isinstance(message, End):
                return Over()

    def _take(self, message: Received) -> None:
        match message:
            case StreamFailure():
                self._last_failure = message
            case Hello():
                self._greeted = True
                # Its position counts only where there is none yet: ours is older and so safer.
                if self._cursor in {"latest", "earliest"}:
                    self._cursor = message.cursor or self._cursor
            case _:
                self._cursor = cursor_of(message) or self._cursor
                if isinstance(message, ObservationEvent | Bookmark):
                    self._failures = 0
                elif isinstance(message, Snapshot):
                    self._snapshot = False

    def _resource(self) -> str:
        query = {"cursor": self._cursor, **self._query}
        if self._snapshot:
            query["snapshot"] = "1"
        return f"{self._path}?{urlencode(query)}"

    def _closed(self, closed: ConnectionClosed) -> Ending:
        code = None if closed.reason is None else closed.reason.code
        return ending_of_close(code, self._last_failure, self._cursor)

    def _ending_of(self, error: Exception) -> Ending:
        url = self._target.url
        match error:
            case ConnectionRejected():
                return ending_of_rejection(url, error.status_code, error.body or b"")
            case ConnectionClosed():
                return self._closed(error)
            case ProtocolError():
                # Resuming would meet the same frame again.
                return Over(_from(f"{url} is no stream this version reads: {error}", error))
            case trio.TooSlowError():
                what = "no word within the deadline"
            case OSError():
                what = error.strerror or str(error) or type(error).__name__
            case HandshakeError() | WebSocketProtocolError() | h11.ProtocolError() | ValueError():
                what = f"what answers there speaks no WebSocket ({type(error).__name__})"
            case trio.BrokenResourceError() | trio.ClosedResourceError():
                what = "the connection broke"
            case _:
                return Over(error)  # a fault of the program shows where the stream is read
        if self._greeted or self._patient:
            return Again(what)
        advice = "see whether the daemon runs and has [observe] enabled"
        return Over(_from(f"no event stream at {url}: {what}; {advice}", error))


def _sane_heartbeat_s(told: float) -> float:
    return told if math.isfinite(told) and told > 0 else DEFAULT_HEARTBEAT_S


def _from(sentence: str, cause: Exception) -> Unreachable:
    error = Unreachable(sentence)
    error.__cause__ = cause
    return error
