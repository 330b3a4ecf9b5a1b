import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
import trio.testing

pytest.importorskip("trio_websocket")

from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    wrap_server_stream,
)

from yoi_daemon.client.endings import Backoff, StreamRefused
from yoi_daemon.client.messages import Bookmark, Cut, End, Hello, Snapshot, StreamFailure
from yoi_daemon.client.stream import Message, plugin_path, subscribe, worker_path
from yoi_daemon.model.errors import NotAllowed, Refused, Unreachable
from yoi_daemon.model.events import ObservationEvent

Script = Callable[["Connection"], Awaitable[None]]


class Connection:
    """The server's end of one accepted connection."""

    def __init__(self, request: WebSocketRequest, socket: WebSocketConnection) -> None:
        self.path = urlsplit(request.path).path
        self.query = {
            name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()
        }
        self.token = dict(request.headers).get(b"authorization", b"").decode()
        self.socket = socket

    async def tell(self, type: str, **fields: Any) -> None:
        await self.socket.send_message(json.dumps({"type": type, **fields}))

    async def hello(self, **fields: Any) -> None:
        told = {"protocol": 1, "epoch": "e", "heartbeat_s": 15, "resume": "live", **fields}
        await self.tell("hello", **told)

    async def event(self, seq: int) -> None:
        await self.tell("event", cursor=f"c{seq}", seq=seq, time="t", kind="a.b", data=seq)

    async def until_it_leaves(self) -> None:
        with pytest.raises(ConnectionClosed):
            await self.socket.get_message()


class Daemon:
    """A stream server of one script for each connection, over memory streams.

    A script may also be a status, which is how the handshake is answered, or an exception, which is
    what connecting raises.
    """

    def __init__(self, nursery: trio.Nursery, scripts: Sequence[Script | int | Exception]) -> None:
        self._nursery = nursery
        self._scripts = iter(scripts)
        self.connections: list[Connection] = []
        self.urls: list[str] = []

    async def connect(self, url: str) -> trio.abc.Stream:
        self.urls.append(url)
        script = next(self._scripts)
        if isinstance(script, Exception):
            raise script
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, theirs, script)
        return ours

    async def _serve(self, stream: trio.abc.Stream, script: Script | int) -> None:
        async with stream, trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)  # type: ignore[arg-type]
            if isinstance(script, int):
                await request.reject(script, body=b"no")
            else:
                connection = Connection(request, await request.accept())
                self.connections.append(connection)
                await script(connection)
            nursery.cancel_scope.cancel()

    def subscribe(self, **options: Any) -> Any:
        options = {"backoff": Backoff(first_s=1, cap_s=8), "chance": lambda: 1.0, **options}
        return subscribe("ws://daemon:1", "tok", connect=self.connect, **options)


@pytest.fixture
def daemon(nursery: trio.Nursery) -> Callable[..., Daemon]:
    return lambda *scripts: Daemon(nursery, scripts)


async def everything(subscription: Any) -> list[Message]:
    return [message async for message in subscription]


def seqs(messages: Sequence[Message]) -> list[int]:
    return [message.seq for message in messages if isinstance(message, ObservationEvent)]


async def finish(connection: Connection) -> None:
    await connection.hello(resume="exact")
    await connection.tell("end", state="stopped")
    await connection.until_it_leaves()


async def test_a_finished_stream_is_told_whole_and_ends(daemon: Callable[..., Daemon]) -> None:
    async def script(connection: Connection) -> None:
        await connection.hello()
        await connection.event(1)
        await connection.tell("bookmark", cursor="c9", reason="live", delivered=1)
        await connection.tell("end", state="stopped")
        await connection.until_it_leaves()

    server = daemon(script)
    async with server.subscribe(
        cursor="earliest",
        kinds=["worker.", "plugin.state"],
        path=worker_path("gpu/1", "w&1"),
        on_gap="snapshot",
        await_worker=True,
    ) as subscription:
        messages = await everything(subscription)
        assert subscription.cursor == "c9"
    assert [type(message) for message in messages] == [Hello, ObservationEvent, Bookmark, End]
    (connection,) = server.connections
    assert connection.token == "Bearer tok"
    assert connection.path == "/v1/runtimes/gpu%2F1/workers/w%261/events"
    assert connection.query == {
        "cursor": "earliest",
        "kinds": "worker.,plugin.state",
        "on_gap": "snapshot",
        "await": "1",
    }


