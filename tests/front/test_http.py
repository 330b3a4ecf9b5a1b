from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import h11
import pytest
import trio
import trio.testing
from quart_trio import QuartTrio
from structlog.testing import capture_logs

from yoi_daemon.front.http import HttpLimits, serve_http
from yoi_daemon.front.sockets import open_sockets
from yoi_daemon.model.addresses import TcpAddress

LIMITS = HttpLimits(linger_s=0.1)


class Served:
    """A running listener and plain clients of it."""

    def __init__(self, port: int, draining: trio.Event, nursery: trio.Nursery) -> None:
        self.port = port
        self.draining = draining
        self.nursery = nursery

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def exchange(self, request: bytes) -> bytes:
        async with await self.connect() as stream:
            await stream.send_all(request)
            return await read_all(stream)


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([part async for part in stream])


async def read_answer(stream: trio.SocketStream) -> tuple[h11.Response, bytes]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    response: h11.Response | None = None
    body = b""
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage)
            assert response is not None
            return response, body


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve() -> Serve:
    @asynccontextmanager
    async def serving(
        make_app: Callable[[trio.Event], Any], *, graceful_s: float = 5, limits: HttpLimits = LIMITS
    ) -> AsyncGenerator[Served]:
        (listening,) = open_sockets([TcpAddress("127.0.0.1", 0)])
        assert isinstance(listening.address, TcpAddress)
        draining = trio.Event()
        run = partial(
            serve_http,
            make_app(draining),
            [listening.socket],
            draining=draining,
            graceful_s=graceful_s,
            limits=limits,
            new_request_id=lambda: "req_test",
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            yield Served(listening.address.port, draining, nursery)
            draining.set()

    return serving


def quart_app(draining: trio.Event) -> QuartTrio:
    app = QuartTrio(__name__)
    app.config["RESPONSE_TIMEOUT"] = None

    async def ping() -> str:
        return "pong"

    async def stream() -> AsyncIterator[bytes]:
        async def parts() -> AsyncIterator[bytes]:
            yield b"begun "
            await draining.wait()
            yield b"ended"

        return parts()

    async def eager() -> AsyncIterator[bytes]:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1000

        return parts()

    for view in (ping, stream, eager):
        app.add_url_rule(f"/{view.__name__}", view.__name__, view)
    return app


async def test_connections_are_kept_and_closed_as_asked(serve: Serve) -> None:
    async with serve(quart_app) as served, await served.connect() as stream:
        for _ in range(3):
            await stream.send_all(get("/ping"))
            assert (await read_answer(stream))[1] == b"pong"
        await stream.send_all(get("/ping", "Connection: close"))
        assert (await read_all(stream)).endswith(b"pong")


async def test_an_idle_connection_is_closed(serve: Serve) -> None:
    async with serve(quart_app, limits=HttpLimits(idle_s=0.05, linger_s=0.1)) as served:
        assert (await served.exchange(get("/ping"))).endswith(b"pong")


async def test_a_late_head_is_refused_and_closed(serve: Serve) -> None:
    async with serve(quart_app, limits=HttpLimits(head_s=0.05, linger_s=0.1)) as served:
        answer = await served.exchange(b"GET / HT")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in answer
        assert await served.exchange(b"") == b""


async def test_a_bad_head_is_answered_with_a_problem(serve: Serve) -> None:
    async with serve(quart_app) as served:
        answer = await served.exchange(b"GET / HTTP/1.1\nHost: x\n\n")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json")
    assert b'"request_id":"req_test"' in answer


async def test_draining_ends_idle_connections_at_once_and_answers_whole(serve: Serve) -> None:
    async with (
        serve(quart_app) as served,
        await served.connect() as idle,
        await served.connect() as busy,
    ):
        await idle.send_all(get("/ping"))
        await read_answer(idle)
        await busy.send_all(get("/stream"))
        assert b"200" in await busy.receive_some()
        served.draining.set()
        assert await read_all(idle) == b""
        assert (await read_all(busy)).endswith(b"ended\r\n0\r\n\r\n")


async def test_an_answer_begun_while_draining_says_close(serve: Serve) -> None:
    begun, go_on = trio.Event(), trio.Event()

    def make_app(_: trio.Event) -> QuartTrio:
        app = QuartTrio(__name__)

        async def slow() -> str:
            begun.set()
            await go_on.wait()
            return "done"

        app.add_url_rule("/slow", "slow", slow)
        return app

    async with serve(make_app) as served, await served.connect() as stream:
        await stream.send_all(get("/slow"))
        await begun.wait()
        served.draining.set()
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        response, body = await read_answer(stream)
        assert body == b"done"
        assert (b"connection", b"close") in list(response.headers)


async def test_a_response_that_ignores_draining_is_ended_by_force(serve: Serve) -> None:
    async with serve(quart_app, graceful_s=0.1) as served:
        stream = await served.connect()
        await stream.send_all(get("/eager"))
        await stream.receive_some()
        served.draining.set()
    await stream.aclose()


async def test_a_reader_that_stalls_is_cut_off(serve: Serve) -> None:
    ended = trio.Event()

    def make_app(_: trio.Event) -> QuartTrio:
        app = QuartTrio(__name__)

        async def eager() -> AsyncIterator[bytes]:
            async def parts() -> AsyncIterator[bytes]:
                try:
                    while True:
                        yield b"x" * 10000
                finally:
                    ended.set()

            return parts()

        app.add_url_rule("/eager", "eager", eager)
        app.config["RESPONSE_TIMEOUT"] = None
        return app

    limits = HttpLimits(stall_s=0.1, linger_s=0.1)
    async with serve(make_app, limits=limits) as served, await served.connect() as stream:
        await stream.send_all(get("/eager"))
        with trio.fail_after(5):
            await ended.wait()


async def test_a_head_request_ends_without_its_body(serve: Serve) -> None:
    async with serve(quart_app) as served, await served.connect() as stream:
        await stream.send_all(get("/eager", method="HEAD") + get("/ping", "Connection: close"))
        assert (await read_all(stream)).endswith(b"pong")


async def test_a_client_that_pipelines_and_leaves_is_noticed(serve: Serve) -> None:
    ended = trio.Event()

    def make_app(_: trio.Event) -> QuartTrio:
        app = QuartTrio(__name__)

        async def quiet() -> AsyncIterator[bytes]:
            async def parts() -> AsyncIterator[bytes]:
                try:
                    yield b"begun"
                    await trio.sleep_forever()
                finally:
                    ended.set()

            return parts()

        app.add_url_rule("/quiet", "quiet", quiet)
        app.config["RESPONSE_TIMEOUT"] = None
        return app

    async with serve(make_app) as served:
        async with await served.connect() as stream:
            await stream.send_all(get("/quiet") * 3)
            await stream.receive_some()
        await ended.wait()


async def test_an_application_that_fails_is_logged_without_its_words(serve: Serve) -> None:
    def make_app(_: trio.Event) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/late":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"part", "more_body": True})
            raise ExceptionGroup("several", [RuntimeError("secret")])

        return app

    with capture_logs() as logs:
        async with serve(make_app) as served:
            assert (await served.exchange(get("/"))).startswith(b"HTTP/1.1 500 ")
            assert not (await served.exchange(get("/late"))).endswith(b"0\r\n\r\n")
    assert [(entry["event"], entry["error"]) for entry in logs] == [
        ("answer_failed", "RuntimeError")
    ] * 2
    assert "secret" not in repr(logs)