async def test_a_cut_is_resumed_from_the_last_position(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    async def first(connection: Connection) -> None:
        await connection.hello()
        await connection.event(1)
        await connection.event(2)
        await connection.socket.aclose(1012)

    async def second(connection: Connection) -> None:
        await connection.hello(resume="exact")
        await connection.tell("bookmark", cursor="c7", reason="idle", delivered=2)
        # and the connection is lost without a word

    server = daemon(first, second, finish)
    async with server.subscribe() as subscription:
        messages = await everything(subscription)
    assert seqs(messages) == [1, 2]
    assert [c.query["cursor"] for c in server.connections] == ["latest", "c2", "c7"]
    cuts = [message for message in messages if isinstance(message, Cut)]
    assert [cut.code for cut in cuts] == [1012, 1006]


async def test_a_client_that_forgot_its_position_would_be_seen(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    """Negative control: the server replays what it is asked for; resuming avoids doubles."""
    log = [1, 2, 3, 4]

    async def replay(connection: Connection) -> None:
        cursor = connection.query["cursor"]
        begin = 0 if cursor == "earliest" else int(cursor[1:])
        await connection.hello(resume="exact")
        for seq in log[begin : begin + 2]:
            await connection.event(seq)
        if begin >= len(log):
            await connection.tell("end", state="stopped")
            await connection.until_it_leaves()

    server = daemon(replay, replay, replay)
    async with server.subscribe(cursor="earliest") as subscription:
        assert seqs(await everything(subscription)) == log

    forgetful: list[int] = []
    server = daemon(replay, replay)
    for _ in range(2):
        async with server.subscribe(cursor="earliest") as subscription:
            async for message in subscription:
                if isinstance(message, Cut):
                    break
                forgetful += seqs([message])
    assert forgetful == [1, 2, 1, 2]


async def test_hellos_position_counts_only_where_there_is_none(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    async def greet(connection: Connection) -> None:
        await connection.hello(cursor=f"h{len(server.connections)}")

    server = daemon(greet, greet, finish)
    async with server.subscribe() as subscription:
        await everything(subscription)
    assert [c.query["cursor"] for c in server.connections] == ["latest", "h1", "h1"]


async def test_the_daemons_wish_is_waited_for(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    async def later(connection: Connection) -> None:
        await connection.hello()
        await connection.tell("error", code="shutting_down", reason="", retry={"after_s": 20})
        await connection.socket.aclose(1012)

    server = daemon(later, finish)
    began = trio.current_time()
    async with server.subscribe() as subscription:
        messages = await everything(subscription)
    assert trio.current_time() - began == pytest.approx(20, abs=1)
    assert any(isinstance(message, StreamFailure) for message in messages)
    assert [m.wait_s for m in messages if isinstance(m, Cut)] == [20]


async def test_back_off_grows_while_nothing_is_gained_and_begins_anew_after(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    async def greet(connection: Connection) -> None:
        await connection.hello()

    async def tell(connection: Connection) -> None:
        await connection.hello()
        await connection.event(1)

    refused = ConnectionRefusedError("nobody")
    server = daemon(greet, refused, 503, refused, refused, tell, refused, finish)
    async with server.subscribe() as subscription:
        messages = await everything(subscription)
    waits = [message.wait_s for message in messages if isinstance(message, Cut)]
    assert waits == [1, 2, 4, 8, 8, 1, 2]


@pytest.mark.parametrize("code", [4000, 4008, 4099, 1013, 1011])
async def test_close_codes_that_are_tried_again(
    daemon: Callable[..., Daemon], autojump_clock: object, code: int
) -> None:
    async def close(connection: Connection) -> None:
        await connection.hello()
        await connection.event(5)
        await connection.socket.aclose(code)

    server = daemon(close, finish)
    async with server.subscribe() as subscription:
        await everything(subscription)
    assert [c.query["cursor"] for c in server.connections] == ["latest", "c5"]


async def test_a_refusal_is_raised_where_the_stream_is_read(daemon: Callable[..., Daemon]) -> None:
    async def expire(connection: Connection) -> None:
        await connection.tell(
            "error", code="cursor_expired", reason="epoch_changed", cursor="x", floor="f", head="h"
        )
        await connection.socket.aclose(4410)

    async with daemon(expire).subscribe(cursor="old") as subscription:
        assert isinstance(await anext(subscription), StreamFailure)
        with pytest.raises(StreamRefused) as caught:
            await anext(subscription)
        with pytest.raises(StreamRefused):  # and again, as a finished iterator stays finished
            await anext(subscription)
    error = caught.value
    assert (error.code, error.reason, error.cursor) == ("cursor_expired", "epoch_changed", "old")
    assert (error.floor, error.head) == ("f", "h")


async def test_an_error_leaves_the_block_as_itself_and_in_no_group(
    daemon: Callable[..., Daemon],
) -> None:
    with pytest.raises(Refused, match="HTTP 401"):
        async with daemon(401).subscribe() as subscription:
            await everything(subscription)

    async def wait(connection: Connection) -> None:
        await connection.hello()
        await connection.until_it_leaves()

    async def fail_while_reading() -> None:
        async with daemon(wait).subscribe() as subscription:
            await anext(subscription)
            raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        await fail_while_reading()


async def test_a_snapshot_is_asked_for_until_it_came(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    async def greet(connection: Connection) -> None:
        await connection.hello()

    async def picture(connection: Connection) -> None:
        await connection.hello(resume="snapshot")
        await connection.tell("snapshot", cursor="c3", workers=[])

    server = daemon(greet, picture, finish)
    async with server.subscribe(snapshot=True) as subscription:
        messages = await everything(subscription)
    assert any(isinstance(message, Snapshot) for message in messages)
    assert [c.query.get("snapshot") for c in server.connections] == ["1", "1", None]
    assert server.connections[-1].query["cursor"] == "c3"


async def test_silence_for_three_heartbeats_is_a_cut(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    async def fall_silent(connection: Connection) -> None:
        await connection.hello(heartbeat_s=5)
        await connection.until_it_leaves()

    server = daemon(fall_silent, finish)
    began = trio.current_time()
    async with server.subscribe() as subscription:
        await everything(subscription)
    assert trio.current_time() - began == pytest.approx(15 + 1, abs=0.5)


async def test_a_consumer_that_takes_its_time_is_not_silence(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    async def busy(connection: Connection) -> None:
        await connection.hello(heartbeat_s=1)
        for seq in range(500):
            await connection.event(seq)
        await connection.tell("end", state="stopped")
        await connection.until_it_leaves()

    server = daemon(busy)
    async with server.subscribe() as subscription:
        await trio.sleep(100)
        assert seqs(await everything(subscription)) == list(range(500))
    assert len(server.connections) == 1


async def test_no_hello_within_the_deadline_is_a_failed_attempt(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    async def say_nothing(connection: Connection) -> None:
        await connection.until_it_leaves()

    async with daemon(say_nothing).subscribe() as subscription:
        with pytest.raises(Unreachable, match="no word within the deadline"):
            await anext(subscription)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 302 Found\r\nlocation: ws://elsewhere/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: \xff\r\n\r\n",
        b"\x00\xff" * 100,
    ],
)
async def test_what_speaks_something_else_is_unreachable(sent: bytes) -> None:
    async def connect(url: str) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(sent)
        await theirs.send_eof()
        return ours

    async with subscribe("ws://daemon:1", "t", connect=connect) as subscription:
        with pytest.raises(Unreachable, match="ws://daemon:1"):
            await anext(subscription)


@pytest.mark.parametrize("frame", ["{", "[]", '{"type":"hello"}', b"\x00"])
async def test_a_frame_that_is_no_message_ends_it(
    daemon: Callable[..., Daemon], frame: str | bytes
) -> None:
    async def babble(connection: Connection) -> None:
        await connection.socket.send_message(frame)
        await connection.until_it_leaves()

    async with daemon(babble).subscribe() as subscription:
        with pytest.raises(Unreachable, match="no stream this version reads"):
            await anext(subscription)


async def test_the_first_connection_fails_at_once_unless_patient(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    refused = ConnectionRefusedError("nobody")
    async with daemon(refused).subscribe() as subscription:
        with pytest.raises(Unreachable, match="nobody"):
            await anext(subscription)
    async with daemon(refused, refused, finish).subscribe(patient=True) as subscription:
        kinds = [type(message) for message in await everything(subscription)]
    assert kinds == [Cut, Cut, Hello, End]


async def test_a_daemon_that_comes_back_elsewhere_is_found(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    async def greet(connection: Connection) -> None:
        await connection.hello()

    places: list[tuple[str, str] | Exception] = [
        Unreachable("no daemon runs"),
        ("ws://daemon:2", "new"),
    ]

    async def relocate() -> tuple[str, str]:
        await trio.lowlevel.checkpoint()
        place = places.pop(0)
        if isinstance(place, Exception):
            raise place
        return place

    server = daemon(greet, finish)
    async with server.subscribe(relocate=relocate) as subscription:
        messages = await everything(subscription)
    assert server.urls == ["ws://daemon:1", "ws://daemon:2"]
    assert [c.token for c in server.connections] == ["Bearer tok", "Bearer new"]
    assert [m.reason for m in messages if isinstance(m, Cut)][1] == "no daemon runs"


async def test_a_place_that_may_not_be_read_ends_it(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    async def greet(connection: Connection) -> None:
        await connection.hello()

    async def relocate() -> tuple[str, str]:
        await trio.lowlevel.checkpoint()
        raise NotAllowed("the token may not be read")

    async with daemon(greet).subscribe(relocate=relocate) as subscription:
        with pytest.raises(NotAllowed):
            await everything(subscription)


async def test_a_fault_of_the_program_is_not_taken_for_a_cut() -> None:
    async def connect(url: str) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async with subscribe("ws://daemon:1", "t", connect=connect, patient=True) as subscription:
        with pytest.raises(ZeroDivisionError):
            await anext(subscription)


async def test_leaving_closes_the_connection_soon(
    daemon: Callable[..., Daemon], autojump_clock: object
) -> None:
    left = trio.Event()

    async def wait(connection: Connection) -> None:
        await connection.hello()
        await connection.until_it_leaves()
        left.set()

    began = trio.current_time()
    async with daemon(wait).subscribe() as subscription:
        await anext(subscription)
    await left.wait()
    assert trio.current_time() - began < 0.5


def test_a_scopes_path_holds_any_name() -> None:
    assert plugin_path("a/b") == "/v1/plugins/a%2Fb/events"
